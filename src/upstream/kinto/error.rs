//! What a question to Kinto can come to, when it is not answered.

use http::StatusCode;

use crate::upstream::UpstreamError;

/// Why there is no answer to a question.
#[derive(Debug, Clone, thiserror::Error)]
pub enum KintoError {
    /// What was asked for is not there.
    #[error("there is no such object")]
    Absent,
    /// Whoever asks may not read it.
    #[error("the upstream refuses to show it ({0})")]
    Refused(StatusCode),
    /// Kinto answered with another error.
    #[error("the upstream answered {0}")]
    Status(StatusCode),
    /// The answer is none that Kinto gives.
    #[error("the upstream did not answer as Kinto does: {0}")]
    Unreadable(String),
    /// There is no answer.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// The collection kept changing while it was read.
    #[error("the collection kept changing while it was read")]
    Unsettled,
    /// It takes more memory than it may: all of a collection, or an object in a list.
    #[error("it is larger than may be held in memory")]
    Oversize,
}

impl KintoError {
    /// What a status says, where it is an error.
    pub fn check(status: StatusCode) -> Result<(), Self> {
        match status {
            StatusCode::OK => Ok(()),
            StatusCode::NOT_FOUND | StatusCode::GONE => Err(Self::Absent),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(Self::Refused(status)),
            status => Err(Self::Status(status)),
        }
    }

    /// Whether the upstream may say something else by and by, as opposed to an answer that says what it is asked for
    /// cannot be had.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Upstream(error) => !matches!(error, UpstreamError::Ended(_)),
            Self::Unreadable(_) => true,
            Self::Status(status) => {
                !status.is_client_error()
                    || matches!(
                        *status,
                        StatusCode::REQUEST_TIMEOUT | StatusCode::CONFLICT | StatusCode::TOO_MANY_REQUESTS
                    )
            }
            Self::Absent | Self::Refused(_) | Self::Unsettled | Self::Oversize => false,
        }
    }

    /// The status of Kinto's answer, where it is an error.
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Absent => Some(StatusCode::NOT_FOUND),
            Self::Refused(status) | Self::Status(status) => Some(*status),
            _ => None,
        }
    }

    /// Whether no connection came about: nothing was sent.
    pub fn is_unsent(&self) -> bool {
        matches!(self, Self::Upstream(error) if error.is_absent())
    }

    /// The same as a failure of the upstream.
    pub fn into_failure(self) -> UpstreamError {
        match self {
            Self::Upstream(error) => error,
            Self::Status(StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) => {
                UpstreamError::Unavailable
            }
            error => UpstreamError::Unexpected(error.to_string().into()),
        }
    }
}
