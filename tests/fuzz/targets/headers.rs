//! Headers of a request, a line each: content codings, conditions, CORS, credentials, ids, and what belongs to one
//! connection.

#![no_main]

use http::header::{
    ACCEPT_ENCODING, ACCESS_CONTROL_ALLOW_ORIGIN, AUTHORIZATION, CONNECTION, COOKIE, IF_MATCH, IF_NONE_MATCH,
    ORIGIN, TRANSFER_ENCODING,
};
use http::{HeaderMap, HeaderName, HeaderValue};
use kinto_sidecar::access::Credentials;
use kinto_sidecar::wire::compression::{self, Encoding};
use kinto_sidecar::wire::cors::{self, Exposed};
use kinto_sidecar::endpoints::list::{self, PreconditionOutcome, Preconditions};
use kinto_sidecar::wire::headers::strip_hop_by_hop;
use kinto_sidecar::kinto::Timestamp;
use kinto_sidecar::wire::request_id::{self, X_REQUEST_ID};
use kinto_sidecar::wire::tagged::Coded;
use libfuzzer_sys::fuzz_target;

const NOW: Timestamp = Timestamp(42);

fuzz_target!(|input: &[u8]| {
    let headers: HeaderMap = input.split(|byte| *byte == b'\n').filter_map(header).collect();
    negotiated(&headers);
    conditions(&headers);
    origins(&headers);
    credentials(&headers);
    id(headers.clone());
    stripped(headers.clone());
    let _ = list::check_accept(&headers);
    for value in headers.values() {
        if let Some(timestamp) = Timestamp::from_etag(value) {
            assert_eq!(Timestamp::from_etag(&timestamp.etag()), Some(timestamp));
            assert!(HeaderValue::try_from(timestamp.http_date()).is_ok());
        }
    }
});

fn header(line: &[u8]) -> Option<(HeaderName, HeaderValue)> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let (name, value) = line.split_at_checked(colon)?;
    Some((HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value.get(1..)?.trim_ascii()).ok()?))
}

/// All values of a header as one text, in lower case.
fn text(headers: &HeaderMap, name: &HeaderName) -> String {
    let values = headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
    values.collect::<Vec<_>>().join(",").to_ascii_lowercase()
}

/// No coding is sent to a client that did not name it.
fn negotiated(headers: &HeaderMap) {
    let encoding = compression::accepted(headers);
    let named = text(headers, &ACCEPT_ENCODING);
    assert!(
        encoding == Encoding::Identity || named.contains(encoding.token()) || named.contains('*'),
        "{named}"
    );
}

/// A condition that is not there does not fail, and nobody is told that they have what they do not name.
fn conditions(headers: &HeaderMap) {
    let (known, wanted) = (text(headers, &IF_NONE_MATCH), text(headers, &IF_MATCH));
    match Coded::known(headers, "42-ab", Encoding::Identity) {
        Ok(Some(_)) => assert!(known.contains("\"42-ab"), "{known}"),
        Ok(None) => {}
        Err(_) => assert!(headers.contains_key(IF_MATCH)),
    }
    let mut faults = Vec::new();
    let preconditions = Preconditions::read(headers, &mut faults);
    match preconditions.verdict(NOW) {
        _ if !faults.is_empty() => {}
        PreconditionOutcome::NotModified => assert!(known.contains("42\""), "{known}"),
        PreconditionOutcome::Failed => assert!(known.contains('*') || !wanted.is_empty(), "{known} {wanted}"),
        PreconditionOutcome::Proceed => {}
    }
    if preconditions.is_none() {
        assert!(preconditions.allow_deletion(NOW) && preconditions.verdict(NOW) == PreconditionOutcome::Proceed);
    }
}

/// Only an origin that the operator allows is let in.
fn origins(headers: &HeaderMap) {
    let allowed = ["https://a.example".to_owned(), "https://*.b.example".to_owned()];
    let origin = headers.get(ORIGIN);
    let is_refused = cors::check_origin(headers, &allowed).is_err();
    let mut answer = HeaderMap::new();
    cors::finish(&mut answer, origin, Exposed::List, &allowed);
    if let Some(named) = answer.get(ACCESS_CONTROL_ALLOW_ORIGIN) {
        assert_eq!(Some(named), origin);
        let is_allowed = named == "https://a.example"
            || (named.as_bytes().starts_with(b"https://") && named.as_bytes().ends_with(b".b.example"));
        assert!(is_allowed && !is_refused, "{named:?}");
    }
    if let Ok(answer) = cors::preflight(headers, "GET,HEAD,OPTIONS", Exposed::List, &allowed) {
        assert!(!is_refused && origin.is_some());
        assert_eq!(answer.headers().get(ACCESS_CONTROL_ALLOW_ORIGIN), origin);
    }
}

/// Whoever sends the same is the same, and whoever sends more is somebody else.
fn credentials(headers: &HeaderMap) {
    let these = Credentials::of(headers);
    assert_eq!(these, Credentials::of(&these.headers()));
    assert!(these.headers().keys().all(|name| name == AUTHORIZATION || name == COOKIE));
    let mut more = headers.clone();
    more.append(COOKIE, HeaderValue::from_static("x"));
    assert_ne!(these, Credentials::of(&more));
}

fn id(mut headers: HeaderMap) {
    let id = request_id::take_or_make(&mut headers);
    assert!((1..=128).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic), "{id:?}");
    assert!(headers.get_all(X_REQUEST_ID).iter().eq([&id]));
    assert_eq!(request_id::take_or_make(&mut headers), id);
}

/// What belongs to one connection is gone, and what a request means is there, whatever `Connection` names.
fn stripped(mut headers: HeaderMap) {
    let before = headers.clone();
    let found = strip_hop_by_hop(&mut headers);
    assert_eq!(found.is_chunked, before.contains_key(TRANSFER_ENCODING));
    for name in ["te", "transfer-encoding", "upgrade", "keep-alive", "proxy-connection", "http2-settings"] {
        assert!(!headers.contains_key(name), "{name}");
    }
    assert!(!headers.contains_key(CONNECTION));
    for name in
        ["authorization", "cookie", "host", "if-match", "if-none-match", "content-type", "x-forwarded-for"]
    {
        assert!(headers.get_all(name).iter().eq(before.get_all(name)), "{name}");
    }
    let once = headers.clone();
    assert_eq!(strip_hop_by_hop(&mut headers), Default::default());
    assert_eq!(headers, once);
}
