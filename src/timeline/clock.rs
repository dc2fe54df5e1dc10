//! What is known of one collection's timestamp, shared by everybody who deals with that collection.
//!
//! Reading it takes no lock: a changeset that is served from memory costs two atomic loads here.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

mod schedule;
mod write;

pub use write::WriteUnderWay;

use super::epoch::Epoch;
use crate::kinto::seq::Seq;
use crate::kinto::{CollectionKey, Timestamp};
use schedule::Schedule;

/// How many timestamps of a kind are remembered for each collection.
const REMEMBERED: usize = 1024;

/// The timestamp of one collection, and the number of times that something was heard of it.
#[derive(Debug)]
pub struct Clock {
    key: CollectionKey,
    /// Moves at whatever may have changed the collection's records or metadata.
    news: AtomicU64,
    timestamp: AtomicU64,
    total: AtomicU64,
    notes: Mutex<Notes>,
    /// Who waits for news.
    waiting: Notify,
    /// Those who want to know of each change as soon as may be.
    listeners: AtomicUsize,
    /// That of all collections.
    epoch: Arc<Epoch>,
}

#[derive(Debug, Default)]
struct Notes {
    /// The lowest timestamp that was heard of since the last delta began. What is read meanwhile may be newer.
    low: Option<Timestamp>,
    /// Timestamps that the upstream once said to be the newest, oldest first.
    witnessed: VecDeque<Timestamp>,
    /// Timestamps of passing writes that were the only ones under way here, ascending.
    lone: VecDeque<Timestamp>,
    /// The timestamps of tombstones that passing deletions made, oldest first.
    buried: VecDeque<Timestamp>,
    /// The newest place that some reader of a feed has.
    heard: Seq,
    /// Writes on their way to the upstream.
    in_flight: usize,
    /// Counts the writes begun.
    begun: u64,
    /// Whether the last of them was the only one, and still is.
    is_lone: bool,
    /// When the collection was last seen to move.
    moved: Option<Instant>,
    /// When the upstream was last asked for its timestamp.
    asked: Option<Instant>,
    schedule: Schedule,
    /// A timestamp lower than one already known was seen: what was known is void.
    void: bool,
    /// The last of [`Clock::news`] that was more than a higher timestamp.
    event: u64,
}

/// What hearing a timestamp changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// Nothing that was not known.
    Nothing,
    /// Something may be new, though not the timestamp.
    News,
    /// The timestamp moved.
    Moved,
}

/// Somebody listens to a clock.
#[derive(Debug)]
pub struct Listening(Arc<Clock>);

// === impl Clock ===

impl Clock {
    /// A clock of which nothing is known. Its news move this epoch, too.
    pub fn new(key: CollectionKey, epoch: Arc<Epoch>) -> Self {
        Self {
            key,
            news: AtomicU64::new(1),
            timestamp: AtomicU64::new(0),
            total: AtomicU64::new(u64::MAX),
            notes: Mutex::default(),
            waiting: Notify::new(),
            listeners: AtomicUsize::new(0),
            epoch,
        }
    }

    /// The collection.
    pub fn key(&self) -> &CollectionKey {
        &self.key
    }

    /// Moves whenever something was heard that may have changed the collection.
    pub fn news(&self) -> u64 {
        self.news.load(Ordering::Acquire)
    }

    /// That of all collections.
    pub fn epoch(&self) -> &Epoch {
        &self.epoch
    }

    /// Waits until there is news beyond these.
    pub async fn news_beyond(&self, known: u64) {
        loop {
            let mut more = pin!(self.waiting.notified());
            // What comes between the look and the wait counts.
            more.as_mut().enable();
            if self.news() > known {
                return;
            }
            more.await;
        }
    }

    /// Wants to know of each change as soon as may be, until the guard is dropped.
    pub fn listen(self: &Arc<Self>) -> Listening {
        self.listeners.fetch_add(1, Ordering::AcqRel);
        Listening(Arc::clone(self))
    }

    /// Whether somebody wants to know of each change as soon as may be.
    pub fn is_listened_to(&self) -> bool {
        self.listeners.load(Ordering::Acquire) > 0
    }

