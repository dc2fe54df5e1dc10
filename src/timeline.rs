//! What the sidecar knows of each collection's timestamp, and who wants to know.
//!
//! Two sources feed it: writes that pass through (they count at once, before the client has its answer), and what
//! [`poll`] asks of the upstream. Two kinds of readers take from it: a [`Clock`] serves whoever deals with one
//! collection, [`Entries`] whoever wants the list of all monitored ones.
//!
//! An entry that is learned late, while news of other collections already went to readers, belongs to every `_since` at
//! or below the list's timestamp of that moment; [`Entry::late`] says so. Without it a reader who follows the list would
//! not hear of that collection until its next write.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio::time::Instant;

pub mod clock;
pub mod entries;
pub mod poll;
pub mod rendered;
pub mod resources;

use crate::kinto::{CollectionKey, Timestamp};
use clock::{Clock, Heard, WriteUnderWay};
use entries::{Entries, Entry, entry_id};
use resources::Resources;

/// Called with each collection of which there is news.
pub type OnNews = Box<dyn Fn(&CollectionKey) + Send + Sync>;

/// The timestamps of all collections that somebody asked for or that are monitored.
pub struct Timeline {
    resources: Resources,
    host: String,
    clocks: RwLock<HashMap<CollectionKey, Arc<Clock>>>,
    list: Mutex<List>,
    /// The list's generation; `snapshot` is behind it until somebody reads.
    generation: AtomicU64,
    snapshot: ArcSwap<Entries>,
    loaded: AtomicBool,
    moved: watch::Sender<u64>,
    on_news: OnNews,
}

#[derive(Debug, Default)]
struct List {
    entries: HashMap<CollectionKey, Entry>,
    order: BTreeSet<(Timestamp, CollectionKey)>,
    /// The greatest timestamp that the list ever had.
    high: Timestamp,
    first_known: Timestamp,
}

impl Timeline {
    /// An empty timeline that monitors `resources` and puts `host` into its entries.
    pub fn new(resources: Resources, host: String, on_news: OnNews) -> Self {
        Self {
            resources,
            host,
            clocks: RwLock::default(),
            list: Mutex::default(),
            generation: AtomicU64::new(1),
            snapshot: ArcSwap::default(),
            loaded: AtomicBool::new(false),
            moved: watch::Sender::new(1),
            on_news,
        }
    }

    /// Which collections are monitored.
    pub fn resources(&self) -> &Resources {
        &self.resources
    }

    /// The `host` of the entries.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The clock of a collection, made where there is none yet.
    pub fn clock(&self, key: &CollectionKey) -> Arc<Clock> {
        if let Some(clock) = self.known_clock(key) {
            return clock;
        }
        let mut clocks = self.clocks.write().unwrap_or_else(PoisonError::into_inner);
        clocks.entry(key.clone()).or_insert_with(|| Arc::new(Clock::new(key.clone()))).clone()
    }

