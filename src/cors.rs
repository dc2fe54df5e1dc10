//! Cross-origin headers, as Kinto gives them on its own answers.
//!
//! Follows `kinto.core.cornice.cors` and `kinto.core.utils.reapply_cors`: a service (a resource's endpoint) and a path
//! without one differ in how they list what they expose.

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, CONTENT_TYPE, ORIGIN,
};
use http::{HeaderMap, HeaderValue};

use crate::body::Body;
use crate::error::{Error, Response};
use crate::headers::insert_kinto_defaults;

/// What every service of Kinto exposes.
pub const EXPOSED_BY_ALL: [&str; 5] = ["Backoff", "Retry-After", "Alert", "Content-Length", "Content-Type"];

/// What a list of objects exposes beside that.
pub const EXPOSED_BY_LISTS: [&str; 6] =
    ["Next-Page", "Last-Modified", "ETag", "Cache-Control", "Expires", "Pragma"];

/// How long a browser may remember a preflight, in seconds: Kinto's `cors_max_age_seconds`.
const MAX_AGE_SECONDS: &str = "3600";

/// What one endpoint says to preflights and beside its answers.
#[derive(Debug, Clone, Copy)]
pub struct Service {
    /// The methods, in the order in which Kinto lists them.
    pub methods: &'static [&'static str],
    /// What it exposes beside [`EXPOSED_BY_ALL`].
    pub exposed: &'static [&'static str],
}

/// Adds what Kinto adds to an answer of a service.
pub fn allow(headers: &mut HeaderMap, service: &Service, origin: Option<&HeaderValue>, origins: &[String]) {
    if let Some(allowed) = origin.and_then(|origin| allowed_origin(origin, origins)) {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
    }
    let exposed = EXPOSED_BY_ALL.iter().chain(service.exposed).copied().collect::<Vec<_>>().join(", ");
    if let Ok(exposed) = HeaderValue::try_from(exposed) {
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
    }
}

/// Adds what Kinto adds to an error that no service is known for.
pub fn allow_error(headers: &mut HeaderMap, origin: Option<&HeaderValue>, origins: &[String]) {
    const EXPOSED: HeaderValue =
        HeaderValue::from_static("Backoff,Retry-After,Alert,Content-Length,Content-Type");
    if let Some(allowed) = origin.and_then(|origin| allowed_origin(origin, origins)) {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
    }
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
}

/// Answers a preflight (an `OPTIONS` request) for a service.
pub fn preflight(service: &Service, request: &HeaderMap, origins: &[String]) -> Result<Response, Error> {
    let mandatory = |name: &'static str| Error::InvalidParameter {
        location: "header",
        name: name.to_owned(),
        message: "this header is mandatory".to_owned(),
    };
    let method = request.get(ACCESS_CONTROL_REQUEST_METHOD);
    let method = method.ok_or_else(|| mandatory("Access-Control-Request-Method"))?;
    let origin = request.get(ORIGIN).ok_or_else(|| mandatory("Origin"))?;
    if !service.methods.iter().any(|known| known.as_bytes() == method.as_bytes()) {
        return Err(Error::InvalidParameter {
            location: "header",
            name: "Access-Control-Request-Method".to_owned(),
            message: "Method not allowed".to_owned(),
        });
    }
    let Some(allowed) = allowed_origin(origin, origins) else {
        return Err(Error::InvalidParameter {
            location: "header",
            name: "Origin".to_owned(),
            message: format!("{} not allowed", String::from_utf8_lossy(origin.as_bytes())),
        });
    };

    let mut response = Response::new(Body::from("null"));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    insert_kinto_defaults(headers);
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(MAX_AGE_SECONDS));
    if let Ok(methods) = HeaderValue::try_from(service.methods.join(",")) {
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, methods);
    }
    if let Ok(names) = HeaderValue::try_from(allowed_headers(service, request)) {
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, names);
    }
    Ok(response)
}

/// Kinto allows whatever is asked for, beside what it exposes.
fn allowed_headers(service: &Service, request: &HeaderMap) -> String {
    let asked = request
        .get_all(ACCESS_CONTROL_REQUEST_HEADERS)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim);
    let mut names: Vec<&str> = Vec::new();
    for name in EXPOSED_BY_ALL.iter().chain(service.exposed).copied().chain(asked) {
        if !name.is_empty() && !names.contains(&name) {
            names.push(name);
        }
    }
    names.join(",")
}

/// The value of `Access-Control-Allow-Origin`, if this origin is allowed: `*` where all are.
fn allowed_origin(origin: &HeaderValue, origins: &[String]) -> Option<HeaderValue> {
    if origins.iter().any(|allowed| allowed == "*") {
        return Some(HeaderValue::from_static("*"));
    }
    let text = origin.to_str().ok()?;
    origins.iter().any(|pattern| matches(pattern, text)).then(|| origin.clone())
}

/// Whether a text matches a pattern in which `*` stands for any characters.
fn matches(pattern: &str, text: &str) -> bool {
    let mut pieces = pattern.split('*');
    let Some(mut rest) = pieces.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let mut pieces = pieces.peekable();
    if pieces.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(piece) = pieces.next() {
        if pieces.peek().is_none() {
            return rest.ends_with(piece);
        }
        match rest.split_once(piece) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: Service = Service { methods: &["HEAD", "GET", "OPTIONS"], exposed: &EXPOSED_BY_LISTS };

    fn origins(origins: &[&str]) -> Vec<String> {
        origins.iter().map(|origin| (*origin).to_owned()).collect()
    }

    #[test]
    fn origins_are_allowed_by_pattern() {
        let origin = HeaderValue::from_static("https://a.example.com");
        let allowed = |patterns: &[&str]| allowed_origin(&origin, &origins(patterns));
        assert_eq!(allowed(&["*"]), Some(HeaderValue::from_static("*")));
        assert_eq!(allowed(&["https://*.example.com"]), Some(origin.clone()));
        assert_eq!(allowed(&["https://a.example.com"]), Some(origin.clone()));
        assert_eq!(allowed(&["https://*.example.org", "https://a.example"]), None);
    }

    #[test]
    fn without_an_origin_only_the_exposed_headers_are_told() {
        let mut headers = HeaderMap::new();
        allow(&mut headers, &LIST, None, &origins(&["*"]));
        assert!(!headers.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN));
        assert!(headers[ACCESS_CONTROL_EXPOSE_HEADERS].to_str().unwrap().contains("Next-Page"));
    }

    #[test]
    fn a_preflight_is_answered_as_asked() {
        let mut request = HeaderMap::new();
        assert!(preflight(&LIST, &request, &origins(&["*"])).is_err());
        request.insert(ORIGIN, HeaderValue::from_static("http://x.y"));
        request.insert(ACCESS_CONTROL_REQUEST_METHOD, HeaderValue::from_static("GET"));
        request.insert(ACCESS_CONTROL_REQUEST_HEADERS, HeaderValue::from_static("X-Foo, ETag"));
        let response = preflight(&LIST, &request, &origins(&["*"])).unwrap();
        assert_eq!(response.headers()[ACCESS_CONTROL_ALLOW_METHODS], "HEAD,GET,OPTIONS");
        assert_eq!(
            response.headers()[ACCESS_CONTROL_ALLOW_HEADERS],
            "Backoff,Retry-After,Alert,Content-Length,Content-Type,Next-Page,Last-Modified,ETag,Cache-Control,Expires,Pragma,X-Foo"
        );
        request.insert(ACCESS_CONTROL_REQUEST_METHOD, HeaderValue::from_static("PUT"));
        assert!(preflight(&LIST, &request, &origins(&["*"])).is_err());
    }
}
