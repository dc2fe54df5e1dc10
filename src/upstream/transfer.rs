//! Bodies on their way to the upstream and back, and how long each may stand still.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};

use super::{Turn, UpstreamError, idle::Connection, pool::Pool, stay::Stay};
use crate::wire::body::{Body, BodyError, BoxError, Hook, NextFrame};
use crate::wire::inbound::Inbound;
use crate::wire::stall::Stall;

/// How far a request's body has got. While it moves, or while its client is what is waited for, the upstream is not slow.
#[derive(Debug)]
pub(super) struct Progress {
    frames: AtomicU64,
    stay: Arc<Stay>,
    /// Nobody needs the rest of it.
    is_stopped: AtomicBool,
}

/// The request was answered before all of it was sent.
#[derive(Debug, thiserror::Error)]
#[error("the request is answered already")]
struct Answered;

impl Progress {
    /// Of a request that has this place.
    pub(super) fn new(turn: Turn) -> Self {
        Self { frames: AtomicU64::new(0), stay: Stay::new(turn), is_stopped: AtomicBool::new(false) }
    }

    /// The place, which the answer has from now on.
    pub(super) fn take_turn(&self) -> Turn {
        self.stay.take()
    }

    /// Whether the body moved since `seen`, which is brought up to date.
    pub(super) fn moved(&self, seen: &mut u64) -> bool {
        let frames = self.frames.load(Ordering::Relaxed);
        let moved = frames != std::mem::replace(seen, frames);
        moved || self.stay.is_waiting()
    }

    /// Ends the body where it is: what was to be learnt from the upstream is known.
    fn stop(&self) {
        self.is_stopped.store(true, Ordering::Release);
        self.stay.wake();
    }
}

/// A request's body notes its progress.
impl Hook for Arc<Progress> {
    fn poll(&mut self, body: &mut Body, context: &mut Context<'_>) -> Poll<NextFrame> {
        self.stay.register(context.waker());
        if self.is_stopped.load(Ordering::Acquire) {
            return Poll::Ready(Some(Err(Answered.into())));
        }
        let frame = Pin::new(body).poll_frame(context);
        if self.stay.waits(frame.is_pending()) {
            return Poll::Ready(Some(Err(BodyError::TooSlow.into())));
        }
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
    /// The same where its reader may be waited for.
    stay: Option<Arc<Stay>>,
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
        Self { incoming, first: None, connection, turn, stay: None, upload, stall: Stall::new(patience) }
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
            self.stay = self.turn.of().is_some().then(|| Stay::new(std::mem::take(&mut self.turn)));
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
        (self.turn, self.stay) = (Turn::default(), None);
    }

    /// Whether its place was given to others. Its reader is waited for whenever nobody asks for more.
    fn is_given_up(&self, is_asked: bool) -> bool {
        self.stay.as_ref().is_some_and(|stay| stay.waits(!is_asked))
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
        if self.is_given_up(true) {
            (self.connection, self.stay) = (None, None);
            return Poll::Ready(Some(Err(UpstreamError::Crowded.into())));
        }
        let frame = ready!(self.poll_incoming(context));
        match &frame {
            // SECURITY: what broke off is never used again.
            Some(Err(_)) => (self.connection, self.turn, self.stay) = (None, Turn::default(), None),
            None => self.release(),
            Some(Ok(_)) => _ = self.is_given_up(false),
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
