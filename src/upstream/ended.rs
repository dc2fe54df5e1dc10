//! The end of the upstream's life, as it told of it.

use bytes::Bytes;
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};

use crate::wire::body::{Body, Response};
use crate::wire::headers::insert_kinto_defaults;

pub(super) const ALERT: HeaderName = HeaderName::from_static("alert");

/// The answer that the upstream has for everybody since it has come to its end.
#[derive(Debug, Clone)]
pub struct Ended {
    pub(super) alert: Option<HeaderValue>,
    pub(super) body: Bytes,
}

impl Ended {
    /// The upstream's answer once more.
    pub fn replay(&self) -> Response {
        const BODY: &[u8] = br#"{"code":410,"errno":202,"error":"Gone","message":"The service you are trying to connect no longer exists at this location."}"#;
        let body = if self.body.is_empty() { Bytes::from_static(BODY) } else { self.body.clone() };
        let mut response = Response::new(Body::full(body));
        *response.status_mut() = StatusCode::GONE;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        insert_kinto_defaults(headers);
        if let Some(alert) = &self.alert {
            headers.insert(ALERT, alert.clone());
        }
        response
    }
}
