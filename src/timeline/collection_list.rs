//! A list of collections by their timestamps, kept up as these are heard: all monitored ones, or all of one bucket.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;
use tokio::time::Instant;

mod kept;

pub use kept::KeptList;

use super::entries::{Entries, Gone, MonitorEntry, entry_id};
use super::lineage;
use crate::kinto::given::Given;
use crate::kinto::seq::Seq;
use crate::kinto::{CollectionKey, Timestamp};

/// How many collections that are gone are remembered as such.
const GONE: usize = 1000;

/// A list of collections.
#[derive(Debug)]
pub struct CollectionList {
    host: String,
    list: Mutex<List>,
    /// The list's generation; `snapshot` is behind it until somebody reads.
    generation: AtomicU64,
    snapshot: ArcSwap<Entries>,
    loaded: AtomicBool,
    moved: watch::Sender<u64>,
    /// Tells this list, and its generations, from all others.
    pub lineage: u64,
    /// The places between two timestamps that readers were given.
    pub given: Given,
}

#[derive(Debug, Default)]
struct List {
    entries: HashMap<CollectionKey, MonitorEntry>,
    order: BTreeSet<(Timestamp, CollectionKey)>,
    gone: HashMap<CollectionKey, Gone>,
    /// The greatest timestamp that the list ever had, and what was learned late since.
    high: Seq,
    /// The newest place that some reader has.
    heard: Seq,
    first_known: Timestamp,
    /// When the list was last known to be good, where it is from before this process and was not asked for since.
    revived: Option<Instant>,
}

impl List {
    /// The place of what is learned late, or gone.
    fn late_seq(&self) -> Seq {
        self.high.found_after_all(self.heard)
    }
}

impl CollectionList {
    /// An empty list, whose entries are of this host.
    pub fn new(host: String) -> Self {
        Self {
            host,
            list: Mutex::default(),
            generation: AtomicU64::new(1),
            snapshot: ArcSwap::default(),
            loaded: AtomicBool::new(false),
            moved: watch::Sender::new(1),
            lineage: lineage(),
            given: Given::default(),
        }
    }

    /// The `host` of the entries.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Whether everything that belongs here was asked for once.
    pub fn is_loaded(&self) -> bool {
        self.loaded.load(Ordering::Acquire)
    }

    /// Everything that belongs here was asked for once: what the list says from now on is news.
    pub fn set_loaded(&self) {
        let mut list = self.list();
        if !self.loaded.swap(true, Ordering::AcqRel) {
            // Who has a list from before this process goes on with it.
            if list.revived.take().is_none() {
                list.first_known = list.high.at;
                for entry in list.entries.values_mut() {
                    entry.late = None;
                }
            }
            self.bump();
        }
    }

    /// Not everything that belongs here can be asked for any more.
    pub fn set_incomplete(&self) {
        let _list = self.list();
        if self.loaded.swap(false, Ordering::AcqRel) {
            self.bump();
        }
    }

    /// Told of each change of the list.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.moved.subscribe()
    }

    /// The list.
    pub fn entries(&self) -> Arc<Entries> {
        let snapshot = self.snapshot.load();
        if snapshot.generation == self.generation.load(Ordering::Acquire) {
            return Arc::clone(&snapshot);
        }
        let list = self.list();
        let generation = self.generation.load(Ordering::Acquire);
        let rows: Vec<MonitorEntry> =
            list.order.iter().rev().filter_map(|(_, key)| list.entries.get(key).cloned()).collect();
        let timestamp = rows.first().map_or(Timestamp::ZERO, |entry| entry.last_modified);
        let entries = Arc::new(Entries {
            rows,
            timestamp,
            generation,
            first_known: list.first_known,
            high: list.high,
            gone: list.gone.values().cloned().collect(),
            ..Entries::default()
        });
        self.snapshot.store(Arc::clone(&entries));
        entries
    }

    /// The greatest timestamp in the list, without making a snapshot of all of it.
    pub fn newest(&self) -> Timestamp {
        self.list().order.last().map_or(Timestamp::ZERO, |(timestamp, _)| *timestamp)
    }

    /// Puts a collection's timestamp into the list.
    pub fn enter(&self, key: &CollectionKey, timestamp: Timestamp) {
        let mut list = self.list();
        let before = list.entries.get(key).map(|entry| entry.last_modified);
        if before == Some(timestamp) || timestamp == Timestamp::ZERO {
            return;
        }
        let late = (timestamp <= list.high.at).then(|| list.late_seq());
        let id = list.entries.get(key).map_or_else(|| entry_id(&self.host, key), |entry| entry.id.clone());
        if let Some(before) = before {
            list.order.remove(&(before, key.clone()));
        }
        list.gone.remove(key);
        list.order.insert((timestamp, key.clone()));
        let generation = self.generation.load(Ordering::Acquire) + 1;
        let entry = MonitorEntry { key: key.clone(), id, last_modified: timestamp, late, generation };
        list.entries.insert(key.clone(), entry);
        list.high = late.unwrap_or(Seq::of(timestamp));
        self.bump();
    }

    /// Somebody has this place: what is learned late from now on goes beyond it.
    pub fn heed(&self, seq: Seq) {
        let mut list = self.list();
        list.heard = list.heard.max(seq);
    }

    /// The newest place that some reader has.
    pub fn heard(&self) -> Seq {
        self.list().heard
    }

    /// Takes a collection out of the list.
    pub fn remove(&self, key: &CollectionKey) {
        let mut list = self.list();
        let Some(entry) = list.entries.remove(key) else { return };
        list.order.remove(&(entry.last_modified, entry.key));
        let generation = self.generation.load(Ordering::Acquire) + 1;
        if list.gone.len() >= GONE {
            let oldest = list.gone.values().min_by_key(|gone| gone.generation).map(|gone| gone.key.clone());
            oldest.map(|oldest| list.gone.remove(&oldest));
        }
        list.high = list.late_seq();
        let gone = Gone { key: key.clone(), id: entry.id, seen: list.high, generation };
        list.gone.insert(key.clone(), gone);
        self.bump();
    }

    /// Whether a collection is in the list.
    pub fn contains(&self, key: &CollectionKey) -> bool {
        self.list().entries.contains_key(key)
    }

    /// All collections in the list.
    pub fn keys(&self) -> Vec<CollectionKey> {
        self.list().entries.keys().cloned().collect()
    }

    /// Called with the list locked, so that what is entered has the generation that follows.
    fn bump(&self) {
        let generation = self.generation.fetch_add(1, Ordering::AcqRel) + 1;
        self.moved.send_replace(generation);
    }

    fn list(&self) -> MutexGuard<'_, List> {
        self.list.lock()
    }
}
