//! What is remembered of a list that is watched.

use std::time::Duration;

use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::kinto::Timestamp;

/// How long a list is left alone on which the upstream failed.
const PAUSES: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));

/// What is remembered of a list.
#[derive(Debug, Default)]
pub(super) struct ListState {
    /// The timestamp that it had when it was last read.
    pub(super) read: Option<Timestamp>,
    /// When a passing write, or something that may become visible late, has it read again.
    pub(super) again: Option<Instant>,
    /// The clock's news at that time.
    pub(super) news: u64,
    /// How much its mirror had found late by then, see [`Content::found_late`](crate::mirror::content::Content::found_late).
    pub(super) late: u64,
    /// When it was last compared with what the journal knows, or first seen.
    pub(super) compared: Option<Instant>,
    /// The last round that came by.
    pub(super) round: u64,
    /// Until when it is left alone, since the upstream failed on it, and for how long after the next failure.
    failed: Option<(Instant, Backoff)>,
}

/// How long a list that says nothing keeps the others waiting, at first.
const PATIENCE: Duration = Duration::from_secs(5);

impl ListState {
    /// Whether it is left alone for now.
    pub(super) fn is_left_alone(&self) -> bool {
        self.failed.is_some_and(|(until, _)| Instant::now() < until)
    }

    /// The upstream failed on it: others come first. Whether it answered before.
    pub(super) fn failed(&mut self) -> bool {
        let is_first = self.failed.is_none();
        let (_, mut pauses) = self.failed.unwrap_or((Instant::now(), PAUSES));
        let until = Instant::now() + pauses.pause();
        pauses.lengthen();
        self.failed = Some((until, pauses));
        is_first
    }

    /// How long its answer is waited for: longer with each failure, as it may be slow and not silent, up to `most`.
    pub(super) fn patience(&self, most: Duration) -> Duration {
        self.failed.map_or(PATIENCE, |(_, pauses)| PATIENCE + pauses.pause()).min(most)
    }

    /// The upstream answered.
    pub(super) fn answered(&mut self) {
        self.failed = None;
    }

    /// Whether it is to be compared with what the journal knows.
    pub(super) fn is_due(&self, every: Duration) -> bool {
        self.compared.is_some_and(|compared| compared.elapsed() >= every)
    }
}