    /// The clock of a collection of which something is known.
    pub fn known_clock(&self, key: &CollectionKey) -> Option<Arc<Clock>> {
        self.clocks.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    /// All clocks.
    pub fn clocks(&self) -> Vec<Arc<Clock>> {
        self.clocks.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Drops the clocks for which `keep` is false and that nobody holds.
    pub fn retain_clocks(&self, keep: impl Fn(&Clock) -> bool) {
        let mut clocks = self.clocks.write().unwrap_or_else(PoisonError::into_inner);
        clocks.retain(|_, clock| Arc::strong_count(clock) > 1 || keep(clock));
    }

    /// A passing write of records was acknowledged with these timestamps.
    pub fn acknowledged(&self, write: &WriteUnderWay, timestamps: &[Timestamp]) {
        let heard = write.acknowledged(timestamps);
        self.tell(write.clock(), heard);
    }

    /// The upstream said this of a collection when its news were `news`.
    pub fn learned(
        &self,
        clock: &Clock,
        timestamp: Timestamp,
        total: Option<u64>,
        news: u64,
        asked: Instant,
    ) {
        let heard = clock.learned(timestamp, total, news, asked);
        self.tell(clock, heard);
        if heard != Heard::Moved && self.resources.include(clock.key()) {
            // The first sight of a collection whose clock a mirror had set already.
            self.enter(clock.key(), clock.timestamp());
        }
    }

    /// A complete read of the collection found this timestamp.
    pub fn read(&self, clock: &Clock, timestamp: Timestamp, asked: Instant) {
        let heard = clock.read(timestamp, asked);
        self.tell(clock, heard);
    }

    /// Something else than its records may have changed a collection.
    pub fn touched(&self, key: &CollectionKey) {
        if let Some(clock) = self.known_clock(key) {
            clock.touch();
            self.tell(&clock, Heard::News);
        }
    }

    /// A collection is gone.
    pub fn removed(&self, key: &CollectionKey) {
        if let Some(clock) = self.known_clock(key) {
            clock.forget();
            self.tell(&clock, Heard::News);
        }
        let mut list = self.list();
        if let Some(entry) = list.entries.remove(key) {
            list.order.remove(&(entry.last_modified, entry.key));
            self.bump();
        }
    }

    /// All collections of a bucket but `keep` are gone.
    pub fn removed_from_bucket(&self, bucket: &str, keep: &dyn Fn(&CollectionKey) -> bool) {
        let mut keys: BTreeSet<CollectionKey> =
            self.clocks().iter().map(|clock| clock.key().clone()).collect();
        keys.extend(self.list().entries.keys().cloned());
        for key in keys.iter().filter(|key| &*key.bucket == bucket && !keep(key)) {
            // A clock that was never set stands for a question, not for a collection.
            let known = self.known_clock(key).is_some_and(|clock| clock.timestamp() > Timestamp::ZERO);
            if known || self.list().entries.contains_key(key) {
                self.removed(key);
            }
        }
    }

    /// Everything is gone (`POST /__flush__`, `DELETE /buckets`).
    pub fn removed_all(&self) {
        let buckets: BTreeSet<Arc<str>> =
            self.clocks().iter().map(|clock| clock.key().bucket.clone()).collect();
        for bucket in buckets {
            self.removed_from_bucket(&bucket, &|_| false);
        }
    }

    /// Whether all monitored collections were asked for once.
    pub fn is_loaded(&self) -> bool {
        self.loaded.load(Ordering::Acquire)
    }

    /// All monitored collections were asked for once: what the list says from now on is news.
    pub fn set_loaded(&self) {
        let mut list = self.list();
        if !self.loaded.swap(true, Ordering::AcqRel) {
            list.first_known = list.high;
            for entry in list.entries.values_mut() {
                entry.late = None;
            }
            self.bump();
        }
    }

    /// The list of the monitored collections.
    pub fn entries(&self) -> Arc<Entries> {
        let snapshot = self.snapshot.load();
        if snapshot.generation == self.generation.load(Ordering::Acquire) {
            return Arc::clone(&snapshot);
        }
        let list = self.list();
        let generation = self.generation.load(Ordering::Acquire);
        let rows: Vec<Entry> =
            list.order.iter().rev().filter_map(|(_, key)| list.entries.get(key).cloned()).collect();
        let timestamp = rows.first().map_or(Timestamp::ZERO, |entry| entry.last_modified);
        let entries = Arc::new(Entries {
            rows,
            timestamp,
            generation,
            first_known: list.first_known,
            ..Entries::default()
        });
        self.snapshot.store(Arc::clone(&entries));
        entries
    }

    /// Told of each change of the list.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.moved.subscribe()
    }

    fn tell(&self, clock: &Clock, heard: Heard) {
        if heard == Heard::Nothing {
            return;
        }
        if heard == Heard::Moved && self.resources.include(clock.key()) {
            self.enter(clock.key(), clock.timestamp());
        }
        (self.on_news)(clock.key());
    }

    /// Puts a collection's timestamp into the list.
    fn enter(&self, key: &CollectionKey, timestamp: Timestamp) {
        let mut list = self.list();
        let before = list.entries.get(key).map(|entry| entry.last_modified);
        if before == Some(timestamp) || timestamp == Timestamp::ZERO {
            return;
        }
        let late = Some(list.high).filter(|high| timestamp <= *high);
        let id = list.entries.get(key).map_or_else(|| entry_id(&self.host, key), |entry| entry.id.clone());
        if let Some(before) = before {
            list.order.remove(&(before, key.clone()));
        }
        list.order.insert((timestamp, key.clone()));
        list.entries.insert(key.clone(), Entry { key: key.clone(), id, last_modified: timestamp, late });
        list.high = list.high.max(timestamp);
        self.bump();
    }

    fn bump(&self) {
        let generation = self.generation.fetch_add(1, Ordering::AcqRel) + 1;
        self.moved.send_replace(generation);
    }

    fn list(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Timeline {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Timeline").field("resources", &self.resources).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timeline() -> Timeline {
        let resources = Resources::new(&["/buckets/a".into()], &["/buckets/a/collections/hidden".into()]);
        Timeline::new(resources, String::new(), Box::new(|_| ()))
    }

    fn write(timeline: &Timeline, collection: &str, timestamp: u64) {
        let write = timeline.clock(&CollectionKey::new("a", collection)).begin_write();
        timeline.acknowledged(&write, &[Timestamp(timestamp)]);
    }

    fn listed(timeline: &Timeline) -> Vec<(String, u64, Option<u64>)> {
        let entries = timeline.entries();
        let rows = entries.rows.iter();
        rows.map(|row| (row.key.collection.to_string(), row.last_modified.0, row.late.map(|late| late.0)))
            .collect()
    }

    #[test]
    fn a_passing_write_is_listed_at_once_newest_first() {
        let timeline = timeline();
        write(&timeline, "one", 10);
        write(&timeline, "two", 20);
        write(&timeline, "one", 30);
        write(&timeline, "hidden", 40);
        assert_eq!(listed(&timeline), [("one".into(), 30, None), ("two".into(), 20, None)]);
        assert_eq!(timeline.entries().timestamp, Timestamp(30));
    }

    #[test]
    fn an_entry_learned_late_belongs_to_the_timestamp_of_that_moment() {
        let timeline = timeline();
        write(&timeline, "one", 30);
        let clock = timeline.clock(&CollectionKey::new("a", "two"));
        timeline.learned(&clock, Timestamp(20), Some(1), clock.news(), Instant::now());
        assert_eq!(listed(&timeline), [("one".into(), 30, None), ("two".into(), 20, Some(30))]);
    }

    #[test]
    fn removed_collections_disappear() {
        let timeline = timeline();
        write(&timeline, "one", 10);
        write(&timeline, "two", 20);
        timeline.removed_from_bucket("a", &|key| &*key.collection == "one");
        assert_eq!(listed(&timeline), [("one".into(), 10, None)]);
        timeline.removed_all();
        assert!(listed(&timeline).is_empty());
    }

    #[test]
    fn unchanged_lists_are_shared() {
        let timeline = timeline();
        write(&timeline, "one", 10);
        assert!(Arc::ptr_eq(&timeline.entries(), &timeline.entries()));
    }
}
