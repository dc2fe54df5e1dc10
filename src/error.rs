//! What the sidecar itself has to say when something is wrong, in the shape that Kinto gives its errors.
//!
//! Statuses, `errno`, titles and messages follow `kinto.core.errors` and `kinto.core.views.errors`. What passes
//! of the upstream's answers, errors included, passes as it is and is no [`Error`]; what it answered to a question about who
//! may do something is [`Error::Refused`], and is given in its words.

use std::borrow::Cow;
use std::sync::Arc;

use http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use serde::Serialize;

use crate::query::{Fault, Invalid};
use crate::upstream::kinto::KintoError;
use crate::upstream::{Refusal, UpstreamError};
use crate::wire::body::{Body, BodyError, BodyReadError, BoxError, Response};
use crate::wire::buffers::NoRoom;
use crate::wire::headers;
use crate::wire::tagged::PreconditionFailed;

/// After how many seconds somebody for whom there is no room may try again.
const ROOM_AFTER_SECONDS: u64 = 1;

const NOT_ACCEPTABLE: &str = "Accept header should be one of ['application/json']";

/// Why a request cannot be answered as asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request cannot be understood.
    #[error("bad request: {0}")]
    BadRequest(&'static str),
    /// The body is not JSON.
    #[error("the body is not JSON: {0}")]
    InvalidJson(String),
    /// Parameters have values that Kinto refuses.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// A feed cannot be given as asked for. CouchDB's clients look for `reason`.
    #[error("{reason}")]
    Feed {
        /// 400, 403, 404 or 415.
        status: StatusCode,
        /// Why, in CouchDB's words where it has some.
        reason: String,
    },
    /// The upstream does not let the requester, and its answer is theirs.
    #[error("the upstream refuses it: {}", .0.status())]
    Refused(Arc<Refusal>),
    /// Nobody is logged in, and somebody has to be.
    #[error("authentication is required")]
    Unauthorized,
    /// The requester may not do this.
    #[error("access is forbidden")]
    Forbidden,
    /// There is nothing at that path.
    #[error("not found")]
    NotFound,
    /// Nothing of this kind can have this id.
    #[error("no {kind} can have the id {id}")]
    ImpossibleId {
        /// Kinto's name for the kind.
        kind: &'static str,
        /// The id.
        id: String,
    },
    /// The path does not know this method.
    #[error("method not allowed")]
    MethodNotAllowed {
        /// The methods that it knows, as `Allow` lists them.
        allow: &'static str,
    },
    /// The request's body is coded in a way that is not known here.
    #[error("the body has a transfer coding that is not known")]
    UnknownCoding,
    /// The client does not take JSON.
    #[error("not acceptable")]
    NotAcceptable,
    /// `If-Match` or `If-None-Match` does not hold.
    #[error("precondition failed")]
    PreconditionFailed,
    /// The request's body is too large.
    #[error("the request's body is too large")]
    TooLarge,
    /// The request's body did not arrive in time.
    #[error("the request's body did not arrive in time")]
    TooSlow,
    /// The request came through here already.
    #[error("the upstream leads back to this sidecar")]
    Loop,
    /// The upstream did not answer as it should.
    #[error(transparent)]
    Upstream(UpstreamError),
    /// The sidecar cannot answer now.
    #[error("not available at present")]
    Unavailable {
        /// Seconds after which to try again; the `retry_after_seconds` setting where `None`.
        retry_after: Option<u64>,
    },
    /// A fault of the sidecar's own.
    #[error("internal error: {0}")]
    Internal(#[source] BoxError),
}

/// Kinto's error body, in the order in which Kinto writes it.
#[derive(Serialize)]
struct ErrorBody<'a> {
    code: u16,
    errno: u16,
    error: &'a str,
    /// Kinto has none for an id that nothing can have.
    #[serde(skip_serializing_if = "str::is_empty")]
    message: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Details<'a>>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Details<'a> {
    Faults(Vec<Detail<'a>>),
    Missing { id: &'a str, resource_name: &'a str },
}

#[derive(Serialize)]
struct Detail<'a> {
    location: &'a str,
    name: Option<&'a str>,
    description: &'a str,
}

impl Error {
    /// The status to answer with.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(_) | Self::InvalidJson(_) | Self::Invalid(_) => StatusCode::BAD_REQUEST,
            Self::Feed { status, .. } => *status,
            Self::Refused(refusal) => refusal.status(),
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::NotFound | Self::ImpossibleId { .. } => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::UnknownCoding => StatusCode::NOT_IMPLEMENTED,
            Self::NotAcceptable => StatusCode::NOT_ACCEPTABLE,
            Self::PreconditionFailed => StatusCode::PRECONDITION_FAILED,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::Loop => StatusCode::LOOP_DETECTED,
            Self::Upstream(error) => error.status(),
            Self::Unavailable { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Kinto's number for this kind of error.
    pub fn errno(&self) -> u16 {
        match self {
            Self::InvalidJson(_) => 106,
            Self::Unauthorized => 104,
            Self::Refused(_) | Self::Forbidden | Self::Feed { status: StatusCode::FORBIDDEN, .. } => 121,
            Self::NotFound | Self::ImpossibleId { .. } | Self::Feed { status: StatusCode::NOT_FOUND, .. } => {
                111
            }
            Self::Invalid(_) | Self::NotAcceptable | Self::Feed { .. } => 107,
            Self::MethodNotAllowed { .. } => 115,
            Self::PreconditionFailed => 114,
            Self::TooLarge => 113,
            Self::Loop | Self::Upstream(_) | Self::Unavailable { .. } => 201,
            Self::BadRequest(_) | Self::UnknownCoding | Self::TooSlow | Self::Internal(_) => 999,
        }
    }

    /// The answer. `Retry-After` is there only where the error itself knows it: whoever finishes the answer adds the
    /// setting's value and the CORS headers ([`crate::wire::cors::finish`]).
    pub fn into_response(self) -> Response {
        match &self {
            Self::Upstream(UpstreamError::Ended(ended)) => return ended.replay(),
            Self::Refused(refusal) => return refusal.replay(),
            _ => {}
        }
        let status = self.status();
        let mut response = Response::new(Body::full(self.body(status)));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers::insert_kinto_defaults(headers);
        match self {
            Self::MethodNotAllowed { allow } => {
                headers.insert(ALLOW, HeaderValue::from_static(allow));
            }
            Self::Unauthorized => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"Realm\""));
            }
            Self::Unavailable { retry_after: Some(seconds) } => {
                headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
            }
            _ => {}
        }
        response
    }

    fn body(&self, status: StatusCode) -> Vec<u8> {
        let details = match self {
            Self::Invalid(invalid) => Details::Faults(invalid.details().iter().map(Detail::from).collect()),
            Self::NotAcceptable => Details::Faults(vec![Detail {
                location: "header",
                name: Some("Accept"),
                description: NOT_ACCEPTABLE,
            }]),
            Self::ImpossibleId { kind, id } => Details::Missing { id, resource_name: kind },
            _ => Details::Faults(Vec::new()),
        };
        let details =
            Some(details).filter(|details| !matches!(details, Details::Faults(faults) if faults.is_empty()));
        let error = match self {
            Self::InvalidJson(_)
            | Self::NotAcceptable
            | Self::Feed { status: StatusCode::BAD_REQUEST, .. } => "Invalid parameters",
            Self::Invalid(invalid) => invalid.title(),
            Self::TooLarge => "Request Entity Too Large",
            _ => status.canonical_reason().unwrap_or("Error"),
        };
        let reason = match self {
            Self::Feed { reason, .. } => Some(reason.as_str()),
            _ => None,
        };
        let (code, errno, message) = (status.as_u16(), self.errno(), self.message());
        let body = ErrorBody { code, errno, error, message, reason, details };
        // Strings and numbers always serialize.
        serde_json::to_vec(&body).unwrap_or_default()
    }

    /// What the client is told; the cause of a fault is for the log only.
    fn message(&self) -> Cow<'_, str> {
        Cow::Borrowed(match self {
            Self::BadRequest(message) => message,
            Self::InvalidJson(message) => message,
            Self::Feed { reason, .. } => reason,
            Self::Invalid(invalid) => return Cow::Owned(invalid.message()),
            Self::Unauthorized => "Please authenticate yourself to use this endpoint.",
            Self::Refused(_) | Self::Forbidden => "This user cannot access this resource.",
            Self::NotFound => "The resource you are looking for could not be found.",
            Self::ImpossibleId { .. } => "",
            Self::MethodNotAllowed { .. } => "Method not allowed on this endpoint.",
            Self::NotAcceptable => NOT_ACCEPTABLE,
            Self::UnknownCoding => "The only transfer coding that is known is chunked.",
            Self::PreconditionFailed => "Resource was modified meanwhile",
            Self::TooLarge => "Request body too large.",
            Self::TooSlow => "The request's body did not arrive in time.",
            Self::Loop => "The upstream of this sidecar leads back to it.",
            Self::Upstream(_) | Self::Unavailable { .. } => {
                "Service temporary unavailable due to overloading or maintenance, please retry later."
            }
            Self::Internal(_) => "A programmatic error occurred, developers have been informed.",
        })
    }
}

