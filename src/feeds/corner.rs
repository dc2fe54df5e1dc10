//! The readers of a channel on one thread: they are woken by a task of that thread, so that a change crosses to each
//! thread once, however many wait there.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Waker;

use tokio::sync::watch;

use super::channel::Channel;

/// The waiting readers of one thread.
#[derive(Debug, Default)]
pub struct Corner(Mutex<Slots>);

#[derive(Debug, Default)]
struct Slots {
    wakers: Vec<Option<Waker>>,
    free: Vec<usize>,
}

/// A reader's place in a corner.
#[derive(Debug)]
pub struct Spot {
    /// The channel that is listened to.
    pub channel: Arc<Channel>,
    corner: Arc<Corner>,
    slot: usize,
}

impl Corner {
    /// A corner of the calling thread, whose readers are woken when `moved` or `stopping` does.
    pub fn start(mut moved: watch::Receiver<u64>, mut stopping: watch::Receiver<bool>) -> Arc<Self> {
        let corner = Arc::new(Self::default());
        let watched: Weak<Self> = Arc::downgrade(&corner);
        tokio::spawn(async move {
            let mut may_stop = true;
            loop {
                tokio::select! {
                    changed = moved.changed() => if changed.is_err() {
                        return;
                    },
                    _ = stopping.changed(), if may_stop => may_stop = false,
                }
                let Some(corner) = watched.upgrade() else { return };
                corner.wake();
            }
        });
        corner
    }

    fn wake(&self) {
        // Woken outside of the lock; a reader registers again when it has looked.
        let wakers: Vec<Waker> = self.slots().wakers.iter_mut().filter_map(Option::take).collect();
        wakers.into_iter().for_each(Waker::wake);
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Spot {
    /// A new place.
    pub fn new(channel: Arc<Channel>, corner: Arc<Corner>) -> Self {
        let mut slots = corner.slots();
        let slot = slots.free.pop().unwrap_or_else(|| {
            slots.wakers.push(None);
            slots.wakers.len() - 1
        });
        drop(slots);
        Self { channel, corner, slot }
    }

    /// Has this task woken when there is something to look at. It has to look after this, not before.
    pub fn register(&self, waker: &Waker) {
        let mut slots = self.corner.slots();
        if let Some(slot) = slots.wakers.get_mut(self.slot) {
            match slot {
                Some(known) if known.will_wake(waker) => {}
                slot => *slot = Some(waker.clone()),
            }
        }
    }
}

impl Drop for Spot {
    fn drop(&mut self) {
        let mut slots = self.corner.slots();
        if let Some(slot) = slots.wakers.get_mut(self.slot) {
            *slot = None;
        }
        slots.free.push(self.slot);
    }
}
