//! Numbers about live feeds. A delivery costs far more than a shared counter.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::text::Exposition;
use super::{BUCKETS, bucket_of};

static ROWS: AtomicU64 = AtomicU64::new(0);
static LAG: [AtomicU64; BUCKETS.len() + 1] = [const { AtomicU64::new(0) }; BUCKETS.len() + 1];
static LAG_SUM_US: AtomicU64 = AtomicU64::new(0);

/// Counts rows that were handed to a reader; of changes that came meanwhile, so long after they were known.
pub(crate) fn count_rows(rows: usize, lag: Option<Duration>) {
    ROWS.fetch_add(rows as u64, Relaxed);
    let Some(lag) = lag else { return };
    let (place, lag_us) = bucket_of(lag);
    if let Some(bucket) = LAG.get(place) {
        bucket.fetch_add(1, Relaxed);
    }
    LAG_SUM_US.fetch_add(lag_us, Relaxed);
}

/// What is counted, from 0.
pub(super) fn render(out: &mut Exposition) {
    let rows = "kinto_sidecar_feed_rows_total";
    out.one(rows, "counter", "Rows that were handed to readers of feeds.", ROWS.load(Relaxed));
    let lag = "kinto_sidecar_feed_lag_seconds";
    out.begin(lag, "histogram", "Time from when changes were known to when a live reader was handed them.");
    let in_bucket = |place: usize| LAG.get(place).map_or(0, |bucket| bucket.load(Relaxed));
    out.histogram(lag, None, in_bucket, LAG_SUM_US.load(Relaxed));
}
