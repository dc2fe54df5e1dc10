//! What a request says that its body is, and who could have had it sent.

use http::header::{CONTENT_TYPE, HeaderName, ORIGIN};
use http::{HeaderMap, StatusCode};

use crate::error::Error;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Whether a request says that its body is JSON.
pub(super) fn is_json(headers: &HeaderMap) -> bool {
    let media_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    media_type.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json")
}

/// SECURITY: a form of any page may send a `POST` with what the browser knows of its user. Only JSON makes the browser ask
/// first whether the page may. Whoever is no browser sends neither header, and may leave out what the body is.
pub(super) fn check_sender(headers: &HeaderMap) -> Result<(), Error> {
    let is_of_browser = headers.contains_key(ORIGIN) || headers.contains_key(SEC_FETCH_SITE);
    if is_of_browser && !is_json(headers) { Err(not_json()) } else { Ok(()) }
}

/// The refusal of a body that is not said to be JSON.
pub(super) fn not_json() -> Error {
    Error::Feed {
        status: StatusCode::UNSUPPORTED_MEDIA_TYPE,
        reason: "Content-Type must be application/json".to_owned(),
    }
}
