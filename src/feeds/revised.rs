//! A collection whose rows are called by the revisions that the journal keeps: whoever copies it knows from them which of two
//! versions of a record is the newer one.

use std::collections::hash_map::DefaultHasher;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::Instant;

use crate::aside;
use crate::cache::Cache;
use crate::error::Error;
use crate::feeds::snapshot::{FeedPage, FeedRow, Position, Room, Snapshot};
use crate::journal::{Journal, JournalError, Named, Object, Revision, Seen};
use crate::kinto::CollectionKey;
use crate::kinto::seq::Seq;
use crate::upstream::Upstream;
use crate::upstream::kinto::{Source, in_list};
use crate::wire::lent::Lent;

/// How many names are remembered.
const REMEMBERED: u64 = 100_000;
/// For how long it is remembered when the journal's chains began: an import may say that it was earlier.
const BEGAN_KEPT: Duration = Duration::from_secs(10);
/// Collections that share a turn are few.
const TURNS: usize = 16;

/// Names that were given: a version keeps its own for ever. A version is known by its data, too: Kinto on PostgreSQL may give
/// two writes of one record the same `last_modified`.
///
/// All readers of a collection come at once after a restart, and want the same names. One of them asks the journal, which
/// has few connections, and the others wait for what it is told.
#[derive(Debug, Clone)]
pub struct Names {
    /// The last one of each object.
    known: Cache<u64, (u64, Revision)>,
    keys: [RandomState; 2],
    turns: Arc<[Mutex<Turn>; TURNS]>,
}

/// What the last of those who asked the journal in this turn was told.
#[derive(Debug, Default)]
struct Turn {
    began: Option<(Instant, Arc<str>)>,
    failure: Option<(Instant, JournalError)>,
}

/// Gives the versions of a collection's records their names.
#[derive(Debug, Clone)]
pub struct Revisions {
    journal: Journal,
    key: CollectionKey,
    /// Tells this journal's names from those of others.
    began: Arc<str>,
    source: Source,
    names: Names,
}

/// A row without a name, how its object and its version are remembered, and what the journal is asked.
type Unnamed<'r> = (&'r mut FeedRow, [u64; 2], Seen);

/// See the module.
#[derive(Debug)]
pub struct Revised {
    snapshot: Arc<dyn Snapshot>,
    revisions: Revisions,
}

// === impl Names ===

impl Default for Names {
    fn default() -> Self {
        let known = Cache::builder(REMEMBERED).build();
        Self { known, keys: [RandomState::new(), RandomState::new()], turns: Arc::default() }
    }
}

impl Turn {
    /// Notes how it went; a failure is the answer to all who waited for it.
    fn end<T>(&mut self, answer: Result<T, JournalError>) -> Result<T, JournalError> {
        self.failure = answer.as_ref().err().map(|error| (Instant::now(), error.clone()));
        answer
    }
}

impl Names {
    fn keep(&self, [object, version]: [u64; 2], revision: Revision) {
        self.known.insert(object, (version, revision));
    }

    /// Waits for a turn to ask the journal about a collection. An error where somebody else has asked in vain meanwhile.
    async fn turn(&self, key: &CollectionKey) -> Result<MutexGuard<'_, Turn>, JournalError> {
        let arrived = Instant::now();
        let [one, _] = &self.keys;
        let [first, others @ ..] = &*self.turns;
        let place = usize::try_from(one.hash_one(key)).unwrap_or_default() % TURNS;
        let turn = others.get(place).unwrap_or(first).lock().await;
        match &turn.failure {
            Some((ended, error)) if *ended >= arrived => Err(error.clone()),
            _ => Ok(turn),
        }
    }

    /// How the names of versions are remembered. All of their data is gone through.
    async fn remembered(&self, versions: Vec<(Seen, Bytes)>) -> Result<Vec<([u64; 2], Seen)>, Error> {
        let keys = self.keys.clone();
        let bytes = versions.iter().map(|(_, json)| json.len()).sum();
        let name = move |(seen, json): (Seen, Bytes)| {
            let [object, version] = &keys;
            let version = version.hash_one((&seen.uri, seen.modified, seen.deleted, &json));
            ([object.hash_one(&seen.uri), version], seen)
        };
        aside::run(bytes, move || versions.into_iter().map(name).collect()).await
    }
}

// === impl Revisions ===

impl Revisions {
    /// Those of a journal; what it does not understand, the upstream is asked for.
    pub async fn of(
        journal: &Journal,
        key: &CollectionKey,
        upstream: &Upstream,
        names: &Names,
    ) -> Result<Self, Error> {
        let mut turn = names.turn(key).await?;
        let began = match &turn.began {
            Some((asked, began)) if asked.elapsed() < BEGAN_KEPT => Arc::clone(began),
            _ => {
                let asked = journal.chains_began().await;
                let began: Arc<str> = turn.end(asked)?.into();
                turn.began = Some((Instant::now(), Arc::clone(&began)));
                began
            }
        };
        drop(turn);
        let source = Source::new(upstream.clone());
        Ok(Self { journal: journal.clone(), key: key.clone(), began, source, names: names.clone() })
    }

    /// When the chains of the journal began.
    pub fn began(&self) -> &str {
        &self.began
    }

