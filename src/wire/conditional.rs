//! Conditional requests on what the sidecar makes itself (RFC 9110 §13).
//!
//! One content has one tag in front, and an ending for each encoding it is sent in (`"17-ab"`, `"17-ab-gzip"`): any of
//! them names the content.

use http::header::{HeaderName, IF_MATCH, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue};

/// What a request's conditions come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// Answer as if there were none.
    Holds,
    /// 304: the client has this content.
    NotModified,
    /// 412: the client wants to act on another content.
    Failed,
}

/// Evaluates the conditions of a `GET` or `HEAD` against a content's `tag` (without quotes).
pub fn evaluate(headers: &HeaderMap, tag: &str) -> Condition {
    let is_any = |value: &HeaderValue| value.as_bytes().trim_ascii() == b"*";
    if headers.contains_key(IF_MATCH)
        && !headers.get_all(IF_MATCH).iter().any(is_any)
        && !any(headers, &IF_MATCH, tag)
    {
        return Condition::Failed;
    }
    // Kinto's clients say with an `If-None-Match: *` that they have nothing, and the plugin answers them.
    if any(headers, &IF_NONE_MATCH, tag) { Condition::NotModified } else { Condition::Holds }
}

fn any(headers: &HeaderMap, name: &HeaderName, tag: &str) -> bool {
    headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).any(|value| {
        value.split(',').map(str::trim).any(|given| {
            let given = given.strip_prefix("W/").unwrap_or(given);
            given
                .strip_prefix('"')
                .and_then(|given| given.strip_suffix('"'))
                .and_then(|given| given.strip_prefix(tag))
                .is_some_and(|ending| matches!(ending, "" | "-gzip" | "-br" | "-zstd"))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evaluated(name: HeaderName, value: &'static str) -> Condition {
        evaluate(&HeaderMap::from_iter([(name, HeaderValue::from_static(value))]), "17-ab")
    }

    #[test]
    fn a_client_that_has_the_content_in_any_encoding_is_told_so() {
        for value in ["\"17-ab\"", "\"x\", W/\"17-ab-gzip\""] {
            assert_eq!(evaluated(IF_NONE_MATCH, value), Condition::NotModified, "{value}");
        }
        for value in ["\"17-abc\"", "\"17\"", "17-ab", "\"17-ab-\"", "*"] {
            assert_eq!(evaluated(IF_NONE_MATCH, value), Condition::Holds, "{value}");
        }
    }

    #[test]
    fn a_client_that_wants_another_content_is_refused() {
        assert_eq!(evaluated(IF_MATCH, "\"18-ab\""), Condition::Failed);
        assert_eq!(evaluated(IF_MATCH, "\"17-ab\""), Condition::Holds);
        assert_eq!(evaluated(IF_MATCH, "*"), Condition::Holds);
    }
}
