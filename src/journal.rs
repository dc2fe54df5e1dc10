//! The history journal: entries, the state of objects as last recorded, and the intents of writes under way.
//!
//! It knows nothing of HTTP or of the upstream. Writers go through [`Journal::intend`] and [`Journal::settle`], which are
//! durable when they return; those that come together share a commit. Readers go through [`Journal::page`] and
//! [`Journal::delete`], which give what Kinto's list language selects.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use sqlx::AnyConnection;
use tokio::sync::{broadcast, mpsc};

use crate::kinto::Timestamp;
use crate::query::Invalid;
use crate::wire::buffers::NoRoom;

mod append;
mod candidate;
mod chain;
mod change;
mod checkpoints;
mod condition;
mod ends;
mod engine;
mod entry;
mod ever_known;
mod file;
mod fits;
#[cfg(test)]
mod hands;
mod intents;
mod large;
mod late;
mod leave;
mod much;
mod news;
mod notify;
mod opening;
mod others;
mod owner;
mod page;
mod past;
mod place;
mod queue;
mod readers;
mod reading;
mod remove;
mod room;
mod rows;
mod schema;
mod select;
mod space;
mod state;
mod statement;
mod steps;
mod sweep;
#[cfg(test)]
mod tally;
mod touched;
mod transaction;
mod transfer;
mod trim;
mod turns;
mod upgrade;
mod verdicts;
mod verify;
mod view;
mod writer;

pub use crate::kinto::object::{Object, ResourceName};
pub use chain::{Link, Named, Revision, Seen};
pub use change::{Action, Change, Intent, IntentGroup, Known, Life, News, Note, Outcome, Permissions};
pub use checkpoints::{Checkpoint, CheckpointName};
pub use entry::{are_same_permissions, is_same_but_modified};
pub use ever_known::{EverKnown, LastVersion, Wanted};
pub use opening::Opening;
pub use others::Among;
pub use page::{EntriesCount, EntriesPage};
pub use past::{PastVersion, PastVersions};
pub use space::Compacted;
pub use touched::{Around, SeenEntry, Touched, Touches, Versions};
pub use transfer::{Export, Imported, Line, LinePart};
pub use upgrade::Upgrade;
pub use verdicts::Sees;
pub use verify::Verified;
pub use view::JournalView;

use engine::{DEADLINE, Engine, failed};
use fits::LeftOut;
use owner::Owner;
use queue::{Done, Waiting, Work};
use reading::Reading;

/// How long reading may take: the engine, and the upstream where it is asked who may see what.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where history is kept. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Journal {
    engine: Arc<Engine>,
    owner: Arc<Owner>,
    queue: mpsc::Sender<Waiting>,
    news: broadcast::Sender<News>,
    left_out: Arc<LeftOut>,
    #[cfg(test)]
    tallies: tally::Tallies,
}

/// Why the journal could not do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum JournalError {
    /// The engine cannot be reached or written now; it may be later.
    #[error("the journal is not available: {0}")]
    Unavailable(Arc<str>),
    /// The engine does not take something of what was asked, now or later: a text is too long for it, or has a NUL.
    #[error("the journal cannot keep it: {0}")]
    Refused(Arc<str>),
    /// The file or database cannot be used, and waiting does not help: its schema is newer, it is no journal, it may not
    /// be written. The text says what to do.
    #[error("{0}")]
    Unusable(Arc<str>),
    /// Another process uses the file, as its text says.
    #[error("{0}")]
    InUse(Arc<str>),
    /// This process has let go of the file, for the next one to use it.
    #[error("the journal is left to the process that took over")]
    Left,
    /// What was asked for does not fit into the process's memory beside what others have there.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    /// What was asked for was done before.
    #[error(transparent)]
    Invalid(#[from] Invalid),
}

// === impl Journal ===

impl Journal {
    /// Writes intents down; durable when it returns.
    pub async fn intend(&self, intents: Vec<Intent>) -> Result<IntentGroup, JournalError> {
        let group = IntentGroup(owner::random());
        self.write(Work::Intend(group, intents)).await?;
        Ok(group)
    }

    /// Records what became of a write; durable when it returns. Changes that are recorded already, that are excluded, or that
    /// were found and are overtaken by what is recorded make no entry. Gives how many entries were made.
    pub async fn settle(&self, outcome: Outcome) -> Result<usize, JournalError> {
        self.settled(Work::Settle { outcome, is_kept: false, among: None }).await
    }

    /// The same for what an answer to a write says: where it cannot be recorded now, it is later, before anything newer about
    /// the same objects.
    pub async fn settle_at_last(&self, outcome: Outcome) -> Result<usize, JournalError> {
        self.settled(Work::Settle { outcome, is_kept: true, among: None }).await
    }

    async fn settled(&self, work: Work) -> Result<usize, JournalError> {
        Ok(self.write(work).await?.entries())
    }

