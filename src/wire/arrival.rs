//! Whether all of a request's body has come.
//!
//! SECURITY: whoever sends a head, and the body never, has asked for nothing yet. Nobody waits for what becomes of it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use http_body::Body as _;

use crate::wire::body::{Body, Hook, NextFrame};

/// Says whether a body has come.
#[derive(Debug, Clone, Default)]
pub struct Arrival(Arc<AtomicBool>);

impl Arrival {
    /// Watches a body.
    pub fn of(body: Body) -> (Self, Body) {
        let arrival = Self::default();
        let body = body.hooked(arrival.clone());
        (arrival, body)
    }

    /// Whether all of it has come.
    pub fn is_complete(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// Whether somebody else holds it, too.
    pub fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}

impl Hook for Arrival {
    fn poll(&mut self, body: &mut Body, context: &mut Context<'_>) -> Poll<NextFrame> {
        let frame = ready!(Pin::new(&mut *body).poll_frame(context));
        if frame.is_none() || body.is_end_stream() {
            // Before the last of it is passed on.
            self.0.store(true, Ordering::Release);
        }
        Poll::Ready(frame)
    }
}
