//! Which media types a client takes.
//!
//! Follows RFC 9110 §12.5.1, and WebOb in what is made of a header that does not.

use http::header::ACCEPT;
use http::{HeaderMap, HeaderValue};

/// Whether a client takes JSON. A header that is malformed anywhere is as none at all, so that who gets records from Kinto
/// gets lists from here.
pub(super) fn takes_json(headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(ACCEPT).iter().filter(|line| !line.is_empty()).peekable();
    lines.peek().is_none() || of_lines(lines).unwrap_or(true)
}

/// `None` where they are malformed.
fn of_lines<'l>(lines: impl Iterator<Item = &'l HeaderValue>) -> Option<bool> {
    let mut takes = false;
    for line in lines {
        let line = str::from_utf8(line.as_bytes()).ok()?;
        for range in split(line, ',').map(trim).filter(|range| !range.is_empty()) {
            takes |= of_range(range)?;
        }
    }
    Some(takes)
}

/// Whether a media range with its parameters takes JSON.
fn of_range(text: &str) -> Option<bool> {
    let mut parts = split(text, ';').map(trim);
    let range = parts.next()?;
    let (kind, subtype) = range.split_once('/')?;
    if !is_token(kind) || !is_token(subtype) {
        return None;
    }
    let is_json =
        ["*/*", "application/*", "application/json"].iter().any(|json| range.eq_ignore_ascii_case(json));
    let mut is_wanted = None;
    for part in parts {
        match (part.split_once('='), is_wanted) {
            (Some((name, weight)), None) if name.eq_ignore_ascii_case("q") => {
                is_wanted = Some(is_positive(weight)?);
            }
            (Some((name, value)), _) if is_token(name) && (is_token(value) || is_quoted(value)) => {}
            // What follows the weight may have no value.
            (None, Some(_)) if is_token(part) => {}
            _ => return None,
        }
    }
    Some(is_json && is_wanted.unwrap_or(true))
}

/// Whether a weight is more than zero.
fn is_positive(weight: &str) -> Option<bool> {
    let (whole, digits) = weight.split_once('.').unwrap_or((weight, ""));
    let is_decimal = digits.len() <= 3 && digits.bytes().all(|digit| digit.is_ascii_digit());
    let is_zero = digits.bytes().all(|digit| digit == b'0');
    match whole {
        "0" if is_decimal => Some(!is_zero),
        "1" if is_decimal && is_zero => Some(true),
        _ => None,
    }
}

/// What stands between separators that are in no quoted string.
fn split(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    text.split(move |c: char| {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = is_quoted,
            '"' => is_quoted = !is_quoted,
            c => return c == separator && !is_quoted,
        }
        false
    })
}

fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t'])
}

fn is_token(text: &str) -> bool {
    let is_of_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(is_of_token)
}

fn is_quoted(text: &str) -> bool {
    text.len() > 1 && text.starts_with('"') && text.ends_with('"')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn takes(lines: &[&'static str]) -> bool {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(ACCEPT, HeaderValue::from_static(line));
        }
        takes_json(&headers)
    }

    #[test]
    fn json_is_taken_by_whoever_says_so_in_one_line_of_several() {
        assert!(takes(&[]) && takes(&[""]) && takes(&["text/html", "application/json"]));
        assert!(!takes(&["text/html"]) && !takes(&["text/html", "application/json;q=0"]));
    }

    #[test]
    fn only_clients_that_take_json_are_served() {
        for value in
            ["", "*/*", "text/html, */*;q=0.1", "application/json;charset=utf-8", "APPLICATION/*;Q=1.0;x"]
        {
            assert!(takes(&[value]), "{value}");
        }
        for value in [
            "text/html",
            "application/json;q=0",
            "application/json; q=0.000",
            "text/*",
            "*/json",
            ",",
            "text/html,",
            "text/html;x=\"application/json, \\\"*/*\"",
            "text/html;q=1;x",
            "text/html;x=y;q=0.5;e",
        ] {
            assert!(!takes(&[value]), "{value}");
        }
    }

    #[test]
    fn what_is_no_list_of_media_ranges_is_as_nothing() {
        for value in [
            "*", "json", "application", "*;q=0.2, text/html", "text/plain, *;q=0.1", "text/html;q=5",
            "text/html;q=0.1234", "text/html;q=", "text/html;x", "text/html;", "text/html/x",
            "text/html;q =0.5", "te xt/html",
        ] {
            assert!(takes(&[value]), "{value}");
        }
        assert!(takes(&["text/html", "json"]));
    }
}
