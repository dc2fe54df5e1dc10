//! How many rows are left on one side of a seq, where a source is read page by page: counted once, then carried on.

use crate::error::Error;
use crate::feeds::snapshot::FeedRow;
use crate::kinto::Timestamp;
use parking_lot::Mutex;

/// A side of a seq.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Above it.
    Above,
    /// Below it.
    Below,
}

/// The last count.
#[derive(Debug, Default)]
pub struct Tally(Mutex<Option<(Side, Timestamp, u64)>>);

impl Tally {
    /// How many rows there are beyond a page that began at `from` and ended at `next`, and that is not the last one; `count`
    /// says how many of them, deleted ones left out, there are beyond `from`.
    pub async fn beyond(
        &self,
        side: Side,
        from: Timestamp,
        next: Timestamp,
        rows: &[FeedRow],
        count: impl AsyncFnOnce() -> Result<u64, Error>,
    ) -> Result<u64, Error> {
        let counted = *self.0.lock();
        let all = match counted.filter(|(known, at, _)| (*known, *at) == (side, from)) {
            Some((_, _, all)) => all,
            None => count().await?,
        };
        let beyond = all.saturating_sub(rows.iter().filter(|row| !row.deleted).count() as u64);
        *self.0.lock() = Some((side, next, beyond));
        // Tombstones may follow even where nothing else does.
        Ok(if rows.is_empty() { beyond } else { beyond.max(1) })
    }
}