    /// The intents that nobody alive will settle: left by this or another process that died.
    pub async fn abandoned(&self) -> Result<Vec<(IntentGroup, Vec<Intent>)>, JournalError> {
        let open = self.engine.ask(DEADLINE, async |connection| intents::owners(connection).await).await?;
        let dead = self.owner.dead_among(open).await.map_err(|error| failed(&error))?;
        if dead.is_empty() {
            return Ok(Vec::new());
        }
        let groups = async |connection: &mut AnyConnection| intents::of_owners(connection, &dead).await;
        let groups = self.engine.ask(DEADLINE, groups).await?;
        self.write(Work::Adopt(dead.clone())).await?;
        self.owner.release(&dead).await.map_err(|error| failed(&error))?;
        Ok(groups)
    }

    /// The groups that are open now, of this and of all other processes, with an intent in this bucket or in none; all
    /// groups where no bucket is named.
    pub async fn open_groups(&self, bucket: Option<&str>) -> Result<Vec<IntentGroup>, JournalError> {
        self.engine.ask(DEADLINE, async |connection| intents::open(connection, bucket).await).await
    }

    /// The intents of other processes' writes under way about these objects or all of their lists.
    pub async fn others_intents_about(&self, objects: &[Object]) -> Result<Vec<Intent>, JournalError> {
        let uris: BTreeSet<String> =
            objects.iter().flat_map(|object| [object.to_string(), object.list()]).collect();
        let uris: Vec<String> = uris.into_iter().collect();
        let own = self.owner.number;
        self.engine
            .ask(DEADLINE, async |connection| intents::of_others_about(connection, own, &uris).await)
            .await
    }

    /// What is known of objects; those that are not known are left out.
    pub async fn known(&self, objects: &[Object]) -> Result<BTreeMap<Object, Known>, JournalError> {
        self.engine.ask(DEADLINE, async |connection| state::known(connection, objects).await).await
    }

    /// The present life of a bucket that is known to be there.
    pub async fn life(&self, bucket: &str) -> Result<Option<Life>, JournalError> {
        self.engine.ask(DEADLINE, async |connection| state::life(connection, bucket).await).await
    }

    /// Of these versions, those that are not recorded (neither an entry nor the known state has this `modified`).
    pub async fn missing(
        &self,
        versions: Vec<(Object, Timestamp)>,
    ) -> Result<Vec<(Object, Timestamp)>, JournalError> {
        self.engine.ask(DEADLINE, async |connection| state::missing(connection, versions).await).await
    }

    /// The objects known to be alive below a URI with their versions: `/buckets` (buckets), `/buckets/a/collections`,
    /// `/buckets/a/groups`, `/buckets/a/collections/c/records`.
    pub async fn alive(&self, list: &str) -> Result<Vec<(Object, Timestamp)>, JournalError> {
        self.engine.ask(DEADLINE, async |connection| state::alive(connection, list).await).await
    }

    /// The watermark of a list, see [`Outcome::watermarks`].
    pub async fn watermark(&self, list: &str) -> Result<Option<Timestamp>, JournalError> {
        self.engine.ask(DEADLINE, async |connection| state::watermark(connection, list).await).await
    }

    /// The timestamp of a bucket's history.
    pub async fn timestamp(&self, bucket: &str) -> Result<Timestamp, JournalError> {
        let history = async |connection: &mut AnyConnection| state::history(connection, bucket).await;
        if let Some((_, timestamp)) = self.engine.ask(DEADLINE, history).await? {
            return Ok(timestamp);
        }
        match self.write(Work::Begin(bucket.to_owned())).await? {
            Done::Timestamp(timestamp) => Ok(timestamp),
            _ => Err(queue::gone()),
        }
    }

    /// What the newest entry about an object shows.
    pub async fn newest_data(&self, object: &Object) -> Result<Option<Box<RawValue>>, JournalError> {
        self.engine.ask(DEADLINE, async |connection| state::newest_data(connection, object).await).await
    }

    /// Told of everything that is recorded, here or by another process on the same PostgreSQL journal.
    pub fn subscribe(&self) -> broadcast::Receiver<News> {
        self.news.subscribe()
    }

    /// Writes the journal, or one bucket's part of it, as lines.
    pub fn export(&self, bucket: Option<String>) -> Export {
        Export::new(Arc::clone(&self.engine), bucket)
    }

    /// Waits until everything that was given to the journal is in it.
    pub async fn flush(&self) {
        // Where it cannot be written, there is nothing to wait for.
        let _ = self.write(Work::Nothing).await;
    }

    /// Whether a write could be recorded now, as far as can be seen without one.
    pub async fn can_write(&self) -> Result<(), JournalError> {
        self.write(Work::Probe).await.map(|_| ())
    }

    async fn write(&self, work: Work) -> Result<Done, JournalError> {
        queue::write(&self.queue, self.engine.kind.fitting(work, &self.left_out)).await
    }

    /// Reads something of a bucket's history, whose number and timestamp are given; `None` where there is no history.
    async fn of_history<T>(
        &self,
        bucket: &str,
        read: impl AsyncFnOnce(&mut Reading<'_>, i64, Timestamp) -> sqlx::Result<T>,
    ) -> Result<Option<T>, JournalError> {
        let answer = async |reading: &mut Reading<'_>| {
            let Some((history, timestamp)) = state::history(reading.connection().await?, bucket).await?
            else {
                return Ok(None);
            };
            read(reading, history, timestamp).await.map(Some)
        };
        self.engine.read(PATIENCE, answer).await
    }
}

#[cfg(test)]
mod tests;
