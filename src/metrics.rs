//! Numbers about requests, for Prometheus.
//!
//! Each thread counts in a table of its own, so that counting costs a few plain stores and no two cores write to one
//! cache line; the tables are summed when they are read. What is counted less often than requests uses the `metrics`
//! crate where it happens, under names that begin with `kinto_sidecar_` too.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use http::{HeaderMap, HeaderValue, StatusCode};
use parking_lot::Mutex;

use crate::upstream::UpstreamError;

pub mod families;
pub(crate) mod feeds;
mod histogram;
pub mod journal;
pub(crate) mod process;
pub(crate) mod tasks;
pub(crate) mod text;

use text::Exposition;

/// The endpoints that are told apart, by [`crate::route::Route::name`].
const ENDPOINTS: [&str; 16] = [
    "forward", "changeset", "monitor-changes", "monitor-changeset", "root", "api", "broadcasts", "batch",
    "feed", "database", "history", "snapshot", "v2", "v2-changeset", "v2-monitor-changeset", "other",
];
const CLASSES: [&str; 6] = ["1xx", "2xx", "3xx", "4xx", "5xx", "other"];
const CACHES: [&str; 4] = ["none", "hit", "stale", "miss"];
/// Upper bounds of the latency buckets, in microseconds.
const BUCKETS: [u64; 14] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 5_000_000,
    30_000_000,
];
const UPSTREAM: [&str; 8] =
    ["answered", "connect", "timeout", "broken", "unexpected", "too_large", "request", "crowded"];

/// What a cache had to do with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CacheOutcome {
    /// No cache was asked.
    #[default]
    None,
    /// It had the answer.
    Hit,
    /// It had an old answer, which was given because the upstream could not be asked.
    Stale,
    /// It had to ask the upstream.
    Miss,
}

impl CacheOutcome {
    /// What an answer's `Cache-Status` says of this cache.
    pub fn of(headers: &HeaderMap) -> Self {
        let status = headers.get("cache-status").map(HeaderValue::as_bytes);
        match status.and_then(|status| status.strip_prefix(b"kinto-sidecar; ")) {
            Some(b"hit") => Self::Hit,
            Some(status) if status.starts_with(b"hit") => Self::Stale,
            Some(_) => Self::Miss,
            None => Self::None,
        }
    }

    /// What it is called where it is told; `None` where no cache was asked.
    pub fn name(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Hit => Some("hit"),
            Self::Stale => Some("stale"),
            Self::Miss => Some("miss"),
        }
    }
}

/// What one thread has counted.
#[derive(Debug, Default)]
struct Counts {
    requests: [[[AtomicU64; CACHES.len()]; CLASSES.len()]; ENDPOINTS.len()],
    given_again: AtomicU64,
    latency: [[AtomicU64; BUCKETS.len() + 1]; ENDPOINTS.len()],
    latency_sum_us: [AtomicU64; ENDPOINTS.len()],
    upstream: [AtomicU64; UPSTREAM.len()],
    upstream_latency: [AtomicU64; BUCKETS.len() + 1],
    upstream_latency_sum_us: AtomicU64,
    upstream_connections: AtomicU64,
    connections: AtomicU64,
    connections_closed: AtomicU64,
}

static THREADS: Mutex<Vec<Arc<Counts>>> = Mutex::new(Vec::new());

thread_local! {
    static COUNTS: Arc<Counts> = {
        let counts = Arc::<Counts>::default();
        THREADS.lock().push(Arc::clone(&counts));
        counts
    };
}

/// Counts an answered request.
pub fn count_request(endpoint: &str, status: StatusCode, cache: CacheOutcome, elapsed: Duration) {
    let endpoint = ENDPOINTS.iter().position(|known| *known == endpoint).unwrap_or(ENDPOINTS.len() - 1);
    let class = usize::from(status.as_u16() / 100).saturating_sub(1).min(CLASSES.len() - 1);
    let (bucket, elapsed_us) = bucket_of(elapsed);
    with_counts(|counts| {
        add(counts.requests.get(endpoint).and_then(|classes| classes.get(class)?.get(cache as usize)), 1);
        add(counts.latency.get(endpoint).and_then(|buckets| buckets.get(bucket)), 1);
        add(counts.latency_sum_us.get(endpoint), elapsed_us);
    });
}

