//! Lets request targets through that Kinto takes and hyper does not.
//!
//! `"`, `<` and `>` have no place in a target (RFC 3986 §2), yet `curl '…?_since="42"'` sends them, and Kinto's own
//! servers read them as their escapes. hyper refuses the whole request, but for a `"` in the path. So they are escaped
//! before it sees them.

use memchr::memchr3;

/// A head whose request line has such a byte in its target, escaped. `None` where there is nothing to do.
pub(super) fn escaped(head: &[u8]) -> Option<Vec<u8>> {
    // Most heads have none, and end here.
    memchr3(b'"', b'<', b'>', head)?;
    let start = head.iter().position(|byte| !is_newline(*byte))?;
    let length = head.get(start..)?.iter().position(|byte| is_newline(*byte))?;
    let (line, rest) = head.split_at_checked(start + length)?;
    memchr3(b'"', b'<', b'>', line)?;
    let begin = line.iter().position(|byte| *byte == b' ')?;
    let (method, target) = line.split_at_checked(begin)?;
    let mut escaped = Vec::with_capacity(head.len() + 32);
    escaped.extend_from_slice(method);
    let query = target.iter().position(|byte| *byte == b'?').unwrap_or(target.len());
    for (index, byte) in target.iter().enumerate() {
        if needs_escape(*byte) && (*byte != b'"' || index > query) {
            const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
            let digit = |nibble: u8| DIGITS.get(usize::from(nibble)).copied().unwrap_or(b'0');
            escaped.extend_from_slice(&[b'%', digit(byte >> 4), digit(byte & 15)]);
        } else {
            escaped.push(*byte);
        }
    }
    escaped.extend_from_slice(rest);
    Some(escaped)
}

fn is_newline(byte: u8) -> bool {
    matches!(byte, b'\r' | b'\n')
}

fn needs_escape(byte: u8) -> bool {
    matches!(byte, b'"' | b'<' | b'>')
}

#[cfg(test)]
mod tests {
    use super::escaped;

    #[test]
    fn only_the_target_is_touched() {
        let head = b"GET /v1/\"<x>?_since=\"42\" HTTP/1.1\r\nIf-Match: \"1\"\r\n\r\n";
        let expected = b"GET /v1/\"%3Cx%3E?_since=%2242%22 HTTP/1.1\r\nIf-Match: \"1\"\r\n\r\n";
        assert_eq!(escaped(head).unwrap(), expected);
        assert_eq!(escaped(b"GET / HTTP/1.1\r\nIf-Match: \"1\"\r\n\r\n"), None);
        assert_eq!(escaped(b"\r\n\nGET /?< HTTP/1.1\n\n").unwrap(), b"\r\n\nGET /?%3C HTTP/1.1\n\n");
    }
}
