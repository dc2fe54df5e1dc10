//! Holds rows against filters, where that does not keep other connections waiting.
//!
//! A thread serves many connections. What takes longer than writing a row does is done elsewhere, by a few at a time, in the
//! order in which it is asked for.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::filter::Filter;
use super::moment::Row;
use crate::error::Error;

/// Work that is not worth another thread: bytes of rows times conditions.
const LITTLE: usize = 128 << 10;

/// SECURITY: how many pages are looked at at once, whoever asks.
static TURNS: Semaphore = Semaphore::const_new(2);

/// Whether rows are looked at as fast as they are written.
pub(super) fn is_little(filter: &Filter, rows: &[Row]) -> bool {
    let bytes = rows.iter().map(|row| row.json.len()).sum::<usize>();
    bytes.saturating_mul(filter.conditions()) <= LITTLE
}

/// Which of some rows a filter selects.
pub(super) async fn wanted(filter: &Arc<Filter>, rows: &[Row]) -> Result<Vec<bool>, Error> {
    if is_little(filter, rows) {
        return Ok(rows.iter().map(|row| filter.matches(row)).collect());
    }
    let turn = TURNS.acquire().await;
    let (filter, rows, asker) = (Arc::clone(filter), rows.to_vec(), Arc::new(()));
    let asked = Arc::clone(&asker);
    // Whoever went away needs no more of it.
    let is_wanted = move |row: &Row| Arc::strong_count(&asked) > 1 && filter.matches(row);
    let judged = tokio::task::spawn_blocking(move || rows.iter().map(is_wanted).collect()).await;
    drop((turn, asker));
    judged.map_err(|error| Error::Internal(error.into()))
}
