//! Why timestamps could not be learned.

use http::StatusCode;

use crate::error::Error;
use crate::upstream::UpstreamError;
use crate::upstream::pages::Endless;

/// Why timestamps could not be learned.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PollError {
    /// The upstream could not be asked.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// The upstream answered with an error.
    #[error("{1} answered {0}")]
    Status(StatusCode, String),
    /// The upstream's answer could not be understood.
    #[error("the upstream's answer is not what Kinto gives: {0}")]
    Garbled(String),
    /// The service account may not read what is asked for.
    #[error("{0}")]
    Unreadable(String),
    /// The upstream's list has no end.
    #[error(transparent)]
    Endless(#[from] Endless),
    /// The answer did not come in time.
    #[error("the upstream takes too long to say all timestamps")]
    TooSlow,
}

impl From<PollError> for Error {
    fn from(error: PollError) -> Self {
        match error {
            PollError::Upstream(error) => Self::Upstream(error),
            PollError::Status(StatusCode::SERVICE_UNAVAILABLE | StatusCode::CONFLICT, _) => {
                Self::Unavailable { retry_after: None }
            }
            PollError::Status(..) | PollError::Garbled(_) | PollError::Endless(_) => {
                Self::Upstream(UpstreamError::Unexpected(error.to_string().into()))
            }
            PollError::Unreadable(_) | PollError::TooSlow => Self::Unavailable { retry_after: None },
        }
    }
}
