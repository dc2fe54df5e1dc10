//! Who may look at the page's data, and who may change something.
//!
//! SECURITY: a browser on the operator's machine reaches a loopback listener, and does what any site tells it to. So a
//! request that a browser says to come from another site is refused, and a `Host` that is neither an address nor `localhost`
//! may be a name that somebody has pointed here: it has to show the token, as does whoever changes something, and whoever comes
//! by a listener that others than this machine reach.

use http::header::{AUTHORIZATION, HOST, ORIGIN};
use http::uri::Authority;
use http::{HeaderMap, StatusCode};

use crate::settings::AdminToken;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// To be shown something.
    Look,
    /// To change something.
    Change,
}

/// Whether a request may have its wish; else the status and the reason.
pub(super) fn check(
    wish: Wish,
    headers: &HeaderMap,
    is_loopback: bool,
    token: Option<&AdminToken>,
) -> Result<(), (StatusCode, &'static str)> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let host = text(HOST).unwrap_or_default();
    let is_other_origin = headers.get(ORIGIN).is_some_and(|origin| {
        let of_host =
            |scheme: &str| origin.to_str().is_ok_and(|origin| origin.strip_prefix(scheme) == Some(host));
        !of_host("http://") && !of_host("https://")
    });
    let site = headers.get("sec-fetch-site").map(http::HeaderValue::as_bytes);
    if is_other_origin || site.is_some_and(|site| !matches!(site, b"same-origin" | b"none")) {
        return Err((StatusCode::FORBIDDEN, "this is for the page of this listener alone"));
    }
    if wish == Wish::Look && is_loopback && is_own_name(host) {
        return Ok(());
    }
    match token {
        None => Err((StatusCode::FORBIDDEN, "this needs sidecar.admin_token, which is not set")),
        Some(token) if shows(token, headers) => Ok(()),
        Some(_) => {
            Err((StatusCode::UNAUTHORIZED, "this needs sidecar.admin_token: Authorization: Bearer TOKEN"))
        }
    }
}

/// Whether whoever reads numbers may be told names among them: whoever reaches the listener, but no page by a name that somebody
/// pointed here.
pub(super) fn tells_names(headers: &HeaderMap, token: Option<&AdminToken>) -> bool {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    is_own_name(host) || token.is_some_and(|token| shows(token, headers))
}

/// Whether a request shows the token.
fn shows(token: &AdminToken, headers: &HeaderMap) -> bool {
    let shown = headers.get(AUTHORIZATION).and_then(|shown| shown.to_str().ok()?.split_once(' '));
    shown.is_some_and(|(scheme, shown)| scheme.eq_ignore_ascii_case("bearer") && token.is(shown.trim()))
}

/// Whether nobody else can have pointed this name here.
fn is_own_name(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let name = authority.host();
    let name = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || name.parse::<std::net::IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use http::header::{HeaderName, HeaderValue};

    use super::*;

    const LOOK: Wish = Wish::Look;

    fn asked(wish: Wish, is_loopback: bool, headers: &[(&'static str, &'static str)]) -> u16 {
        let headers = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        let token = AdminToken::from_text("secret");
        check(wish, &headers, is_loopback, Some(&token)).map_or_else(|(status, _)| status.as_u16(), |()| 200)
    }

    #[test]
    fn who_looks_from_this_machine_needs_no_token() {
        for host in ["127.0.0.1:8890", "[::1]:8890", "localhost:8890", "LOCALHOST"] {
            assert_eq!(asked(LOOK, true, &[("host", host)]), 200, "{host}");
            assert_eq!(asked(LOOK, false, &[("host", host)]), 401, "{host}");
            assert_eq!(asked(Wish::Change, true, &[("host", host)]), 401, "{host}");
        }
        for host in ["rebound.example:8890", "127.0.0.1.example", "localhost.example", ""] {
            assert_eq!(asked(LOOK, true, &[("host", host)]), 401, "{host}");
        }
        assert_eq!(asked(LOOK, true, &[]), 401);
    }

    #[test]
    fn a_page_by_a_name_that_was_pointed_here_is_told_no_names() {
        let token = AdminToken::from_text("secret");
        for (host, shown, is_told) in [
            ("10.0.0.7:8890", "", true),
            ("localhost:8890", "", true),
            ("rebound.example:8890", "", false),
            ("rebound.example:8890", "Bearer secre", false),
            ("sidecar:8890", "Bearer secret", true),
        ] {
            let header = |value: &'static str| HeaderValue::from_static(value);
            let headers = HeaderMap::from_iter([(HOST, header(host)), (AUTHORIZATION, header(shown))]);
            assert_eq!(tells_names(&headers, Some(&token)), is_told, "{host} {shown}");
            assert_eq!(tells_names(&headers, None), is_told && shown.is_empty(), "{host} {shown}");
        }
    }

    #[test]
    fn a_token_opens_what_another_site_does_not() {
        let [host, token] = [("host", "sidecar:8890"), ("authorization", "Bearer secret")];
        for wish in [LOOK, Wish::Change] {
            assert_eq!(asked(wish, false, &[host, token]), 200);
            assert_eq!(asked(wish, false, &[host, token, ("origin", "http://sidecar:8890")]), 200);
            for other in ["http://evil.example", "null", "http://sidecar", "http://sidecar:8890.example"] {
                assert_eq!(asked(wish, true, &[host, token, ("origin", other)]), 403, "{other}");
            }
            assert_eq!(asked(wish, true, &[host, token, ("sec-fetch-site", "cross-site")]), 403);
            assert_eq!(asked(wish, true, &[host, ("authorization", "Bearer secre")]), 401);
            assert_eq!(asked(wish, true, &[host, ("authorization", "Basic secret")]), 401);
        }
    }
}
