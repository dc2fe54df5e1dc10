//! What the upstream answered to somebody who may not read a collection, to be given to them for other endpoints, too.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use http::{HeaderMap, StatusCode};

use crate::wire::body::{Body, Response};
use crate::wire::headers;

/// A refusal, as the upstream worded it.
#[derive(Debug)]
pub struct Refusal {
    status: StatusCode,
    /// How to authenticate.
    challenges: Vec<HeaderValue>,
    content_type: Option<HeaderValue>,
    body: Bytes,
}

impl Refusal {
    /// Keeps of an answer what is worth repeating.
    pub fn new(answer: http::Response<Bytes>) -> Self {
        let (parts, body) = answer.into_parts();
        let headers: &HeaderMap = &parts.headers;
        Self {
            status: parts.status,
            challenges: headers.get_all(WWW_AUTHENTICATE).iter().cloned().collect(),
            content_type: headers.get(CONTENT_TYPE).cloned(),
            body,
        }
    }

    /// The status: 400, 401, 403, 404 or 410.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Whether it says that there is no such thing; 400 says of an id that nothing can have it.
    pub fn is_absence(&self) -> bool {
        matches!(self.status, StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST)
    }

    /// How many bytes it holds.
    pub fn weight(&self) -> usize {
        let headers = self.challenges.iter().chain(&self.content_type);
        self.body.len() + headers.map(HeaderValue::len).sum::<usize>()
    }

    /// The answer again.
    pub fn replay(&self) -> Response {
        let mut response = Response::new(Body::full(self.body.clone()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        for challenge in &self.challenges {
            headers.append(WWW_AUTHENTICATE, challenge.clone());
        }
        if let Some(content_type) = &self.content_type {
            headers.insert(CONTENT_TYPE, content_type.clone());
        }
        headers::insert_kinto_defaults(headers);
        response
    }
}
