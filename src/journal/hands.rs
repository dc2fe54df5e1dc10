//! Whether somebody waits with a connection of the journal in hand for anything but the engine: looked at whenever who reads is
//! waited for.

use std::cell::Cell;
use std::future::poll_fn;
use std::task::Poll;

use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};

tokio::task_local! {
    static HAND: Hand;
}

#[derive(Default)]
struct Hand {
    has_connection: Cell<bool>,
    waits_for_engine: Cell<bool>,
}

/// A connection is taken, or given back.
pub(super) fn hold(has_connection: bool) {
    let _ = HAND.try_with(|hand| hand.has_connection.set(has_connection));
}

/// Does what somebody does who may take a connection.
pub(super) fn watched<T>(work: impl Future<Output = T>) -> impl Future<Output = T> {
    let mut work = Box::pin(work);
    let watched = async move {
        poll_fn(|context| {
            HAND.with(|hand| hand.waits_for_engine.set(false));
            let polled = work.as_mut().poll(context);
            HAND.with(|hand| {
                let is_fair = polled.is_ready() || !hand.has_connection.get() || hand.waits_for_engine.get();
                assert!(is_fair, "something else than the engine is waited for with a connection in hand");
            });
            polled
        })
        .await
    };
    HAND.scope(Hand::default(), watched)
}

/// What the engine is waited for, or what leaves the thread to others for a moment.
pub(super) fn of_engine<T>(answer: impl Future<Output = T>) -> impl Future<Output = T> {
    let mut answer = Box::pin(answer);
    poll_fn(move |context| noted(answer.as_mut().poll(context)))
}

/// The same for rows that come one by one.
pub(super) fn rows_of_engine<'r, T: Send + 'r>(mut rows: BoxStream<'r, T>) -> BoxStream<'r, T> {
    stream::poll_fn(move |context| noted(rows.poll_next_unpin(context))).boxed()
}

fn noted<T>(polled: Poll<T>) -> Poll<T> {
    if polled.is_pending() {
        let _ = HAND.try_with(|hand| hand.waits_for_engine.set(true));
    }
    polled
}
