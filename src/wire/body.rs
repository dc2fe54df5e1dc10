//! The one body type of requests and answers, and the one place where a body is read into memory.
//!
//! A body is either made here (nothing, bytes, several pieces, a channel) or passes through from one connection to
//! another, piece by piece, as fast as its reader takes it.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::{Semaphore, mpsc};

mod keeping;

pub(crate) use keeping::Keeping;

use super::buffers::{Hold, LITTLE, NoRoom};
use super::lent::Loan;

/// A piece of fewer bytes is cheaper to copy than to write on its own.
const SMALL_CHUNK: usize = 16 << 10;

/// How much of a body is read into one block.
const BLOCK: usize = 64 << 10;

/// An answer to a client.
pub type Response = http::Response<Body>;

/// What went wrong while a body was read.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of a request or an answer.
pub struct Body(Kind);

enum Kind {
    Empty,
    Full(Bytes),
    Chunks { chunks: VecDeque<Bytes>, remaining: u64 },
    Incoming(Incoming),
    Channel(mpsc::Receiver<Result<Bytes, BoxError>>),
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
    /// The connection broke, or what came was not HTTP.
    #[error("the body broke off: {0}")]
    Broken(String),
}

/// Why a body was not read whole.
#[derive(Debug, thiserror::Error)]
pub enum BodyReadError {
    /// It is longer than it may be.
    #[error("the body is longer than it may be")]
    TooLarge,
    /// There is no room for it.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    /// It did not come to its end.
    #[error(transparent)]
    Broken(BoxError),
}

/// Reads a whole body. More than `limit` bytes are [`BodyReadError::TooLarge`].
pub async fn read_limited<B>(body: B, limit: usize) -> Result<Bytes, BodyReadError>
where
    B: HttpBody<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    read(body, limit, None, |_| Ok(())).await
}

/// As [`read_limited`], and of what is longer than `free` bytes no more are read at once than have a turn.
pub async fn read_in_turn<B>(
    body: B,
    limit: usize,
    free: usize,
    turns: &Semaphore,
) -> Result<Bytes, BodyReadError>
where
    B: HttpBody<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    read(body, limit, Some((free, turns)), |_| Ok(())).await
}

/// As [`read_limited`], and has what was read held.
pub async fn read_held<B>(body: B, limit: usize, hold: &mut Hold) -> Result<Bytes, BodyReadError>
where
    B: HttpBody<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    read(body, limit, None, |bytes| hold.grow(bytes)).await
}

async fn read<B>(
    body: B,
    limit: usize,
    turns: Option<(usize, &Semaphore)>,
    mut grow: impl FnMut(usize) -> Result<(), NoRoom>,
) -> Result<Bytes, BodyReadError>
where
    B: HttpBody<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let mut body = std::pin::pin!(body);
    if body.size_hint().lower() > limit as u64 {
        return Err(BodyReadError::TooLarge);
    }
    let mut whole = Bytes::new();
    let mut joined = Joined::default();
    let mut turn = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| BodyReadError::Broken(error.into()))?;
        let Ok(data) = frame.into_data() else { continue };
        if data.len() > limit - whole.len() - joined.length {
            return Err(BodyReadError::TooLarge);
        }
        grow(data.len())?;
        if let Some((free, turns)) = turns
            && turn.is_none()
            && whole.len() + joined.length + data.len() > free
        {
            turn = turns.acquire().await.ok();
        }
        if whole.is_empty() && joined.length == 0 {
            // Most bodies come in one piece, which is not copied.
            whole = data;
            continue;
        }
        if joined.length == 0 {
            joined.add(&std::mem::take(&mut whole));
        }
        joined.add(&data);
    }
    Ok(if joined.length == 0 { whole } else { joined.end() })
}

/// Pieces that are joined when all are there. They are copied: each would keep the buffer that it was read into. And they
/// are kept in blocks: memory that doubles would be copied again and again, and be there twice meanwhile.
#[derive(Default)]
struct Joined {
    blocks: VecDeque<BytesMut>,
    length: usize,
}

impl Joined {
    fn add(&mut self, mut data: &[u8]) {
        self.length += data.len();
        while !data.is_empty() {
            if self.blocks.back().is_none_or(|last| last.len() == BLOCK) {
                self.blocks.push_back(BytesMut::with_capacity(BLOCK));
            }
            let Some(last) = self.blocks.back_mut() else { return };
            let (now, later) = data.split_at(data.len().min(BLOCK - last.len()));
            last.extend_from_slice(now);
            data = later;
        }
    }

