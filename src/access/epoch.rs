//! Until when what the upstream said of a bucket's permissions counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

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

/// What the upstream said of somebody counts as of this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    changes: u64,
    doubts: u64,
}

/// Since when somebody who reads on and on is known to have the permission for it.
#[derive(Debug)]
pub struct Footing {
    epoch: Arc<Epoch>,
    at: Mutex<Moment>,
}

impl Footing {
    pub(super) fn new(epoch: Arc<Epoch>) -> Self {
        let at = epoch.now();
        Self { epoch, at: Mutex::new(at) }
    }

    /// To be taken before the upstream is asked.
    pub fn now(&self) -> Moment {
        self.epoch.now()
    }

    /// They were found to have it, by a question that was put after this moment. Answers may come in another order than
    /// questions were put.
    pub fn renew(&self, at: Moment) {
        let mut known = self.at.lock();
        *known = known.newest(at);
    }

    /// Whether the permission was changed since, as far as is known: they get nothing until the upstream was asked.
    pub fn is_in_doubt(&self) -> bool {
        !self.at.lock().may_be(self.epoch.now())
    }

    /// Whether the permission was changed since, or may have been.
    pub fn has_moved(&self) -> bool {
        *self.at.lock() != self.epoch.now()
    }
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
    /// The moment after which everything is answered for that is after one of the two.
    fn newest(self, other: Self) -> Self {
        Self { changes: self.changes.max(other.changes), doubts: self.doubts.max(other.doubts) }
    }

    /// Whether nothing is known to have changed between two moments.
    pub(super) fn may_be(self, other: Self) -> bool {
        self.changes == other.changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_answer_takes_nothing_back() {
        let epoch = Arc::new(Epoch::default());
        let footing = Footing::new(Arc::clone(&epoch));
        let before = footing.now();
        epoch.change();
        epoch.doubt();
        let after = footing.now();
        assert!(footing.is_in_doubt());
        footing.renew(after);
        // The answer to what was asked before the change comes after the other.
        footing.renew(before);
        assert!(!footing.is_in_doubt() && !footing.has_moved());
        epoch.doubt();
        assert!(footing.has_moved() && !footing.is_in_doubt());
    }
}
