//! How a process lets go of an SQLite journal that another process is to use.
//!
//! Writes that have begun are recorded, new ones are refused; then the lock of the file is given up. Connections that read
//! stay, and so do the files that are held open: closing them would take SQLite's locks off those connections.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::queue::{self, Done, Waiting, Work};
use super::{Journal, JournalError};

/// How far the writer is.
#[derive(Debug, Default)]
pub(super) enum Leaving {
    /// It stays.
    #[default]
    No,
    /// It records what has begun.
    Finishing(Vec<oneshot::Sender<Result<Done, JournalError>>>),
    /// It is gone.
    Gone,
}

// === impl Journal ===

impl Journal {
    /// Lets go of the file, so that another process can use it, and goes on reading. Writes that have begun are recorded
    /// first, if that does not take longer than this; new ones are refused.
    ///
    /// What several processes may use, and what is in memory, is not let go of.
    pub async fn leave(&self, patience: Duration) {
        if !self.engine.is_locked() {
            return;
        }
        for is_now in [false, true] {
            if timeout(patience, queue::leave(&self.queue, is_now)).await == Ok(true) {
                return;
            }
            tracing::warn!("what became of writes under way is left to the next process");
        }
    }
}

// === impl Leaving ===

impl Leaving {
    /// Takes those out of what waits who want the journal to be left, and answers those who cannot be served any more.
    /// Whether the journal has to be left at once.
    pub(super) fn sort(&mut self, waiting: &mut Vec<Waiting>) -> bool {
        let mut is_now = false;
        for next in std::mem::take(waiting) {
            match (&next.work, &mut *self) {
                (Work::Leave { is_now: at_once }, Self::No | Self::Finishing(_)) => {
                    is_now |= at_once;
                    if let Self::No = self {
                        *self = Self::Finishing(Vec::new());
                    }
                    if let Self::Finishing(leavers) = self {
                        leavers.push(next.reply);
                    }
                }
                (Work::Leave { .. }, Self::Gone) => _ = next.reply.send(Ok(Done::Nothing)),
                (Work::Intend(..), Self::Finishing(_)) | (_, Self::Gone) => {
                    _ = next.reply.send(Err(JournalError::Left));
                }
                _ => waiting.push(next),
            }
        }
        is_now
    }

    /// Whether it only remains to go.
    pub(super) fn is_finishing(&self) -> bool {
        matches!(self, Self::Finishing(_))
    }

    /// Whether another process has the journal.
    pub(super) fn is_gone(&self) -> bool {
        matches!(self, Self::Gone)
    }

    /// The journal is left: tells those who wait for it.
    pub(super) fn go(&mut self) {
        if let Self::Finishing(leavers) = std::mem::replace(self, Self::Gone) {
            for leaver in leavers {
                _ = leaver.send(Ok(Done::Nothing));
            }
        }
    }
}
