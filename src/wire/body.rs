//! The one body type of requests and answers.
//!
//! A body is either made here (nothing, bytes, several pieces, a channel) or passes through from one connection to
//! another, piece by piece, as fast as its reader takes it.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::mpsc;

mod hooked;
mod whole;

use hooked::Asking;
pub(crate) use hooked::{Hook, Hooked, NextFrame};
pub(crate) use whole::Pieces;
pub use whole::{BodyReadError, read_held, read_in_turn, read_limited};

use super::buffers::{Hold, LITTLE};
use super::inbound::Inbound;
use super::lent::Loan;
use crate::current;

/// A piece of fewer bytes is cheaper to copy than to write on its own.
const SMALL_CHUNK: usize = 16 << 10;

/// An answer to a client.
pub type Response = http::Response<Body>;

/// What went wrong while a body was read.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of a request or an answer.
pub struct Body(Kind);

enum Kind {
    Empty,
    Full(Bytes),
    Chunks {
        chunks: VecDeque<Bytes>,
        remaining: u64,
    },
    /// Boxed: it is larger than all others, and most bodies are none.
    Inbound(Box<Inbound>),
    Channel(mpsc::Receiver<Result<Bytes, BoxError>>),
    /// It is lent until it was written or nobody reads it any more.
    Lent(Box<(Body, Loan)>),
    Boxed(Pin<Box<dyn HttpBody<Data = Bytes, Error = BoxError> + Send + Sync>>),
}

/// The writing end of [`Body::channel`]. Dropping it ends the body.
#[derive(Debug, Clone)]
pub struct Sender(mpsc::Sender<Result<Bytes, BoxError>>);

/// The reader of the body went away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the reader of the body went away")]
pub struct Closed;

/// Why a body that comes from a client cannot be read to its end.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BodyError {
    /// It is longer than `sidecar.max_body`.
    #[error("the body is longer than it may be")]
    TooLarge,
    /// Nothing came for `sidecar.body_timeout`.
    #[error("the body stopped arriving")]
    TooSlow,
    /// It was still coming when this process left the journal to another one.
    #[error("the body came too late for this process")]
    Late,
    /// The connection broke, or what came was not HTTP.
    #[error("the body broke off: {0}")]
    Broken(String),
}

/// The next piece to write. Small ones are joined: a connection flushes after a handful of pieces, however small.
fn next_chunk(chunks: &mut VecDeque<Bytes>) -> Option<Bytes> {
    let first = chunks.pop_front()?;
    if first.len() >= SMALL_CHUNK || chunks.is_empty() {
        return Some(first);
    }
    let mut joined = BytesMut::with_capacity(4 * SMALL_CHUNK);
    joined.extend_from_slice(&first);
    while let Some(chunk) = chunks.front()
        && joined.len() + chunk.len() <= 4 * SMALL_CHUNK
    {
        joined.extend_from_slice(chunk);
        chunks.pop_front();
    }
    Some(joined.freeze())
}

// === impl Body ===

impl Body {
    /// Whether all of it is there already.
    pub(crate) fn is_at_hand(&self) -> bool {
        match &self.0 {
            Kind::Empty | Kind::Full(_) | Kind::Chunks { .. } => true,
            Kind::Lent(lent) => lent.0.is_at_hand(),
            Kind::Inbound(_) | Kind::Channel(_) | Kind::Boxed(_) => false,
        }
    }

    /// As much of it as is there in one piece.
    pub(crate) fn beginning(&self) -> &[u8] {
        match &self.0 {
            Kind::Full(bytes) => bytes,
            Kind::Chunks { chunks, .. } => chunks.front().map(Bytes::as_ref).unwrap_or_default(),
            Kind::Lent(lent) => lent.0.beginning(),
            Kind::Empty | Kind::Inbound(_) | Kind::Channel(_) | Kind::Boxed(_) => &[],
        }
    }

    /// A copy of it, where all of it is there and no longer than `most`.
    pub(crate) fn copied(&self, most: usize) -> Option<Bytes> {
        match &self.0 {
            Kind::Empty => Some(Bytes::new()),
            Kind::Full(bytes) if bytes.len() <= most => Some(Bytes::copy_from_slice(bytes)),
            Kind::Chunks { chunks, .. } if chunks.iter().map(Bytes::len).sum::<usize>() <= most => {
                let mut copy = BytesMut::with_capacity(chunks.iter().map(Bytes::len).sum());
                for chunk in chunks {
                    copy.extend_from_slice(chunk);
                }
                Some(copy.freeze())
            }
            Kind::Lent(lent) => lent.0.copied(most),
            _ => None,
        }
    }

    /// The same body once more, where its bytes are there and need not be copied.
    pub(crate) fn twin(&self) -> Option<Self> {
        match &self.0 {
            Kind::Empty => Some(Self::empty()),
            Kind::Full(bytes) => Some(Self(Kind::Full(bytes.clone()))),
            Kind::Chunks { chunks, remaining } => {
                Some(Self(Kind::Chunks { chunks: chunks.clone(), remaining: *remaining }))
            }
            Kind::Lent(_) | Kind::Inbound(_) | Kind::Channel(_) | Kind::Boxed(_) => None,
        }
    }

    /// No body.
    pub const fn empty() -> Self {
        Self(Kind::Empty)
    }

