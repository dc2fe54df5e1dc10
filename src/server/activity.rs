//! What a client's connection is doing, and how long it may do nothing.
//!
//! The rule is checked by one timer for each connection, which looks from time to time whether anything has happened
//! since: a request costs a few counts and no timer of its own. A limit is therefore kept to within half of itself.
//! hyper's own timer for heads is not used: it takes an idle connection for one whose head is late.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::target;
use crate::body::{Body, BoxError};
use crate::settings::Limits;

/// What a connection is doing.
#[derive(Debug, Default)]
pub(super) struct Activity {
    /// Counts everything that happens.
    events: AtomicU32,
    /// Requests that are not answered to the end.
    in_flight: AtomicU32,
    /// A request's head has begun to arrive. On HTTP/2 the frames between requests are not told apart, so it stays unset.
    in_head: AtomicBool,
    /// The client does not take what is written to it.
    is_blocked: AtomicBool,
}

/// What the timer of a connection last saw.
#[derive(Debug)]
pub(super) struct Quiet {
    events: u32,
    since: Instant,
}

/// A client's socket, watched. What was read to tell the protocol is read again first.
pub(super) struct Watched<S> {
    stream: S,
    first: Bytes,
    activity: Arc<Activity>,
    /// Whether heads are told from what else arrives.
    has_heads: bool,
}

/// An answer's body that keeps its request in flight.
pub(super) struct InFlight {
    body: Body,
    _request: RequestGuard,
}

/// A request that is not answered to the end.
pub(super) struct RequestGuard(Arc<Activity>);

impl Activity {
    /// A request has begun.
    pub(super) fn begin_request(self: &Arc<Self>) -> RequestGuard {
        self.in_flight.fetch_add(1, Relaxed);
        self.in_head.store(false, Relaxed);
        self.events.fetch_add(1, Relaxed);
        RequestGuard(Arc::clone(self))
    }

    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.load(Relaxed) == 0
    }

    /// How often a connection is looked at.
    pub(super) fn pace(limits: &Limits) -> Duration {
        limits.header_timeout.min(limits.idle_timeout).min(limits.body_timeout) / 2
    }

    /// Whether the connection has done nothing for longer than it may.
    pub(super) fn is_overdue(&self, quiet: &mut Quiet, limits: &Limits) -> bool {
        let now = Instant::now();
        let events = self.events.load(Relaxed);
        if events != quiet.events {
            *quiet = Quiet { events, since: now };
            return false;
        }
        let limit = if self.is_blocked.load(Relaxed) {
            limits.body_timeout
        } else if !self.is_idle() {
            // How long an answer may take is the upstream's limit, or the feed's.
            return false;
        } else if self.in_head.load(Relaxed) {
            limits.header_timeout
        } else {
            limits.idle_timeout
        };
        now - quiet.since >= limit
    }
}

impl Quiet {
    pub(super) fn new() -> Self {
        Self { events: 0, since: Instant::now() }
    }
}

// === impl Watched ===

impl<S> Watched<S> {
    pub(super) fn new(stream: S, first: Bytes, activity: Arc<Activity>, has_heads: bool) -> Self {
        let mut first = first;
        if has_heads && !first.is_empty() {
            activity.in_head.store(true, Relaxed);
            if let Some(escaped) = target::escaped(&first) {
                first = escaped.into();
            }
        }
        Self { stream, first, activity, has_heads }
    }

    /// Notes that something was read, and whether it begins a head.
    fn note_read(&self) -> bool {
        let begins = self.has_heads && self.activity.is_idle() && !self.activity.in_head.load(Relaxed);
        if begins {
            self.activity.in_head.store(true, Relaxed);
            self.activity.events.fetch_add(1, Relaxed);
        }
        begins
    }

    /// Gives out what was read before.
    fn give_first(&mut self, buffer: &mut ReadBuf<'_>) {
        let length = self.first.len().min(buffer.remaining());
        buffer.put_slice(&self.first.split_to(length));
    }

    fn note_write(&self, is_blocked: bool) {
        if self.activity.is_blocked.load(Relaxed) || is_blocked {
            self.activity.events.fetch_add(u32::from(!is_blocked), Relaxed);
            self.activity.is_blocked.store(is_blocked, Relaxed);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.first.has_remaining() {
            self.give_first(buffer);
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before
            && self.note_read()
            && let Some(escaped) = buffer.filled().get(before..).and_then(target::escaped)
        {
            buffer.set_filled(before);
            self.first = escaped.into();
            self.give_first(buffer);
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.note_write(written.is_pending());
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.note_write(written.is_pending());
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

// === impl InFlight ===

impl InFlight {
    pub(super) fn new(body: Body, request: RequestGuard) -> Self {
        Self { body, _request: request }
    }
}

impl HttpBody for InFlight {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
        self.0.events.fetch_add(1, Relaxed);
    }
}
