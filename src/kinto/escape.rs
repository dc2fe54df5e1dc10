//! How ids stand in URIs.
//!
//! An id is whatever the upstream's id generators allow: any segment of a path. It is escaped here and nowhere else.
//!
//! Follows `instance_uri` of `kinto.core.utils`, and what Pyramid and WebOb leave unescaped in a path.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, PercentEncode, utf8_percent_encode};

/// What stands escaped in a segment of a URI that Kinto writes.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'!')
    .remove(b'$')
    .remove(b'&')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')')
    .remove(b'*')
    .remove(b'+')
    .remove(b',')
    .remove(b';')
    .remove(b'=')
    .remove(b':')
    .remove(b'@');

/// The same in several segments.
const ESCAPED_BETWEEN_SLASHES: &AsciiSet = &ESCAPED.remove(b'/');

/// Whether an object of this id can be named by a path that every server reads alike, and be written down.
pub fn is_segment(id: &str) -> bool {
    !id.is_empty() && !matches!(id, "." | "..") && !id.contains(['/', '\0'])
}

/// An id as a segment of a URI.
pub fn segment(id: &str) -> PercentEncode<'_> {
    utf8_percent_encode(id, ESCAPED)
}

/// Several segments of a URI, with the slashes between them.
pub fn segments(path: &str) -> PercentEncode<'_> {
    utf8_percent_encode(path, ESCAPED_BETWEEN_SLASHES)
}

/// An id as the value of a filter in a query: a text also where it looks like a number, and without a comma, at which
/// Kinto splits lists.
pub fn selector(id: &str) -> String {
    let json = serde_json::Value::from(id).to_string().replace(',', "\\u002c");
    utf8_percent_encode(&json, NON_ALPHANUMERIC).to_string()
}

/// A URI as the path of a sub-request: Kinto refuses a batch in which one holds `/batch`, be it the beginning of an id.
pub fn batch_path(uri: &str) -> String {
    uri.replace("/batch", "/%62atch")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_in_a_filter_is_a_text_and_no_list() {
        assert_eq!(selector("a,\"b"), "%22a%5Cu002c%5C%22b%22");
    }
}
