//! Writes on their way to the upstream, as the clock of their collection sees them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::Instant;

use super::{Clock, Heard, remember};
use crate::kinto::Timestamp;

/// A write on its way to the upstream; dropping it says that its outcome is not known.
#[derive(Debug)]
pub struct WriteUnderWay {
    pub(super) clock: Arc<Clock>,
    pub(super) begun: u64,
    pub(super) alone: bool,
}

impl WriteUnderWay {
    /// The upstream acknowledged the write with the timestamps of what it wrote, which became visible together.
    pub fn acknowledged(&self, timestamps: &[Timestamp]) -> Heard {
        let (Some(lowest), Some(highest)) = (timestamps.iter().min(), timestamps.iter().max()) else {
            return Heard::Nothing;
        };
        let (lowest, highest) = (*lowest, *highest);
        let mut notes = self.clock.notes();
        let known = self.clock.timestamp();
        notes.reach_down_to(lowest);
        // A read may have found it before its answer came: then it is what is known.
        let is_next = notes.lone.back().is_none_or(|last| lowest > *last);
        if is_next && self.alone && notes.begun == self.begun {
            let mut timestamps = timestamps.to_vec();
            timestamps.sort_unstable();
            remember(&mut notes.lone, &timestamps);
        }
        notes.moved = Some(Instant::now());
        self.clock.total.store(u64::MAX, Ordering::Release);
        self.clock.happened(&mut notes);
        if highest > known {
            self.clock.timestamp.store(highest.0, Ordering::Release);
            return Heard::Moved;
        }
        Heard::News
    }

    /// The collection's clock.
    pub fn clock(&self) -> &Arc<Clock> {
        &self.clock
    }
}

impl Drop for WriteUnderWay {
    fn drop(&mut self) {
        let mut notes = self.clock.notes();
        notes.in_flight = notes.in_flight.saturating_sub(1);
        notes.is_lone &= notes.in_flight > 0;
    }
}
