//! Questions of the sidecar's own, whose answers are read whole but for those of [`Upstream::ask_on`].

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, AUTHORIZATION, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri, Version};
use tokio::time::Instant;

use super::{Upstream, UpstreamError, bound, large};
use crate::settings::ServiceAuth;
use crate::wire::body::{Body, BodyReadError, read_in_turn, read_limited};
use crate::wire::via;

impl Upstream {
    /// Asks with the service account's credentials and reads the whole answer. The path is relative to the API root:
    /// `/buckets/a/collections?_limit=3`.
    pub async fn ask(
        &self,
        method: Method,
        path_and_query: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response<Bytes>, UpstreamError> {
        self.ask_as(method, path_and_query, self.authorized(headers), body).await
    }

    /// As [`Self::ask_as`], for an answer that is read while it comes.
    pub async fn ask_on(
        &self,
        method: Method,
        path_and_query: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response<Body>, UpstreamError> {
        self.send(self.question(method, path_and_query, headers, body)?).await
    }

    /// As [`Self::ask`], but as whoever `headers` names, if anybody: the service account is left out.
    pub async fn ask_as(
        &self,
        method: Method,
        path_and_query: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response<Bytes>, UpstreamError> {
        let most = bound::most(&method, path_and_query);
        let question = self.question(method.clone(), path_and_query, headers, body)?;
        let asked = Instant::now();
        let answer = self.send(question).await?;
        self.0.words.note_date(answer.headers(), asked);
        self.0.words.heed(&method, read_answer(answer, most).await?)
    }

    /// These headers with the service account's credentials.
    pub fn authorized(&self, mut headers: HeaderMap) -> HeaderMap {
        if let Some(authorization) = self.0.settings.now().auth.as_ref().and_then(ServiceAuth::current) {
            headers.insert(AUTHORIZATION, authorization);
        }
        headers
    }

    fn question(
        &self,
        method: Method,
        path_and_query: &str,
        mut headers: HeaderMap,
        body: Bytes,
    ) -> Result<Request<Body>, UpstreamError> {
        const NAME: HeaderValue =
            HeaderValue::from_static(concat!("kinto-sidecar/", env!("CARGO_PKG_VERSION")));
        let uri = Uri::try_from(format!("{}{path_and_query}", self.0.root));
        headers.entry(USER_AGENT).or_insert(NAME);
        // Some servers compress for whoever says nothing of it.
        headers.entry(ACCEPT_ENCODING).or_insert(HeaderValue::from_static("identity"));
        via::tell(&mut headers, Version::HTTP_11);
        let mut request = Request::new(Body::full(body));
        *request.method_mut() = method;
        *request.uri_mut() = uri.map_err(|_| UpstreamError::Unaskable)?;
        *request.headers_mut() = headers;
        Ok(request)
    }
}

/// Reads the answer to a question of the sidecar's own.
async fn read_answer(answer: Response<Body>, limit: usize) -> Result<Response<Bytes>, UpstreamError> {
    let (parts, body) = answer.into_parts();
    match read_in_turn(body, limit, bound::SMALL, large::turn).await {
        Ok(body) => Ok(Response::from_parts(parts, body)),
        Err(error) => Err(unread(error)),
    }
}

/// Reads the whole of an answer's body, up to `limit` bytes.
pub async fn read_whole(answer: Response<Body>, limit: usize) -> Result<Response<Bytes>, UpstreamError> {
    let (parts, body) = answer.into_parts();
    match read_limited(body, limit).await {
        Ok(body) => Ok(Response::from_parts(parts, body)),
        Err(error) => Err(unread(error)),
    }
}

fn unread(error: BodyReadError) -> UpstreamError {
    match error {
        BodyReadError::Broken(error) => {
            error.downcast::<UpstreamError>().map_or(UpstreamError::TooLarge, |error| *error)
        }
        BodyReadError::TooLarge | BodyReadError::NoRoom(_) => UpstreamError::TooLarge,
    }
}
