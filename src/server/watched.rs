//! A client's socket as the HTTP parser sees it: what is done over it is noted, and heads come one at a time.
//!
//! A client that ends its side may still wait for its answer. The parser takes such an end for a client that went away, so
//! it is shown it only when all is answered.

use std::cmp::min;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::activity::Activity;
use super::framing::{Framing, Step};
use crate::wire::duplex::Stream;

/// A client's socket, watched.
pub(super) struct Watched {
    stream: Stream,
    /// What was read and not handed over.
    held: BytesMut,
    /// How much of it may be handed over as it is.
    cleared: usize,
    has_ended: bool,
    /// `None` where the protocol has no heads.
    framing: Option<Framing>,
    activity: Arc<Activity>,
}

impl Watched {
    /// `first` was read to tell the protocol, and is read again first.
    pub(super) fn new(
        stream: Stream,
        first: BytesMut,
        framing: Option<Framing>,
        activity: Arc<Activity>,
    ) -> Self {
        let cleared = if framing.is_some() { 0 } else { first.len() };
        Self { stream, held: first, cleared, has_ended: false, framing, activity }
    }

    /// The socket, unless the client has sent its last byte.
    pub(super) fn into_open(self) -> Option<Stream> {
        (!self.has_ended).then_some(self.stream)
    }

    /// Hands over what is cleared.
    fn give(&mut self, buffer: &mut ReadBuf<'_>) {
        let length = min(self.cleared, buffer.remaining());
        buffer.put_slice(&self.held.split_to(length));
        self.cleared -= length;
        self.note_body();
    }

    fn note_body(&self) {
        let is_over = self.cleared == 0 && self.framing.as_ref().is_some_and(|framing| !framing.is_in_body());
        if is_over && self.activity.awaits_body() {
            self.activity.note_body();
        }
    }

    /// Clears what may be handed over of what is held.
    fn clear(&mut self) {
        let Some(framing) = self.framing.as_mut().filter(|_| self.cleared == 0 && !self.held.is_empty())
        else {
            return;
        };
        match framing.step(&self.held, || self.activity.take_following()) {
            Step::Give(count) => self.cleared = count,
            Step::Replace(count, head) => {
                self.held.advance(count);
                self.cleared = head.len();
                let rest = std::mem::replace(&mut self.held, BytesMut::from(&*head));
                self.held.extend_from_slice(&rest);
            }
            Step::Wait => self.activity.note_head(),
        }
    }

    /// Takes what was read into `buffer` behind `before`. Whether some of it may be handed over as it is, and is left there.
    fn take(&mut self, buffer: &mut ReadBuf<'_>, before: usize) -> bool {
        let Some(framing) = &mut self.framing else { return true };
        let fresh = buffer.filled().get(before..).unwrap_or_default();
        let left = if self.held.is_empty() {
            match framing.step(fresh, || self.activity.take_following()) {
                Step::Give(count) => count,
                Step::Replace(count, head) => {
                    self.held.extend_from_slice(&head);
                    self.held.extend_from_slice(fresh.get(count..).unwrap_or_default());
                    self.cleared = head.len();
                    buffer.set_filled(before);
                    return false;
                }
                Step::Wait => {
                    self.activity.note_head();
                    0
                }
            }
        } else {
            0
        };
        if left < fresh.len() {
            self.held.extend_from_slice(fresh.get(left..).unwrap_or_default());
            buffer.set_filled(before + left);
        }
        self.note_body();
        left > 0
    }

    /// The client has sent its last byte.
    fn end(&mut self, context: &Context<'_>) -> Poll<io::Result<()>> {
        let Some(framing) = &mut self.framing else { return Poll::Ready(Ok(())) };
        let is_between = framing.is_between(|| self.activity.take_following());
        let is_answered = self.activity.note_end(context);
        if is_between && !is_answered { Poll::Pending } else { Poll::Ready(Ok(())) }
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            this.clear();
            if this.cleared > 0 {
                this.give(buffer);
                return Poll::Ready(Ok(()));
            }
            if this.has_ended {
                return this.end(context);
            }
            let before = buffer.filled().len();
            ready!(Pin::new(&mut this.stream).poll_read(context, buffer))?;
            if buffer.filled().len() == before {
                this.has_ended = true;
                if let Some(framing) = &mut this.framing
                    && !this.held.is_empty()
                {
                    // Half a head: the parser judges it.
                    framing.lose();
                }
            } else if this.take(buffer, before) {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.activity.note_write(written.is_pending());
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.activity.note_write(written.is_pending());
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