/// Counts an answer that was given a moment ago, and was given again.
pub(crate) fn count_given_again() {
    with_counts(|counts| add(Some(&counts.given_again), 1));
}

/// The bucket of a time, and the time in microseconds.
fn bucket_of(elapsed: Duration) -> (usize, u64) {
    let elapsed_us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
    (BUCKETS.partition_point(|bound| *bound < elapsed_us), elapsed_us)
}

/// Counts a request to the upstream that was answered, after so long.
pub(crate) fn count_upstream_answer(elapsed: Duration) {
    let (bucket, elapsed_us) = bucket_of(elapsed);
    with_counts(|counts| {
        add(counts.upstream.first(), 1);
        add(counts.upstream_latency.get(bucket), 1);
        add(Some(&counts.upstream_latency_sum_us), elapsed_us);
    });
}

/// Counts a request to the upstream that failed, by how it did.
pub(crate) fn count_upstream_failure(failure: &UpstreamError) {
    let outcome = match failure {
        UpstreamError::Connect(_) | UpstreamError::ConnectTimeout => 1,
        UpstreamError::HeadTimeout | UpstreamError::BodyTimeout => 2,
        UpstreamError::Broken(_) => 3,
        UpstreamError::Unexpected(_)
        | UpstreamError::Unavailable
        | UpstreamError::Unaskable
        | UpstreamError::Ended(_) => 4,
        UpstreamError::TooLarge => 5,
        UpstreamError::Request(_) => 6,
        UpstreamError::Crowded => 7,
    };
    with_counts(|counts| add(counts.upstream.get(outcome), 1));
}

/// Counts a connection made to the upstream.
pub(crate) fn count_upstream_connection() {
    with_counts(|counts| add(Some(&counts.upstream_connections), 1));
}

/// Counts a client's connection until it is dropped.
#[derive(Debug)]
pub(crate) struct OpenConnection;

impl OpenConnection {
    pub(crate) fn new() -> Self {
        with_counts(|counts| add(Some(&counts.connections), 1));
        Self
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        with_counts(|counts| add(Some(&counts.connections_closed), 1));
    }
}

/// Everything that is counted here, in the text format of Prometheus.
pub fn render() -> String {
    let threads = THREADS.lock().clone();
    let mut out = Exposition::default();
    render_requests(&mut out, &threads);
    render_given_again(&mut out, &threads);
    render_latency(&mut out, &threads);
    render_connections(&mut out, &threads);
    render_upstream(&mut out, &threads);
    feeds::render(&mut out);
    journal::render(&mut out);
    tasks::render(&mut out);
    out.into_text()
}

fn with_counts(count: impl FnOnce(&Counts)) {
    // A thread that is ending has nothing more to count.
    let _ = COUNTS.try_with(|counts| count(counts));
}

/// Only the thread itself writes to its counters, so that no locked instruction is needed.
fn add(counter: Option<&AtomicU64>, number: u64) {
    if let Some(counter) = counter {
        counter.store(counter.load(Relaxed).wrapping_add(number), Relaxed);
    }
}

fn sum<'a>(threads: &'a [Arc<Counts>], counter: impl Fn(&'a Counts) -> Option<&'a AtomicU64>) -> u64 {
    threads.iter().filter_map(|counts| counter(counts)).map(|counter| counter.load(Relaxed)).sum()
}

fn render_requests(out: &mut Exposition, threads: &[Arc<Counts>]) {
    let name = "kinto_sidecar_requests_total";
    out.begin(name, "counter", "Requests by endpoint, class of status and cache outcome.");
    for (e, endpoint) in ENDPOINTS.iter().enumerate() {
        for (s, status) in CLASSES.iter().enumerate() {
            for (c, cache) in CACHES.iter().enumerate() {
                let total = sum(threads, |counts| counts.requests.get(e)?.get(s)?.get(c));
                // What a rate is asked of is there from the start.
                let is_usual = (1..=4).contains(&s) && (c == 0 || s == 1);
                if total > 0 || is_usual {
                    out.add(name, &[("endpoint", endpoint), ("status", status), ("cache", cache)], total);
                }
            }
        }
    }
}

