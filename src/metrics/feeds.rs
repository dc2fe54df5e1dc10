//! Numbers about live feeds. A delivery costs far more than a shared counter.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::histogram::Histogram;
use super::text::Exposition;

static ROWS: AtomicU64 = AtomicU64::new(0);
static LAG: Histogram = Histogram::new();

/// Counts rows that were handed to a reader; of changes that came meanwhile, so long after they were known.
pub(crate) fn count_rows(rows: usize, lag: Option<Duration>) {
    ROWS.fetch_add(rows as u64, Relaxed);
    if let Some(lag) = lag {
        LAG.count(lag);
    }
}

/// What is counted, from 0.
pub(super) fn render(out: &mut Exposition) {
    let rows = "kinto_sidecar_feed_rows_total";
    out.one(rows, "counter", "Rows that were handed to readers of feeds.", ROWS.load(Relaxed));
    let lag = "kinto_sidecar_feed_lag_seconds";
    LAG.render(out, lag, "Time from when changes were known to when a live reader was handed them.");
}
