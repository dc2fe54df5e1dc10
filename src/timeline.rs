//! What the sidecar knows of each collection's timestamp, and who wants to know.
//!
//! Two sources feed it: writes that pass through (they count at once, before the client has its answer), and what
//! [`poll`] asks of the upstream. Two kinds of readers take from it: a [`Clock`] serves whoever deals with one
//! collection, [`Entries`] whoever wants the list of all monitored ones.
//!
//! An entry that is learned late, while news of other collections already went to readers, belongs to every `_since` at
//! or below the list's timestamp of that moment; [`late`](entries::MonitorEntry::late) says so. Without it a reader who follows the list would
//! not hear of that collection until its next write.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::RwLock;
use tokio::sync::watch;
use tokio::time::Instant;

pub mod broadcast;
pub mod budget;
pub mod clock;
pub mod clocks;
pub mod collection_list;
pub mod document;
pub mod entries;
pub mod epoch;
pub mod poll;
pub mod resources;
mod revive;

use crate::kinto::{CollectionKey, Timestamp};
use clock::{Clock, Heard, WriteUnderWay};
use clocks::Clocks;
use collection_list::CollectionList;
use entries::Entries;
use epoch::Epoch;
use resources::Resources;

/// A number that nothing else in this process has: counts that begin anew are told apart by it.
pub fn lineage() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed)
}

/// Called with each collection of which there is news.
pub type OnNews = Box<dyn Fn(&CollectionKey) + Send + Sync>;

/// The timestamps of all collections that somebody asked for or that are monitored.
pub struct Timeline {
    /// Held to be read while something is entered, so that nothing is that is monitored no more.
    resources: RwLock<Arc<Resources>>,
    clocks: Clocks,
    /// All monitored collections.
    monitored: Arc<CollectionList>,
    /// All collections of the buckets that somebody watches.
    watched: RwLock<HashMap<Arc<str>, Weak<CollectionList>>>,
    on_news: OnNews,
}

impl Timeline {
    /// An empty timeline that monitors `resources` and puts `host` into its entries.
    pub fn new(resources: Resources, host: String, on_news: OnNews) -> Self {
        Self {
            resources: RwLock::new(Arc::new(resources)),
            clocks: Clocks::default(),
            monitored: Arc::new(CollectionList::new(host)),
            watched: RwLock::default(),
            on_news,
        }
    }

    /// Which collections are monitored.
    pub fn resources(&self) -> Arc<Resources> {
        Arc::clone(&self.resources.read())
    }

    /// Other collections are monitored from now on. Those that are known and were not are listed as learned late.
    pub fn monitor(&self, resources: Resources) {
        let mut monitored = self.resources.write();
        *monitored = Arc::new(resources);
        for key in self.monitored.keys().iter().filter(|key| !monitored.include(key)) {
            self.monitored.remove(key);
        }
        for clock in self.kept_clocks().iter().filter(|clock| monitored.include(clock.key())) {
            self.monitored.enter(clock.key(), clock.timestamp());
        }
        drop(monitored);
        self.epoch().advance();
    }

    /// Moves with whatever is heard of a collection, with each content that is kept of one, and with what is monitored.
    pub fn epoch(&self) -> &Epoch {
        self.clocks.epoch()
    }

    /// The `host` of the entries.
    pub fn host(&self) -> &str {
        self.monitored.host()
    }

    /// The clock of a collection. One that the upstream has not acknowledged is gone with the last who holds its clock.
    pub fn clock(&self, key: &CollectionKey) -> Arc<Clock> {
        self.clocks.get_or_make(key)
    }

    /// The clock of a collection, where anybody has it.
    pub fn known_clock(&self, key: &CollectionKey) -> Option<Arc<Clock>> {
        self.clocks.get(key)
    }

    /// All clocks that anybody has.
    pub fn clocks(&self) -> Vec<Arc<Clock>> {
        self.clocks.all()
    }

    /// The clocks of all collections that the upstream acknowledged.
    pub fn kept_clocks(&self) -> Vec<Arc<Clock>> {
        self.clocks.kept()
    }

    /// Whether the upstream acknowledged a collection.
    pub fn is_kept(&self, key: &CollectionKey) -> bool {
        self.clocks.is_kept(key)
    }

    /// How many places clocks take.
    pub fn places(&self) -> usize {
        self.clocks.places()
    }

    /// The upstream has this collection; its timestamp is not known yet.
    pub fn found(&self, key: &CollectionKey) -> Arc<Clock> {
        let clock = self.clocks.get_or_make(key);
        self.clocks.keep(key);
        clock
    }

    /// A passing write of records was acknowledged with these timestamps.
    pub fn acknowledged(&self, write: &WriteUnderWay, timestamps: &[Timestamp]) {
        let heard = write.acknowledged(timestamps);
        self.clocks.keep(write.clock().key());
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
        self.clocks.keep(clock.key());
        self.tell(clock, heard);
        if heard != Heard::Moved {
            // The first sight of a collection whose clock a mirror had set already.
            self.enter(clock.key(), clock.timestamp());
        }
    }

