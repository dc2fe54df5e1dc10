//! That all is well again when nothing goes wrong any more, without a restart.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::block_in_place;

use super::world::World;
use crate::feeds::follower::Follower;
use crate::health;
use crate::history::writers::{Writers, Written};
use crate::support::{PATIENCE, Sidecar, eventually};

/// How many more bytes a process may hold than a new one does.
const BYTES: u64 = 10 << 20;

/// How many more files and tasks: connections that are kept for the next request.
const KEPT: u64 = 24;

/// It is at rest when it has held no less for so long: what was asked of a Kinto that is silent is given up after 3 s.
const REST: Duration = Duration::from_secs(4);

/// What a process holds, in memory of its own, and otherwise.
#[derive(Debug, Clone, Copy)]
pub struct Held {
    pub bytes: u64,
    pub files: u64,
    pub threads: u64,
    pub tasks: u64,
}

impl Held {
    /// The least of each.
    pub fn least(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.min(other.bytes),
            files: self.files.min(other.files),
            threads: self.threads.min(other.threads),
            tasks: self.tasks.min(other.tasks),
        }
    }
}

impl std::fmt::Display for Held {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { bytes, files, threads, tasks } = self;
        write!(formatter, "{} KiB, {files} files, {threads} threads, {tasks} tasks", bytes >> 10)
    }
}

pub async fn held(sidecar: &Sidecar) -> Held {
    let tasks = sidecar.metric("kinto_sidecar_tasks").await.unwrap();
    let process = format!("/proc/{}", sidecar.process_id());
    let status = std::fs::read_to_string(format!("{process}/status")).unwrap();
    let number = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().parse::<u64>().unwrap()
    };
    let files = std::fs::read_dir(format!("{process}/fd")).unwrap().count() as u64;
    Held { bytes: number("RssAnon:") << 10, files, threads: number("Threads:"), tasks }
}

/// What it holds while nobody asks it for anything.
async fn at_rest(world: &World) -> Held {
    world.disconnect().await;
    is_good(world).await;
    // What Kinto may still be working on is asked for until it is known.
    let until = Instant::now() + 4 * PATIENCE;
    while world.sidecar.metric("kinto_sidecar_journal_open_intents").await != Some(0) {
        assert!(Instant::now() < until, "there are intents that nobody closes");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (mut least, mut since) = (held(&world.sidecar).await, Instant::now());
    while since.elapsed() < REST {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = held(&world.sidecar).await;
        if now.files < least.files || now.tasks < least.tasks {
            since = Instant::now();
        }
        least = least.least(now);
    }
    least
}

/// Fails unless a restart would free next to nothing: a new one that has done the same for a moment holds as much. Gives
/// what the old one and the new one hold.
pub async fn holds_no_more_than_a_new_one(world: &mut World, seed: u64) -> (Held, Held) {
    let old = at_rest(world).await;
    block_in_place(|| world.kill());
    is_good(world).await;
    let mut writers =
        Writers::begin(world.kinto(), &world.past(), world.sidecar.address(), &world.collection, seed).await;
    let reader = world.alice();
    let paths = [
        format!("{}/changeset?_expected=0", world.collection),
        format!("{}/_changes", world.collection),
        format!("{}/history", world.bucket),
        "/buckets/monitor/collections/changes/records".to_owned(),
    ];
    for _ in 0..10 {
        for path in &paths {
            let _ = reader.get(path).attempt().await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    writers.end().await;
    news_come_at_once(world).await;
    drop(reader);
    let new = at_rest(world).await;
    assert!(
        old.bytes <= new.bytes + BYTES && old.files <= new.files + KEPT && old.tasks <= new.tasks + KEPT,
        "{old} are held, and {new} by a new process"
    );
    (old, new)
}

/// How long it may take until somebody hears of what is written; or so many times as long as it takes to write it.
const SOON: Duration = Duration::from_secs(10);
const TIMES: u32 = 10;

/// Waits until it says that all is well.
pub async fn is_good(world: &World) {
    let mut last = Value::Null;
    let until = Instant::now() + PATIENCE;
    loop {
        let (status, condition) = health::asked(&world.sidecar, "/health/ready").await;
        if status == 200 && condition["degraded"] == false {
            return;
        }
        last = if condition.is_null() { last } else { condition };
        assert!(Instant::now() < until, "it does not recover: {last:#}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Fails unless who listens hears soon of what is written, through the sidecar and past it; gives what was written through
/// it, and the id of its author.
pub async fn news_come_at_once(world: &World) -> (Written, String) {
    let path = format!("{}/_changes?feed=eventsource&since=now", world.collection);
    // Who asked on a connection that was swallowed is answered when that is given up, and so is who waits with them.
    let mut feed = eventually("a feed", async || {
        let feed = Follower::open(&world.sidecar, &path, &[]).await;
        (feed.status == 200).then_some(feed)
    })
    .await;
    let mut version = 0;
    let uri = |id: &str| format!("{}/records/{id}", world.collection);
    for (client, id) in [(world.kinto().client().user("alice"), "past"), (world.alice(), "through")] {
        let (took, written) = eventually("a write", async || {
            let begun = Instant::now();
            let answer = client.put(&uri(id)).data(json!({"n": 1})).await;
            (answer.status < 300).then(|| (begun.elapsed(), answer))
        })
        .await;
        let begun = Instant::now();
        version = written.timestamp();
        while feed.event().await.expect("an event").id != Some(version.to_string()) {
            assert!(begun.elapsed() < PATIENCE, "{id} does not come");
        }
        let (heard, soon) = (begun.elapsed(), SOON.max(TIMES * took));
        assert!(heard < soon, "{id} came after {heard:?}, and was written in {took:?}");
    }
    let root = world.kinto().client().user("alice").get("/").await.expect(200).json();
    let written = Written { uri: uri("through"), version, user: "alice".to_owned(), how: "PUT".to_owned() };
    (written, root["user"]["id"].as_str().unwrap().to_owned())
}
