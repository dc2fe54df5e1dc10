//! What else than its URL an answer depends on (RFC 9110, section 12.5.5).

use http::header::{HeaderMap, HeaderValue, VARY};

/// Says that an answer depends on a header of the request, in one line.
///
/// SECURITY: nginx before 1.23 heeds one line of several, and would give to anybody what somebody was answered.
pub fn by(headers: &mut HeaderMap, name: &'static str) {
    let lines = headers.get_all(VARY).iter().filter_map(|line| line.to_str().ok());
    let mut names: Vec<&str> =
        lines.flat_map(|line| line.split(',')).map(str::trim).filter(|known| !known.is_empty()).collect();
    let is_known = names.iter().any(|known| known.eq_ignore_ascii_case(name) || *known == "*");
    if is_known && headers.get_all(VARY).iter().nth(1).is_none() {
        return;
    }
    let value = if names.is_empty() {
        Ok(HeaderValue::from_static(name))
    } else {
        names.extend((!is_known).then_some(name));
        HeaderValue::try_from(names.join(", "))
    };
    if let Ok(value) = value {
        headers.insert(VARY, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_it_depends_on_is_in_one_line() {
        let mut headers = HeaderMap::new();
        for name in ["Accept-Encoding", "Authorization", "accept-encoding", "Cookie"] {
            by(&mut headers, name);
        }
        let lines: Vec<_> = headers.get_all(VARY).iter().collect();
        assert_eq!(lines, ["Accept-Encoding, Authorization, Cookie"]);
    }
}
