//! The history journal: entries, the state of objects as last recorded, and the intents of writes under way.
//!
//! It knows nothing of HTTP or of the upstream. Writers go through [`Journal::intend`] and [`Journal::settle`], which are
//! durable when they return; those that come together share a commit. Readers go through [`Journal::page`] and
//! [`Journal::delete`], which give what Kinto's list language selects.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde_json::value::RawValue;
use sqlx::Any;
use sqlx::pool::PoolConnection;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::timeout;

use crate::kinto::Timestamp;
use crate::query::Query;
use crate::settings::{HistorySettings, JournalUrl};

mod append;
mod change;
mod condition;
mod engine;
mod entry;
mod intents;
mod ledger;
mod object;
mod owner;
mod page;
mod readers;
mod remove;
mod schema;
mod select;
mod state;
mod statement;
mod writer;

pub use change::{Action, Change, Entry, Intent, IntentGroup, Known, News, Outcome, Permissions};
pub use object::{Object, ResourceName};

use engine::{DEADLINE, Engine, unavailable};
use owner::Owner;
use readers::ReaderSets;
use select::Question;
use writer::{Done, Waiting, Work, Writer};

/// News kept for a subscriber that is slow.
const NEWS_KEPT: usize = 1024;

/// Where history is kept. Cheap to clone.
#[derive(Clone)]
pub struct Journal {
    engine: Arc<Engine>,
    owner: Arc<Owner>,
    queue: mpsc::Sender<Waiting>,
    news: broadcast::Sender<News>,
}

/// Why the journal could not do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum JournalError {
    /// The engine cannot be reached or written now; it may be later.
    #[error("the journal is not available: {0}")]
    Unavailable(Arc<str>),
    /// The file or database cannot be used, and waiting does not help: its schema is newer, it is in use by another
    /// process, it is no journal, it may not be written. The text says what to do.
    #[error("{0}")]
    Unusable(Arc<str>),
}

/// Which entries of a bucket somebody sees.
pub enum Sees<'s> {
    /// All of them.
    Everything,
    /// Those that name one of these principals as a reader; of entries whose readers are not known completely, also
    /// those that the verdict says yes to.
    Some {
        /// Theirs.
        principals: &'s [String],
        /// Whether they may see entries about this object now. Asked once for each object.
        verdict: &'s (dyn Fn(Object) -> futures_util::future::BoxFuture<'s, bool> + Send + Sync),
    },
}

/// A page of a bucket's history.
#[derive(Debug)]
pub struct EntriesPage {
    /// The entries in the order asked for, each as JSON (`_fields` applied).
    pub rows: Vec<Box<RawValue>>,
    /// The token of the next page.
    pub next: Option<String>,
    /// Whether there is any entry, of whatever filter, that the reader sees.
    pub sees_any: bool,
    /// The timestamp of the bucket's history.
    pub timestamp: Timestamp,
}

/// How much of a bucket's history is selected.
#[derive(Debug)]
pub struct EntriesCount {
    /// How many entries the filters select on all pages, without tombstones.
    pub total: usize,
    /// Whether there is any entry, of whatever filter, that the reader sees.
    pub sees_any: bool,
    /// The timestamp of the bucket's history.
    pub timestamp: Timestamp,
}

// === impl Sees ===

impl fmt::Debug for Sees<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everything => formatter.write_str("Everything"),
            Self::Some { principals, .. } => formatter.debug_tuple("Some").field(principals).finish(),
        }
    }
}

// === impl Journal ===

impl fmt::Debug for Journal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Journal").field(&self.engine.kind).finish()
    }
}

