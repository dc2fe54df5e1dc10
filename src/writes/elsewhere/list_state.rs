//! What is remembered of a list that is watched.

use std::time::Duration;

use tokio::time::Instant;

use crate::kinto::Timestamp;

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
}

impl ListState {
    /// Whether it is to be compared with what the journal knows.
    pub(super) fn is_due(&self, every: Duration) -> bool {
        self.compared.is_some_and(|compared| compared.elapsed() >= every)
    }
}