    /// The journal.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// The URI of a record.
    pub fn uri(&self, id: &str) -> String {
        let (bucket, collection) = (self.key.bucket.to_string(), self.key.collection.to_string());
        Object::Record(bucket, collection, id.to_owned()).to_string()
    }

    /// Gives rows the names that are remembered, and gives the others.
    fn remember<'r>(&self, rows: impl IntoIterator<Item = Unnamed<'r>>) -> Vec<Unnamed<'r>> {
        let mut unknown = Vec::new();
        for (row, key, seen) in rows {
            let [object, version] = key;
            let known = self.names.known.get(&object);
            row.revision = known.filter(|(of, _)| *of == version).map(|(_, revision)| revision);
            if row.revision.is_none() {
                unknown.push((row, key, seen));
            }
        }
        unknown
    }

    /// Names rows. What is older than the journal knows, without having been seen by it, goes by the name of what comes next.
    pub async fn name(&self, rows: &mut [FeedRow]) -> Result<(), Error> {
        for (row, end) in self.name_exactly(rows).await? {
            row.revision = Some(end);
        }
        Ok(())
    }

    /// Names rows, but for those that are older than the journal knows: these are given back, with the name of what comes
    /// next.
    pub async fn name_exactly<'r>(
        &self,
        rows: &'r mut [FeedRow],
    ) -> Result<Vec<(&'r mut FeedRow, Revision)>, Error> {
        let mut older = Vec::new();
        let versions = rows.iter().map(|row| (self.seen(row), row.json.clone())).collect();
        let remembered = self.names.remembered(versions).await?;
        let unknown =
            self.remember(rows.iter_mut().zip(remembered).map(|(row, (key, seen))| (row, key, seen)));
        if unknown.is_empty() {
            return Ok(older);
        }
        let mut turn = self.names.turn(&self.key).await?;
        let unknown = self.remember(unknown);
        if unknown.is_empty() {
            return Ok(older);
        }
        let seen = unknown.iter().map(|(_, _, seen)| seen.clone()).collect();
        let named = turn.end(self.journal.revisions(seen).await)?;
        for ((_, key, _), named) in unknown.iter().zip(&named) {
            if let Named::Known(revision) = named {
                self.names.keep(*key, *revision);
            }
        }
        drop(turn);
        for ((row, key, seen), mut named) in unknown.into_iter().zip(named) {
            if let Named::Older(end) | Named::Passed(_, end) = named
                && self.is_present(row).await
            {
                named = self.journal.enter_after(seen, end).await?;
            }
            match named {
                Named::Known(revision) => {
                    self.names.keep(key, revision);
                    row.revision = Some(revision);
                }
                Named::Passed(revision, _) => row.revision = Some(revision),
                Named::Older(end) => older.push((row, end)),
            }
        }
        Ok(older)
    }

    fn seen(&self, row: &FeedRow) -> Seen {
        Seen { uri: self.uri(&row.id), modified: row.last_modified, deleted: row.deleted }
    }

    /// Whether a row is what the upstream has now: a record can be dated back.
    async fn is_present(&self, row: &FeedRow) -> bool {
        let list = self.key.records_uri();
        let path = format!("{list}?in_id={}", in_list(std::iter::once(&*row.id)));
        let Ok(page) = self.source.pages(path).first().await else { return false };
        match page.rows.first() {
            Some(present) => !row.deleted && present.last_modified == row.last_modified,
            None => row.deleted,
        }
    }
}

// === impl Revised ===

impl Revised {
    /// The rows of a snapshot with their names.
    pub fn new(snapshot: Arc<dyn Snapshot>, revisions: Revisions) -> Self {
        Self { snapshot, revisions }
    }

    async fn named(&self, mut page: FeedPage) -> Result<FeedPage, Error> {
        self.revisions.name(&mut page.rows).await?;
        Ok(page)
    }
}

impl Snapshot for Revised {
    fn lineage(&self) -> u64 {
        self.snapshot.lineage()
    }

    fn began(&self) -> Seq {
        self.snapshot.began()
    }

    fn serial(&self) -> u64 {
        self.snapshot.serial()
    }

    fn newest_seq(&self) -> Seq {
        self.snapshot.newest_seq()
    }

    fn heed(&self, seq: Seq) {
        self.snapshot.heed(seq);
    }

    fn tag(&self) -> Option<String> {
        let mut hasher = DefaultHasher::new();
        self.revisions.began.hash(&mut hasher);
        Some(format!("{}-{:08x}", self.snapshot.tag()?, hasher.finish() >> 32))
    }

    fn lent(&self) -> Option<Arc<Lent>> {
        self.snapshot.lent()
    }

    fn page(self: Arc<Self>, from: Position, room: Room) -> BoxFuture<'static, Result<FeedPage, Error>> {
        Box::pin(async move { self.named(Arc::clone(&self.snapshot).page(from, room).await?).await })
    }

    fn before(
        self: Arc<Self>,
        below: Option<Seq>,
        room: Room,
    ) -> BoxFuture<'static, Result<FeedPage, Error>> {
        Box::pin(async move { self.named(Arc::clone(&self.snapshot).before(below, room).await?).await })
    }
}