    /// The newest timestamp known; zero where none is.
    pub fn timestamp(&self) -> Timestamp {
        Timestamp(self.timestamp.load(Ordering::Acquire))
    }

    /// The number of live records when the upstream last said it.
    pub fn total(&self) -> Option<u64> {
        Some(self.total.load(Ordering::Acquire)).filter(|total| *total != u64::MAX)
    }

    /// A write is about to go to the upstream.
    pub fn begin_write(self: &Arc<Self>) -> WriteUnderWay {
        let mut notes = self.notes();
        notes.begun += 1;
        let alone = notes.in_flight == 0;
        notes.is_lone = alone;
        notes.in_flight += 1;
        WriteUnderWay { clock: self.clone(), begun: notes.begun, alone }
    }

    /// Whether exactly one write is on its way to the upstream, and none was beside it.
    pub fn has_one_under_way(&self) -> bool {
        self.notes().is_lone
    }

    /// The upstream was asked, at `asked` and when [`Clock::news`] was `news`, and said this.
    ///
    /// An answer that a passing write has overtaken does not move the clock back.
    pub fn learned(&self, timestamp: Timestamp, total: Option<u64>, news: u64, asked: Instant) -> Heard {
        let mut notes = self.notes();
        notes.asked = notes.asked.max(Some(asked));
        let known = self.timestamp();
        let overtaken = self.news() != news;
        if timestamp < known && overtaken {
            return Heard::Nothing;
        }
        let before = self.total.swap(total.unwrap_or(u64::MAX), Ordering::AcqRel);
        if timestamp == known {
            notes.witness(timestamp);
            let other_total = total.is_some_and(|total| before != u64::MAX && before != total);
            if other_total && !overtaken {
                self.happened(&mut notes);
                return Heard::News;
            }
            return Heard::Nothing;
        }
        notes.moved = Some(Instant::now());
        self.timestamp.store(timestamp.0, Ordering::Release);
        if timestamp < known {
            notes.set_void();
            notes.witness(timestamp);
            self.happened(&mut notes);
        } else {
            notes.witness(timestamp);
            self.more_news();
        }
        Heard::Moved
    }

    /// Another sidecar saw a version with this timestamp written. That says nothing of what else was visible by then, and it
    /// is news also where it moves no timestamp: it may have become visible late.
    pub fn heard_of(&self, timestamp: Timestamp) {
        let mut notes = self.notes();
        notes.reach_down_to(timestamp);
        notes.moved = Some(Instant::now());
        self.total.store(u64::MAX, Ordering::Release);
        self.timestamp.fetch_max(timestamp.0, Ordering::AcqRel);
        self.happened(&mut notes);
    }

    /// The timestamps of a complete read, which are at least as new as what a `HEAD` would say.
    pub fn read(&self, timestamp: Timestamp, asked: Instant) -> Heard {
        let mut notes = self.notes();
        notes.asked = notes.asked.max(Some(asked));
        if timestamp <= self.timestamp() {
            return Heard::Nothing;
        }
        notes.moved = Some(Instant::now());
        self.timestamp.store(timestamp.0, Ordering::Release);
        Heard::Moved
    }

    /// This was the timestamp before this process began: what is below it voids what was known.
    pub fn revive(&self, timestamp: Timestamp) {
        self.timestamp.fetch_max(timestamp.0, Ordering::AcqRel);
    }

    /// The news that a read accounts for which began when they were `news`, and found `timestamp`: also those that came
    /// meanwhile, where they were no more than timestamps which the read has reached.
    pub fn accounted(&self, news: u64, timestamp: Timestamp) -> u64 {
        let notes = self.notes();
        if notes.event <= news && self.timestamp() <= timestamp { self.news().max(news) } else { news }
    }

    /// Something that is not a record's write may have changed the collection (its metadata, a purge, a write without an
    /// answer).
    pub fn touch(&self) {
        let mut notes = self.notes();
        notes.moved = Some(Instant::now());
        self.total.store(u64::MAX, Ordering::Release);
        self.happened(&mut notes);
    }

