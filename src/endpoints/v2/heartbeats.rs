//! Dockerflow's three of `/v2`, as its `FastAPI` router answers them.

use std::collections::BTreeMap;

use http::StatusCode;
use http::header::{CACHE_CONTROL, HeaderValue};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::app::Core;
use crate::condition::Condition;
use crate::endpoints::{dockerflow, list};
use crate::wire::body::{Body, Response};

/// What `__heartbeat__` says; the members stand as Dockerflow has them.
#[derive(Serialize)]
struct Heartbeat {
    status: &'static str,
    checks: Map<String, Value>,
    details: BTreeMap<String, Detail>,
}

#[derive(Serialize)]
struct Detail {
    status: &'static str,
    level: u8,
    messages: Value,
}

/// `__lbheartbeat__`: the process answers.
pub(super) fn load_balancer() -> Response {
    unkept(StatusCode::OK, &json!({"status": "ok"}))
}

/// `__heartbeat__`: each thing that is needed, and whether it is there.
pub(super) async fn heartbeat(core: &Core) -> Response {
    let condition = Condition::of(&core.app, &core.upstream).await;
    let parts =
        [("upstream", condition.upstream, "0001"), ("journal", condition.journal != Some(false), "0002")];
    let word = |is_good: bool| if is_good { "ok" } else { "error" };
    let checks: Map<String, Value> =
        parts.iter().map(|(name, is_good, _)| ((*name).to_owned(), word(*is_good).into())).collect();
    // What exactly is wrong is for the operator's eyes: /health/ready says it.
    let details: BTreeMap<String, Detail> = parts
        .iter()
        .filter(|(_, is_good, _)| !is_good)
        .map(|(name, _, number)| {
            let id = format!("kinto-sidecar.health.{number}");
            let messages = json!({id: format!("the {name} does not answer")});
            ((*name).to_owned(), Detail { status: "error", level: 40, messages })
        })
        .collect();
    let is_good = details.is_empty();
    let status = if is_good { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR };
    unkept(status, &Heartbeat { status: word(is_good), checks, details })
}

/// `__version__`: what this is.
pub(super) fn version() -> Response {
    unkept(StatusCode::OK, &dockerflow::version())
}

fn unkept(status: StatusCode, body: &impl Serialize) -> Response {
    // Texts and numbers always serialize.
    let body = serde_json::to_string(body).unwrap_or_default();
    let mut response = list::json(Body::full(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
