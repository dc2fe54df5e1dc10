//! Readers of changesets: one reads all of it each time, and one follows by what is new.
//!
//! What is said to be fresh has every write that was acknowledged before it was asked for, and all that was committed before
//! the version whose timestamp it has. What committed late, below a timestamp that was there already, may be missing for a
//! while.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::Value;
use tokio::task::JoinHandle;

use super::truth::{self, Version, Versions};
use super::world::World;
use crate::history::writers::{Seen, why_wrong};
use crate::stale::is_marked;
use crate::support::{Client, PATIENCE};

/// How much later than its commit a version may become visible, in microseconds: PostgreSQL notes the one before the other,
/// and has to be given a processor between them.
const LEEWAY: i64 = 500_000;

/// A whole changeset that somebody had.
struct Look {
    timestamp: u64,
    rows: BTreeMap<String, u64>,
    /// How many writes had been acknowledged when it was asked for; `None` where it is marked as stale.
    acknowledged: Option<usize>,
}

pub struct Changesets {
    stop: Arc<AtomicBool>,
    reader: JoinHandle<Reader>,
    follower: JoinHandle<Reader>,
}

/// What was read.
pub struct Read {
    reader: Reader,
    follower: Reader,
}

struct Reader {
    client: Client,
    path: String,
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    looks: Vec<Look>,
    /// Each row that was ever shown, once.
    rows: HashMap<String, Value>,
    /// What the follower has, and up to when.
    copy: BTreeMap<String, Value>,
    since: u64,
    answers: usize,
}

impl Changesets {
    pub fn begin(world: &World, seen: &Arc<Mutex<Seen>>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let reader = || Reader {
            client: Client::new(world.sidecar.address()),
            path: format!("{}/changeset", world.collection),
            seen: Arc::clone(seen),
            stop: Arc::clone(&stop),
            looks: Vec::new(),
            rows: HashMap::new(),
            copy: BTreeMap::new(),
            since: 0,
            answers: 0,
        };
        let (whole, following) = (reader(), reader());
        Self { stop, reader: tokio::spawn(whole.read_all()), follower: tokio::spawn(following.follow()) }
    }

    /// Waits until nobody reads any more.
    pub async fn end(self) -> Read {
        self.stop.store(true, Ordering::Relaxed);
        Read { reader: self.reader.await.unwrap(), follower: self.follower.await.unwrap() }
    }
}

impl Read {
    /// Fails unless all was right, and the follower has in the end what Kinto has; gives how many changesets there were.
    pub async fn check(self, world: &World, seen: &Seen, versions: &Versions) -> usize {
        let Self { reader, mut follower } = self;
        let prefix = format!("{}/records/", world.collection);
        let mut acknowledged: BTreeMap<&str, u64> = BTreeMap::new();
        let (mut written, mut counted) = (seen.acknowledged.iter(), 0);
        for look in &reader.looks {
            for known in written.by_ref().take(look.acknowledged.unwrap_or(counted) - counted) {
                let newest = acknowledged.entry(known.uri.strip_prefix(&prefix).unwrap()).or_default();
                *newest = (*newest).max(known.version);
            }
            counted = look.acknowledged.unwrap_or(counted);
            look.check(look.acknowledged.map(|_| &acknowledged), versions);
        }
        let truth: BTreeMap<String, Value> =
            by_id(&world.kinto().client().user("alice").all(&format!("{}/records", world.collection)).await);
        let until = Instant::now() + PATIENCE;
        while follower.copy != truth {
            let differs = truth.iter().find(|(id, row)| follower.copy.get(*id) != Some(*row));
            let is_left = follower.copy.iter().find(|(id, _)| !truth.contains_key(*id));
            assert!(Instant::now() < until, "who follows lacks {differs:?}, or still has {is_left:?}");
            follower.follow_once().await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        for row in reader.rows.values().chain(follower.rows.values()) {
            truth::check(row, versions);
        }
        reader.answers + follower.answers
    }
}

impl Reader {
    async fn read_all(mut self) -> Self {
        while !self.stop.load(Ordering::Relaxed) {
            let acknowledged = self.seen.lock().acknowledged.len();
            let path = format!("{}?_expected=0", self.path);
            if let Some((timestamp, rows, is_stale)) = self.ask(&path).await {
                let rows = rows.iter().map(|row| (id(row), row["last_modified"].as_u64().unwrap())).collect();
                self.looks.push(Look { timestamp, rows, acknowledged: (!is_stale).then_some(acknowledged) });
            }
            tokio::time::sleep(Duration::from_millis(40)).await;
        }
        self
    }