    /// The collection is gone: what was known is void.
    pub fn forget(&self) {
        let mut notes = self.notes();
        notes.set_void();
        self.timestamp.store(0, Ordering::Release);
        self.total.store(u64::MAX, Ordering::Release);
        self.happened(&mut notes);
    }

    /// Somebody has this place: what is found late from now on goes beyond it.
    pub fn heed(&self, seq: Seq) {
        let mut notes = self.notes();
        notes.heard = notes.heard.max(seq);
    }

    /// The newest place that some reader of a feed has.
    pub fn heard(&self) -> Seq {
        self.notes().heard
    }

    /// A passing deletion made tombstones with these timestamps.
    pub fn bury(&self, timestamps: &[Timestamp]) {
        remember(&mut self.notes().buried, timestamps);
    }

    /// Whether the row with this timestamp is known to be a tombstone. Kinto gives each timestamp once in a collection.
    pub fn is_buried(&self, timestamp: Timestamp) -> bool {
        self.notes().buried.contains(&timestamp)
    }

    /// Takes the lowest timestamp that the next delta has to reach down to: that of the lowest version that somebody is
    /// known to have written since the last one began.
    pub fn take_low(&self) -> Option<Timestamp> {
        self.notes().low.take()
    }

    /// A delta that was to reach down to `low` failed.
    pub fn restore_low(&self, low: Option<Timestamp>) {
        if let Some(low) = low {
            self.notes().reach_down_to(low);
        }
    }

    /// Takes the mark that the clock went back since it was last asked for.
    pub fn take_void(&self) -> bool {
        std::mem::take(&mut self.notes().void)
    }

    /// What is known of the collection has to be read anew.
    pub fn set_void(&self) {
        self.notes().void = true;
    }

    /// The timestamps that the upstream once said to be the collection's newest, ascending: no row at one of them can have
    /// become visible after a later one.
    pub fn witnessed(&self) -> Vec<Timestamp> {
        let mut witnessed: Vec<_> = self.notes().witnessed.iter().copied().collect();
        witnessed.sort_unstable();
        witnessed
    }

    /// The timestamps of passing writes that were the only ones under way here, ascending: no row at one of them can have
    /// become visible after another one of them that is later. What others wrote meanwhile may have been visible before.
    pub fn lone(&self) -> Vec<Timestamp> {
        self.notes().lone.iter().copied().collect()
    }

    /// When the collection was last seen to move; `None` where it never was.
    pub fn moved(&self) -> Option<Instant> {
        self.notes().moved
    }

    /// How long ago the upstream was asked; `None` where it never was.
    pub fn age(&self) -> Option<Duration> {
        self.notes().asked.map(|asked| asked.elapsed())
    }

    /// There is news that no timestamp tells.
    fn happened(&self, notes: &mut Notes) {
        notes.event = self.more_news();
    }

    fn more_news(&self) -> u64 {
        let news = self.news.fetch_add(1, Ordering::AcqRel) + 1;
        self.epoch.advance();
        self.waiting.notify_waiters();
        news
    }

    fn notes(&self) -> parking_lot::MutexGuard<'_, Notes> {
        self.notes.lock()
    }
}

// === impl Notes ===

impl Notes {
    /// What was known is void, and so is what it says of an order.
    fn set_void(&mut self) {
        self.void = true;
        self.witnessed.clear();
        self.lone.clear();
        self.buried.clear();
    }

    /// The next delta has to show what has this timestamp.
    fn reach_down_to(&mut self, timestamp: Timestamp) {
        self.low = Some(self.low.map_or(timestamp, |low| low.min(timestamp)));
    }

    fn witness(&mut self, timestamp: Timestamp) {
        if self.witnessed.back() != Some(&timestamp) {
            remember(&mut self.witnessed, &[timestamp]);
        }
    }
}

fn remember(timestamps: &mut VecDeque<Timestamp>, new: &[Timestamp]) {
    timestamps.extend(new);
    let most = timestamps.len().saturating_sub(REMEMBERED);
    timestamps.drain(..most);
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.listeners.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests;
