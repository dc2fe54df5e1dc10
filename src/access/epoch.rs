//! Until when what the upstream said of a bucket's permissions counts.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts what may have changed who may read what in some buckets.
#[derive(Debug, Default)]
pub(super) struct Epoch {
    /// Writes that were acknowledged.
    changes: AtomicU64,
    /// Writes of which nobody knows whether they happened.
    doubts: AtomicU64,
}

/// An epoch at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moment {
    changes: u64,
    doubts: u64,
}

impl Epoch {
    /// Permissions may have been changed: what was said before counts no more.
    pub(super) fn change(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
    }

    /// They may have been changed, or not: what was said before counts where the upstream cannot be asked.
    pub(super) fn doubt(&self) {
        self.doubts.fetch_add(1, Ordering::AcqRel);
    }

    /// Now.
    pub(super) fn now(&self) -> Moment {
        Moment { changes: self.changes.load(Ordering::Acquire), doubts: self.doubts.load(Ordering::Acquire) }
    }
}

impl Moment {
    /// Whether nothing is known to have changed between two moments.
    pub(super) fn may_be(self, other: Self) -> bool {
        self.changes == other.changes
    }
}
