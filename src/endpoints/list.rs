//! What every list of objects shares: preconditions, the next page, what a client accepts.
//!
//! Follows `_raise_304_if_not_modified`, `_raise_412_if_modified` and `_next_page_url` of `kinto.core.resource`.

use http::StatusCode;
use http::header::{
    CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH, LAST_MODIFIED,
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::endpoints::accept;
use crate::error::Error;
use crate::kinto::{Timestamp, unquoted};
use crate::query::{Fault, decode, pairs};
use crate::settings::Settings;
use crate::wire::body::{Body, Response};
use crate::wire::headers;

/// `Next-Page`: the address of the next page.
pub const NEXT_PAGE: HeaderName = HeaderName::from_static("next-page");
/// `Total-Objects`: how many objects are selected on all pages.
pub const TOTAL_OBJECTS: HeaderName = HeaderName::from_static("total-objects");
/// `Total-Records`: the same under its old name.
pub const TOTAL_RECORDS: HeaderName = HeaderName::from_static("total-records");
/// `Alert`: what clients should know of deprecations.
pub const ALERT: HeaderName = HeaderName::from_static("alert");

/// The warning that Kinto gives where `_to` is used.
pub const TO_IS_DEPRECATED: HeaderValue = HeaderValue::from_static(
    "{\"code\":\"soft-eol\",\"message\":\"_to is now deprecated, you should use _before instead\",\
     \"url\":\"https://kinto.readthedocs.io/en/2.4.0/api/resource.html#list-of-available-url-parameters\"}",
);

/// What has to be encoded in a query, as Python's `quote_plus` sees it; a space becomes `+`.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'_').remove(b'-').remove(b'.').remove(b'~').remove(b' ');

/// `If-Match` and `If-None-Match`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Preconditions {
    if_match: Option<Tag>,
    /// Any of them.
    if_none_match: Vec<Tag>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tag {
    Any,
    Timestamp(Timestamp),
}

/// What preconditions say of the present state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PreconditionOutcome {
    /// Answer.
    Proceed,
    /// 304: the client has it already.
    NotModified,
    /// 412.
    Failed,
}

// === impl Preconditions ===

impl Preconditions {
    /// Reads a request's headers; what Kinto refuses of them is added to `faults`.
    pub fn read(headers: &HeaderMap, faults: &mut Vec<Fault>) -> Self {
        let mut fault = |name, NotATag| {
            faults.push(Fault::new("header", name, "The value should be integer between double quotes."));
        };
        let if_match = headers.get(IF_MATCH).map_or(Ok(None), |value| read_tag(value.as_bytes()));
        Self {
            if_match: if_match.map_err(|error| fault("If-Match", error)).unwrap_or_default(),
            if_none_match: read_tags(headers)
                .map_err(|error| fault("If-None-Match", error))
                .unwrap_or_default(),
        }
    }

    /// Holds the preconditions against a list's timestamp. A list always exists, even if it is empty.
    pub fn verdict(&self, timestamp: Timestamp) -> PreconditionOutcome {
        if self.if_none_match.contains(&Tag::Timestamp(timestamp)) {
            PreconditionOutcome::NotModified
        } else if self.allow_deletion(timestamp) {
            PreconditionOutcome::Proceed
        } else {
            PreconditionOutcome::Failed
        }
    }

    /// Whether there are none.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Whether they let a list of this timestamp be deleted.
    pub fn allow_deletion(&self, timestamp: Timestamp) -> bool {
        let is_wanted = match self.if_match {
            Some(Tag::Timestamp(known)) => known == timestamp,
            Some(Tag::Any) | None => true,
        };
        is_wanted && !self.if_none_match.contains(&Tag::Any)
    }
}

struct NotATag;

/// What a client has. Kinto takes one tag; caches name several, and whoever compresses an answer makes its tag a weak one
/// (RFC 9110 §13.1.2).
fn read_tags(headers: &HeaderMap) -> Result<Vec<Tag>, NotATag> {
    let values = headers.get_all(IF_NONE_MATCH).iter().map(HeaderValue::as_bytes);
    let mut tags = Vec::new();
    for tag in values.flat_map(|value| value.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii) {
        let strong = tag.strip_prefix(b"W/").filter(|tag| tag.starts_with(b"\""));
        tags.extend(read_tag(strong.unwrap_or(tag))?);
    }
    Ok(tags)
}

fn read_tag(value: &[u8]) -> Result<Option<Tag>, NotATag> {
    if value.is_empty() {
        return Ok(None);
    }
    let text = std::str::from_utf8(value).map_err(|_| NotATag)?;
    if text == "*" {
        return Ok(Some(Tag::Any));
    }
    let digits = unquoted(text).ok_or(NotATag)?;
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(NotATag);
    }
    let timestamp = Timestamp(digits.parse().unwrap_or(u64::MAX));
    // Kinto: a zero counts as no precondition.
    Ok(Some(Tag::Timestamp(timestamp)).filter(|_| timestamp != Timestamp::ZERO))
}

