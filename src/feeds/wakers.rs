//! The readers of a channel on one thread: they are woken by a task of that thread, so that a change crosses to each
//! thread once, however many wait there.

use std::sync::{Arc, Weak};
use std::task::Waker;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::phase::Phase;

/// The waiting readers of one thread.
#[derive(Debug, Default)]
pub(super) struct Wakers(Mutex<Slots>);

#[derive(Debug, Default)]
struct Slots {
    wakers: Vec<Option<Waker>>,
    free: Vec<usize>,
}

impl Wakers {
    /// Those of the calling thread. They are woken when `moved` moves, and when feeds end.
    pub(super) fn start(mut moved: watch::Receiver<u64>, mut phase: watch::Receiver<Phase>) -> Arc<Self> {
        let wakers = Arc::new(Self::default());
        let watched: Weak<Self> = Arc::downgrade(&wakers);
        tokio::spawn(async move {
            let mut may_stop = true;
            loop {
                tokio::select! {
                    changed = moved.changed() => if changed.is_err() {
                        return;
                    },
                    _ = phase.wait_for(|phase| *phase >= Phase::Leaving), if may_stop => may_stop = false,
                }
                let Some(wakers) = watched.upgrade() else { return };
                wakers.wake();
            }
        });
        wakers
    }

    fn wake(&self) {
        // Woken outside of the lock; a reader registers again when it has looked.
        let wakers: Vec<Waker> = self.0.lock().wakers.iter_mut().filter_map(Option::take).collect();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// A place for one more reader.
    pub(super) fn take(&self) -> usize {
        let mut slots = self.0.lock();
        slots.free.pop().unwrap_or_else(|| {
            slots.wakers.push(None);
            slots.wakers.len() - 1
        })
    }

    /// Has the task of the reader at a place woken when there is something to look at.
    pub(super) fn register(&self, slot: usize, waker: &Waker) {
        match self.0.lock().wakers.get_mut(slot) {
            Some(Some(known)) if known.will_wake(waker) => {}
            Some(slot) => *slot = Some(waker.clone()),
            None => {}
        }
    }

    /// The reader at a place is gone.
    pub(super) fn free(&self, slot: usize) {
        let mut slots = self.0.lock();
        if let Some(slot) = slots.wakers.get_mut(slot) {
            *slot = None;
        }
        slots.free.push(slot);
    }
}
