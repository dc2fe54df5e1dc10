//! A body of which nothing comes is not waited for without end.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Sleep, sleep};

/// Measures how long nothing has come. A timer is made only when there is something to wait for.
#[derive(Debug)]
pub(crate) struct Stall {
    patience: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Stall {
    pub(crate) fn new(patience: Duration) -> Self {
        Self { patience, timer: None }
    }

    /// Something came.
    pub(crate) fn end(&mut self) {
        self.timer = None;
    }

    /// Nothing came now; ready when that has lasted for too long.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.timer.get_or_insert_with(|| Box::pin(sleep(self.patience))).as_mut().poll(context)
    }
}
