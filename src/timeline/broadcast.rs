//! The timestamp that is broadcast, and when it changes.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::entries::Entries;
use crate::kinto::Timestamp;

/// What was broadcast last.
#[derive(Debug, Default)]
pub struct Broadcasts {
    last: Mutex<Option<Broadcast>>,
}

/// A timestamp, and when it began to be broadcast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Broadcast {
    timestamp: Timestamp,
    since: Instant,
}

impl Broadcasts {
    /// What to broadcast now: a change is told `interval` after the last one, or at once where that is long ago. Beside it
    /// stands when something else of these entries is to be broadcast, if ever.
    pub fn next(
        &self,
        entries: &Entries,
        interval: Duration,
        now: Instant,
    ) -> (Option<Timestamp>, Option<Instant>) {
        let mut last = self.last.lock();
        let newest = newest(entries);
        *last = debounce(*last, newest, interval, now);
        let waiting = last.filter(|last| newest > Some(last.timestamp));
        (last.map(|last| last.timestamp), waiting.and_then(|last| last.since.checked_add(interval)))
    }
}

/// The newest timestamp that is not of a preview.
fn newest(entries: &Entries) -> Option<Timestamp> {
    let is_preview = |id: &str| id.contains("-preview");
    let public = entries
        .rows
        .iter()
        .filter(|entry| !is_preview(&entry.key.bucket) && !is_preview(&entry.key.collection));
    public.map(|entry| entry.last_modified).max()
}

/// What to broadcast, given what was broadcast last and what is newest.
fn debounce(
    last: Option<Broadcast>,
    newest: Option<Timestamp>,
    interval: Duration,
    now: Instant,
) -> Option<Broadcast> {
    let next = newest.map(|timestamp| Broadcast { timestamp, since: now });
    match (last, next) {
        (None, next) => next,
        (Some(last), Some(next))
            if next.timestamp > last.timestamp && now.saturating_duration_since(last.since) >= interval =>
        {
            Some(next)
        }
        (last, _) => last,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_change_of_a_burst_is_broadcast_when_the_interval_is_over() {
        let (start, interval) = (Instant::now(), Duration::from_secs(300));
        let mut last = None;
        let mut at = |newest: u64, seconds: u64| {
            let now = start + Duration::from_secs(seconds);
            last = debounce(last, Some(Timestamp(newest)), interval, now);
            last.map(|last| last.timestamp.0)
        };
        assert_eq!(at(1, 0), Some(1));
        assert_eq!(at(2, 10), Some(1));
        assert_eq!(at(3, 299), Some(1));
        assert_eq!(at(3, 300), Some(3), "the burst is over, and its last change is told");
        assert_eq!(at(4, 301), Some(3));
        assert_eq!(at(5, 600), Some(5));
        assert_eq!(at(2, 10_000), Some(5), "it never goes back");
        assert_eq!(at(6, 10_001), Some(6), "after a quiet time a change is told at once");
    }
}
