//! Until when what the upstream said of a bucket's permissions counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts what may have changed who may read what in some buckets.
#[derive(Debug, Default)]
pub(super) struct Epoch {
    own: Arc<Counts>,
    /// Those of all groups, for whoever may be in one.
    groups: Option<Arc<Counts>>,
}

#[derive(Debug, Default)]
struct Counts {
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
    /// The same for whoever may be in one of the `groups`, which may be those of any bucket.
    pub(super) fn beside(&self, groups: &Self) -> Self {
        Self { own: Arc::clone(&self.own), groups: Some(Arc::clone(&groups.own)) }
    }

    /// Permissions may have been changed: what was said before counts no more.
    pub(super) fn change(&self) {
        self.own.changes.fetch_add(1, Ordering::AcqRel);
    }

    /// They may have been changed, or not: what was said before counts where the upstream cannot be asked.
    pub(super) fn doubt(&self) {
        self.own.doubts.fetch_add(1, Ordering::AcqRel);
    }

    /// Now.
    pub(super) fn now(&self) -> Moment {
        let sum = |count: fn(&Counts) -> &AtomicU64| {
            let all = [Some(&self.own), self.groups.as_ref()];
            all.into_iter().flatten().map(|counts| count(counts).load(Ordering::Acquire)).sum()
        };
        Moment { changes: sum(|counts| &counts.changes), doubts: sum(|counts| &counts.doubts) }
    }

    /// A moment of which nobody knows whether anything changed since.
    pub(super) fn doubtful(&self) -> Moment {
        let now = self.now();
        Moment { doubts: now.doubts.wrapping_sub(1), ..now }
    }
}

impl Moment {
    /// Whether nothing is known to have changed between two moments.
    pub(super) fn may_be(self, other: Self) -> bool {
        self.changes == other.changes
    }
}
