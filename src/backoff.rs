//! How long to wait between tries: twice as long after each, up to a bound.

use std::time::Duration;

/// The pauses between the tries of one thing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    pause: Duration,
    longest: Duration,
}

impl Backoff {
    pub(crate) const fn new(shortest: Duration, longest: Duration) -> Self {
        Self { pause: shortest, longest }
    }

    /// The pause before the next try.
    pub(crate) fn pause(&self) -> Duration {
        self.pause
    }

    /// That try failed, too.
    pub(crate) fn lengthen(&mut self) {
        self.pause = (self.pause * 2).min(self.longest);
    }

    /// Waits until the next try is due.
    pub(crate) async fn wait(&mut self) {
        tokio::time::sleep(self.pause).await;
        self.lengthen();
    }
}
