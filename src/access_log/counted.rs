//! A body whose bytes are counted for the access log.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http_body::Body as _;

use super::{Answered, Told};
use crate::current::Current;
use crate::wire::body::{Body, Hook, NextFrame};

/// Counts a body; the line is written when it was, or nobody reads it any more.
pub(super) struct Counting {
    pub(super) answered: Box<Answered>,
    pub(super) current: Arc<Current>,
}

impl Hook for Counting {
    fn poll(&mut self, body: &mut Body, context: &mut Context<'_>) -> Poll<NextFrame> {
        let polled = Pin::new(body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            self.answered.sent(data);
        }
        polled
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        let took = self.answered.line.began.elapsed();
        self.answered.log(&Told::from(&*self.current), took);
    }
}
