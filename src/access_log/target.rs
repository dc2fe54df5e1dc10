//! A request's target as Kinto logs it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use percent_encoding::percent_decode_str;

use crate::kinto::segments;

/// A path, decoded and escaped as Kinto does it. One that is not UTF-8 stays as it came.
pub(super) fn path(sent: &str) -> Cow<'_, str> {
    // Nothing of most paths is escaped.
    if sent.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'-' | b'_' | b'.')) {
        return Cow::Borrowed(sent);
    }
    match percent_decode_str(sent).decode_utf8() {
        Ok(Cow::Borrowed(decoded)) => segments(decoded).into(),
        Ok(Cow::Owned(decoded)) => Cow::Owned(segments(&decoded).to_string()),
        Err(_) => Cow::Borrowed(sent),
    }
}

/// The parameters of a query by name. Of several with one name, Kinto logs the last.
pub(super) fn parameters(query: &str) -> BTreeMap<Cow<'_, str>, Cow<'_, str>> {
    form_urlencoded::parse(query.as_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_escaped_as_kinto_does_it() {
        for (sent, logged) in [
            ("/v1/buckets/a", "/v1/buckets/a"),
            ("/v1/Az09-_./~!", "/v1/Az09-_./~!"),
            ("/v1/buckets/%C3%A9t%20x", "/v1/buckets/%C3%A9t%20x"),
            ("/v1/%61%2fb/\"|^", "/v1/a/b/%22%7C%5E"),
            ("/v1/%ff", "/v1/%ff"),
        ] {
            assert_eq!(path(sent), logged);
        }
    }

    #[test]
    fn the_last_parameter_of_a_name_counts() {
        let parameters = parameters("a=1&a=2&b=&c&d=%C3%A9%20x+y");
        let pairs: Vec<_> = parameters.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(pairs, ["a=2", "b=", "c=", "d=é x y"]);
    }
}
