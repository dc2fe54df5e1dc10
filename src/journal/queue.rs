//! What waits for the writer, and who waits for it.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::candidate::Candidate;
use super::chain::{Place, Revision, Seen};
use super::checkpoints::CheckpointName;
use super::engine::DEADLINE;
use super::others::{Among, Behind};
use super::transfer::{Imported, Line};
use super::{Change, Intent, IntentGroup, JournalError, Outcome};
use crate::kinto::Timestamp;

/// How many may wait; more wait to be let in.
pub(super) const WAITING: usize = 1024;

/// What is to be written.
#[derive(Debug)]
pub(super) enum Work {
    /// These intents, under this number.
    Intend(IntentGroup, Vec<Intent>),
    /// The writes of a group made these versions, which are not recorded yet.
    Tell(IntentGroup, Vec<Change>),
    /// Nobody waits for these groups of other processes any more.
    PassBy(Vec<i64>),
    /// What became of a write; where it is kept, it is not given up before it is written. What comes after the versions of
    /// others is given back.
    Settle { outcome: Outcome, is_kept: bool, among: Option<Among> },
    /// A bucket's history is looked at for the first time.
    Begin(String),
    /// These entries of a bucket are deleted, by their ids and timestamps: a portion of them, or none where the first of
    /// them must be there and is not.
    Delete { bucket: String, names: Vec<(String, Timestamp)>, must: bool },
    /// A portion of what is too much is removed.
    Remove(Surplus),
    /// Sets of readers that nothing refers to are removed: a portion, after the one with this number.
    Sweep(i64),
    /// A portion of the pages that nothing is in any more is given back to the file system.
    GiveBack,
    /// It is asked which buckets have a history.
    Buckets,
    /// These lines are added.
    Import(Arc<Vec<Line>>),
    /// These versions are entered in the chains of their objects, or (`after`) one where its chain ends with that.
    Enter { seen: Vec<Seen>, after: Option<Revision> },
    /// A checkpoint is kept, or removed.
    Checkpoint(CheckpointName, Option<String>),
    /// A portion of the chains that are made of entries.
    Fill(Place),
    /// Groups of intents change their owner.
    Adopt(Vec<i64>),
    /// Nothing: it is answered when all before it is written.
    Nothing,
    /// What a write needs is done, and taken back.
    Probe,
    /// The journal is let go of, once what has begun is recorded, or now.
    Leave { is_now: bool },
}

/// What is removed, for as long as there is any of it.
#[derive(Debug, Clone)]
pub(super) enum Surplus {
    /// Of a bucket's entries about one kind of object (and by one author), the oldest past the allowed number. It is begun
    /// where there are more than that by the threshold.
    Count { bucket: String, kind: &'static str, user_id: Option<String>, is_begun: bool },
    /// Of a bucket's entries and tombstones, those from before a moment.
    Age { bucket: String, before: Timestamp },
    /// Histories of deleted buckets.
    Dead,
}

/// What came of it.
#[derive(Debug)]
pub(super) enum Done {
    Nothing,
    /// How many entries were made.
    Entries(usize),
    /// The rest has to wait.
    Behind(Behind),
    /// Who was told.
    Others(BTreeSet<i64>),
    Timestamp(Timestamp),
    Deleted(Deleted),
    /// Whether there may be more.
    Removed(bool),
    /// After which set to go on.
    Swept(Option<i64>),
    Buckets(Vec<String>),
    Imported(Imported),
    /// From where to go on.
    Filled(Option<Place>),
    /// How often it was written.
    Checkpoint(i64),
}

/// What a portion of deletions left.
#[derive(Debug)]
pub(super) struct Deleted {
    /// Those of the entries that were still there.
    pub(super) tombstones: Vec<Candidate>,
    /// How many of the names were looked at.
    pub(super) done: usize,
    pub(super) timestamp: Timestamp,
}

// === impl Work ===

impl Work {
    /// The changes whose place among those of other processes matters.
    pub(super) fn placed(&self) -> &[Change] {
        match self {
            Self::Tell(_, changes) => changes,
            Self::Settle { outcome, among: Some(_), .. } => &outcome.changes,
            _ => &[],
        }
    }
}

impl Done {
    /// How many entries were made.
    pub(super) fn entries(&self) -> usize {
        match self {
            Self::Entries(entries) => *entries,
            _ => 0,
        }
    }
}

/// Work, and who waits for it.
pub(super) struct Waiting {
    pub(super) work: Work,
    pub(super) reply: oneshot::Sender<Result<Done, JournalError>>,
}

/// What an intent's entry may take in the log, with the pages of its indexes; in bytes. SECURITY: how long a body is may be
/// nothing but said, and so no more is kept for a long one; where its entry finds no room, it is made once there is some.
pub(super) fn weight(intent: &Intent) -> u64 {
    const PAGES: u64 = 64 << 10;
    const MOST: u64 = 1 << 20;
    intent.length.saturating_mul(2).min(MOST).saturating_add(PAGES)
}

/// Has something written, and waits for it.
pub(super) async fn write(queue: &mpsc::Sender<Waiting>, work: Work) -> Result<Done, JournalError> {
    let (reply, done) = oneshot::channel();
    let is_kept = matches!(work, Work::Settle { is_kept: true, .. });
    let waiting = Waiting { work, reply };
    let sent = async {
        match queue.try_send(waiting) {
            // It gets there, whoever waits for it.
            Err(TrySendError::Full(waiting)) if is_kept => {
                let queue = queue.clone();
                tokio::spawn(async move { queue.send(waiting).await });
                Ok(())
            }
            Err(TrySendError::Full(waiting)) => queue.send(waiting).await.map_err(|_| gone()),
            sent => sent.map_err(|_| gone()),
        }
    };
    let answered = async {
        sent.await?;
        done.await.unwrap_or_else(|_| Err(gone()))
    };
    let late = |_| Err(JournalError::Unavailable("it does not answer in time".into()));
    timeout(2 * DEADLINE, answered).await.unwrap_or_else(late)
}

/// Has the journal let go of, and waits until it is. Whether it was done.
pub(super) async fn leave(queue: &mpsc::Sender<Waiting>, is_now: bool) -> bool {
    let (reply, done) = oneshot::channel();
    let sent = queue.send(Waiting { work: Work::Leave { is_now }, reply }).await;
    sent.is_ok() && matches!(done.await, Ok(Ok(_)))
}

/// What those are told who come after something about the same object that is not written yet.
pub(super) fn behind() -> JournalError {
    JournalError::Unavailable("older versions of the object are not written yet".into())
}

/// What those are told whose writer is gone.
pub(super) fn gone() -> JournalError {
    JournalError::Unavailable("it is closed".into())
}
