//! A body that something looks at while it is read, and that keeps it until it was written, or nobody reads it any more.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};

use crate::current::{self, Current};
use crate::wire::body::{Body, BoxError};

/// The next frame of a body.
pub(crate) type NextFrame = Option<Result<Frame<Bytes>, BoxError>>;

/// What looks at a body, and is dropped with it.
pub(crate) trait Hook: Unpin {
    /// Reads on.
    fn poll(&mut self, body: &mut Body, context: &mut Context<'_>) -> Poll<NextFrame> {
        Pin::new(body).poll_frame(context)
    }
}

/// A body with its hook.
pub(crate) struct Hooked<H> {
    body: Body,
    hook: H,
}

/// Has whatever is asked for a body be asked for its request.
pub(super) struct Asking(pub(super) Arc<Current>);

impl Hook for Asking {
    fn poll(&mut self, body: &mut Body, context: &mut Context<'_>) -> Poll<NextFrame> {
        current::within(&self.0, || Pin::new(body).poll_frame(context))
    }
}

impl<H> Hooked<H> {
    /// Has `hook` look at `body`.
    pub(crate) fn new(body: Body, hook: H) -> Self {
        Self { body, hook }
    }
}

impl<H: Hook> HttpBody for Hooked<H> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<NextFrame> {
        let Self { body, hook } = &mut *self;
        hook.poll(body, context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
