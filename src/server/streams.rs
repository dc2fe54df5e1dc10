//! Streams of HTTP/2, each with its request and its answer.
//!
//! The connection's own rules for a client that takes nothing do not see a stream that stands still beside others. So each
//! stream is looked at by itself: it is reset when its reader has room for no more of the answer for as long as a whole
//! connection of HTTP/1.1 may be blocked. And it counts ([`super::places`]) until the last byte of its answer is written.

use std::cell::Cell;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::rt::Executor;

use super::activity::RequestGuard;
use super::places::Stream;
use crate::wire::body::{BoxError, Hooked};
use crate::wire::stall::Stall;

thread_local! {
    /// What the stream that is polled last got of its answer's body: a piece, or nothing for now.
    static GOT: Cell<Option<bool>> = const { Cell::new(None) };
}

/// The body of an answer. Where it is that of a stream, its pieces keep that counted.
pub(super) struct Sending {
    body: Hooked<RequestGuard>,
    stream: Option<Arc<Stream>>,
    /// What is left of a large piece of a stream's.
    rest: Bytes,
}

/// A stream gets so many bytes at a time, so that it is seen how its reader takes them, and that the body, with all that is
/// held for it, is there until they have nearly all of it.
pub(super) const AT_A_TIME: usize = 64 << 10;

/// A piece of a body.
pub(super) struct Piece {
    bytes: Bytes,
    _stream: Option<Arc<Stream>>,
}

/// Runs streams, each for as long as its reader takes something of it in such a time.
#[derive(Clone)]
pub(super) struct Streams(pub(super) Duration);

/// A stream that runs.
struct Running<F> {
    stream: Pin<Box<F>>,
    /// A piece of its answer waits for its reader.
    has_piece: bool,
    stall: Stall,
}

impl Sending {
    pub(super) fn new(body: Hooked<RequestGuard>, stream: Option<Stream>) -> Self {
        Self { body, stream: stream.map(Arc::new), rest: Bytes::new() }
    }
}

impl HttpBody for Sending {
    type Data = Piece;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Piece>, BoxError>>> {
        let this = &mut *self;
        if this.rest.is_empty() {
            let polled = Pin::new(&mut this.body).poll_frame(context);
            if this.stream.is_some() {
                GOT.set(Some(polled.is_ready()));
            }
            let frame = ready!(polled);
            let (stream, rest) = (&this.stream, &mut this.rest);
            let piece = |mut bytes: Bytes| {
                if stream.is_some() && bytes.len() > AT_A_TIME {
                    *rest = bytes.split_off(AT_A_TIME);
                }
                Piece { bytes, _stream: stream.clone() }
            };
            return Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(piece))));
        }
        GOT.set(Some(true));
        let bytes = this.rest.split_to(this.rest.len().min(AT_A_TIME));
        Poll::Ready(Some(Ok(Frame::data(Piece { bytes, _stream: this.stream.clone() }))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (mut hint, rest) = (self.body.size_hint(), self.rest.len() as u64);
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint.set_lower(hint.lower().saturating_add(rest));
        hint
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }

    fn copy_to_bytes(&mut self, length: usize) -> Bytes {
        self.bytes.copy_to_bytes(length)
    }
}

impl<F> Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        tokio::spawn(Running { stream: Box::pin(stream), has_piece: false, stall: Stall::new(self.0) });
    }
}

impl<F: Future<Output = ()>> Future for Running<F> {
    type Output = ();

    /// Ends with the stream, or before it: what is dropped is reset.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        GOT.set(None);
        if self.stream.as_mut().poll(context).is_ready() {
            return Poll::Ready(());
        }
        if let Some(has_piece) = GOT.take() {
            self.has_piece = has_piece;
            self.stall.end();
        }
        if self.has_piece { self.stall.poll(context) } else { Poll::Pending }
    }
}
