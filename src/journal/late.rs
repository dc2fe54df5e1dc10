//! Outcomes that the engine did not take when it was told of them. They are told again, in their order and before anything
//! newer about the same objects, so that entries of one object stay in the order of its versions, whatever fails.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::queue::Work;
use super::{Change, Object, Outcome, readers};
use crate::backoff::Backoff;

/// More is not held, in bytes: what became of those writes is looked up by the next process.
const MOST: usize = 64 << 20;
/// How long the engine is left alone.
const PAUSES: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));

/// See the module.
#[derive(Debug)]
pub(super) struct Late {
    outcomes: VecDeque<Outcome>,
    /// How many outcomes are about an object.
    objects: HashMap<Object, usize>,
    bytes: usize,
    backoff: Backoff,
}

impl Default for Late {
    fn default() -> Self {
        Self { outcomes: VecDeque::new(), objects: HashMap::new(), bytes: 0, backoff: PAUSES }
    }
}

impl Late {
    /// Holds an outcome; gives it back where there is too much already.
    pub(super) fn push(&mut self, outcome: Outcome) -> Result<(), Outcome> {
        let bytes = size(&outcome);
        if self.bytes.saturating_add(bytes) > MOST {
            return Err(outcome);
        }
        if self.outcomes.is_empty() {
            self.backoff = PAUSES;
        }
        self.bytes += bytes;
        for change in &outcome.changes {
            *self.objects.entry(change.object.clone()).or_default() += 1;
        }
        self.outcomes.push_back(outcome);
        Ok(())
    }

    /// Takes all out, the oldest first.
    pub(super) fn take(&mut self) -> VecDeque<Outcome> {
        self.objects.clear();
        self.bytes = 0;
        std::mem::take(&mut self.outcomes)
    }

    /// When they are told again; `None` where there are none.
    pub(super) fn pause(&self) -> Option<Duration> {
        (!self.outcomes.is_empty()).then_some(self.backoff.pause())
    }

    /// They were told in vain.
    pub(super) fn tell_later(&mut self) {
        self.backoff.lengthen();
    }

    /// Whether work is about an object of which something older is held.
    pub(super) fn precedes(&self, work: &Work) -> bool {
        match work {
            Work::Settle { outcome, .. } => {
                outcome.changes.iter().any(|change| self.objects.contains_key(&change.object))
            }
            _ => false,
        }
    }
}

/// How much an outcome holds, in bytes.
pub(super) fn size(outcome: &Outcome) -> usize {
    let changes = outcome.known.iter().chain(&outcome.changes);
    changes.map(of_change).sum::<usize>() + 1024 * (outcome.changes.len() + outcome.known.len() + 1)
}

fn of_change(change: &Change) -> usize {
    let data = change.data.as_deref().map_or(0, |data| data.get().len());
    data + change.permissions.as_ref().map_or(0, |permissions| readers::weight(permissions).1)
}
