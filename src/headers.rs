//! Headers that every answer of Kinto carries, and what a gateway does to the headers that pass through it.

use http::header::{CONTENT_SECURITY_POLICY, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, HeaderValue};

/// What Kinto puts on each of its answers, for those that are made here.
pub fn insert_kinto_defaults(headers: &mut HeaderMap) {
    const POLICY: HeaderValue =
        HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'; base-uri 'none';");
    headers.insert(CONTENT_SECURITY_POLICY, POLICY);
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
}
