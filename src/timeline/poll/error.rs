//! Why timestamps could not be learned.

use crate::error::Error;
use crate::upstream::kinto::KintoError;
use crate::upstream::kinto::heads::is_silence;

/// Why timestamps could not be learned.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PollError {
    /// A question was not answered.
    #[error(transparent)]
    Kinto(#[from] KintoError),
    /// The service account may not read what is asked for.
    #[error("{0}")]
    Unreadable(String),
    /// The answer did not come in time.
    #[error("the upstream takes too long to say all timestamps")]
    TooSlow,
}

impl PollError {
    /// Whether nothing was heard for so long that nobody waits any more.
    pub(super) fn is_silence(&self) -> bool {
        matches!(self, Self::Kinto(error) if is_silence(error))
    }

    /// Whether no connection came about.
    pub(super) fn is_unsent(&self) -> bool {
        matches!(self, Self::Kinto(error) if error.is_unsent())
    }
}

impl From<PollError> for Error {
    fn from(error: PollError) -> Self {
        match error {
            // What the service account is told is not said to the client.
            PollError::Kinto(error @ (KintoError::Absent | KintoError::Refused(_))) => {
                Self::Upstream(error.into_failure())
            }
            PollError::Kinto(error) => error.into(),
            PollError::Unreadable(_) | PollError::TooSlow => Self::Unavailable { retry_after: None },
        }
    }
}
