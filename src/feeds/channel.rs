//! The one mechanism behind all live feeds: a source's newest snapshot, the latest changes written once for all readers, and
//! the waking of those who wait.
//!
//! ```text
//! source ── advance ──► latest: snapshot and batches ──► one wake-up for each thread ──► the readers on that thread
//! ```
//!
//! A reader registers before it looks, and looks at its position in the newest snapshot: whatever was published before is
//! found, and whatever comes later wakes it.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Waker;
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::framing::Layout;
use super::wakers::Wakers;
use crate::aside::LITTLE;
use crate::error::Error;
use crate::feeds::snapshot::{FeedRow, Position, Room, Snapshot};
use crate::kinto::seq::Seq;
use crate::phase::Phase;
use crate::wire::buffers::{self, Buffers};

/// How many batches are kept for readers who are a little behind, while they are small.
const BATCHES: usize = 8;

/// What a source's live readers share.
#[derive(Debug)]
pub struct Channel {
    latest: ArcSwapOption<Latest>,
    /// Moves whenever there is something to look at.
    moved: watch::Sender<u64>,
    /// Set when the source is no more.
    has_ended: AtomicBool,
    wakers: Mutex<HashMap<ThreadId, Arc<Wakers>>>,
    phase: watch::Receiver<Phase>,
}

/// A reader's place among those who wait.
#[derive(Debug)]
pub struct Spot {
    /// The channel that is listened to.
    pub channel: Arc<Channel>,
    wakers: Arc<Wakers>,
    slot: usize,
}

/// The newest snapshot of a source, and how it came about.
#[derive(Debug)]
pub struct Latest {
    /// The snapshot.
    pub snapshot: Arc<dyn Snapshot>,
    /// The last serial that brought changes.
    changed: u64,
    batches: VecDeque<Arc<RowBatch>>,
}

/// Changes that came together.
#[derive(Debug)]
pub struct RowBatch {
    /// A reader who has seen everything of this serial has seen all changes before this batch.
    after: u64,
    /// A reader who was given this batch, too, has seen everything of this serial.
    pub upto: u64,
    /// The newest seq at [`Self::upto`].
    pub newest: Seq,
    /// The changes, oldest first; there is at least one.
    pub rows: Vec<FeedRow>,
    /// How many bytes they are.
    bytes: usize,
    /// When they were known.
    pub known: Instant,
    /// `None` where there was no room for it.
    written: [OnceLock<Option<Bytes>>; Layout::COUNT],
}

// === impl Channel ===

impl Channel {
    /// A channel of which nothing is known yet.
    pub fn new(phase: watch::Receiver<Phase>) -> Self {
        Self {
            latest: ArcSwapOption::empty(),
            moved: watch::Sender::new(0),
            has_ended: AtomicBool::new(false),
            wakers: Mutex::default(),
            phase,
        }
    }

    /// The newest snapshot.
    pub fn latest(&self) -> Option<Arc<Latest>> {
        self.latest.load_full()
    }

    /// Whether there is a snapshot newer than this serial. Costs next to nothing.
    pub fn is_beyond(&self, serial: u64) -> bool {
        self.latest.load().as_ref().is_some_and(|latest| latest.snapshot.serial() > serial)
    }

