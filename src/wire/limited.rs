//! A request's body, held to its limits: `sidecar.max_body` bytes, and `sidecar.body_timeout` between two reads.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http_body::Body as _;

use crate::settings::Limits;
use crate::wire::body::{Body, BodyError, Hook, NextFrame};
use crate::wire::stall::Stall;

struct Limited {
    left: u64,
    stall: Stall,
}

/// Puts a body under its limits. One that says itself that it is too large is refused at once.
pub(crate) fn limited(body: Body, limits: &Limits) -> Result<Body, BodyError> {
    if body.is_end_stream() {
        return Ok(Body::empty());
    }
    let left = if limits.body_bytes == 0 { u64::MAX } else { limits.body_bytes };
    if body.size_hint().lower() > left {
        return Err(BodyError::TooLarge);
    }
    Ok(body.hooked(Limited { left, stall: Stall::new(limits.body_timeout) }))
}

impl Hook for Limited {
    fn poll(&mut self, body: &mut Body, context: &mut Context<'_>) -> Poll<NextFrame> {
        let Poll::Ready(frame) = Pin::new(body).poll_frame(context) else {
            ready!(self.stall.poll(context));
            return Poll::Ready(Some(Err(BodyError::TooSlow.into())));
        };
        self.stall.end();
        let frame = match frame {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Poll::Ready(Some(Err(BodyError::Broken(error.to_string()).into()))),
            None => return Poll::Ready(None),
        };
        let length = frame.data_ref().map_or(0, |data| data.len() as u64);
        match self.left.checked_sub(length) {
            Some(left) => self.left = left,
            None => return Poll::Ready(Some(Err(BodyError::TooLarge.into()))),
        }
        Poll::Ready(Some(Ok(frame)))
    }
}