impl<'a> From<&'a Fault> for Detail<'a> {
    fn from(fault: &'a Fault) -> Self {
        Self { location: fault.location, name: fault.name.as_deref(), description: &fault.description }
    }
}

impl From<BodyError> for Error {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::TooLarge => Self::TooLarge,
            BodyError::TooSlow => Self::TooSlow,
            BodyError::Late => Self::Unavailable { retry_after: None },
            BodyError::Broken(_) => Self::BadRequest("the body broke off"),
        }
    }
}

impl From<BodyReadError> for Error {
    /// The client's fault or the upstream's, by whose body it is.
    fn from(error: BodyReadError) -> Self {
        let error = match error {
            BodyReadError::TooLarge => return Self::TooLarge,
            BodyReadError::NoRoom(error) => return Self::from(error),
            BodyReadError::Broken(error) => error,
        };
        let error = match error.downcast::<BodyError>() {
            Ok(error) => return Self::from(*error),
            Err(error) => error,
        };
        match error.downcast::<UpstreamError>() {
            Ok(error) => Self::from(*error),
            Err(_) => Self::BadRequest("the body broke off"),
        }
    }
}

impl From<PreconditionFailed> for Error {
    fn from(_: PreconditionFailed) -> Self {
        Self::PreconditionFailed
    }
}

