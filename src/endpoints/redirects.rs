//! Where a request to the monitor endpoints is sent instead of being answered. None of this asks the upstream.
//!
//! Old and stale parameters make many different URLs of what could be one, and a CDN would have to keep them all:
//! - an old `_since` is redirected to the same without it;
//! - in remote-settings' way, an `_expected` between quotes is redirected to the same without quotes, and one
//!   below `_since` gets an empty 204.
//!
//! Follows `_handle_old_since_redirect` of kinto-changes 4.1.2, and what remote-settings made of it.

use std::time::{Duration, SystemTime};

use http::header::{CONTENT_TYPE, HeaderValue, LOCATION};
use http::request::Parts;
use http::{HeaderMap, StatusCode};

use crate::kinto::{DAY, Timestamp};
use crate::query::{decode, pairs, pieces};
use crate::settings::{Compat, Settings};
use crate::wire::body::{Body, Response};
use crate::wire::cache_control;
use crate::wire::headers;

/// The answer to an `_expected` that is older than `_since`, where remote-settings is followed.
pub(super) fn stale(
    expected: Option<Timestamp>,
    since: Option<Timestamp>,
    settings: &Settings,
    now: Timestamp,
) -> Option<Response> {
    let (expected, since) = (expected?, since?);
    if settings.compat != Compat::RemoteSettings || expected == Timestamp::ZERO || expected >= since {
        return None;
    }
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    headers::insert_kinto_defaults(response.headers_mut());
    keep_for_a_while(response.headers_mut(), settings, now);
    Some(response)
}

/// The redirect of a `_since` that is too old to be of use.
pub(super) fn old_since(
    since: Option<Timestamp>,
    request: &Parts,
    settings: &Settings,
    now: Timestamp,
) -> Option<Response> {
    let days = u32::try_from(settings.changes.since_max_age_days).ok()?;
    let oldest = now.back(DAY.saturating_mul(days));
    if since? >= oldest {
        return None;
    }
    let query = rewrite(request.uri.query().unwrap_or_default(), "_since", |_| None);
    Some(redirect(request, &query, settings, now))
}

/// The redirect of an `_expected` with quotes, at either side or wherever, where remote-settings is followed.
pub(super) fn quoted_expected(
    expected: &str,
    request: &Parts,
    settings: &Settings,
    now: Timestamp,
) -> Option<Response> {
    if settings.compat != Compat::RemoteSettings || !expected.contains('"') {
        return None;
    }
    let query = rewrite(request.uri.query().unwrap_or_default(), "_expected", |value| {
        let value = value.replace("%22", "").replace('"', "");
        Some(format!("_expected={value}"))
    });
    Some(redirect(request, &query, settings, now))
}

/// A query with each pair of this name replaced or left out; the others as they came.
fn rewrite(query: &str, name: &str, replace: impl Fn(&str) -> Option<String>) -> String {
    let kept = pairs(query).zip(pieces(query)).filter_map(|((key, value), piece)| {
        if decode(key).as_deref() == Some(name) { replace(value) } else { Some(piece.to_owned()) }
    });
    kept.collect::<Vec<_>>().join("&")
}

fn redirect(request: &Parts, query: &str, settings: &Settings, now: Timestamp) -> Response {
    let host = settings.changes.http_host.as_deref().or(settings.kinto.http_host.as_deref());
    let base = match host.filter(|host| !host.is_empty()) {
        Some(host) => format!("{}://{host}", settings.kinto.http_scheme.as_deref().unwrap_or("https")),
        // SECURITY: the answer may be kept for a day, and `Host` is whatever its requester wrote.
        None => String::new(),
    };
    let mark = if query.is_empty() { "" } else { "?" };
    let location = format!("{base}{}{mark}{query}", request.uri.path());
    let text = format!(
        "307 Temporary Redirect\n\nThe resource has been moved to {location}; you should be redirected \
         automatically.\n\n"
    );
    let mut response = Response::new(Body::full(text));
    *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=UTF-8"));
    if let Ok(location) = HeaderValue::try_from(location) {
        headers.insert(LOCATION, location);
    }
    headers::insert_kinto_defaults(headers);
    keep_for_a_while(headers, settings, now);
    response
}

fn keep_for_a_while(headers: &mut HeaderMap, settings: &Settings, now: Timestamp) {
    let seconds = settings.changes.since_max_age_redirect_ttl_seconds;
    if seconds >= 0 {
        cache_control::allow(headers, seconds, SystemTime::UNIX_EPOCH + Duration::from_millis(now.0));
    }
}
