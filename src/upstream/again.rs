//! What is kept of a request over HTTP/2 until its answer begins, so that it can be sent again.
//!
//! An upstream says which requests it never began, whatever their method: those above the last stream that its `GOAWAY` names,
//! and those that it resets with `REFUSED_STREAM` (RFC 9113, sections 6.8 and 8.7). Servers end their connections so after a
//! number of requests, and whenever they are reloaded. What may have been begun fails in other ways, and is none of these.

use std::error::Error as StdError;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use h2::Reason;
use http::Request;
use http_body::{Body as HttpBody, SizeHint};
use parking_lot::Mutex;

use crate::wire::body::{Body, BoxError, NextFrame};
use crate::wire::buffers::LITTLE;

/// A request, for another go.
pub(super) struct Again {
    head: Request<Body>,
    body: Kept,
}

enum Kept {
    /// All of it was there.
    Whole(Body),
    /// It passes through.
    Passing(Arc<Mutex<Upload>>),
}

/// A body that passes through, and its beginning.
struct Upload {
    /// `None` once it is needed for another go.
    rest: Option<Body>,
    /// What was taken of it; `None` once that is more than is kept.
    taken: Option<BytesMut>,
    is_ended: bool,
}

/// The reading end of an [`Upload`].
struct Passing(Arc<Mutex<Upload>>);

/// The request goes another way.
#[derive(Debug, thiserror::Error)]
#[error("the request is sent again")]
struct Elsewhere;

/// Whether the upstream says that it did not begin the request.
pub(super) fn is_unprocessed(error: &hyper::Error) -> bool {
    let Some(error) = error.source().and_then(|cause| cause.downcast_ref::<h2::Error>()) else {
        return false;
    };
    let is_ended = error.is_go_away() && error.reason() == Some(Reason::NO_ERROR);
    let is_refused = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
    error.is_remote() && (is_ended || is_refused)
}

/// The same request without its body.
pub(super) fn copy_of(request: &Request<Body>) -> Request<Body> {
    let mut copy = Request::new(Body::empty());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    copy
}

impl Again {
    /// Keeps what another go of this request needs. A body that is not there yet is kept as far as it is little.
    pub(super) fn keep(request: Request<Body>) -> (Request<Body>, Self) {
        let head = copy_of(&request);
        if let Some(body) = request.body().twin() {
            return (request, Self { head, body: Kept::Whole(body) });
        }
        let (parts, body) = request.into_parts();
        let upload = Upload { rest: Some(body), taken: Some(BytesMut::new()), is_ended: false };
        let upload = Arc::new(Mutex::new(upload));
        let request = Request::from_parts(parts, Body::boxed(Passing(Arc::clone(&upload))));
        (request, Self { head, body: Kept::Passing(upload) })
    }

    /// The request once more, unless more of its body is gone than was kept.
    pub(super) fn request(self) -> Option<Request<Body>> {
        let body = match self.body {
            Kept::Whole(body) => body,
            Kept::Passing(upload) => upload.lock().take()?,
        };
        Some(self.head.map(|_| body))
    }
}

impl Upload {
    /// All of it, from its beginning.
    fn take(&mut self) -> Option<Body> {
        let taken = self.taken.take()?;
        let rest = self.rest.take()?;
        if taken.is_empty() {
            return Some(rest);
        }
        let taken = Body::full(taken);
        let is_whole = self.is_ended || rest.is_end_stream();
        Some(if is_whole { taken } else { Body::sequence(vec![taken, rest]) })
    }

    fn note(&mut self, frame: &NextFrame) {
        let data = match frame {
            Some(Ok(frame)) => frame.data_ref(),
            Some(Err(_)) => None,
            None => {
                self.is_ended = true;
                return;
            }
        };
        match (data, &mut self.taken) {
            (Some(data), Some(taken)) if taken.len() + data.len() <= LITTLE => taken.extend_from_slice(data),
            _ => self.taken = None,
        }
    }
}

impl HttpBody for Passing {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<NextFrame> {
        let mut upload = self.0.lock();
        let Some(rest) = &mut upload.rest else { return Poll::Ready(Some(Err(Elsewhere.into()))) };
        let frame = ready!(Pin::new(rest).poll_frame(context));
        upload.note(&frame);
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.0.lock().rest.as_ref().is_some_and(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.0.lock().rest.as_ref().map(HttpBody::size_hint).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::body::read_limited;

    async fn again_after(pieces: usize, length: usize) -> Option<Bytes> {
        let (sender, body) = Body::channel();
        let (request, again) = Again::keep(Request::new(body));
        let mut body = request.into_body();
        for _ in 0..pieces {
            sender.send(vec![b'x'; length].into()).await.unwrap();
            let piece = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await;
            assert_eq!(piece.unwrap().unwrap().into_data().unwrap().len(), length);
        }
        let again = again.request()?.into_body();
        let first = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await;
        assert!(first.unwrap().is_err());
        sender.send("rest".into()).await.unwrap();
        drop(sender);
        Some(read_limited(again, 1 << 20).await.unwrap())
    }

    #[tokio::test]
    async fn a_body_begins_anew_while_little_of_it_was_taken() {
        assert_eq!(again_after(0, 0).await.unwrap(), "rest");
        assert_eq!(again_after(3, 1).await.unwrap(), "xxxrest");
        assert_eq!(again_after(2, LITTLE / 2).await.map(|body| body.len()), Some(LITTLE + 4));
        assert_eq!(again_after(2, LITTLE / 2 + 1).await, None);
    }
}