    async fn follow(mut self) -> Self {
        while !self.stop.load(Ordering::Relaxed) {
            self.follow_once().await;
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        self
    }

    async fn follow_once(&mut self) {
        let since = self.since;
        let path = format!("{}?_expected={since}&_since=%22{since}%22", self.path);
        let Some((timestamp, rows, is_stale)) = self.ask(&path).await else { return };
        assert!(is_stale || timestamp >= since, "{timestamp} is fresh for who knows {since}");
        // Oldest first, so that the newest version of a record is what stays.
        for row in rows.iter().rev() {
            if row["deleted"] == true {
                self.copy.remove(&id(row));
            } else {
                self.copy.insert(id(row), row.clone());
            }
        }
        self.since = timestamp;
    }

    /// A changeset, and whether it is marked as stale.
    async fn ask(&mut self, path: &str) -> Option<(u64, Vec<Value>, bool)> {
        // A connection that breaks off is no answer.
        let answer = self.client.get(path).attempt().await.ok()?;
        self.seen.lock().requests += 1;
        if let Some(wrong) = why_wrong(&answer) {
            panic!("{wrong}");
        }
        if matches!(answer.status, 502..=504) {
            return None;
        }
        let body = answer.clone().expect(200).json();
        let rows = body["changes"].as_array().unwrap().clone();
        self.rows.extend(rows.iter().map(|row| (row.to_string(), row.clone())));
        self.answers += 1;
        Some((body["timestamp"].as_u64().unwrap(), rows, is_marked(&answer)))
    }
}

impl Look {
    /// Whether it is what Kinto had.
    fn check(&self, acknowledged: Option<&BTreeMap<&str, u64>>, versions: &Versions) {
        let committed = |id: &str, modified: u64| {
            let versions = versions.get(&(id.to_owned(), modified))?;
            versions.iter().map(|version| version.committed).max()
        };
        let newest = versions.iter().filter(|((_, modified), _)| *modified == self.timestamp);
        let reached = newest.flat_map(|(_, versions)| versions).map(|version| version.committed).min();
        // When what each record has to have here was committed, and which version that was.
        let mut least: BTreeMap<&str, (i64, u64)> = BTreeMap::new();
        for (id, modified) in acknowledged.into_iter().flatten() {
            least.insert(id, (committed(id, *modified).expect("what was acknowledged"), *modified));
        }
        for (id, modified) in versions.keys().filter(|(_, modified)| *modified <= self.timestamp) {
            let was_there = |at: i64| reached.is_some_and(|reached| at + LEEWAY < reached);
            if let Some(at) = committed(id, *modified).filter(|at| was_there(*at)) {
                let least = least.entry(id).or_default();
                *least = (*least).max((at, *modified));
            }
        }
        for (id, modified) in &self.rows {
            assert!(*modified <= self.timestamp, "{id} of {modified} in one of {}", self.timestamp);
        }
        for (id, (at, modified)) in least {
            let shown = self.rows.get(id).copied();
            let about = versions.range((id.to_owned(), 0)..=(id.to_owned(), u64::MAX));
            let is_deletion = |version: &Version| version.deleted && version.committed >= at;
            let may_be_gone = about.clone().any(|(_, versions)| versions.iter().any(is_deletion));
            assert!(
                shown.map_or(may_be_gone, |shown| committed(id, shown) >= Some(at)),
                "the changeset of {} shows {shown:?} of {id}, whose version {modified} was there before{}: {:?}",
                self.timestamp,
                if acknowledged.is_some() { "" } else { " (stale)" },
                about.collect::<Vec<_>>(),
            );
        }
    }
}

fn id(row: &Value) -> String {
    row["id"].as_str().unwrap().to_owned()
}

fn by_id(rows: &[Value]) -> BTreeMap<String, Value> {
    rows.iter().map(|row| (id(row), row.clone())).collect()
}
