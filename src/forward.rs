//! Passes a request on to the upstream and its answer back, unchanged but for what a gateway has to change.
//!
//! Three forms of the same way: [`stream`] holds nothing in memory, [`buffered`] reads the answer whole, so that a write's
//! outcome can be looked at before the client has it, and [`exchange`] does so for a request whose body was read already.

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, VIA};
use http::{HeaderValue, Request, StatusCode, Version, request, response};

use crate::app::Core;
use crate::error::Error;
use crate::upstream::UpstreamError;
use crate::wire::body::{Body, BodyReadError, Response, read_held};
use crate::wire::buffers::Hold;
use crate::wire::headers::{self, strip_hop_by_hop};
use crate::wire::peer::Peer;

mod outward;

/// Passes the request on and streams the answer back.
pub fn stream<'a>(
    core: &'a Core,
    request: Request<Body>,
    peer: &Peer,
) -> impl Future<Output = Result<Response, Error>> + Send + use<'a> {
    let (mut parts, body) = request.into_parts();
    let sent = outward::prepare(&mut parts, &core.app.settings.upstream.path_prefix, peer)
        .map(|()| core.upstream.send(Request::from_parts(parts, body)));
    async move {
        let mut answer = sent?.await?;
        prepare_answer(&mut answer)?;
        Ok(answer)
    }
}

/// Passes the request on and reads the answer whole, up to `sidecar.max_body` and as far as there is room.
pub async fn buffered(
    core: &Core,
    request: Request<Body>,
    peer: &Peer,
    hold: &mut Hold,
) -> Result<(response::Parts, Bytes), Error> {
    let answer = stream(core, request, peer).await?;
    let limit = core.app.settings.limits.body_limit();
    let (parts, body) = answer.into_parts();
    match read_held(body, limit, hold).await {
        Ok(body) => Ok((parts, body)),
        Err(BodyReadError::TooLarge) => Err(UpstreamError::TooLarge.into()),
        Err(error) => Err(error.into()),
    }
}

/// As [`buffered`], for a request whose body was read already. The body may be another one than the client's: its
/// length is set anew.
pub async fn exchange(
    core: &Core,
    parts: request::Parts,
    body: Bytes,
    peer: &Peer,
    hold: &mut Hold,
) -> Result<(response::Parts, Bytes), Error> {
    buffered(core, with_body(parts, body), peer, hold).await
}

/// A request with a body that was read already.
pub fn with_body(mut parts: request::Parts, body: Bytes) -> Request<Body> {
    parts.headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    parts.headers.remove(http::header::TRANSFER_ENCODING);
    Request::from_parts(parts, Body::full(body))
}

fn prepare_answer(answer: &mut Response) -> Result<(), Error> {
    // Nothing was asked that these would answer.
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err(UpstreamError::Unexpected("101 Switching Protocols".into()).into());
    }
    if !headers::is_coding_known(answer.headers()) {
        return Err(UpstreamError::Unexpected("a transfer coding other than chunked".into()).into());
    }
    let via = match answer.version() {
        Version::HTTP_2 => HeaderValue::from_static("2 kinto-sidecar"),
        Version::HTTP_10 => HeaderValue::from_static("1.0 kinto-sidecar"),
        _ => HeaderValue::from_static("1.1 kinto-sidecar"),
    };
    *answer.version_mut() = Version::HTTP_11;
    let has_no_length = answer.status() == StatusCode::NO_CONTENT;
    let fields = answer.headers_mut();
    strip_hop_by_hop(fields);
    if has_no_length {
        fields.remove(CONTENT_LENGTH);
    }
    headers::settle_length(fields);
    fields.append(VIA, via);
    Ok(())
}
