//! Everything at once, and nothing goes wrong: whoever writes, reads, follows, comes and goes, what the sidecar holds stays
//! what it is.
//!
//! `MINUTES=60 cargo test --release --test it soak -- --nocapture` goes on for so long.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::campaign::feeds::ALICE;
use crate::campaign::recovery::{Held, held};
use crate::campaign::world::World;
use crate::feeds::follower::Follower;
use crate::history::writers::{Writers, why_wrong};
use crate::support::{Client, commit, number};

/// How long it goes on where nobody says it.
const USUAL: Duration = Duration::from_secs(9);

/// So many times what is held is looked at, one third of them before it has to stay what it is.
const LOOKS: u32 = 60;

/// How many more bytes there may be in the last third of the time than in the second.
const BYTES: u64 = 10 << 20;

/// How many more connections and tasks there may be: they come and go with requests, of which there are many more.
const FILES: u64 = 50;
const TASKS: u64 = 50;

/// How many there are of those who read.
const READERS: usize = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_a_steady_load_what_is_held_stays_what_it_is() {
    let minutes = number("MINUTES", 0);
    let time = if minutes == 0 { USUAL } else { Duration::from_secs(60 * minutes) };
    for seed in [0, 1] {
        soak(seed, time).await;
    }
}

async fn soak(seed: u64, time: Duration) {
    // A machine that has much else to do is waited for.
    let patient = [("sidecar.upstream_timeout", "60s"), ("sidecar.upstream_connect_timeout", "60s")];
    let world = World::begin_with(seed, &patient).await;
    let mut writers =
        Writers::begin(world.kinto(), &world.past(), world.sidecar.address(), &world.collection, seed).await;
    let readers = Readers::begin(&world);
    let mut looks: Vec<Held> = Vec::new();
    let begun = Instant::now();
    for look in 1..=LOOKS {
        tokio::time::sleep((time * look / LOOKS).saturating_sub(begun.elapsed())).await;
        looks.push(held(&world.sidecar).await);
    }
    let asked = readers.end().await;
    writers.end().await;
    let seen = std::mem::take(&mut *writers.seen.lock());
    assert!(seen.wrong.is_empty(), "{} answers are wrong: {}", seen.wrong.len(), seen.wrong[0]);
    let least = |looks: &[Held]| looks.iter().copied().reduce(Held::least).unwrap();
    let third = looks.len() / 3;
    let (second, last) = (least(&looks[third..2 * third]), least(&looks[2 * third..]));
    println!(
        "seed {seed}, commit {}, journal in {}: {} requests in {time:?}, {asked} of them reads, {} writes acknowledged; it held {second}, \
         and then {last}",
        commit(),
        if world.journal_is_far() { "PostgreSQL" } else { "SQLite" },
        seen.requests + asked,
        seen.acknowledged.len(),
    );
    assert!(
        last.bytes <= second.bytes + BYTES
            && last.files <= second.files + FILES
            && last.tasks <= second.tasks + TASKS,
        "{second} were held, and then {last}"
    );
}

/// Those who read and follow until told to stop.
struct Readers {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    tasks: Vec<JoinHandle<()>>,
}

impl Readers {
    fn begin(world: &World) -> Self {
        let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (collection, bucket) = (&world.collection, &world.bucket);
        let paths: Arc<[String]> = [
            format!("{collection}/changeset?_expected=0"),
            format!("{collection}/changeset?_expected=0&_limit=5"),
            "/buckets/monitor/collections/changes/records".to_owned(),
            "/buckets/monitor/collections/changes/changeset?_expected=0".to_owned(),
            format!("{bucket}/history?_limit=20"),
            format!("{bucket}/history?user_id=basicauth:nobody&_limit=5"),
            format!("{collection}/_changes?limit=20"),
            format!("{collection}/records?_limit=5"),
            format!("{collection}/no-such-thing"),
            "/__broadcasts__".to_owned(),
            "/".to_owned(),
        ]
        .into();
        let feeds = [
            format!("{collection}/_changes?feed=eventsource&since=now&include_docs=true"),
            format!("{collection}/_changes?feed=longpoll&since=now"),
            format!("{bucket}/history/_changes?feed=eventsource&since=now"),
        ];
        let mut tasks = Vec::new();
        for number in 0..READERS {
            let reader = Reader {
                client: Client::new(world.sidecar.address()).user("alice"),
                paths: Arc::clone(&paths),
                stop: Arc::clone(&stop),
                asked: Arc::clone(&asked),
            };
            tasks.push(tokio::spawn(reader.read(number)));
        }
        for feed in feeds {
            let (address, stop, asked) =
                (world.sidecar.address().to_owned(), Arc::clone(&stop), Arc::clone(&asked));
            tasks.push(tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    follow(&address, &feed).await;
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            }));
        }
        Self { stop, asked, tasks }
    }

    /// Waits until nobody reads any more; how many requests there were.
    async fn end(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
        self.asked.load(Ordering::Relaxed)
    }
}

/// Somebody who asks for one thing after the other.
struct Reader {
    client: Client,
    paths: Arc<[String]>,
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
}

impl Reader {
    async fn read(self, first: usize) {
        for turn in first.. {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let path = &self.paths[turn % self.paths.len()];
            let coding = ["identity", "gzip", "zstd"][turn % 3];
            let answer = self.client.get(path).header("accept-encoding", coding).attempt().await.unwrap();
            if answer.header("content-encoding").is_none() {
                assert_eq!(why_wrong(&answer), None, "{path}");
            }
            // Room for histories is kept before they are read: one client has it for a few at once.
            let is_full = answer.status == 503 && path.contains("/history");
            assert!(is_full || matches!(answer.status, 200 | 404), "{path}: {}", answer.status);
            self.asked.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Reads a feed for a while, and goes away in the midst of it.
async fn follow(address: &str, path: &str) {
    let mut feed = Follower::open_at(address, path, &[ALICE]).await;
    assert_eq!(feed.status, 200, "{path}");
    for _ in 0..50 {
        if feed.line().await.is_none() {
            return;
        }
    }
}
