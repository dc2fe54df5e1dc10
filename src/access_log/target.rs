//! A request's target as Kinto logs it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// What `WebOb` escapes in a path.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
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
    .remove(b'@')
    .remove(b'_')
    .remove(b'.')
    .remove(b'-');

/// A path, decoded and escaped as Kinto does it. One that is not UTF-8 stays as it came.
pub(super) fn path(sent: &str) -> Cow<'_, str> {
    if sent.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/~!$&'()*+,;=:@_.-".contains(&byte)) {
        return Cow::Borrowed(sent);
    }
    match percent_decode_str(sent).decode_utf8() {
        Ok(decoded) => Cow::Owned(utf8_percent_encode(&decoded, ESCAPED).to_string()),
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
