//! That all is well again when nothing goes wrong any more, without a restart.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::world::World;
use crate::feeds::follower::Follower;
use crate::health;
use crate::history::writers::Written;
use crate::support::{PATIENCE, eventually};

/// How many more descriptors there may be: connections that are kept for the next request.
const FILES: u64 = 24;
/// And how many more bytes.
const BYTES: u64 = 64 << 20;

/// What a process holds.
#[derive(Debug, Clone, Copy)]
pub struct Held {
    bytes: u64,
    files: u64,
    threads: u64,
}

impl std::fmt::Display for Held {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} MiB, {} files, {} threads", self.bytes >> 20, self.files, self.threads)
    }
}

pub fn held(world: &World) -> Held {
    let process = format!("/proc/{}", world.sidecar.process_id());
    let status = std::fs::read_to_string(format!("{process}/status")).unwrap();
    let number = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().parse::<u64>().unwrap()
    };
    let files = std::fs::read_dir(format!("{process}/fd")).unwrap().count() as u64;
    Held { bytes: number("VmRSS:") << 10, files, threads: number("Threads:") }
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

/// Waits until it holds no more than before.
pub async fn holds_no_more(world: &World, before: &Held) -> Held {
    let until = Instant::now() + PATIENCE;
    loop {
        let now = held(world);
        if now.files <= before.files + FILES && now.bytes <= before.bytes + BYTES {
            return now;
        }
        assert!(Instant::now() < until, "{now} are held, {before} were");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