fn render_given_again(out: &mut Exposition, threads: &[Arc<Counts>]) {
    let given = sum(threads, |counts| Some(&counts.given_again));
    let help = "Answers that were made for another request of the same second, and given again.";
    out.one("kinto_sidecar_answers_given_again_total", "counter", help, given);
}

fn render_latency(out: &mut Exposition, threads: &[Arc<Counts>]) {
    let name = "kinto_sidecar_request_duration_seconds";
    out.begin(name, "histogram", "Time from a request's head to the head of its answer.");
    for (e, endpoint) in ENDPOINTS.iter().enumerate() {
        let in_bucket = |place| sum(threads, |counts| counts.latency.get(e)?.get(place));
        let spent_us = sum(threads, |counts| counts.latency_sum_us.get(e));
        out.histogram(name, Some(("endpoint", endpoint)), in_bucket, spent_us);
    }
}

/// How many answers the upstream gave, and how long all of them took, in microseconds.
pub fn upstream_answers() -> (u64, u64) {
    let threads = THREADS.lock().clone();
    let answers = sum(&threads, |counts| counts.upstream.first());
    (answers, sum(&threads, |counts| Some(&counts.upstream_latency_sum_us)))
}

/// How many requests there were by what the cache had to do with them.
pub fn cache_outcomes() -> BTreeMap<&'static str, u64> {
    let threads = THREADS.lock().clone();
    let of = |cache: usize| {
        let places = (0..ENDPOINTS.len()).flat_map(|e| (0..CLASSES.len()).map(move |s| (e, s)));
        places.map(|(e, s)| sum(&threads, |counts| counts.requests.get(e)?.get(s)?.get(cache))).sum()
    };
    CACHES.iter().enumerate().map(|(cache, name)| (*name, of(cache))).collect()
}

/// How many client connections are open.
pub fn connections() -> u64 {
    open_connections(&THREADS.lock().clone())
}

fn open_connections(threads: &[Arc<Counts>]) -> u64 {
    let opened = sum(threads, |counts| Some(&counts.connections));
    let closed = sum(threads, |counts| Some(&counts.connections_closed));
    opened.saturating_sub(closed)
}

fn render_connections(out: &mut Exposition, threads: &[Arc<Counts>]) {
    let open = open_connections(threads);
    out.one("kinto_sidecar_connections", "gauge", "Client connections that are open.", open);
}

fn render_upstream(out: &mut Exposition, threads: &[Arc<Counts>]) {
    let name = "kinto_sidecar_upstream_requests_total";
    out.begin(name, "counter", "Requests to the upstream by how they went.");
    for (o, outcome) in UPSTREAM.iter().enumerate() {
        out.add(name, &[("outcome", outcome)], sum(threads, |counts| counts.upstream.get(o)));
    }
    let name = "kinto_sidecar_upstream_request_duration_seconds";
    out.begin(name, "histogram", "Time from a request to the upstream to the head of its answer.");
    let in_bucket = |place| sum(threads, |counts| counts.upstream_latency.get(place));
    let spent_us = sum(threads, |counts| Some(&counts.upstream_latency_sum_us));
    out.histogram(name, None, in_bucket, spent_us);
    let made = sum(threads, |counts| Some(&counts.upstream_connections));
    let name = "kinto_sidecar_upstream_connections_total";
    out.one(name, "counter", "Connections made to the upstream.", made);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_all_threads_are_summed() {
        let count = || count_request("root", StatusCode::OK, CacheOutcome::Stale, Duration::from_millis(2));
        count();
        std::thread::spawn(count).join().unwrap();
        let text = render();
        assert!(
            text.contains(
                "kinto_sidecar_requests_total{endpoint=\"root\",status=\"2xx\",cache=\"stale\"} 2\n"
            ),
            "{text}"
        );
        assert!(
            text.contains("duration_seconds_bucket{endpoint=\"root\",le=\"0.001\"} 0\n")
                && text.contains("duration_seconds_bucket{endpoint=\"root\",le=\"0.0025\"} 2\n")
                && text.contains("duration_seconds_sum{endpoint=\"root\"} 0.004\n"),
            "{text}"
        );
    }
}
