//! Whether anything was heard of any collection since somebody looked at many of them.
//!
//! What stands on hundreds of contents cannot look at each of them for each who asks. So whoever changes what others stand
//! on moves one number, afterwards, and whoever found all as it was need not look again before that moves.

use crate::atomics::{AtomicU64, Ordering};

/// Moves with whatever is heard of a collection, and with each content that is kept of one.
#[derive(Debug)]
pub struct Epoch(AtomicU64);

/// When something was last found to be so.
#[derive(Debug)]
pub struct Found(AtomicU64);

impl Epoch {
    /// Something has changed: whoever sees that the epoch has moved sees that, too.
    pub fn advance(&self) {
        self.0.fetch_add(1, Ordering::Release);
    }

    fn now(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

impl Default for Epoch {
    fn default() -> Self {
        // Above that of what was never found.
        Self(AtomicU64::new(1))
    }
}

impl Found {
    /// Whether it is so: looks only where the epoch has moved since it was so.
    pub fn is_still(&self, epoch: &Epoch, look: impl FnOnce() -> bool) -> bool {
        // What changes while it is looked at moves the epoch beyond this.
        let now = epoch.now();
        if self.0.load(Ordering::Relaxed) == now {
            return true;
        }
        let is_so = look();
        if is_so {
            self.0.store(now, Ordering::Relaxed);
        }
        is_so
    }
}

impl Default for Found {
    fn default() -> Self {
        Self(AtomicU64::new(0))
    }
}
