//! What operators and their machines ask on `sidecar.admin_listen`:
//!
//! - `GET /metrics`: everything that is counted, for Prometheus
//! - `GET /health/live`: 200 while the process can answer at all
//! - `GET /health/ready`: 200 while requests can be answered, 503 while the upstream cannot or the process stops

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use metrics_exporter_prometheus::PrometheusHandle;

use crate::app::App;
use crate::error::Error;
use crate::metrics;
use crate::phase::Phase;
use crate::settings::Limits;
use crate::upstream::Upstream;
use crate::wire::body::{Body, Response};

/// How long the upstream may take to show that it is there.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the admin listener answers with.
#[derive(Clone)]
#[expect(missing_debug_implementations, reason = "the recorder's handle has none")]
pub struct Admin {
    app: Arc<App>,
    upstream: Upstream,
    recorder: PrometheusHandle,
}

impl Admin {
    /// The answers for this process.
    pub fn new(app: Arc<App>, upstream: Upstream, recorder: PrometheusHandle) -> Self {
        Self { app, upstream, recorder }
    }

    /// What its connections may take, as those of clients.
    pub fn limits(&self) -> &Limits {
        &self.app.settings.limits
    }

    /// Answers one request.
    pub async fn answer<B>(&self, request: Request<B>) -> Response {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return Error::MethodNotAllowed { allow: "GET, HEAD" }.into_response();
        }
        match request.uri().path() {
            "/metrics" => {
                self.measure();
                let journal = self.app.history.size().await.map(metrics::journal::render_size);
                let text = metrics::render() + &journal.unwrap_or_default() + &self.recorder.render();
                respond(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text)
            }
            "/health/live" => respond(StatusCode::OK, "application/json", "{\"live\":true}"),
            "/health/ready" => self.readiness().await,
            _ => Error::NotFound.into_response(),
        }
    }

    /// What is measured when it is asked for.
    fn measure(&self) {
        let mirrors = &self.app.mirrors;
        #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
        let bytes = mirrors.bytes() as f64;
        ::metrics::gauge!("kinto_sidecar_mirror_bytes").set(bytes);
        #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
        let clocks = self.app.timeline.places() as f64;
        ::metrics::gauge!("kinto_sidecar_clocks").set(clocks);
        if let Some(age) = self.app.poller.age() {
            ::metrics::gauge!("kinto_sidecar_timestamps_age_seconds").set(age.as_secs_f64());
        }
    }

    async fn readiness(&self) -> Response {
        if *self.app.phase.borrow() > Phase::Serving {
            return respond(
                StatusCode::SERVICE_UNAVAILABLE,
                "application/json",
                "{\"ready\":false,\"stopping\":true}",
            );
        }
        let question = self.upstream.ask(Method::GET, "/__lbheartbeat__", HeaderMap::new(), Bytes::new());
        let is_there = match tokio::time::timeout(PATIENCE, question).await {
            Ok(Ok(answer)) => !answer.status().is_server_error(),
            Ok(Err(_)) | Err(_) => false,
        };
        if is_there {
            respond(StatusCode::OK, "application/json", "{\"ready\":true,\"upstream\":true}")
        } else {
            respond(
                StatusCode::SERVICE_UNAVAILABLE,
                "application/json",
                "{\"ready\":false,\"upstream\":false}",
            )
        }
    }
}

fn respond(status: StatusCode, content_type: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
