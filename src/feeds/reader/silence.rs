//! How long a reader was sent nothing, and what is due then.

use std::pin::Pin;
use std::task::Context;

use tokio::time::{Instant, Sleep, sleep_until};

use crate::feeds::params::Patience;

/// The time since a reader was last sent something.
pub(super) struct Silence {
    patience: Patience,
    began: Instant,
    timer: Option<Pin<Box<Sleep>>>,
}

/// What is due to a reader.
pub(super) enum Due {
    /// A sign of life.
    Heartbeat,
    /// The end of the feed.
    End,
}

impl Silence {
    /// It begins now.
    pub(super) fn new(patience: Patience) -> Self {
        Self { patience, began: Instant::now(), timer: None }
    }

    /// Something was sent.
    pub(super) fn end(&mut self) {
        self.began = Instant::now();
    }

    /// What is due now; where nothing is, the reader is woken when it will be.
    pub(super) fn look(&mut self, context: &mut Context<'_>) -> Option<Due> {
        let (Patience::Timeout(interval) | Patience::Heartbeat(interval)) = self.patience;
        let until = self.began + interval;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(until)));
        while timer.as_mut().poll(context).is_ready() {
            let now = Instant::now();
            if now < until {
                timer.as_mut().reset(until);
                continue;
            }
            return Some(match self.patience {
                Patience::Timeout(_) => Due::End,
                Patience::Heartbeat(_) => {
                    timer.as_mut().reset(now + interval);
                    Due::Heartbeat
                }
            });
        }
        None
    }
}