    /// A body of these bytes, whose length is known.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self(if bytes.is_empty() { Kind::Empty } else { Kind::Full(bytes) })
    }

    /// A body of several pieces, written without being joined; its length is their sum.
    pub fn chunks(chunks: Vec<Bytes>) -> Self {
        let chunks: VecDeque<_> = chunks.into_iter().filter(|chunk| !chunk.is_empty()).collect();
        let remaining = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        Self(if chunks.is_empty() { Kind::Empty } else { Kind::Chunks { chunks, remaining } })
    }

    /// A body of unknown length that is written while it is read. A few pieces fit in between; then the writer waits.
    pub fn channel() -> (Sender, Self) {
        let (sender, receiver) = mpsc::channel(4);
        (Sender(sender), Self(Kind::Channel(receiver)))
    }

    /// Several bodies, one after the other. Where one breaks off, all do.
    pub fn sequence(parts: Vec<Self>) -> Self {
        Self::boxed(Sequence(parts.into()))
    }

    /// A body for which room is held until it was written or nobody reads it any more.
    #[must_use]
    pub fn held(self, hold: Hold) -> Self {
        if hold.bytes() < LITTLE {
            return self;
        }
        self.hooked(hold)
    }

    /// A body of something that is lent until it was written or nobody reads it any more.
    #[must_use]
    pub fn lent(self, loan: Loan) -> Self {
        Self(Kind::Lent(Box::new((self, loan))))
    }

    /// A body that asks the upstream for its rest while it is read, as part of the request that this task is about.
    #[must_use]
    pub fn asking(self) -> Self {
        match current::this() {
            Some(current) => self.hooked(Asking(current)),
            None => self,
        }
    }

    /// A body that `hook` looks at while it is read.
    #[must_use]
    pub(crate) fn hooked(self, hook: impl Hook + Send + Sync + 'static) -> Self {
        Self::boxed(Hooked::new(self, hook))
    }

    /// Any other body.
    pub fn boxed<B>(body: B) -> Self
    where
        B: HttpBody<Data = Bytes, Error = BoxError> + Send + Sync + 'static,
    {
        Self(Kind::Boxed(Box::pin(body)))
    }
}

impl Default for Body {
    fn default() -> Self {
        Self::empty()
    }
}

impl From<Inbound> for Body {
    fn from(inbound: Inbound) -> Self {
        Self(if inbound.is_end_stream() { Kind::Empty } else { Kind::Inbound(Box::new(inbound)) })
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Body")
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<NextFrame> {
        match &mut self.0 {
            Kind::Empty => Poll::Ready(None),
            Kind::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                self.0 = Kind::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Kind::Chunks { chunks, remaining } => Poll::Ready(next_chunk(chunks).map(|chunk| {
                *remaining = remaining.saturating_sub(chunk.len() as u64);
                Ok(Frame::data(chunk))
            })),
            Kind::Inbound(inbound) => inbound.poll_frame(context).map_err(Into::into),
            Kind::Channel(receiver) => {
                receiver.poll_recv(context).map(|piece| piece.map(|piece| piece.map(Frame::data)))
            }
            Kind::Lent(lent) => Pin::new(&mut lent.0).poll_frame(context),
            Kind::Boxed(body) => body.as_mut().poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Empty => true,
            Kind::Full(_) | Kind::Channel(_) => false,
            Kind::Chunks { chunks, .. } => chunks.is_empty(),
            Kind::Inbound(inbound) => inbound.is_end_stream(),
            Kind::Lent(lent) => lent.0.is_end_stream(),
            Kind::Boxed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Chunks { remaining, .. } => SizeHint::with_exact(*remaining),
            Kind::Inbound(inbound) => inbound.size_hint(),
            Kind::Channel(_) => SizeHint::default(),
            Kind::Lent(lent) => lent.0.size_hint(),
            Kind::Boxed(body) => body.size_hint(),
        }
    }
}

impl Hook for Hold {}

/// See [`Body::sequence`].
struct Sequence(VecDeque<Body>);

impl HttpBody for Sequence {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<NextFrame> {
        while let Some(part) = self.0.front_mut() {
            match Pin::new(part).poll_frame(context) {
                Poll::Ready(None) => _ = self.0.pop_front(),
                frame => return frame,
            }
        }
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.0.iter().all(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let exact = self.0.iter().map(|part| part.size_hint().exact()).sum();
        Option::map_or_else(exact, SizeHint::default, SizeHint::with_exact)
    }
}

// === impl Sender ===

impl Sender {
    /// Adds a piece, waiting until there is room for it.
    pub async fn send(&self, bytes: Bytes) -> Result<(), Closed> {
        self.0.send(Ok(bytes)).await.map_err(|_| Closed)
    }

    /// Breaks the body off, so that its reader knows that it is not complete.
    pub async fn abort(self, error: BoxError) {
        // A reader that went away does not need to know.
        let _ = self.0.send(Err(error)).await;
    }

    /// Waits until the reader has gone away.
    pub async fn closed(&self) {
        self.0.closed().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_aborted_channel_body_is_never_complete() {
        let (sender, body) = Body::channel();
        sender.send(Bytes::from("x")).await.unwrap();
        sender.abort("lost".into()).await;
        assert!(read_limited(body, 100).await.is_err());
    }
}