    /// Another sidecar saw a record's version with this timestamp written.
    pub fn heard_of(&self, clock: &Clock, timestamp: Timestamp) {
        clock.heard_of(timestamp);
        self.clocks.keep(clock.key());
        self.tell(clock, Heard::Moved);
    }

    /// A complete read of the collection found this timestamp.
    pub fn read(&self, clock: &Clock, timestamp: Timestamp, asked: Instant) {
        let heard = clock.read(timestamp, asked);
        self.clocks.keep(clock.key());
        self.tell(clock, heard);
    }

    /// Something else than its records may have changed a collection.
    pub fn touched(&self, key: &CollectionKey) {
        if let Some(clock) = self.known_clock(key) {
            clock.touch();
            self.tell(&clock, Heard::News);
        }
    }

    /// A collection is gone. That is news of one that was known.
    pub fn removed(&self, key: &CollectionKey) {
        if let Some(clock) = self.known_clock(key)
            && (clock.timestamp() > Timestamp::ZERO || self.is_kept(key))
        {
            clock.forget();
            self.clocks.let_go(key);
            self.tell(&clock, Heard::News);
            if self.is_kept(key) {
                // It came again meanwhile.
                return;
            }
        }
        self.monitored.remove(key);
        if let Some(bucket) = self.watched(&key.bucket) {
            bucket.remove(key);
        }
    }

    /// All collections of a bucket but `keep` are gone.
    pub fn removed_from_bucket(&self, bucket: &str, keep: &dyn Fn(&CollectionKey) -> bool) {
        let mut keys: BTreeSet<CollectionKey> =
            self.clocks().iter().map(|clock| clock.key().clone()).collect();
        keys.extend(self.monitored.keys());
        for key in keys.iter().filter(|key| &*key.bucket == bucket && !keep(key)) {
            self.removed(key);
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
        self.monitored.is_loaded()
    }

    /// All monitored collections were asked for once: what the list says from now on is news.
    pub fn set_loaded(&self) {
        self.monitored.set_loaded();
    }

    /// The list of the monitored collections.
    pub fn entries(&self) -> Arc<Entries> {
        self.monitored.entries()
    }

    /// The greatest timestamp in that list.
    pub fn newest(&self) -> Timestamp {
        self.monitored.newest()
    }

    /// Told of each change of the list.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.monitored.subscribe()
    }

    /// The list of the monitored collections, as it is kept.
    pub fn monitored(&self) -> &Arc<CollectionList> {
        &self.monitored
    }

    /// The list of all collections of a bucket, kept as long as the caller has it. It is complete once it is loaded,
    /// which is [`poll::Poller`]'s to see to.
    pub fn watch(&self, bucket: &str) -> Arc<CollectionList> {
        if let Some(list) = self.watched(bucket) {
            return list;
        }
        let mut watched = self.watched.write();
        watched.retain(|_, list| list.strong_count() > 0);
        if let Some(list) = watched.get(bucket).and_then(Weak::upgrade) {
            return list;
        }
        let list = Arc::new(CollectionList::new(self.host().to_owned()));
        watched.insert(bucket.into(), Arc::downgrade(&list));
        list
    }

    /// The list of a bucket that somebody watches.
    pub fn watched(&self, bucket: &str) -> Option<Arc<CollectionList>> {
        self.watched.read().get(bucket)?.upgrade()
    }

    /// The buckets that somebody watches.
    pub fn watched_buckets(&self) -> Vec<Arc<str>> {
        let watched = self.watched.read();
        watched.iter().filter(|(_, list)| list.strong_count() > 0).map(|(id, _)| id.clone()).collect()
    }

    /// A bucket changed: who may read what is in it may be others from now on, which no timestamp of its collections says.
    pub fn bucket_changed(&self, bucket: &str) {
        for clock in self.clocks().iter().filter(|clock| &*clock.key().bucket == bucket) {
            (self.on_news)(clock.key());
        }
    }

    fn tell(&self, clock: &Clock, heard: Heard) {
        if heard == Heard::Nothing {
            return;
        }
        if heard == Heard::Moved {
            self.enter(clock.key(), clock.timestamp());
        }
        (self.on_news)(clock.key());
    }

    /// Puts a collection's timestamp into the lists that it belongs to.
    fn enter(&self, key: &CollectionKey, timestamp: Timestamp) {
        let resources = self.resources.read();
        if resources.include(key) {
            self.monitored.enter(key, timestamp);
        }
        drop(resources);
        if let Some(bucket) = self.watched(&key.bucket) {
            bucket.enter(key, timestamp);
        }
    }
}

impl std::fmt::Debug for Timeline {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Timeline").field("resources", &self.resources).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
