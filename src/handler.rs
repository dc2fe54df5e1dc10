//! The life of a request, from top to bottom.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use http::header::ORIGIN;
use http::{HeaderValue, Method, Request, Uri};
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::app::App;
use crate::body::Body;
use crate::cors;
use crate::error::{Error, Response};
use crate::forward;
use crate::headers::insert_retry_after;
use crate::metrics::{self, CacheOutcome};
use crate::request_id;
use crate::server::{Peer, request_body};
use crate::upstream::Upstream;

/// What one thread answers with.
#[derive(Debug)]
pub struct Core {
    /// What all threads share.
    pub app: Arc<App>,
    /// This thread's own connections to the upstream.
    pub upstream: Upstream,
}

/// Answers a request. It never fails: what goes wrong becomes Kinto's error body.
pub async fn handle(core: &Core, mut request: Request<Incoming>, peer: &Peer) -> Response {
    let begun = Instant::now();
    let request_id = request_id::take_or_make(request.headers_mut());
    let origin = request.headers().get(ORIGIN).cloned();
    let endpoint = "forward";
    let line = LogLine::begin(&request, request_id);

    let answered = AssertUnwindSafe(answer(core, request, peer)).catch_unwind().await;
    let response = answered
        .unwrap_or_else(|_panic| Err(Error::Internal("a panic".into())))
        .unwrap_or_else(|error| fail(core, error, origin.as_ref()));

    let elapsed = begun.elapsed();
    metrics::count_request(endpoint, response.status(), CacheOutcome::None, elapsed);
    if let Some(line) = line {
        line.end(endpoint, &response, elapsed);
    }
    response
}

async fn answer(core: &Core, request: Request<Incoming>, peer: &Peer) -> Result<Response, Error> {
    let (parts, incoming) = request.into_parts();
    let body: Body = request_body::limited(incoming, &core.app.settings.limits)?;
    forward::stream(core, Request::from_parts(parts, body), peer).await
}

/// The answer to a request that failed, told to the log once.
fn fail(core: &Core, error: Error, origin: Option<&HeaderValue>) -> Response {
    match &error {
        Error::Internal(cause) => tracing::error!(%cause, "a request failed"),
        Error::Upstream(cause) => tracing::warn!(%cause, "the upstream did not answer"),
        _ => {}
    }
    let kinto = &core.app.settings.kinto;
    let mut response = error.into_response();
    let status = response.status();
    insert_retry_after(response.headers_mut(), status, kinto.retry_after_seconds);
    cors::allow_error(response.headers_mut(), origin, &kinto.cors_origins);
    response
}

/// What the access log says of a request.
struct LogLine {
    method: Method,
    uri: Uri,
    request_id: HeaderValue,
}

impl LogLine {
    /// `None` where nobody reads it.
    fn begin(request: &Request<Incoming>, request_id: HeaderValue) -> Option<Self> {
        tracing::enabled!(target: "kinto_sidecar::access", tracing::Level::INFO).then(|| Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            request_id,
        })
    }

    fn end(self, endpoint: &str, response: &Response, elapsed: Duration) {
        let time_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        tracing::info!(
            target: "kinto_sidecar::access",
            method = %self.method,
            // SECURITY: without the query, which may hold what nobody else should know.
            path = self.uri.path(),
            status = response.status().as_u16(),
            time_ms,
            endpoint,
            request_id = self.request_id.to_str().unwrap_or_default(),
            "answered"
        );
    }
}
