//! What is not answered, in the words of `FastAPI`.

use std::time::{Duration, SystemTime};

use http::header::{ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, StatusCode};
use serde::Serialize;
use serde_json::json;

use crate::app::Core;
use crate::endpoints;
use crate::error::Error;
use crate::kinto::CollectionKey;
use crate::settings::RemoteSettings;
use crate::upstream::UpstreamError;
use crate::wire::body::{Body, Response};
use crate::wire::cache_control;
use crate::wire::headers;

/// Why a request is not answered.
#[derive(Debug)]
pub(super) enum V2Refusal {
    /// Its parameters are wrong.
    Invalid(Vec<Fault>),
    /// It asks for what came after something later than it expects.
    Superseded,
    /// There is no such collection for everybody.
    NoCollection(CollectionKey),
    /// There is nothing at its path.
    NotFound,
    /// The path does not know its method.
    MethodNotAllowed,
    /// Something went wrong.
    Failed(Error),
}

/// What is wrong with a parameter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Fault {
    r#type: &'static str,
    loc: [&'static str; 2],
    msg: &'static str,
    input: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ctx: Option<Bound>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct Bound {
    ge: u8,
}

impl Fault {
    pub(super) fn new(
        kind: &'static str,
        name: &'static str,
        msg: &'static str,
        input: Option<&str>,
    ) -> Self {
        let ctx = (kind == "greater_than_equal").then_some(Bound { ge: 0 });
        Self { r#type: kind, loc: ["query", name], msg, input: input.map(str::to_owned), ctx }
    }
}

impl<E: Into<Error>> From<E> for V2Refusal {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl V2Refusal {
    /// The answer; an error where the upstream has one for everybody.
    pub(super) fn into_response(self, core: &Core) -> Result<Response, Error> {
        let (status, detail) = match &self {
            Self::Invalid(faults) => {
                // Strings and numbers always serialize; as a text, members keep their order.
                let faults = serde_json::to_string(faults).unwrap_or_default();
                (StatusCode::UNPROCESSABLE_ENTITY, faults)
            }
            Self::Superseded => {
                let detail = "_expected must be superior to _since if both are provided";
                (StatusCode::BAD_REQUEST, text(detail))
            }
            Self::NoCollection(key) => {
                (StatusCode::NOT_FOUND, text(&format!("{}/{} not found", key.bucket, key.collection)))
            }
            Self::NotFound => (StatusCode::NOT_FOUND, text("Not Found")),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, text("Method Not Allowed")),
            Self::Failed(Error::Invalid(invalid)) => (StatusCode::BAD_REQUEST, text(&invalid.message())),
            Self::Failed(error) => {
                (error.status(), text(error.status().canonical_reason().unwrap_or_default()))
            }
        };
        let settings = &core.app.settings;
        let lifetime = self.lifetime(&settings.remote_settings);
        let mut retry_after = None;
        match self {
            Self::Failed(error @ Error::Upstream(UpstreamError::Ended(_))) => return Err(error),
            Self::Failed(error) => {
                endpoints::log(&error);
                retry_after = error.into_response().headers().get(RETRY_AFTER).cloned();
            }
            _ => {}
        }
        let body = format!("{{\"detail\":{detail}}}");
        let mut response = Response::new(Body::empty());
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CONTENT_LENGTH, body.len().into());
        headers::insert_kinto_defaults(headers);
        headers.extend(retry_after.map(|value| (RETRY_AFTER, value)));
        headers::insert_retry_after(headers, status, settings.kinto.retry_after_seconds);
        if status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        match lifetime {
            Some(lifetime) => cache_control::allow_for(headers, lifetime, SystemTime::now()),
            None => _ = headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store")),
        }
        Ok(response.map(|_| Body::full(body)))
    }
}

impl V2Refusal {
    /// For how long caches may keep it: what the address alone decides. Anything else is about one request and its headers.
    fn lifetime(&self, lifetimes: &RemoteSettings) -> Option<Duration> {
        match self {
            Self::Invalid(_) | Self::Superseded => Some(lifetimes.max_age),
            Self::Failed(Error::Invalid(invalid)) if invalid.is_of_query() => Some(lifetimes.max_age),
            Self::NoCollection(_) | Self::NotFound | Self::Failed(Error::NotFound) => {
                Some(lifetimes.short_max_age)
            }
            Self::MethodNotAllowed | Self::Failed(_) => None,
        }
    }
}

/// A text as JSON.
fn text(text: &str) -> String {
    json!(text).to_string()
}
