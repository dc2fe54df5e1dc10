//! Whether all of a request's body has come.
//!
//! SECURITY: whoever sends a head, and the body never, has asked for nothing yet. Nobody waits for what becomes of it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};

use futures_util::task::AtomicWaker;
use http_body::Body as _;

use crate::wire::body::{Body, BodyError, Hook, NextFrame};

const COMING: u8 = 0;
const COMPLETE: u8 = 1;
const GIVEN_UP: u8 = 2;

/// Says whether a body has come.
#[derive(Debug, Clone, Default)]
pub struct Arrival(Arc<Progress>);

#[derive(Debug, Default)]
struct Progress {
    state: AtomicU8,
    reader: AtomicWaker,
}

impl Arrival {
    /// Watches a body.
    pub fn of(body: Body) -> (Self, Body) {
        let arrival = Self::default();
        let body = body.hooked(arrival.clone());
        (arrival, body)
    }

    /// Whether all of it has come.
    pub fn is_complete(&self) -> bool {
        self.0.state.load(Ordering::Acquire) == COMPLETE
    }

    /// Whether somebody else holds it, too.
    pub fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    /// Where not all of it has come yet, nobody is passed the last of it any more.
    pub fn give_up(&self) {
        self.becomes(GIVEN_UP);
        self.0.reader.wake();
    }

    /// Whether this is what it came to: that is decided once.
    fn becomes(&self, end: u8) -> bool {
        let decided = self
            .0
            .state
            .compare_exchange(COMING, end, Ordering::AcqRel, Ordering::Acquire)
            .unwrap_or_else(|is| is);
        decided == COMING || decided == end
    }
}

impl Hook for Arrival {
    fn poll(&mut self, body: &mut Body, context: &mut Context<'_>) -> Poll<NextFrame> {
        self.0.reader.register(context.waker());
        let late = || Poll::Ready(Some(Err(BodyError::Late.into())));
        if self.0.state.load(Ordering::Acquire) == GIVEN_UP {
            return late();
        }
        let frame = ready!(Pin::new(&mut *body).poll_frame(context));
        // Before the last of it is passed on.
        let is_last = frame.is_none() || body.is_end_stream();
        if is_last && !self.becomes(COMPLETE) { late() } else { Poll::Ready(frame) }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::FutureExt;
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn what_is_given_up_never_comes_whole() {
        let (sender, body) = Body::channel();
        let (arrival, mut body) = Arrival::of(body);
        sender.send(Bytes::from("a")).await.unwrap();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "a");
        let mut next = Box::pin(body.frame());
        assert!((&mut next).now_or_never().is_none());
        arrival.give_up();
        drop(sender);
        let error = next.await.unwrap().unwrap_err();
        assert!(matches!(error.downcast_ref(), Some(BodyError::Late)) && !arrival.is_complete());
        let (arrival, mut body) = Arrival::of(Body::full("a"));
        assert!(body.frame().await.unwrap().is_ok() && arrival.is_complete());
        arrival.give_up();
        assert!(body.frame().await.is_none() && arrival.is_complete(), "it is there");
    }
}
