//! Why the upstream gave no answer.

use std::error::Error as StdError;
use std::io;
use std::sync::Arc;

use http::StatusCode;

use super::ended::Ended;
use crate::wire::body::BodyError;
use crate::wire::inbound::InboundError;

/// Why the upstream gave no answer, or no whole one. Cheap to clone, for those who asked together.
#[derive(Debug, Clone, thiserror::Error)]
pub enum UpstreamError {
    /// No connection could be made.
    #[error("cannot connect to the upstream: {0}")]
    Connect(Arc<io::Error>),
    /// No connection came about within `sidecar.upstream_connect_timeout`.
    #[error("connecting to the upstream took too long")]
    ConnectTimeout,
    /// The head of the answer did not come within `sidecar.upstream_timeout`.
    #[error("the upstream took too long to answer")]
    HeadTimeout,
    /// The body of the answer stopped for `sidecar.upstream_timeout`.
    #[error("the upstream's answer stopped arriving")]
    BodyTimeout,
    /// The connection broke, or what came was not HTTP.
    #[error("the upstream's connection broke: {0}")]
    Broken(Arc<hyper::Error>),
    /// The answer has to be held in memory and is larger than may be.
    #[error("the upstream's answer is too large")]
    TooLarge,
    /// The question cannot be written as a request.
    #[error("not a path that can be asked for")]
    Unaskable,
    /// Clients have as much under way there as they may (`sidecar.max_upstream_requests`): nothing was sent.
    #[error("too much is asked of the upstream at once")]
    Crowded,
    /// The upstream said that it cannot answer now.
    #[error("the upstream is not available")]
    Unavailable,
    /// The answer is none that Kinto gives.
    #[error("the upstream did not answer as Kinto does: {0}")]
    Unexpected(Arc<str>),
    /// The upstream has come to its end, and has this one answer for everybody.
    #[error("the upstream has come to its end of life")]
    Ended(Arc<Ended>),
    /// Not the upstream's fault: the body that was sent to it broke off.
    #[error(transparent)]
    Request(BodyError),
}

impl UpstreamError {
    /// For an answer with a status that is none to the question of `what`.
    pub(crate) fn of_status(status: StatusCode, what: &str) -> Self {
        match status {
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => Self::Unavailable,
            status => Self::Unexpected(format!("it answers {status} for {what}").into()),
        }
    }

    /// Whether it says something of who asked alone: others may ask for themselves.
    pub fn is_of_asker(&self) -> bool {
        matches!(self, Self::Crowded)
    }

    /// Whether no connection came about: nothing was sent.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Connect(_) | Self::ConnectTimeout)
    }

    /// Whether the upstream's certificate is of an authority that is not trusted.
    pub fn is_unknown_authority(&self) -> bool {
        let Self::Connect(error) = self else { return false };
        let tls = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
        matches!(tls, Some(rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer)))
    }

    /// What a client is answered: 503 for an upstream that is not there, 504 for a slow one, 502 for a broken one.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Connect(_) | Self::Crowded | Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::ConnectTimeout | Self::HeadTimeout | Self::BodyTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::Broken(_) | Self::TooLarge | Self::Unaskable | Self::Unexpected(_) => {
                StatusCode::BAD_GATEWAY
            }
            Self::Ended(_) => StatusCode::GONE,
            Self::Request(_) => StatusCode::BAD_REQUEST,
        }
    }

    /// What hyper says of an exchange: whose fault it is stands in its cause.
    pub(super) fn of_exchange(error: hyper::Error) -> Self {
        let mut cause = error.source();
        while let Some(error) = cause {
            if let Some(error) = error.downcast_ref::<BodyError>() {
                return Self::Request(error.clone());
            }
            cause = error.source();
        }
        Self::Broken(Arc::new(error))
    }
}

impl From<InboundError> for UpstreamError {
    fn from(error: InboundError) -> Self {
        match error {
            InboundError::Broken(error) => Self::of_exchange(error),
            InboundError::Reset => Self::Unexpected(error.to_string().into()),
        }
    }
}

impl From<io::Error> for UpstreamError {
    fn from(error: io::Error) -> Self {
        Self::Connect(Arc::new(error))
    }
}
