//! The history journal: entries, the state of objects as last recorded, and the intents of writes under way.
//!
//! It knows nothing of HTTP or of the upstream. Writers go through [`Journal::intend`] and [`Journal::settle`], which are
//! durable when they return; those that come together share a commit. Readers go through [`Journal::page`] and
//! [`Journal::delete`], which give what Kinto's list language selects.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::value::RawValue;
use tokio::sync::broadcast;

use crate::kinto::Timestamp;
use crate::query::Query;
use crate::settings::{HistorySettings, JournalUrl};

mod change;
mod object;

pub use change::{Action, Change, Entry, Intent, IntentGroup, Known, News, Outcome, Permissions};
pub use object::{Object, ResourceName};

/// Where history is kept. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Journal {}

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
    /// How many entries the filters select on all pages, without tombstones.
    pub total: usize,
    /// Whether there is any entry, of whatever filter, that the reader sees.
    pub sees_any: bool,
    /// The timestamp of the bucket's history.
    pub timestamp: Timestamp,
}

#[expect(clippy::unused_async, clippy::unimplemented, unused_variables, reason = "signatures only")]
impl Journal {
    /// Opens the journal, makes it or brings its schema up to date. Everything of the old process is known to be dead
    /// (SQLite: the file is locked for this process) or left to the process that it belongs to (PostgreSQL).
    pub async fn open(
        url: &JournalUrl,
        settings: &HistorySettings,
        explicit_permissions: bool,
    ) -> Result<Self, JournalError> {
        unimplemented!()
    }

    /// Writes intents down; durable when it returns.
    pub async fn intend(&self, intents: Vec<Intent>) -> Result<IntentGroup, JournalError> {
        unimplemented!()
    }

    /// Records what became of a write; durable when it returns. Changes that are recorded already (same object and
    /// `modified`), that are excluded, or that changed nothing make no entry. Gives the entries made.
    pub async fn settle(&self, outcome: Outcome) -> Result<Vec<Entry>, JournalError> {
        unimplemented!()
    }

    /// The intents that nobody alive will settle: left by this or another process that died.
    pub async fn abandoned(&self) -> Result<Vec<(IntentGroup, Vec<Intent>)>, JournalError> {
        unimplemented!()
    }

    /// The groups that are open now, of this and of all other processes, with an intent in this bucket or in none.
    pub async fn open_groups(&self, bucket: &str) -> Result<Vec<IntentGroup>, JournalError> {
        unimplemented!()
    }

    /// What is known of objects; those that are not known are left out.
    pub async fn known(&self, objects: &[Object]) -> Result<BTreeMap<Object, Known>, JournalError> {
        unimplemented!()
    }

    /// Of these versions, those that are not recorded (neither an entry nor the known state has this `modified`).
    pub async fn missing(
        &self,
        versions: Vec<(Object, Timestamp)>,
    ) -> Result<Vec<(Object, Timestamp)>, JournalError> {
        unimplemented!()
    }

    /// The objects known to be alive below a URI with their versions: `/buckets` (buckets), `/buckets/a/collections`,
    /// `/buckets/a/groups`, `/buckets/a/collections/c/records`.
    pub async fn alive(&self, list: &str) -> Result<Vec<(Object, Timestamp)>, JournalError> {
        unimplemented!()
    }

    /// The watermark of a list, see [`Outcome::watermarks`].
    pub async fn watermark(&self, list: &str) -> Result<Option<Timestamp>, JournalError> {
        unimplemented!()
    }

    /// The timestamp of a bucket's history.
    pub async fn timestamp(&self, bucket: &str) -> Result<Timestamp, JournalError> {
        unimplemented!()
    }

    /// The entries (and, where the query includes them, tombstones of deleted entries) that a query selects.
    pub async fn page(
        &self,
        bucket: &str,
        query: &Query,
        sees: &Sees<'_>,
    ) -> Result<EntriesPage, JournalError> {
        unimplemented!()
    }

    /// Deletes the entries that a query selects (with its sorting, limit and token), leaves tombstones, and gives the
    /// page of tombstones in the query's order.
    pub async fn delete(&self, bucket: &str, query: &Query) -> Result<EntriesPage, JournalError> {
        unimplemented!()
    }

    /// For each record of a collection, the newest entry whose version is at or before a moment: its `target.data`.
    /// The flag says whether entries of the collection were trimmed or purged.
    pub async fn versions_at(
        &self,
        collection: &Object,
        records: &[String],
        moment: Timestamp,
    ) -> Result<(Vec<Box<RawValue>>, bool), JournalError> {
        unimplemented!()
    }

    /// Told of everything that is recorded, here or by another process on the same PostgreSQL journal.
    pub fn subscribe(&self) -> broadcast::Receiver<News> {
        unimplemented!()
    }

    /// Waits until everything that was given to the journal is in it.
    pub async fn flush(&self) {
        unimplemented!()
    }
}
