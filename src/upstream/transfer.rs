//! Bodies on their way to the upstream and back, and how long each may stand still.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http_body::{Body as HttpBody, Frame, SizeHint};

use super::{Turn, UpstreamError, idle::Connection, pool::Pool};
use crate::wire::body::{Body, BoxError, Hook, NextFrame};
use crate::wire::inbound::Inbound;
use crate::wire::stall::Stall;

/// How far a request's body has got. While it moves, or while its client is what is waited for, the upstream is not slow.
#[derive(Debug, Default)]
pub(super) struct Progress {
    frames: AtomicU64,
    waits_for_client: AtomicBool,
    /// Nobody needs the rest of it.
    is_stopped: AtomicBool,
    sender: AtomicWaker,
}

/// The request was answered before all of it was sent.
#[derive(Debug, thiserror::Error)]
#[error("the request is answered already")]
struct Answered;

impl Progress {
    /// Whether the body moved since `seen`, which is brought up to date.
    pub(super) fn moved(&self, seen: &mut u64) -> bool {
        let frames = self.frames.load(Ordering::Relaxed);
        let moved = frames != std::mem::replace(seen, frames);
        moved || self.waits_for_client.load(Ordering::Relaxed)
    }

    /// Ends the body where it is: what was to be learnt from the upstream is known.
    fn stop(&self) {
        self.is_stopped.store(true, Ordering::Release);
        self.sender.wake();
    }
}

/// A request's body notes its progress.
impl Hook for Arc<Progress> {
    fn poll(&mut self, body: &mut Body, context: &mut Context<'_>) -> Poll<NextFrame> {
        self.sender.register(context.waker());
        if self.is_stopped.load(Ordering::Acquire) {
            return Poll::Ready(Some(Err(Answered.into())));
        }
        let frame = Pin::new(body).poll_frame(context);
        self.waits_for_client.store(frame.is_pending(), Ordering::Relaxed);
        if frame.is_ready() {
            self.frames.fetch_add(1, Ordering::Relaxed);
        }
        frame
    }
}

/// An answer's body, with the connection that it comes from, which is kept for the next request when all was read.
pub(super) struct Download {
    incoming: Inbound,
    /// What was read to see whether the body is there already.
    first: Option<Frame<Bytes>>,
    connection: Option<(Arc<Pool>, Connection)>,
    /// Left when all was read.
    turn: Turn,
    /// The body of the request, where it has one.
    upload: Option<Arc<Progress>>,
    stall: Stall,
}

impl Download {
    pub(super) fn new(
        incoming: Inbound,
        connection: Option<(Arc<Pool>, Connection)>,
        upload: Option<Arc<Progress>>,
        patience: Duration,
        turn: Turn,
    ) -> Self {
        Self { incoming, first: None, connection, turn, upload, stall: Stall::new(patience) }
    }

    /// The body for the answer. One that is there already, in one piece, is taken as it is, and its connection is free
    /// at once. One that is broken from its beginning is no answer.
    pub(super) fn into_body(mut self) -> Result<Body, UpstreamError> {
        if !self.incoming.is_end_stream() {
            // Nobody needs to be woken: what is not there yet is asked for again by whoever reads the body.
            let mut context = Context::from_waker(Waker::noop());
            if let Poll::Ready(first) = self.incoming.poll_frame(&mut context) {
                self.first = first.transpose()?;
            }
        }
        if !self.incoming.is_end_stream() {
            return Ok(Body::boxed(self));
        }
        Ok(match self.first.take() {
            None => {
                self.release();
                Body::empty()
            }
            Some(frame) if frame.is_data() => {
                self.release();
                Body::full(frame.into_data().unwrap_or_default())
            }
            first => {
                self.first = first;
                Body::boxed(self)
            }
        })
    }

    fn release(&mut self) {
        if let Some((pool, sender)) = self.connection.take() {
            pool.put(sender);
        }
        self.turn = Turn::default();
    }

    fn poll_incoming(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UpstreamError>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(first)));
        }
        if let Poll::Ready(frame) = self.incoming.poll_frame(context) {
            self.stall.end();
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        ready!(self.stall.poll(context));
        Poll::Ready(Some(Err(UpstreamError::BodyTimeout)))
    }
}

impl HttpBody for Download {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<NextFrame> {
        let frame = ready!(self.poll_incoming(context));
        match &frame {
            // SECURITY: what broke off is never used again.
            Some(Err(_)) => (self.connection, self.turn) = (None, Turn::default()),
            None => self.release(),
            Some(Ok(_)) => {}
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.incoming.size_hint();
        let read = match &self.first {
            Some(frame) => frame.data_ref().map_or(0, |data| data.len() as u64),
            None => 0,
        };
        rest.exact().map_or_else(SizeHint::default, |rest| SizeHint::with_exact(rest + read))
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        // A reader that knows the length stops at the last byte without asking for the end.
        if self.is_end_stream() {
            self.release();
        }
        if let Some(upload) = &self.upload {
            upload.stop();
        }
    }
}