impl From<NoRoom> for Error {
    fn from(_: NoRoom) -> Self {
        Self::Unavailable { retry_after: Some(ROOM_AFTER_SECONDS) }
    }
}

impl From<UpstreamError> for Error {
    fn from(error: UpstreamError) -> Self {
        match error {
            UpstreamError::Request(error) => Self::from(error),
            error => Self::Upstream(error),
        }
    }
}

impl From<KintoError> for Error {
    fn from(error: KintoError) -> Self {
        match error {
            KintoError::Absent => Self::NotFound,
            KintoError::Upstream(error) => Self::Upstream(error),
            // Kinto is overloaded, or a writer was faster: both pass.
            KintoError::Status(
                StatusCode::SERVICE_UNAVAILABLE | StatusCode::CONFLICT | StatusCode::TOO_MANY_REQUESTS,
            ) => Self::Unavailable { retry_after: None },
            KintoError::Unreadable(_) | KintoError::Status(_) | KintoError::Refused(_) => {
                Self::Upstream(UpstreamError::Unexpected(error.to_string().into()))
            }
            KintoError::Unsettled | KintoError::Oversize => Self::Unavailable { retry_after: Some(1) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(error: &Error) -> String {
        String::from_utf8(error.body(error.status())).unwrap()
    }

    #[test]
    fn errors_read_as_kintos_own() {
        assert_eq!(
            text(&Error::Unauthorized),
            r#"{"code":401,"errno":104,"error":"Unauthorized","message":"Please authenticate yourself to use this endpoint."}"#
        );
        assert_eq!(
            text(&Invalid::query("_since", "\"abc\" is not a number").into()),
            r#"{"code":400,"errno":107,"error":"Invalid parameters","message":"_since in querystring: \"abc\" is not a number","details":[{"location":"querystring","name":"_since","description":"\"abc\" is not a number"}]}"#
        );
        assert_eq!(
            text(&Error::MethodNotAllowed { allow: "GET" }),
            r#"{"code":405,"errno":115,"error":"Method Not Allowed","message":"Method not allowed on this endpoint."}"#
        );
    }

    #[test]
    fn the_cause_of_a_fault_is_not_told() {
        assert!(!text(&Error::Internal("secret".into())).contains("secret"));
    }
}
