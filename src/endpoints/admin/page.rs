//! `GET /`: a page for people. What it shows comes from `GET /page/state` and `GET /page/changes`, and what it does goes to
//! `POST /purge`.
//!
//! SECURITY: the page itself says nothing, so it needs no token. It runs its own script and no other (`script-src` by
//! digest), and puts all text into the document as text.

use std::sync::LazyLock;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode};
use serde_json::json;
use sha2::{Digest, Sha256};

mod state;
mod tail;

use super::guard::{self, Wish};
use super::{Admin, JSON, respond};
use crate::error::Error;
use crate::kinto::CollectionKey;
use crate::wire::body::Response;

const PAGE: &str = include_str!("page/page.html");

static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let policy = format!(
        "default-src 'none'; script-src {}; style-src {}; connect-src 'self'; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
        source_of("script"),
        source_of("style")
    );
    HeaderValue::try_from(policy).unwrap_or(HeaderValue::from_static("default-src 'none'"))
});

/// Answers what the page is made of, where it is that.
pub(super) async fn answer(admin: &Admin, request: &Parts) -> Option<Response> {
    let (wish, method) = match request.uri.path() {
        "/" => return Some(page()),
        "/page/state" | "/page/changes" => (Wish::Look, Method::GET),
        "/purge" => (Wish::Change, Method::POST),
        _ => return None,
    };
    if request.method != method {
        let allow = if method == Method::GET { "GET" } else { "POST" };
        return Some(Error::MethodNotAllowed { allow }.into_response());
    }
    let token = admin.app.settings.admin_token.as_ref();
    if let Err((status, reason)) = guard::check(wish, &request.headers, admin.is_loopback, token) {
        return Some(respond(status, JSON, json!({"error": reason}).to_string()));
    }
    let key = collection(request.uri.query());
    let mut response = match (request.uri.path(), key) {
        ("/page/state", _) => {
            respond(StatusCode::OK, JSON, state::of(&admin.app.now(), &admin.upstream).await.to_string())
        }
        (_, None) => respond(
            StatusCode::BAD_REQUEST,
            JSON,
            json!({"error": "this needs ?bucket=…&collection=… of a collection that is known"}).to_string(),
        ),
        ("/purge", Some(key)) => purge(admin, &key).await,
        (_, Some(key)) => tail::answer(&admin.app, key),
    };
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Some(response)
}

/// Drops what is kept of a collection, here and in the caches in front.
async fn purge(admin: &Admin, key: &CollectionKey) -> Response {
    let bytes = admin.app.mirrors.forget(key).await;
    admin.app.timeline.touched(key);
    tracing::info!(collection = %key, bytes, "an operator dropped the copies of {key}");
    respond(StatusCode::OK, JSON, json!({"dropped": bytes}).to_string())
}

/// The collection that a query names.
fn collection(query: Option<&str>) -> Option<CollectionKey> {
    let value = |wanted: &str| {
        let mut pairs = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
        pairs.find(|(name, value)| name == wanted && !value.is_empty()).map(|(_, value)| value)
    };
    Some(CollectionKey::new(&value("bucket")?, &value("collection")?))
}

fn page() -> Response {
    let mut response = respond(StatusCode::OK, "text/html; charset=utf-8", PAGE);
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, POLICY.clone());
    for (name, value) in
        [(CACHE_CONTROL, "no-cache"), (REFERRER_POLICY, "no-referrer"), (X_CONTENT_TYPE_OPTIONS, "nosniff")]
    {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// The source of a policy that is the page's one element of this name.
fn source_of(element: &str) -> String {
    let text = PAGE
        .split_once(&format!("<{element}>"))
        .and_then(|(_, rest)| rest.split_once(&format!("</{element}>")))
        .map_or("", |(text, _)| text);
    format!("'sha256-{}'", BASE64_STANDARD.encode(Sha256::digest(text)))
}
