//! 304 or 200, in the coding that the client likes best, with the `ETag` and the `Vary` that belong to it (RFC 9110 §13).
//!
//! One content has one tag in front, and an ending for each encoding it is sent in (`"17-ab"`, `"17-ab-gzip"`): any of
//! them names the content.

use std::sync::Arc;

use http::header::{CONTENT_ENCODING, CONTENT_TYPE, ETAG, HeaderName, IF_MATCH, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue, StatusCode};

use super::body::{Body, Response};
use super::compression::Encoding;
use super::headers;
use super::lent::Lent;
use super::variants::Variant;
use super::vary;

/// A JSON body in some encoding, or the news that the client has it.
#[derive(Debug)]
pub struct Coded {
    /// `None` where the client has it.
    body: Option<Body>,
    encoding: Encoding,
    /// What the body is made of, where that is kept for many.
    lent: Option<Arc<Lent>>,
}

/// What follows the content in a tag where a dictionary was used, before the dictionary's name.
const DCZ: &str = "-dcz-";

/// 412: the client wants to act on another content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the content is another one")]
pub struct PreconditionFailed;

impl Coded {
    /// A body as it is.
    pub fn plain(body: Body, lent: Option<Arc<Lent>>) -> Self {
        Self { body: Some(body), encoding: Encoding::Identity, lent }
    }

    /// A compressed body.
    pub fn compressed<X>(variant: Variant<X>, encoding: Encoding) -> Self {
        Self { body: Some(Body::full(variant.body)), encoding, lent: variant.lent }
    }

    /// Holds the conditions of a `GET` or `HEAD` against a content's `tag` (without quotes). `Some` where the client has that
    /// content; it would have been sent as `accepted`.
    pub fn known(
        request: &HeaderMap,
        tag: &str,
        accepted: Encoding,
    ) -> Result<Option<Self>, PreconditionFailed> {
        // As for Kinto's lists and records, one that is empty is none: proxies leave it where they take off what it said.
        let wants_one = request.get_all(IF_MATCH).iter().any(|value| !value.is_empty());
        if wants_one && !any(request, &IF_MATCH, tag) {
            return Err(PreconditionFailed);
        }
        let is_known = any(request, &IF_NONE_MATCH, tag);
        Ok(is_known.then_some(Self { body: None, encoding: accepted, lent: None }))
    }

    /// The answer: 200, or 304 where the client has the content; with an `ETag` where the content has a `tag`.
    pub fn answer(self, tag: Option<&str>) -> Response {
        let is_known = self.body.is_none();
        let mut response = Response::new(self.body.unwrap_or_default());
        if let Some(lent) = self.lent {
            response.extensions_mut().insert(lent);
        }
        if is_known {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        }
        let headers = response.headers_mut();
        if !is_known {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            if self.encoding != Encoding::Identity {
                headers.insert(CONTENT_ENCODING, HeaderValue::from_static(self.encoding.token()));
            }
        }
        let etag = tag.map(|tag| match self.encoding {
            Encoding::Identity => format!("\"{tag}\""),
            Encoding::Dcz([a, b, c, d, ..]) => {
                format!("\"{tag}{DCZ}{:08x}\"", u32::from_be_bytes([a, b, c, d]))
            }
            encoding => format!("\"{tag}-{}\"", encoding.token()),
        });
        if let Some(Ok(etag)) = etag.map(HeaderValue::try_from) {
            headers.insert(ETAG, etag);
        }
        vary::by(headers, "Accept-Encoding");
        headers::insert_kinto_defaults(headers);
        response
    }
}

fn any(headers: &HeaderMap, name: &HeaderName, tag: &str) -> bool {
    headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).any(|value| {
        value.split(',').map(str::trim).any(|given| {
            if given == "*" {
                return true;
            }
            let given = given.strip_prefix("W/").unwrap_or(given);
            given
                .strip_prefix('"')
                .and_then(|given| given.strip_suffix('"'))
                .and_then(|given| given.strip_prefix(tag))
                .is_some_and(|ending| {
                    matches!(ending, "" | "-gzip" | "-br" | "-zstd") || ending.starts_with(DCZ)
                })
        })
    })
}

#[cfg(test)]
mod tests {
    use http::header::VARY;

    use super::*;

    fn status(name: HeaderName, value: &'static str) -> StatusCode {
        let request = HeaderMap::from_iter([(name, HeaderValue::from_static(value))]);
        match Coded::known(&request, "17-ab", Encoding::Gzip) {
            Ok(known) => {
                let coded = known.unwrap_or_else(|| Coded::plain(Body::full("{}"), None));
                let response = coded.answer(Some("17-ab"));
                let is_known = response.status() == StatusCode::NOT_MODIFIED;
                assert_eq!(response.headers()[ETAG], if is_known { "\"17-ab-gzip\"" } else { "\"17-ab\"" });
                assert_eq!(response.headers()[VARY], "Accept-Encoding");
                assert_eq!(response.headers().contains_key(CONTENT_TYPE), !is_known);
                response.status()
            }
            Err(PreconditionFailed) => StatusCode::PRECONDITION_FAILED,
        }
    }

    #[test]
    fn a_client_that_has_the_content_in_any_encoding_is_told_so() {
        for value in ["*", "\"17-ab\"", "\"x\", W/\"17-ab-gzip\"", "\"17-ab-dcz-0123abcd\""] {
            assert_eq!(status(IF_NONE_MATCH, value), StatusCode::NOT_MODIFIED, "{value}");
        }
        for value in ["\"17-abc\"", "\"17\"", "17-ab", "\"17-ab-\""] {
            assert_eq!(status(IF_NONE_MATCH, value), StatusCode::OK, "{value}");
        }
    }

    #[test]
    fn a_client_that_wants_one_content_is_refused() {
        assert_eq!(status(IF_MATCH, "\"18-ab\""), StatusCode::PRECONDITION_FAILED);
        assert_eq!(status(IF_MATCH, "\"17-ab\""), StatusCode::OK);
        assert_eq!(status(IF_MATCH, "*"), StatusCode::OK);
        assert_eq!(status(IF_MATCH, ""), StatusCode::OK);
    }
}
