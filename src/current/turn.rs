//! The place among those who ask the upstream, which is a request's from its first use to its last.
//!
//! The parts of a request ask at the same time, each on a thread of its own. However they meet, they have one place between
//! them, and the last who leaves it gives it back.

use crate::atomics::{AtomicUsize, Ordering};

/// How often the place is used.
#[derive(Debug)]
pub(super) struct Turn(AtomicUsize);

/// One use of a place. What is below says whether the place is counted.
const USE: usize = 2;

impl Turn {
    /// Uses the place once more; whether there is one.
    pub(super) fn share(&self) -> bool {
        let more = |uses| (uses >= USE).then_some(uses + USE);
        self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok()
    }

    /// Takes a place, unless there is one meanwhile, which is used once more then. Whether it was taken.
    pub(super) fn take(&self, is_counted: bool) -> bool {
        let more = |uses| Some(if uses < USE { USE + usize::from(is_counted) } else { uses + USE });
        self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok_and(|before| before < USE)
    }

    /// Uses it once less; where that was the last use, whether the place is counted.
    pub(super) fn leave(&self) -> Option<bool> {
        let before = self.0.fetch_sub(USE, Ordering::AcqRel);
        (before < 2 * USE).then_some(before % USE == 1)
    }
}

impl Default for Turn {
    fn default() -> Self {
        Self(AtomicUsize::new(0))
    }
}
