//! Times that are counted seldom enough that all threads count in one table.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::text::Exposition;
use super::{BUCKETS, bucket_of};

/// How many times there are in each of [`BUCKETS`], and their sum.
#[derive(Debug)]
pub(super) struct Histogram {
    buckets: [AtomicU64; BUCKETS.len() + 1],
    sum_us: AtomicU64,
}

impl Histogram {
    pub(super) const fn new() -> Self {
        Self { buckets: [const { AtomicU64::new(0) }; BUCKETS.len() + 1], sum_us: AtomicU64::new(0) }
    }

    /// Counts one.
    pub(super) fn count(&self, time: Duration) {
        let (place, time_us) = bucket_of(time);
        if let Some(bucket) = self.buckets.get(place) {
            bucket.fetch_add(1, Relaxed);
        }
        self.sum_us.fetch_add(time_us, Relaxed);
    }

    /// What is counted, from 0.
    pub(super) fn render(&self, out: &mut Exposition, name: &str, help: &str) {
        out.begin(name, "histogram", help);
        let in_bucket = |place: usize| self.buckets.get(place).map_or(0, |bucket| bucket.load(Relaxed));
        out.histogram(name, None, in_bucket, self.sum_us.load(Relaxed));
    }
}
