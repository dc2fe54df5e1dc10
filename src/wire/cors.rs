//! Cross-origin requests from browsers, as Kinto (`kinto.core.cornice.cors`) lets them through.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, CONTENT_TYPE, HeaderMap, HeaderValue,
    ORIGIN,
};

use crate::query::{Fault, Invalid, wildcard};
use crate::wire::body::{Body, Response};
use crate::wire::{cache_control, headers, vary};

/// Which headers of an answer scripts may read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exposed {
    /// Those of a list of objects.
    List,
    /// Those of a changeset: the plugin's, and the `ETag` and `Last-Modified` that the sidecar adds.
    Changeset,
    /// Those of a feed: as of a changeset, and what those who share a long poll go on with.
    Feed,
    /// Those of a snapshot: the plugin's, and `Snapshot-Incomplete`.
    Snapshot,
    /// Those of anything else.
    Plain,
}

const MAX_AGE_SECONDS: HeaderValue = HeaderValue::from_static("3600");

impl Exposed {
    fn names(self) -> &'static str {
        match self {
            Self::List => {
                "Alert, Backoff, Cache-Control, Content-Length, Content-Type, ETag, Expires, Last-Modified, Next-Page, \
                 Pragma, Retry-After"
            }
            Self::Changeset => {
                "Alert, Backoff, Cache-Control, Content-Length, Content-Type, ETag, Expires, Last-Modified, Retry-After"
            }
            Self::Feed => {
                "Alert, Backoff, Cache-Control, Content-Length, Content-Type, Cursor, ETag, Expires, Last-Modified, Last-Seq, \
                 Retry-After"
            }
            Self::Snapshot => {
                "Alert, Backoff, Content-Length, Content-Type, Retry-After, Snapshot-Incomplete"
            }
            Self::Plain => "Alert, Backoff, Content-Length, Content-Type, Retry-After",
        }
    }
}

/// Adds the headers without which a browser lets no script read an answer.
pub fn finish(response: &mut HeaderMap, origin: Option<&HeaderValue>, exposed: Exposed, origins: &[String]) {
    response.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(exposed.names()));
    allow_origin(response, origin, origins);
}

/// Lets a browser send the credentials that it has for this server, where the answer names the origin that asked: PouchDB asks
/// for nothing without them.
pub fn allow_credentials(response: &mut HeaderMap) {
    // SECURITY: `null` is the origin of whoever hides theirs.
    let is_named = |origin: &HeaderValue| !matches!(origin.as_bytes(), b"*" | b"null");
    if response.get(ACCESS_CONTROL_ALLOW_ORIGIN).is_some_and(is_named) {
        response.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
}

/// Adds what Kinto adds to an error at a path that no service of its own is known for.
pub fn allow_error(headers: &mut HeaderMap, origin: Option<&HeaderValue>, origins: &[String]) {
    // Kinto: without spaces there, and in another order.
    const EXPOSED: HeaderValue =
        HeaderValue::from_static("Backoff,Retry-After,Alert,Content-Length,Content-Type");
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    allow_origin(headers, origin, origins);
}

/// Refuses a request from a page of an origin that the operator does not allow.
pub fn check_origin(request: &HeaderMap, origins: &[String]) -> Result<(), Invalid> {
    match request.get(ORIGIN).filter(|origin| !origin.is_empty()) {
        Some(origin) if !is_allowed(origin, origins) => {
            let description = format!("{} not allowed", String::from_utf8_lossy(origin.as_bytes()));
            Err(Invalid::faults(vec![Fault::new("header", "Origin", description)]))
        }
        _ => Ok(()),
    }
}

/// Answers the question that a browser asks before a request: an `OPTIONS`. `methods` are those that are allowed, as `Allow`
/// has them; the origin is left to [`finish`].
pub fn preflight(
    request: &HeaderMap,
    methods: &'static str,
    exposed: Exposed,
    origins: &[String],
) -> Result<Response, Invalid> {
    let mut faults = Vec::new();
    let origin = request.get(ORIGIN).filter(|origin| !origin.is_empty());
    if origin.is_none() {
        faults.push(Fault::new("header", "Origin", "this header is mandatory"));
    }
    let method = request.get(ACCESS_CONTROL_REQUEST_METHOD).filter(|method| !method.is_empty());
    match method {
        None => {
            faults.push(Fault::new("header", "Access-Control-Request-Method", "this header is mandatory"));
        }
        Some(method)
            if !faults.is_empty() || methods.split(", ").any(|name| name.as_bytes() == method.as_bytes()) => {
        }
        Some(_) => faults.push(Fault::new("header", "Access-Control-Request-Method", "Method not allowed")),
    }
    if !faults.is_empty() {
        return Err(Invalid::faults(faults));
    }
    check_origin(request, origins)?;
    let mut response = Response::new(Body::full("null"));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Ok(methods) = HeaderValue::try_from(methods.replace(' ', "")) {
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, methods);
    }
    headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE_SECONDS);
    let mut names: Vec<&str> = exposed.names().split(", ").collect();
    let requested = request.get(ACCESS_CONTROL_REQUEST_HEADERS).and_then(|names| names.to_str().ok());
    for name in requested.unwrap_or_default().split(',').map(str::trim).filter(|name| !name.is_empty()) {
        if !names.iter().any(|known| known.eq_ignore_ascii_case(name)) {
            names.push(name);
        }
    }
    if let Ok(names) = HeaderValue::try_from(names.join(",")) {
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, names);
    }
    headers::insert_kinto_defaults(headers);
    Ok(response)
}

