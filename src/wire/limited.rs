//! A request's body, held to its limits: `sidecar.max_body` bytes, and `sidecar.body_timeout` between two reads.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;

use crate::settings::Limits;
use crate::wire::body::{Body, BodyError, BoxError};
use crate::wire::stall::Stall;

struct RequestBody {
    incoming: Incoming,
    left: u64,
    stall: Stall,
}

/// Puts a body under its limits. One that says itself that it is too large is refused at once.
pub(crate) fn limited(incoming: Incoming, limits: &Limits) -> Result<Body, BodyError> {
    if incoming.is_end_stream() {
        return Ok(Body::empty());
    }
    let left = if limits.body_bytes == 0 { u64::MAX } else { limits.body_bytes };
    if incoming.size_hint().lower() > left {
        return Err(BodyError::TooLarge);
    }
    Ok(Body::boxed(RequestBody { incoming, left, stall: Stall::new(limits.body_timeout) }))
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let Poll::Ready(frame) = Pin::new(&mut this.incoming).poll_frame(context) else {
            ready!(this.stall.poll(context));
            return Poll::Ready(Some(Err(BodyError::TooSlow.into())));
        };
        this.stall.end();
        let frame = match frame {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Poll::Ready(Some(Err(BodyError::Broken(error.to_string()).into()))),
            None => return Poll::Ready(None),
        };
        let length = frame.data_ref().map_or(0, |data| data.len() as u64);
        match this.left.checked_sub(length) {
            Some(left) => this.left = left,
            None => return Poll::Ready(Some(Err(BodyError::TooLarge.into()))),
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
