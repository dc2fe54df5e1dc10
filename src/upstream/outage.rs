//! Whether the upstream answers at present, as far as anybody who asked it for anything has found.
//!
//! What is kept is as good as new while the upstream is asked for what is newer, again and again. From the first question
//! that fails on, it is old.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use http::StatusCode;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::UpstreamError;

/// See the module. One for all threads.
#[derive(Debug, Default)]
pub struct Outage {
    /// Whether `begun` is something, for the many who only look. Written while that is locked, and only when it changes.
    is_on: AtomicBool,
    begun: Mutex<Option<Begun>>,
}

/// When it began, and how that was seen.
#[derive(Debug)]
struct Begun {
    at: Instant,
    error: String,
}

impl Outage {
    /// For how long the upstream has not answered; `None` while it does.
    pub fn lasts(&self) -> Option<Duration> {
        if !self.is_on.load(Relaxed) {
            return None;
        }
        self.begun.lock().as_ref().map(|begun| begun.at.elapsed())
    }

    /// What it began with.
    pub fn error(&self) -> Option<String> {
        self.begun.lock().as_ref().map(|begun| begun.error.clone())
    }

    /// Something could not be asked.
    pub fn failed(&self, error: &dyn Display) {
        let begin = || Begun { at: Instant::now(), error: error.to_string() };
        let mut begun = self.begun.lock();
        begun.get_or_insert_with(begin);
        self.is_on.store(true, Relaxed);
    }

    /// An exchange failed in this way.
    pub(super) fn note(&self, error: &UpstreamError) {
        // One slow answer says nothing of others.
        if error.is_absent() || matches!(error, UpstreamError::Broken(_)) {
            self.failed(error);
        }
    }

    /// The upstream answered.
    pub(super) fn answered(&self, status: StatusCode) {
        if self.is_on.load(Relaxed) && !status.is_server_error() {
            let mut begun = self.begun.lock();
            *begun = None;
            self.is_on.store(false, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_lasts_from_the_first_failure_to_the_first_answer() {
        let outage = Outage::default();
        outage.note(&UpstreamError::HeadTimeout);
        assert_eq!(outage.lasts(), None, "of one answer");
        outage.note(&UpstreamError::ConnectTimeout);
        assert!(outage.lasts().is_some());
        outage.answered(StatusCode::SERVICE_UNAVAILABLE);
        assert!(outage.lasts().is_some());
        outage.answered(StatusCode::NOT_FOUND);
        assert_eq!(outage.lasts(), None);
    }
}
