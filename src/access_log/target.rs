//! A request's target as Kinto logs it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use percent_encoding::percent_decode_str;

use crate::kinto::segments;

/// Whether a path is the same decoded and escaped, as most are. Nothing of it is escaped in JSON either.
pub(super) fn is_plain(sent: &str) -> bool {
    // `-`, `.`, `/` and the digits follow one another.
    are_all(sent.as_bytes(), |byte| byte.is_ascii_alphabetic() || matches!(byte, b'-'..=b'9') || byte == b'_')
}

/// A path, decoded and escaped as Kinto does it. One that is not UTF-8 stays as it came.
pub(super) fn path(sent: &str) -> Cow<'_, str> {
    match percent_decode_str(sent).decode_utf8() {
        Ok(Cow::Borrowed(decoded)) => segments(decoded).into(),
        Ok(Cow::Owned(decoded)) => Cow::Owned(segments(&decoded).to_string()),
        Err(_) => Cow::Borrowed(sent),
    }
}

/// Whether all bytes are such ones. Those of a block are counted, without a branch for each: several are compared at once. The
/// last block ends where the bytes do.
pub(super) fn are_all(bytes: &[u8], is_such: impl Fn(u8) -> bool) -> bool {
    const BLOCK: usize = 16;
    let in_block = |block: &[u8; BLOCK]| {
        usize::from(block.iter().map(|byte| u8::from(is_such(*byte))).sum::<u8>()) == BLOCK
    };
    match bytes.last_chunk() {
        Some(last) => in_block(last) && bytes.as_chunks().0.iter().all(in_block),
        None => bytes.iter().all(|byte| is_such(*byte)),
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
            assert!(!is_plain(sent) || sent == logged);
        }
    }

    #[test]
    fn a_path_is_plain_where_all_of_it_is() {
        for length in 1..70 {
            let path = "/v1/Az09-_.".chars().cycle().take(length).collect::<String>();
            assert!(is_plain(&path));
            for (other, place) in
                "%~\"\\,:@[`{ \u{7f}".chars().flat_map(|other| (0..length).map(move |at| (other, at)))
            {
                let mut path = path.clone();
                path.replace_range(place..=place, &other.to_string());
                assert!(!is_plain(&path), "{path}");
            }
        }
    }

    #[test]
    fn the_last_parameter_of_a_name_counts() {
        let parameters = parameters("a=1&a=2&b=&c&d=%C3%A9%20x+y");
        let pairs: Vec<_> = parameters.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(pairs, ["a=2", "b=", "c=", "d=é x y"]);
    }
}
