//! When a collection is asked for: what its clock remembers of questions and of those who want the answers.

use std::time::Duration;

use tokio::time::Instant;

use super::Clock;

/// For how long it counts that a reader wanted to know of a collection, or that the collection moved.
const LIVELY: Duration = Duration::from_secs(60);

/// For how long a collection is asked for after somebody wanted to know of it.
const WANTED: Duration = Duration::from_secs(300);

/// The longest pause between questions on which the upstream fails.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// So many failures in a row are more than one.
const AGAIN: u32 = 2;

/// What is remembered.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    /// When a question last began.
    tried: Option<Instant>,
    /// How many questions in a row failed.
    failures: u32,
    /// When a reader last wanted to know.
    used: Option<Instant>,
    /// When the history last said that it follows the collection.
    followed: Option<Instant>,
}

impl Clock {
    /// A question for the timestamp begins at `now`.
    pub fn asking(&self, now: Instant) {
        self.notes().schedule.tried = Some(now);
    }

    /// The upstream answered, with a timestamp or without. Whether it had failed again and again.
    pub fn answered(&self) -> bool {
        std::mem::take(&mut self.notes().schedule.failures) >= AGAIN
    }

    /// The upstream failed to answer: it is asked again later each time. Whether that is worth a word now.
    pub fn failed(&self) -> bool {
        let mut notes = self.notes();
        notes.schedule.failures = notes.schedule.failures.saturating_add(1);
        notes.schedule.failures == AGAIN
    }

    /// Whether the upstream has failed to answer again and again.
    pub fn is_set_aside(&self) -> bool {
        self.notes().schedule.failures >= AGAIN
    }

    /// Whether the upstream failed to answer when it was last asked.
    pub fn is_in_trouble(&self) -> bool {
        self.notes().schedule.failures > 0
    }

    /// When a question last began; `None` where there was none.
    pub fn last_asked(&self) -> Option<Instant> {
        let notes = self.notes();
        notes.schedule.tried.max(notes.asked)
    }

    /// When the question began that the upstream last answered with a timestamp; `None` where there was none.
    pub fn last_answer(&self) -> Option<Instant> {
        self.notes().asked
    }

    /// For how long an answer to a question is good.
    pub fn interval(&self, ttl: Duration) -> Duration {
        let failures = self.notes().schedule.failures.min(16);
        let patient = ttl.max(Duration::from_millis(100)).saturating_mul(1 << failures).min(LONGEST_PAUSE);
        if failures == 0 { ttl } else { patient.max(ttl) }
    }

    /// A reader wants to know of this collection.
    pub fn used(&self) {
        self.notes().schedule.used = Some(Instant::now());
    }

    /// The history is to know of this collection.
    pub fn followed(&self) {
        self.notes().schedule.followed = Some(Instant::now());
    }

    /// How long ago somebody wanted to know of this collection; `None` where nobody did.
    pub fn unused(&self) -> Option<Duration> {
        let notes = self.notes();
        notes.schedule.used.max(notes.schedule.followed).map(|used| used.elapsed())
    }

    /// Whether somebody wants to know of this collection.
    pub fn is_wanted(&self) -> bool {
        self.is_listened_to() || self.unused().is_some_and(|unused| unused < WANTED)
    }

    /// Whether this collection is asked for before others: somebody reads it, or it has just moved.
    pub fn is_lively(&self) -> bool {
        let is_recent = |moment: Option<Instant>| moment.is_some_and(|moment| moment.elapsed() < LIVELY);
        let notes = self.notes();
        is_recent(notes.schedule.used) || is_recent(notes.moved) || self.is_listened_to()
    }
}