fn allow_origin(response: &mut HeaderMap, origin: Option<&HeaderValue>, origins: &[String]) {
    let origin = origin.filter(|origin| !origin.is_empty());
    if origins.iter().any(|allowed| allowed == "*") {
        // SECURITY: else what is kept of an answer to somebody who is on no page would keep pages from reading it.
        if origin.is_some() || cache_control::is_for_caches(response) {
            response.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        }
        return;
    }
    // The answer names the origin that asked: a shared cache has to tell them apart.
    vary::by(response, "Origin");
    if let Some(origin) = origin.filter(|origin| is_allowed(origin, origins)) {
        response.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    }
}

fn is_allowed(origin: &HeaderValue, origins: &[String]) -> bool {
    origins.iter().any(|allowed| allowed == "*")
        || origin.to_str().is_ok_and(|origin| origins.iter().any(|allowed| wildcard(origin, allowed)))
}

#[cfg(test)]
mod tests {
    use http::header::VARY;

    use super::*;

    fn request(headers: &[(&'static str, &'static str)]) -> HeaderMap {
        headers.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn origins_are_told_apart_where_not_all_are_allowed() {
        let origins = vec!["https://*.example.org".to_owned()];
        let allowed = request(&[("origin", "https://a.example.org")]);
        let mut response = HeaderMap::new();
        finish(&mut response, allowed.get(ORIGIN), Exposed::Plain, &origins);
        assert_eq!(response[ACCESS_CONTROL_ALLOW_ORIGIN], "https://a.example.org");
        assert_eq!(response[VARY], "Origin");
        allow_credentials(&mut response);
        assert_eq!(response[ACCESS_CONTROL_ALLOW_CREDENTIALS], "true");
        for (origin, origins) in [("https://a.example.org", "*"), ("null", "nul?")] {
            let mut response = HeaderMap::new();
            let origin = HeaderValue::from_static(origin);
            finish(&mut response, Some(&origin), Exposed::Plain, &[origins.to_owned()]);
            allow_credentials(&mut response);
            assert!(!response.contains_key(ACCESS_CONTROL_ALLOW_CREDENTIALS), "{origin:?}");
        }
        let other = request(&[("origin", "https://example.com")]);
        assert_eq!(
            check_origin(&other, &origins).unwrap_err().message(),
            "Origin in header: https://example.com not allowed"
        );
    }
}
