//! What is asked about a write of which no answer tells.

use std::time::Duration;

use crate::access::Requester;
use crate::backoff::Backoff;
use crate::error::Error;
use crate::journal::{Intent, JournalError};
use crate::upstream::kinto::{KintoError, Source};

/// The pauses between the questions of which the upstream says nothing for long, while it answers others.
pub(super) const LATER: Backoff = Backoff::new(Duration::from_secs(5), Duration::from_secs(300));

/// An intent, and whom to ask about it.
#[derive(Debug, Clone)]
pub(super) struct Question {
    /// The write as it was about to be sent.
    pub(super) intent: Intent,
    /// Asks as its requester where they are at hand, else as the service account.
    pub(super) source: Source,
    /// They, where they are at hand.
    pub(super) requester: Option<Requester>,
}

/// Why nothing could be found out.
#[derive(Debug, thiserror::Error)]
pub(super) enum LookupError {
    /// The upstream did not say.
    #[error(transparent)]
    Read(#[from] KintoError),
    /// The journal did not.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// It could not be asked.
    #[error(transparent)]
    Other(#[from] Error),
}

impl LookupError {
    /// Whether the upstream answers, and does not say it of this object alone.
    pub(super) fn is_of_object(&self) -> bool {
        match self {
            Self::Read(KintoError::Status(status)) => !matches!(status.as_u16(), 429 | 502..=504),
            Self::Read(KintoError::Unreadable(_)) => true,
            _ => false,
        }
    }
}
