//! What operators and their machines ask on `sidecar.admin_listen`:
//!
//! - `GET /metrics`: everything that is counted, for Prometheus
//! - `GET /health/live`: 200 while the process can answer at all
//! - `GET /health/ready`: 200 while requests can be answered, 503 while they cannot or the process stops, and in either case
//!   the whole [`Condition`]; with `?require=writes` 503 also while writes cannot be answered
//! - `GET /`, and what belongs to it: see [`page`]
//! - `GET /__lbheartbeat__`, `/__heartbeat__`, `/__version__`: the same for those who know Dockerflow

mod guard;
mod measured;
mod page;

use std::sync::Arc;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, StatusCode};
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::json;

use crate::app::App;
use crate::condition::Condition;
use crate::endpoints::dockerflow;
use crate::error::Error;
use crate::metrics;
use crate::settings::Settings;
use crate::upstream::Upstream;
use crate::wire::body::{Body, Response};

const JSON: &str = "application/json";

/// What the admin listener answers with.
#[derive(Clone)]
#[expect(missing_debug_implementations, reason = "the recorder's handle has none")]
pub struct Admin {
    app: Arc<App>,
    upstream: Upstream,
    recorder: PrometheusHandle,
    /// Whether only this machine reaches it.
    is_loopback: bool,
}

impl Admin {
    /// The answers for this process.
    pub fn new(app: Arc<App>, upstream: Upstream, recorder: PrometheusHandle, is_loopback: bool) -> Self {
        metrics::families::describe();
        metrics::process::begin();
        Self { app, upstream, recorder, is_loopback }
    }

    /// What its connections may take, as those of clients.
    pub fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.app.now().settings)
    }

    /// Answers one request.
    pub async fn answer<B>(&self, request: Request<B>) -> Response {
        let (request, _) = request.into_parts();
        // Boxed, as it is asked for seldom and is large.
        if let Some(answer) = Box::pin(page::answer(self, &request)).await {
            return answer;
        }
        if !matches!(request.method, Method::GET | Method::HEAD) {
            return Error::MethodNotAllowed { allow: "GET, HEAD" }.into_response();
        }
        match request.uri.path() {
            "/metrics" => {
                self.measure();
                let journal = self.app.history.size().await.map(metrics::journal::render_size);
                let counted = metrics::render() + &journal.unwrap_or_default() + &self.recorder.render();
                let app = self.app.now();
                let tells_names = guard::tells_names(&request.headers, app.settings.admin_token.as_ref());
                let text = measured::render(&app, tells_names) + &counted;
                respond(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text)
            }
            "/health/live" => respond(StatusCode::OK, JSON, "{\"live\":true}"),
            "/health/ready" => self.readiness(request.uri.query()).await,
            "/__lbheartbeat__" => respond(StatusCode::OK, JSON, "{}"),
            "/__heartbeat__" => self.heartbeat().await,
            "/__version__" => respond(StatusCode::OK, JSON, dockerflow::version().to_string()),
            _ => Error::NotFound.into_response(),
        }
    }

    /// What is measured when it is asked for.
    fn measure(&self) {
        let lacking = self.app.poller.lacking();
        for (name, number) in [
            ("kinto_sidecar_mirror_bytes", self.app.mirrors.bytes()),
            ("kinto_sidecar_clocks", self.app.timeline.places() as u64),
            ("kinto_sidecar_unreadable", lacking.unreadable.len() as u64),
            ("kinto_sidecar_missing", lacking.missing.len() as u64),
        ] {
            #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
            ::metrics::gauge!(name).set(number as f64);
        }
        if let Some(ahead) = self.upstream.clock_ahead() {
            ::metrics::gauge!("kinto_sidecar_clock_ahead_seconds").set(ahead);
        }
        if let Some(age) = self.app.poller.age() {
            ::metrics::gauge!("kinto_sidecar_timestamps_age_seconds").set(age.as_secs_f64());
        }
    }

    async fn readiness(&self, query: Option<&str>) -> Response {
        let condition = Condition::of(&self.app.now(), &self.upstream).await;
        let requires_writes = form_urlencoded::parse(query.unwrap_or_default().as_bytes())
            .any(|pair| pair == ("require".into(), "writes".into()));
        let is_enough = condition.ready && (condition.writes || !requires_writes);
        // Booleans, numbers and strings always serialize.
        respond(enough(is_enough), JSON, serde_json::to_vec(&condition).unwrap_or_default())
    }

    /// Dockerflow: each thing that is needed, and whether it is there.
    async fn heartbeat(&self) -> Response {
        let condition = Condition::of(&self.app.now(), &self.upstream).await;
        let is_good = condition.upstream && condition.journal != Some(false);
        let parts = json!({"upstream": condition.upstream, "journal": condition.journal.unwrap_or(true)});
        respond(enough(is_good), JSON, parts.to_string())
    }
}

fn enough(is_enough: bool) -> StatusCode {
    if is_enough { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

fn respond(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response {
    let mut response = Response::new(Body::full(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
