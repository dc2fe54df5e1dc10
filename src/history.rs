//! The history that the sidecar keeps, as its readers see it. What is in it is written by [`writes`](crate::writes).

use std::sync::Arc;
use std::time::Duration;

pub mod difference;
pub mod keeper;
mod visible;

pub use visible::Visible;

use crate::complaint::Complaint;
use crate::error::Error;
use crate::journal::Journal;
use crate::metrics::journal::JournalSize;
use crate::settings::InForce;
use crate::upstream::Upstream;
use crate::writes::Writes;
use keeper::Keeper;

/// Reads the history, where it is the sidecar's to keep.
#[derive(Debug)]
pub struct History {
    keeper: Arc<Keeper>,
    writes: Arc<Writes>,
    settings: InForce,
}

impl History {
    /// Reads what `keeper` holds and `writes` writes.
    pub fn new(settings: InForce, keeper: Arc<Keeper>, writes: Arc<Writes>) -> Self {
        Self { keeper, writes, settings }
    }

    /// How much the journal holds, where there is one that can be read now.
    pub async fn size(&self) -> Option<JournalSize> {
        self.keeper.opened()?.size().await.ok()
    }

    /// Whether what is written can be recorded now, within that time; else why not. `None` where the history is not the
    /// sidecar's.
    pub async fn condition(&self, patience: Duration) -> Option<Result<(), Complaint>> {
        if !self.keeper.is_own() {
            return None;
        }
        let Some(journal) = self.keeper.opened() else {
            return Some(Err(match self.keeper.upgrading() {
                Some((done, all)) => Complaint::of_upgrade(done, all),
                None => Complaint::of_journal(&self.keeper.unopened()),
            }));
        };
        let answer = tokio::time::timeout(patience, journal.can_write()).await;
        Some(match answer {
            Ok(Ok(())) if !self.writes.is_recovered() => {
                Err(Complaint::of_journal("what a former process was writing has to be looked up first"))
            }
            Ok(answer) => answer.map_err(|error| Complaint::of_journal(&error.to_string())),
            Err(_elapsed) => Err(Complaint::of_journal("the journal does not answer")),
        })
    }

    /// The journal, where it is open, whoever keeps the history.
    pub fn opened(&self) -> Option<&Journal> {
        self.keeper.opened()
    }

    /// See [`Keeper::journal`].
    pub async fn journal(&self, upstream: &Upstream) -> Result<Option<&Journal>, Error> {
        self.keeper.journal(upstream).await
    }
}
