//! What a reader is not told for now: permissions were changed, and nobody knows yet whether the reader still has them.

use std::task::Context;

use super::{FeedReader, Stage};
use crate::feeds::channel::Latest;
use crate::feeds::reader_options::{Admission, Supply};

impl FeedReader {
    /// Whether nothing new is told for now.
    pub(super) fn is_held_back(&self, context: &Context<'_>) -> bool {
        let (Supply::Live(spot), Some(Admission { grant, .. })) = (&self.supply, &self.admission) else {
            return false;
        };
        if !matches!(self.stage, Stage::Past | Stage::Waiting) || !grant.is_in_doubt() {
            return false;
        }
        spot.register(context.waker());
        // What was said before the reader could be woken.
        let is_open = spot.channel.latest().map_or(!grant.is_in_doubt(), |latest| self.is_open(&latest));
        !is_open && !self.is_over()
    }

    /// Whether the reader may be told what comes next of this: the next batch, or what a page may have.
    pub(super) fn is_open(&self, latest: &Latest) -> bool {
        let Some(Admission { grant, .. }) = &self.admission else { return true };
        // How something was before is looked up when it is told.
        if self.options.previous.is_some() {
            return !grant.is_in_doubt();
        }
        let batch = latest.batch_after(self.position.serial).filter(|_| matches!(self.stage, Stage::Waiting));
        grant.covers(batch.map_or(latest.snapshot.serial(), |batch| batch.upto))
    }
}