    /// Whether nothing more will come.
    pub fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Acquire) || self.is_process_ending()
    }

    fn is_process_ending(&self) -> bool {
        *self.phase.borrow() >= Phase::Leaving
    }

    /// Publishes a snapshot. There is one publisher for each channel.
    pub async fn advance(&self, snapshot: Arc<dyn Snapshot>) -> Result<(), Error> {
        let Some(before) = self.latest() else {
            let changed = snapshot.serial();
            self.publish(Latest { snapshot, changed, batches: VecDeque::new() });
            return Ok(());
        };
        if snapshot.serial() <= before.snapshot.serial() {
            return Ok(());
        }
        let from = Position::new(before.snapshot.newest_seq(), before.snapshot.serial());
        let page = Arc::clone(&snapshot).page(from, Room::SHARED).await?;
        if page.rows.is_empty() {
            let (changed, batches) = (before.changed, before.batches.clone());
            self.latest.store(Some(Arc::new(Latest { snapshot, changed, batches })));
            return Ok(());
        }
        let upto = snapshot.serial();
        // A large change is read by each in pieces, as fast as they take it.
        let batches = if page.pending > 0 {
            VecDeque::new()
        } else {
            let mut batches = before.batches.clone();
            let bytes: usize = page.rows.iter().map(|row| row.json.len() + 128).sum();
            let is_small = bytes <= Room::SHARED.bytes;
            let has_room = |batches: &VecDeque<Arc<RowBatch>>| {
                let kept: usize = batches.iter().map(|batch| batch.bytes).sum();
                batches.len() < BATCHES && kept + bytes <= Room::SHARED.bytes
            };
            while !batches.is_empty() && !has_room(&batches) {
                batches.pop_front();
            }
            // What is large is kept until the next change, and so is what it was read from.
            let rows = if is_small { page.rows.into_iter().map(apart).collect() } else { page.rows };
            batches.push_back(Arc::new(RowBatch {
                after: before.changed,
                upto,
                newest: snapshot.newest_seq(),
                rows,
                bytes,
                known: Instant::now(),
                written: Default::default(),
            }));
            batches
        };
        self.publish(Latest { snapshot, changed: upto, batches });
        Ok(())
    }

    fn publish(&self, latest: Latest) {
        let serial = latest.snapshot.serial();
        self.latest.store(Some(Arc::new(latest)));
        self.moved.send_replace(serial);
    }

    /// Nothing more will come.
    pub fn end(&self) {
        self.has_ended.store(true, Ordering::Release);
        self.wake();
    }

    /// Has all readers look.
    pub fn wake(&self) {
        self.moved.send_modify(|_| ());
    }

    /// Waits until a snapshot of at least this serial was published, or the process ends.
    pub async fn reach(&self, serial: u64, patience: Duration) -> Result<(), Error> {
        let mut moved = self.moved.subscribe();
        let reached = async {
            loop {
                moved.borrow_and_update();
                let is_reached = self.latest().is_some_and(|latest| latest.snapshot.serial() >= serial);
                // A feed that ends at once says where its reader can go on, and an eventsource would not come back after an error.
                if is_reached || self.is_process_ending() {
                    return Ok(());
                }
                if self.has_ended() {
                    return Err(Error::NotFound);
                }
                // A snapshot without changes is not told of.
                let _ = tokio::time::timeout(LOOK, moved.changed()).await;
            }
        };
        let late = |_| Error::Unavailable { retry_after: Some(1) };
        tokio::time::timeout(patience, reached).await.map_err(late)?
    }

    /// A place among the readers of the calling thread.
    pub fn join(self: &Arc<Self>) -> Spot {
        let mut wakers = self.wakers.lock();
        let wakers = wakers
            .entry(thread::current().id())
            .or_insert_with(|| Wakers::start(self.moved.subscribe(), self.phase.clone()));
        Spot { slot: wakers.take(), channel: Arc::clone(self), wakers: Arc::clone(wakers) }
    }
}

/// How often a channel is looked at for snapshots without changes.
const LOOK: Duration = Duration::from_millis(20);

// === impl Spot ===

impl Spot {
    /// Has this task woken when there is something to look at. It has to look after this, not before.
    pub fn register(&self, waker: &Waker) {
        self.wakers.register(self.slot, waker);
    }
}

impl Drop for Spot {
    fn drop(&mut self) {
        self.wakers.free(self.slot);
    }
}

// === impl Latest ===

impl Latest {
    /// The next batch for somebody who has seen everything at `serial`, if it is kept; `None` also where there is none.
    pub fn batch_after(&self, serial: u64) -> Option<&Arc<RowBatch>> {
        let batch = self.batches.iter().find(|batch| batch.upto > serial)?;
        Some(batch).filter(|batch| batch.after <= serial)
    }

    /// Whether somebody who has seen everything at `serial` has seen all changes.
    pub fn is_known_at(&self, serial: u64) -> bool {
        serial >= self.changed
    }
}

// === impl RowBatch ===

impl RowBatch {
    /// Whether it can be had in this layout at once.
    pub fn is_written(&self, layout: Layout) -> bool {
        let is_there = self.written.get(layout.number()).is_some_and(|cell| cell.get().is_some());
        is_there || !layout.docs || self.bytes <= LITTLE
    }

    /// All rows in this layout, written by the first who asks, once for all; `None` where there was no room for that.
    pub fn written(&self, layout: Layout, buffers: &Arc<Buffers>) -> Option<Bytes> {
        let write = || {
            let mut hold = buffers.hold(None);
            if self.bytes > buffers::LITTLE {
                hold.grow(self.bytes).ok()?;
            }
            let mut text = Vec::with_capacity(self.bytes);
            for row in &self.rows {
                layout.write(&mut text, row, None);
            }
            Some(hold.filled(text))
        };
        self.written.get(layout.number()).map_or_else(write, |cell| cell.get_or_init(write).clone())
    }
}

/// A row that does not keep what it was read from: all of a collection.
fn apart(row: FeedRow) -> FeedRow {
    FeedRow { json: Bytes::copy_from_slice(&row.json), ..row }
}
