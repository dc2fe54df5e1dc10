//! Turns a client's request into the one that the upstream gets.
//!
//! The target is passed on to the byte. `Host` stays what the client asked for ([`crate::wire::host`]), so that Kinto's `Next-Page` and redirects
//! name the address that the client used. Who asked stands in `Forwarded` and `X-Forwarded-*`: what a client says there
//! itself counts only if it comes from `sidecar.trusted_proxies`.

use http::header::{CONNECTION, COOKIE, FORWARDED, HOST, TE, TRANSFER_ENCODING};
use http::uri::{PathAndQuery, Uri};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version, request};

use crate::error::Error;
use crate::wire::headers::{keys_that, settle_length, strip_hop_by_hop};
use crate::wire::peer::Peer;
use crate::wire::via;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Rewrites the head of a request for the upstream, whose paths begin with `path_prefix`.
pub(super) fn prepare(parts: &mut request::Parts, path_prefix: &str, peer: &Peer) -> Result<(), Error> {
    let version = parts.version;
    parts.uri = target(parts, path_prefix)?;
    parts.version = Version::HTTP_11;
    parts.extensions.clear();

    let headers = &mut parts.headers;
    let hop_by_hop = strip_hop_by_hop(headers);
    settle_length(headers);
    strip(headers, peer);
    join_cookies(headers);
    if hop_by_hop.takes_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }
    if hop_by_hop.is_chunked && matches!(parts.method, Method::GET | Method::HEAD) {
        // These have a body only if they say so.
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    let host = headers.get(HOST).cloned();
    tell_who_asked(headers, host.as_ref(), peer);
    via::tell(headers, version);
    Ok(())
}

fn target(parts: &mut request::Parts, path_prefix: &str) -> Result<Uri, Error> {
    let is_origin_form = parts.uri.authority().is_none() && parts.uri.scheme().is_none();
    if path_prefix.is_empty() && is_origin_form {
        return Ok(std::mem::take(&mut parts.uri));
    }
    let target = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    if path_prefix.is_empty() || target == "*" {
        return Uri::try_from(target).map_err(|_| Error::BadRequest("the target is malformed"));
    }
    // A target of the absolute form may be a query only: `http://host?query`.
    let slash = if target.starts_with('/') { "" } else { "/" };
    Uri::try_from(format!("{path_prefix}{slash}{target}"))
        .map_err(|_| Error::BadRequest("the target is malformed"))
}

/// Takes off what the upstream is not told.
fn strip(headers: &mut HeaderMap, peer: &Peer) {
    let is_untold = |name: &str| {
        // The client is told to go on by its own connection, when its body is wanted.
        name == "expect" || looks_alike(name) || (!peer.is_trusted && is_claim(name))
    };
    for name in keys_that(headers, is_untold) {
        headers.remove(name);
    }
}

/// SECURITY: WSGI makes one name of `Content-Length` and `Content_Length`. waitress and gunicorn drop what has a `_`, as
/// nginx does; uWSGI takes it for the header that it looks like.
fn looks_alike(name: &str) -> bool {
    name.as_bytes().contains(&b'_')
}

/// SECURITY: what a client may not claim about itself.
fn is_claim(name: &str) -> bool {
    matches!(name, "forwarded" | "x-real-ip") || name.starts_with("x-forwarded-")
}

/// RFC 9113 §8.2.3: HTTP/2 may send the parts of a cookie on their own, HTTP/1.1 may not.
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).iter().nth(1).is_none() {
        return;
    }
    let parts: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&parts.join(&b"; "[..])) {
        headers.insert(COOKIE, joined);
    }
}

fn tell_who_asked(headers: &mut HeaderMap, host: Option<&HeaderValue>, peer: &Peer) {
    let mut believed = None;
    let mut chain = None;
    if peer.is_trusted {
        believed = joined(headers, &FORWARDED);
        chain = joined(headers, &X_FORWARDED_FOR);
    }
    headers.insert(X_FORWARDED_FOR, after(chain, &peer.forwarded_for));
    headers.entry(X_FORWARDED_PROTO).or_insert(HeaderValue::from_static(peer.scheme()));
    if let Some(host) = host {
        headers.entry(X_FORWARDED_HOST).or_insert_with(|| host.clone());
    }
    if let Some(own) = forwarded(host, peer) {
        headers.insert(FORWARDED, after(believed, &own));
    }
}

fn joined(headers: &HeaderMap, name: &HeaderName) -> Option<Vec<u8>> {
    let mut values = headers.get_all(name).iter();
    let mut all = values.next()?.as_bytes().to_vec();
    for value in values {
        all.extend_from_slice(b", ");
        all.extend_from_slice(value.as_bytes());
    }
    Some(all)
}

fn after(before: Option<Vec<u8>>, own: &HeaderValue) -> HeaderValue {
    let Some(mut all) = before else { return own.clone() };
    all.extend_from_slice(b", ");
    all.extend_from_slice(own.as_bytes());
    HeaderValue::from_bytes(&all).unwrap_or_else(|_| own.clone())
}

/// This hop, in RFC 7239's words.
fn forwarded(host: Option<&HeaderValue>, peer: &Peer) -> Option<HeaderValue> {
    let mut element = Vec::with_capacity(96);
    element.extend_from_slice(b"for=");
    element.extend_from_slice(peer.node.as_bytes());
    if let Some(host) = host {
        // A colon or a bracket has to be quoted; what would end the quotes is no byte of a host.
        element.extend_from_slice(b";host=\"");
        element.extend_from_slice(host.as_bytes());
        element.push(b'"');
    }
    element.extend_from_slice(b";proto=");
    element.extend_from_slice(peer.scheme().as_bytes());
    HeaderValue::try_from(element).ok()
}