impl Journal {
    /// Opens the journal, makes it or brings its schema up to date. Everything of the old process is known to be dead
    /// (SQLite: the file is locked for this process) or left to the process that it belongs to (PostgreSQL).
    pub async fn open(
        url: &JournalUrl,
        settings: &HistorySettings,
        explicit_permissions: bool,
    ) -> Result<Self, JournalError> {
        let engine = Arc::new(Engine::at(url).await?);
        schema::prepare(&engine, url).await?;
        let owner = Arc::new(Owner::new(Arc::clone(&engine)));
        owner.hold().await.map_err(|error| unavailable(&error))?;
        let (news, _) = broadcast::channel(NEWS_KEPT);
        let (queue, waiting) = mpsc::channel(writer::WAITING);
        let writer = Writer {
            engine: Arc::clone(&engine),
            rules: settings.clone(),
            explicit_permissions,
            owner: owner.number,
            news: news.clone(),
            held: None,
            reader_sets: ReaderSets::default(),
            stray: Vec::new(),
        };
        tokio::spawn(writer.run(waiting));
        tokio::spawn(Owner::keep_holding(Arc::downgrade(&owner)));
        Ok(Self { engine, owner, queue, news })
    }

    /// Writes intents down; durable when it returns.
    pub async fn intend(&self, intents: Vec<Intent>) -> Result<IntentGroup, JournalError> {
        let group = IntentGroup(owner::random());
        self.write(Work::Intend(group, intents)).await?;
        Ok(group)
    }

    /// Records what became of a write; durable when it returns. Changes that are recorded already (same object and
    /// `modified`), that are excluded, or that changed nothing make no entry. Gives the entries made.
    pub async fn settle(&self, outcome: Outcome) -> Result<Vec<Entry>, JournalError> {
        match self.write(Work::Settle(outcome)).await? {
            Done::Entries(entries) => Ok(entries),
            _ => Ok(Vec::new()),
        }
    }

    /// The intents that nobody alive will settle: left by this or another process that died.
    pub async fn abandoned(&self) -> Result<Vec<(IntentGroup, Vec<Intent>)>, JournalError> {
        let open = intents::owners(&mut *self.reading().await?).await.map_err(|error| unavailable(&error))?;
        let dead = self.owner.dead_among(open).await.map_err(|error| unavailable(&error))?;
        if dead.is_empty() {
            return Ok(Vec::new());
        }
        let groups = intents::of_owners(&mut *self.reading().await?, &dead)
            .await
            .map_err(|error| unavailable(&error))?;
        self.write(Work::Adopt(dead.clone())).await?;
        self.owner.release(&dead).await.map_err(|error| unavailable(&error))?;
        Ok(groups)
    }

    /// The groups that are open now, of this and of all other processes, with an intent in this bucket or in none.
    pub async fn open_groups(&self, bucket: &str) -> Result<Vec<IntentGroup>, JournalError> {
        intents::open(&mut *self.reading().await?, bucket).await.map_err(|error| unavailable(&error))
    }

    /// What is known of objects; those that are not known are left out.
    pub async fn known(&self, objects: &[Object]) -> Result<BTreeMap<Object, Known>, JournalError> {
        state::known(&mut *self.reading().await?, objects).await.map_err(|error| unavailable(&error))
    }

    /// Of these versions, those that are not recorded (neither an entry nor the known state has this `modified`).
    pub async fn missing(
        &self,
        versions: Vec<(Object, Timestamp)>,
    ) -> Result<Vec<(Object, Timestamp)>, JournalError> {
        state::missing(&mut *self.reading().await?, versions).await.map_err(|error| unavailable(&error))
    }

    /// The objects known to be alive below a URI with their versions: `/buckets` (buckets), `/buckets/a/collections`,
    /// `/buckets/a/groups`, `/buckets/a/collections/c/records`.
    pub async fn alive(&self, list: &str) -> Result<Vec<(Object, Timestamp)>, JournalError> {
        state::alive(&mut *self.reading().await?, list).await.map_err(|error| unavailable(&error))
    }

    /// The watermark of a list, see [`Outcome::watermarks`].
    pub async fn watermark(&self, list: &str) -> Result<Option<Timestamp>, JournalError> {
        state::watermark(&mut *self.reading().await?, list).await.map_err(|error| unavailable(&error))
    }

