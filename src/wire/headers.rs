//! Headers that every answer of Kinto carries, and what a gateway takes off the messages that pass through it.
//!
//! Hop-by-hop headers belong to one connection (RFC 9110 §7.6.1). `Connection` may name more of them, but not those
//! that carry the meaning of a request: a client that could have `Authorization` or `If-Match` dropped on the way would
//! make the upstream see another request than the one that was checked.

use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, HeaderName, RETRY_AFTER, TE, TRANSFER_ENCODING,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderValue, StatusCode};

/// A field has a name, a colon, a value and an end; few are shorter than this.
const SMALLEST: usize = 8;

/// What Kinto puts on each of its answers, for those that are made here.
pub fn insert_kinto_defaults(headers: &mut HeaderMap) {
    const POLICY: HeaderValue =
        HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'; base-uri 'none';");
    headers.insert(CONTENT_SECURITY_POLICY, POLICY);
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
}

/// Adds `Retry-After` where the status asks to come back and nothing more precise is known.
pub fn insert_retry_after(headers: &mut HeaderMap, status: StatusCode, seconds: u64) {
    let is_passing = matches!(
        status,
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
    );
    if is_passing {
        headers.entry(RETRY_AFTER).or_insert_with(|| HeaderValue::from(seconds));
    }
}

/// How many fields a head of so many bytes may have. Each parser makes room for as many: if this were more, the room would
/// come from the system each time.
pub fn most(bytes: usize) -> usize {
    (bytes / SMALLEST).clamp(100, 8_192)
}

/// What the hop-by-hop headers said that were taken off.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct HopByHop {
    /// The sender takes trailers.
    pub takes_trailers: bool,
    /// The message had a `Transfer-Encoding`, so its body has no length of its own.
    pub is_chunked: bool,
}

/// Whether `Transfer-Encoding` names nothing but chunks, which a gateway reads. Any other coding would be forgotten: the
/// header is taken off, and the body stays coded.
pub fn is_coding_known(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    codings.next().is_none_or(|coding| coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"))
        && codings.next().is_none()
}

/// Takes off what belongs to one connection only.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) -> HopByHop {
    let mut found = HopByHop::default();
    let theirs = keys_that(headers, is_of_one_connection);
    if theirs.contains(&CONNECTION) {
        strip_connection(headers);
    }
    for name in theirs {
        if name == TE {
            found.takes_trailers = headers.get_all(TE).iter().any(|value| has_token(value, "trailers"));
        } else if name == TRANSFER_ENCODING {
            found.is_chunked = true;
            // SECURITY: with both, the next recipient could take the wrong one for the truth.
            headers.remove(CONTENT_LENGTH);
        }
        headers.remove(name);
    }
    found
}

/// Says once what a length is that was said several times: all of these are the same, or the message would not have been read.
pub fn settle_length(headers: &mut HeaderMap) {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let (Some(length), another) = (lengths.next(), lengths.next()) else { return };
    let mut items = length.as_bytes().split(|byte| *byte == b',');
    let (first, others) = (items.next().unwrap_or_default().trim_ascii(), items.next());
    if (another.is_some() || others.is_some())
        && let Ok(length) = HeaderValue::from_bytes(first)
    {
        headers.insert(CONTENT_LENGTH, length);
    }
}

fn is_of_one_connection(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "te"
            | "transfer-encoding"
            | "upgrade"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "http2-settings"
    )
}

/// The names of which `is_so` says so. One look at the few names that a message has costs less than to look for each of many.
pub(crate) fn keys_that(headers: &HeaderMap, is_so: impl Fn(&str) -> bool) -> Vec<HeaderName> {
    headers.keys().filter(|name| is_so(name.as_str())).cloned().collect()
}

fn strip_connection(headers: &mut HeaderMap) {
    let mut named = Vec::new();
    for value in headers.get_all(CONNECTION) {
        for token in value.as_bytes().split(|byte| *byte == b',') {
            match HeaderName::from_bytes(token.trim_ascii()) {
                Ok(name) if name != TE && name != TRANSFER_ENCODING && !is_end_to_end(&name) => {
                    named.push(name);
                }
                _ => {}
            }
        }
    }
    headers.remove(CONNECTION);
    for name in named {
        headers.remove(name);
    }
}

/// Whether a header means something to the upstream, so that `Connection` has no say over it.
fn is_end_to_end(name: &HeaderName) -> bool {
    const END_TO_END: [&str; 22] = [
        "authorization", "cache-control", "content-encoding", "content-length", "content-type", "cookie",
        "date", "etag", "expect", "forwarded", "host", "last-modified", "location", "origin", "prefer",
        "range", "set-cookie", "vary", "via", "www-authenticate", "x-http-method-override", "x-request-id",
    ];
    const FAMILIES: [&str; 5] = ["x-forwarded-", "if-", "access-control-", "content-", "accept"];
    let name = name.as_str();
    END_TO_END.contains(&name) || FAMILIES.iter().any(|family| name.starts_with(family))
}

/// Whether a comma-separated list has this token, parameters aside.
fn has_token(value: &HeaderValue, token: &str) -> bool {
    value.as_bytes().split(|byte| *byte == b',').any(|item| {
        let item = item.split(|byte| *byte == b';').next().unwrap_or_default();
        item.trim_ascii().eq_ignore_ascii_case(token.as_bytes())
    })
}

/// The quality value among the parameters of what is accepted, in thousandths; one that cannot be read counts as the greatest.
pub(crate) fn weight(parameters: &str) -> u16 {
    let quality = parameters.split(';').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("q").then(|| value.trim())
    });
    let Some(quality) = quality else { return 1000 };
    match quality.split_once('.').unwrap_or((quality, "")) {
        ("0", digits) => format!("{digits:0<3}").get(..3).and_then(|digits| digits.parse().ok()).unwrap_or(0),
        _ => 1000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(headers: &[(&'static str, &'static str)]) -> HeaderMap {
        headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn a_length_is_said_once() {
        for lengths in [&["2"][..], &["2, 2"], &["2", "2"], &["2 ,2", "2"]] {
            let mut headers = HeaderMap::new();
            for length in lengths {
                headers.append(CONTENT_LENGTH, HeaderValue::from_static(length));
            }
            settle_length(&mut headers);
            let settled: Vec<_> = headers.get_all(CONTENT_LENGTH).iter().collect();
            assert_eq!(settled, ["2"], "{lengths:?}");
        }
    }

    #[test]
    fn headers_of_one_connection_are_taken_off() {
        let mut headers = map(&[
            ("connection", "keep-alive, X-Hop"),
            ("keep-alive", "timeout=5"),
            ("x-hop", "1"),
            ("upgrade", "h2c"),
            ("te", "gzip, trailers;q=0.5"),
            ("proxy-connection", "close"),
            ("accept", "*/*"),
        ]);
        let found = strip_hop_by_hop(&mut headers);
        assert_eq!(headers, map(&[("accept", "*/*")]));
        assert!(found.takes_trailers && !found.is_chunked);
    }
}
