//! Holds rows against filters, where that does not keep other connections waiting.

use std::sync::Arc;

use super::filter::FeedFilter;
use crate::aside;
use crate::error::Error;
use crate::feeds::snapshot::FeedRow;

/// How much work it is to look at some rows: their bytes times conditions.
fn work(filter: &FeedFilter, rows: &[FeedRow]) -> usize {
    let bytes = rows.iter().map(|row| row.json.len()).sum::<usize>();
    bytes.saturating_mul(filter.conditions())
}

/// Which of some rows a filter selects.
pub(super) async fn wanted(filter: &Arc<FeedFilter>, rows: &[FeedRow]) -> Result<Vec<bool>, Error> {
    let work = work(filter, rows);
    if work <= aside::LITTLE {
        return Ok(rows.iter().map(|row| filter.matches(row)).collect());
    }
    let (filter, rows, asker) = (Arc::clone(filter), rows.to_vec(), Arc::new(()));
    let asked = Arc::clone(&asker);
    // Whoever went away needs no more of it.
    let is_wanted = move |row: &FeedRow| Arc::strong_count(&asked) > 1 && filter.matches(row);
    let judged = aside::run(work, move || rows.iter().map(is_wanted).collect()).await;
    drop(asker);
    judged
}
