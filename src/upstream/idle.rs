//! How long the upstream leaves connections open on which nothing happens, as its closes tell.
//!
//! A write cannot be sent again, so it must not meet a connection that is just being closed. It is sent only on one that has
//! been idle for less than half the shortest time after which the upstream was seen to close. Before any close was seen, a
//! time is taken that hardly any server goes below.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::client::conn::http1;
use parking_lot::Mutex;
use tokio::time::{Instant, Sleep, sleep};

use super::age::end_of_use;
use crate::wire::body::Body;

/// What is taken as safe before any close was seen. The shortest that is usual is gunicorn's, of 2 s.
const UNKNOWN: Duration = Duration::from_millis(500);

/// The longest that is taken as safe: something between the two may close earlier than the upstream.
const LONGEST: Duration = Duration::from_secs(10);

/// How long a close counts: the upstream may have been restarted, or be set up anew.
const REMEMBERED: Duration = Duration::from_secs(600);

/// The shortest time after which an idle connection was closed, of all threads, and when that was.
#[derive(Debug, Default)]
pub(super) struct IdleTime(Mutex<Option<(Duration, Instant)>>);

/// Since when a connection is idle; `None` while it is used, and once it was closed from here.
#[derive(Debug)]
pub(super) struct IdleSince {
    since: Mutex<Option<Instant>>,
    time: Arc<IdleTime>,
}

/// A connection that takes one request at a time.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) sender: http1::SendRequest<Body>,
    pub(super) idle: Arc<IdleSince>,
    /// Until when it takes requests.
    pub(super) until: Instant,
    /// Until when the answer may take. To put it off costs next to nothing, where a new timer for each request would have to
    /// be begun and ended.
    pub(super) deadline: Pin<Box<Sleep>>,
}

impl Connection {
    pub(super) fn new(sender: http1::SendRequest<Body>, idle: Arc<IdleSince>) -> Self {
        Self { sender, idle, until: end_of_use(), deadline: Box::pin(sleep(Duration::ZERO)) }
    }
}

impl IdleTime {
    /// How long a connection may have been idle for a write to be sent on it.
    fn is_safe(&self) -> Duration {
        let known = self.0.lock().filter(|(_, seen)| seen.elapsed() < REMEMBERED);
        known.map_or(UNKNOWN, |(shortest, _)| (shortest / 2).min(LONGEST))
    }

    fn closed_after(&self, idle: Duration) {
        let mut known = self.0.lock();
        if known.is_none_or(|(shortest, seen)| idle < shortest || seen.elapsed() >= REMEMBERED) {
            *known = Some((idle, Instant::now()));
        }
    }
}

impl IdleSince {
    pub(super) fn new(time: Arc<IdleTime>) -> Self {
        Self { since: Mutex::default(), time }
    }

    /// Nothing happens on the connection from now on.
    pub(super) fn begin(&self, now: Instant) {
        *self.since.lock() = Some(now);
    }

    /// It is used again, or given up.
    pub(super) fn end(&self) {
        *self.since.lock() = None;
    }

    /// The connection ended.
    pub(super) fn closed(&self) {
        if let Some(since) = self.since.lock().take() {
            self.time.closed_after(since.elapsed());
        }
    }

    /// Whether a write may be sent on it.
    pub(super) fn is_safe(&self) -> bool {
        self.since.lock().is_some_and(|since| since.elapsed() < self.time.is_safe())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_the_shortest_time_after_which_a_close_was_seen_is_safe() {
        let time = IdleTime::default();
        assert_eq!(time.is_safe(), UNKNOWN);
        for (idle, safe) in [(60_000, 10_000), (4000, 2000), (5000, 2000), (100, 50)] {
            time.closed_after(Duration::from_millis(idle));
            assert_eq!(time.is_safe(), Duration::from_millis(safe));
        }
    }

    #[test]
    fn only_a_close_while_nothing_happened_counts() {
        let idle = IdleSince::new(Arc::default());
        idle.closed();
        idle.begin(Instant::now());
        assert!(idle.is_safe());
        idle.end();
        assert!(!idle.is_safe());
        idle.closed();
        assert_eq!(idle.time.is_safe(), UNKNOWN);
        idle.begin(Instant::now());
        idle.closed();
        assert!(idle.time.is_safe() < UNKNOWN);
    }
}