/// 304, with the list's timestamp.
pub fn not_modified(timestamp: Timestamp) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    headers::insert_kinto_defaults(response.headers_mut());
    insert_timestamp(response.headers_mut(), timestamp);
    response
}

/// 412, with the list's timestamp.
pub fn precondition_failed(timestamp: Timestamp) -> Response {
    let mut response = Error::PreconditionFailed.into_response();
    insert_timestamp(response.headers_mut(), timestamp);
    response
}

/// `ETag` and `Last-Modified` of a list.
pub fn insert_timestamp(headers: &mut HeaderMap, timestamp: Timestamp) {
    headers.insert(ETAG, timestamp.etag());
    insert_modified(headers, timestamp);
}

/// `Last-Modified`.
pub fn insert_modified(headers: &mut HeaderMap, timestamp: Timestamp) {
    if let Ok(date) = HeaderValue::try_from(timestamp.http_date()) {
        headers.insert(LAST_MODIFIED, date);
    }
}

/// `Total-Objects` and `Total-Records`.
pub fn insert_total(headers: &mut HeaderMap, total: usize) {
    headers.insert(TOTAL_OBJECTS, HeaderValue::from(total));
    headers.insert(TOTAL_RECORDS, HeaderValue::from(total));
}

/// A 200 with JSON in it.
pub fn json(body: Body) -> Response {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers::insert_kinto_defaults(response.headers_mut());
    response
}

/// Refuses a client that does not take JSON: 406.
pub fn check_accept(headers: &HeaderMap) -> Result<(), Error> {
    if accept::takes_json(headers) { Ok(()) } else { Err(Error::NotAcceptable) }
}

/// Scheme and host under which this service is known: those of the settings, else those that the request came by.
pub fn base_url(settings: &Settings, scheme: &str, host: &str) -> String {
    let scheme = settings.kinto.http_scheme.as_deref().unwrap_or(scheme);
    let host = settings.kinto.http_host.as_deref().filter(|host| !host.is_empty()).unwrap_or(host);
    format!("{scheme}://{host}")
}

/// The address of the next page: the request's own parameters with another `_limit` and `_token`.
pub fn next_page(
    base_url: &str,
    path: &str,
    query: Option<&str>,
    limit: usize,
    token: &str,
) -> Option<HeaderValue> {
    let limit = limit.to_string();
    let (mut has_limit, mut has_token) = (false, false);
    let mut url = format!("{base_url}{path}?");
    let mut push = |name: &str, value: &str| {
        if !url.ends_with('?') {
            url.push('&');
        }
        push_encoded(&mut url, name);
        url.push('=');
        push_encoded(&mut url, value);
    };
    for (name, value) in pairs(query.unwrap_or_default()) {
        let (name, value) = (decode(name)?, decode(value)?);
        match name.as_str() {
            "_limit" if !std::mem::replace(&mut has_limit, true) => push("_limit", &limit),
            "_token" if !std::mem::replace(&mut has_token, true) => push("_token", token),
            "_limit" | "_token" => {}
            name => push(name, &value),
        }
    }
    if !has_limit {
        push("_limit", &limit);
    }
    if !has_token {
        push("_token", token);
    }
    HeaderValue::try_from(url).ok()
}

fn push_encoded(url: &mut String, text: &str) {
    for piece in utf8_percent_encode(text, QUERY) {
        url.extend(piece.chars().map(|c| if c == ' ' { '+' } else { c }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_of_the_tags_that_a_client_has_is_news_to_nobody() {
        let verdict = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(IF_NONE_MATCH, HeaderValue::from_static(value));
            }
            let mut faults = Vec::new();
            let preconditions = Preconditions::read(&headers, &mut faults);
            faults.is_empty().then(|| preconditions.verdict(Timestamp(5)))
        };
        for values in [&["\"5\""][..], &["W/\"5\""], &["\"4\" , W/\"5\",\"6\""], &["\"4\"", "\"5\""]] {
            assert_eq!(verdict(values), Some(PreconditionOutcome::NotModified), "{values:?}");
        }
        for values in [&["\"4\""][..], &["W/\"4\", \"6\""], &[""], &["\"0\""]] {
            assert_eq!(verdict(values), Some(PreconditionOutcome::Proceed), "{values:?}");
        }
        for values in [&["\"4\", 5"][..], &["W/5"], &["W/*"], &["5"], &["\"4 5\""]] {
            assert_eq!(verdict(values), None, "{values:?}");
        }
        assert_eq!(verdict(&["*"]), Some(PreconditionOutcome::Failed));
    }

    #[test]
    fn the_next_page_has_the_parameters_of_this_one() {
        let next = |query| next_page("http://h", "/v1/x", query, 2, "a-b").unwrap();
        assert_eq!(next(None), "http://h/v1/x?_limit=2&_token=a-b");
        assert_eq!(
            next(Some("_limit=5&_sort=-bucket%20,c&_token=old&_foo=%C3%A9%20%2B%2F~*!")),
            "http://h/v1/x?_limit=2&_sort=-bucket+%2Cc&_token=a-b&_foo=%C3%A9+%2B%2F~%2A%21"
        );
    }
}
