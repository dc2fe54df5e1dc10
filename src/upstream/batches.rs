//! Whether the upstream takes batches: what one question finds out, all others know.
//!
//! A read-only Kinto answers 405 to every `POST`, and a server in front of one may have a mind of its own. Whoever asks for
//! several things then asks for each by itself, and a batch is tried again now and then.

use std::time::Duration;

use http::StatusCode;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::Upstream;

/// How long an upstream that takes no batches is taken for such a one.
const AGAIN: Duration = Duration::from_secs(60);

/// So many batches in a row failed though each of their questions was answered: then it is the batches.
const STRIKES: u32 = 3;

/// How the upstream takes batches.
#[derive(Debug, Default)]
pub struct Batches(Mutex<Past>);

#[derive(Debug, Default)]
struct Past {
    refused: Option<(Instant, String)>,
    strikes: u32,
}

/// In whose name a batch was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchSender {
    /// The sidecar's own.
    Own,
    /// A requester's: what is said of them is said of nobody else.
    Requester,
}

impl Upstream {
    /// How it takes batches, whoever asks.
    pub fn batches(&self) -> &Batches {
        &self.0.batches
    }
}

impl Batches {
    /// Why several things are asked for one by one, where they are.
    pub fn refusal(&self) -> Option<String> {
        let past = self.0.lock();
        past.refused.as_ref().filter(|(since, _)| since.elapsed() < AGAIN).map(|(_, why)| why.clone())
    }

    /// A batch with the sidecar's own questions was answered.
    pub fn worked(&self) {
        *self.0.lock() = Past::default();
    }

    /// A batch as a whole was answered with this status; whether that says that there are no batches here.
    pub fn answered(&self, status: StatusCode, sender: BatchSender) -> bool {
        let is_refusal = is_refusal(status, sender);
        if is_refusal {
            self.refuse(&status.to_string());
        }
        is_refusal
    }

    /// A batch failed as a whole, and each of its questions was answered by itself.
    pub fn failed_alone(&self, why: &str) {
        let strikes = {
            let mut past = self.0.lock();
            past.strikes += 1;
            past.strikes
        };
        if strikes >= STRIKES {
            self.refuse(why);
        }
    }

    fn refuse(&self, why: &str) {
        let before = self.0.lock().refused.replace((Instant::now(), why.to_owned()));
        if before.is_none() {
            tracing::warn!(
                why,
                "the upstream takes no batches: what could be asked together is asked singly"
            );
        }
    }
}

/// Whether a status says that there are no batches here, as opposed to something about this one or its sender.
fn is_refusal(status: StatusCode, sender: BatchSender) -> bool {
    let is_of_this_batch = matches!(
        status,
        StatusCode::BAD_REQUEST
            | StatusCode::PAYLOAD_TOO_LARGE
            | StatusCode::TOO_MANY_REQUESTS
            | StatusCode::CONFLICT
    );
    let is_of_its_sender = sender == BatchSender::Requester
        && matches!(
            status,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
        );
    let is_passing = status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED;
    !(status.is_success() || is_of_this_batch || is_of_its_sender || is_passing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_to_one_requester_is_said_of_nobody_else() {
        let batches = Batches::default();
        for status in [401, 403, 431, 400, 413, 429, 409, 500, 503, 200] {
            assert!(
                !batches.answered(StatusCode::from_u16(status).unwrap(), BatchSender::Requester),
                "{status}"
            );
        }
        assert_eq!(batches.refusal(), None);
        assert!(batches.answered(StatusCode::METHOD_NOT_ALLOWED, BatchSender::Requester));
        assert_eq!(batches.refusal().as_deref(), Some("405 Method Not Allowed"));
        batches.worked();
        assert!(batches.answered(StatusCode::FORBIDDEN, BatchSender::Own));
        assert!(batches.refusal().is_some());
    }

    #[test]
    fn batches_that_fail_alone_again_and_again_are_refused() {
        let batches = Batches::default();
        for _ in 1..STRIKES {
            batches.failed_alone("500");
            assert_eq!(batches.refusal(), None);
        }
        batches.failed_alone("500");
        assert!(batches.refusal().is_some());
    }
}