    /// The timestamp of a bucket's history.
    pub async fn timestamp(&self, bucket: &str) -> Result<Timestamp, JournalError> {
        let history =
            state::history(&mut *self.reading().await?, bucket).await.map_err(|error| unavailable(&error))?;
        if let Some((_, timestamp)) = history {
            return Ok(timestamp);
        }
        match self.write(Work::Begin(bucket.to_owned())).await? {
            Done::Timestamp(timestamp) => Ok(timestamp),
            _ => Err(writer::gone()),
        }
    }

    /// The entries (and, where the query includes them, tombstones of deleted entries) that a query selects.
    pub async fn page(
        &self,
        bucket: &str,
        query: &Query,
        sees: &Sees<'_>,
    ) -> Result<EntriesPage, JournalError> {
        let mut connection = self.reading().await?;
        let failed = |error| unavailable(&error);
        let history = state::history(&mut connection, bucket).await.map_err(failed)?;
        let Some((history, timestamp)) = history else {
            drop(connection);
            let timestamp = self.timestamp(bucket).await?;
            return Ok(EntriesPage { rows: Vec::new(), next: None, sees_any: false, timestamp });
        };
        let question = Question::new(self.engine.kind, history, query, sees);
        page::read(&mut connection, question, timestamp).await.map_err(failed)
    }

    /// How many entries [`Self::page`] would give on all pages.
    pub async fn count(
        &self,
        bucket: &str,
        query: &Query,
        sees: &Sees<'_>,
    ) -> Result<EntriesCount, JournalError> {
        let mut connection = self.reading().await?;
        let failed = |error| unavailable(&error);
        let history = state::history(&mut connection, bucket).await.map_err(failed)?;
        let Some((history, timestamp)) = history else {
            drop(connection);
            let timestamp = self.timestamp(bucket).await?;
            return Ok(EntriesCount { total: 0, sees_any: false, timestamp });
        };
        let question = Question::new(self.engine.kind, history, query, sees);
        page::count(&mut connection, question, timestamp).await.map_err(failed)
    }

    /// Deletes the entries that a query selects (with its sorting, limit and token), leaves tombstones, and gives the
    /// page of tombstones in the query's order.
    pub async fn delete(&self, bucket: &str, query: &Query) -> Result<EntriesPage, JournalError> {
        match self.write(Work::Delete(bucket.to_owned(), query.clone())).await? {
            Done::Page(page) => Ok(page),
            _ => Err(writer::gone()),
        }
    }

    /// For each record of a collection, the newest entry whose version is at or before a moment: its `target.data`.
    /// The flag says whether entries of the collection were trimmed or purged.
    pub async fn versions_at(
        &self,
        collection: &Object,
        records: &[String],
        moment: Timestamp,
    ) -> Result<(Vec<Box<RawValue>>, bool), JournalError> {
        state::versions_at(&mut *self.reading().await?, collection, records, moment)
            .await
            .map_err(|error| unavailable(&error))
    }

    /// Told of everything that is recorded, here or by another process on the same PostgreSQL journal.
    pub fn subscribe(&self) -> broadcast::Receiver<News> {
        self.news.subscribe()
    }

    /// Waits until everything that was given to the journal is in it.
    pub async fn flush(&self) {
        // Where it cannot be written, there is nothing to wait for.
        let _ = self.write(Work::Nothing).await;
    }

    async fn write(&self, work: Work) -> Result<Done, JournalError> {
        let (reply, done) = oneshot::channel();
        let answered = async {
            self.queue.send(Waiting { work, reply }).await.map_err(|_| writer::gone())?;
            done.await.unwrap_or_else(|_| Err(writer::gone()))
        };
        let late = |_| Err(JournalError::Unavailable("it does not answer in time".into()));
        timeout(2 * DEADLINE, answered).await.unwrap_or_else(late)
    }

    async fn reading(&self) -> Result<PoolConnection<Any>, JournalError> {
        self.engine.reading().await.map_err(|error| unavailable(&error))
    }
}

#[cfg(test)]
mod tests;