    fn end(mut self) -> Bytes {
        if self.blocks.len() < 2 {
            return self.blocks.pop_front().unwrap_or_default().freeze();
        }
        let mut whole = BytesMut::with_capacity(self.length);
        while let Some(block) = self.blocks.pop_front() {
            whole.extend_from_slice(&block);
        }
        whole.freeze()
    }
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
        Self::boxed(Keeping::new(self, hold))
    }

    /// A body of something that is lent until it was written or nobody reads it any more.
    #[must_use]
    pub fn lent(self, loan: Loan) -> Self {
        Self::boxed(Keeping::new(self, loan))
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

impl From<Incoming> for Body {
    fn from(incoming: Incoming) -> Self {
        Self(if incoming.is_end_stream() { Kind::Empty } else { Kind::Incoming(incoming) })
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::full(bytes)
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Self::full(bytes)
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Self::full(text)
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Self::full(text)
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Kind::Empty => "Body(empty)",
            Kind::Full(_) => "Body(full)",
            Kind::Chunks { .. } => "Body(chunks)",
            Kind::Incoming(_) => "Body(incoming)",
            Kind::Channel(_) => "Body(channel)",
            Kind::Boxed(_) => "Body(boxed)",
        })
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
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
            Kind::Incoming(incoming) => Pin::new(incoming).poll_frame(context).map_err(Into::into),
            Kind::Channel(receiver) => {
                receiver.poll_recv(context).map(|piece| piece.map(|piece| piece.map(Frame::data)))
            }
            Kind::Boxed(body) => body.as_mut().poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Empty => true,
            Kind::Full(_) | Kind::Channel(_) => false,
            Kind::Chunks { chunks, .. } => chunks.is_empty(),
            Kind::Incoming(incoming) => incoming.is_end_stream(),
            Kind::Boxed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Chunks { remaining, .. } => SizeHint::with_exact(*remaining),
            Kind::Incoming(incoming) => incoming.size_hint(),
            Kind::Channel(_) => SizeHint::default(),
            Kind::Boxed(body) => body.size_hint(),
        }
    }
}

/// See [`Body::sequence`].
struct Sequence(VecDeque<Body>);

impl HttpBody for Sequence {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
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
    async fn pieces_are_joined_up_to_the_limit() {
        let pieces = || Body::chunks(vec![Bytes::from("ab"), Bytes::new(), Bytes::from("cde")]);
        assert_eq!(pieces().size_hint().exact(), Some(5));
        assert_eq!(read_limited(pieces(), 5).await.unwrap(), "abcde");
        assert!(matches!(read_limited(pieces(), 4).await, Err(BodyReadError::TooLarge)));
    }

    #[tokio::test]
    async fn a_channel_body_without_end_is_bounded_too() {
        let (sender, body) = Body::channel();
        let writer = tokio::spawn(async move { while sender.send(Bytes::from("x")).await.is_ok() {} });
        assert!(matches!(read_limited(body, 100).await, Err(BodyReadError::TooLarge)));
        writer.await.unwrap();
    }

    #[tokio::test]
    async fn what_is_read_is_held_and_what_has_no_room_is_not_read() {
        let budget = crate::wire::buffers::Buffers::new(100_000);
        let mut hold = budget.hold(None);
        let pieces = |number: usize| Body::chunks(vec![Bytes::from(vec![b'x'; 20_000]); number]);
        let read = read_held(pieces(2), usize::MAX, &mut hold).await.unwrap();
        assert_eq!((read.len(), budget.held()), (40_000, 40_000));
        let refused = read_held(pieces(2), usize::MAX, &mut budget.hold(None)).await;
        assert!(matches!(refused, Err(BodyReadError::NoRoom(_))));
        let body = Body::sequence(vec![
            Body::full("a"),
            Body::empty(),
            Body::full(read).held(hold),
            Body::full("b"),
        ]);
        assert_eq!((body.size_hint().exact(), budget.held()), (Some(40_002), 40_000));
        let read = read_limited(body, usize::MAX).await.unwrap();
        assert!(read.starts_with(b"ax") && read.ends_with(b"xb") && budget.held() == 0);
    }

    #[tokio::test]
    async fn an_aborted_channel_body_is_never_complete() {
        let (sender, body) = Body::channel();
        sender.send(Bytes::from("x")).await.unwrap();
        sender.abort("lost".into()).await;
        assert!(read_limited(body, 100).await.is_err());
    }
}
