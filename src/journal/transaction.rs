//! What one transaction reads and writes: read in a few statements for all its changes, worked on in memory, and
//! written in a few statements.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use sqlx::{AnyConnection, Row};

mod histories;

use crate::journal::chain::Chains;
use crate::journal::engine::Kind;
use crate::journal::intents::{self, IntentRow};
use crate::journal::others::Others;
use crate::journal::readers::ReaderSets;
use crate::journal::rows::{
    CHUNK, ENTRIES, EntryRow, ObjectState, Recorded, at_once, below, entries_of, mark_gap, object_row, states,
};
use crate::journal::statement::{Statement, timestamp};
use crate::journal::{Change, Life, Object};
use crate::kinto::Timestamp;
use crate::settings::HistorySettings;
use histories::History;
pub(super) use histories::{bucket_of, hidden_names, is_hidden};

/// SECURITY: so many bytes of what is recorded are read, to be told apart from what is to be; more than are recorded in one
/// transaction.
const RECORDED: i64 = 32 << 20;

/// See the module.
pub(super) struct Transaction<'c> {
    pub(super) connection: &'c mut AnyConnection,
    pub(super) kind: Kind,
    pub(super) rules: &'c HistorySettings,
    /// Whether objects have readers of their own.
    pub(super) explicit_permissions: bool,
    pub(super) reader_sets: &'c mut ReaderSets,
    /// By bucket.
    histories: HashMap<String, History>,
    /// By URI; `None` for those that are not known.
    objects: HashMap<String, Option<ObjectState>>,
    changed: BTreeSet<String>,
    /// The entries about a version of a URI.
    recorded: HashMap<(String, Timestamp), Vec<Recorded>>,
    /// How much of them was read.
    recorded_bytes: i64,
    /// The newest entry of a URI.
    newest: HashMap<String, Option<(Timestamp, String)>>,
    pub(super) chains: Chains,
    /// Whether changes are recorded, which are told apart from what is there.
    is_recording: bool,
    rows: Vec<EntryRow>,
    /// Of writes that are about to begin.
    pub(super) intents: Vec<IntentRow>,
    /// Groups of intents that are settled.
    pub(super) settled: Vec<i64>,
    /// Other processes that write the same objects.
    pub(super) others: Others,
    /// Lives of buckets that are over where the bucket is created.
    pub(super) ended: Vec<Life>,
    /// How many entries were removed because of their number or age.
    pub(super) trimmed: u64,
    /// What was recorded, for those who wait for news.
    pub(super) news: Vec<(Object, Timestamp)>,
}

// === impl Transaction ===

impl<'c> Transaction<'c> {
    /// An empty one.
    pub(super) fn new(
        connection: &'c mut AnyConnection,
        kind: Kind,
        rules: &'c HistorySettings,
        explicit_permissions: bool,
        reader_sets: &'c mut ReaderSets,
    ) -> Self {
        Self {
            connection,
            kind,
            rules,
            explicit_permissions,
            reader_sets,
            histories: HashMap::new(),
            objects: HashMap::new(),
            changed: BTreeSet::new(),
            recorded: HashMap::new(),
            recorded_bytes: 0,
            newest: HashMap::new(),
            chains: Chains::default(),
            is_recording: false,
            rows: Vec::new(),
            intents: Vec::new(),
            settled: Vec::new(),
            others: Others::default(),
            ended: Vec::new(),
            trimmed: 0,
            news: Vec::new(),
        }
    }

    /// Reads all that is needed to record changes.
    pub(super) async fn prefetch(&mut self, changes: &[&Change]) -> sqlx::Result<()> {
        self.is_recording |= !changes.is_empty();
        let (mut uris, mut entered) = (BTreeSet::new(), BTreeSet::new());
        let mut versions: BTreeMap<&str, Vec<(String, Timestamp)>> = BTreeMap::new();
        for change in changes {
            let object = &change.object;
            let uri = object.to_string();
            versions.entry(object.bucket()).or_default().push((uri.clone(), change.modified));
            uris.extend(object.parents().map(|parent| parent.to_string()));
            uris.insert(uri.clone());
            // What is only learned is entered in no chain.
            if change.data.is_some() {
                entered.insert(uri);
            }
        }
        self.chains.read(self.connection, &entered).await?;
        uris.retain(|uri| !self.objects.contains_key(uri));
        self.read_objects(uris).await?;
        for (bucket, versions) in versions {
            let history = self.history(bucket).await?.id;
            self.read_recorded(history, &versions).await?;
            self.read_newest(history, versions.into_iter().map(|(uri, _)| uri).collect()).await?;
        }
        Ok(())
    }

    pub(super) async fn read_objects(&mut self, uris: BTreeSet<String>) -> sqlx::Result<()> {
        let uris: Vec<String> = uris.into_iter().collect();
        for (uri, state) in states(self.connection, &uris).await? {
            self.objects.insert(uri, Some(state));
        }
        for uri in uris {
            self.objects.entry(uri).or_default();
        }
        Ok(())
    }

    async fn read_recorded(&mut self, history: i64, versions: &[(String, Timestamp)]) -> sqlx::Result<()> {
        let versions: Vec<_> = versions.iter().map(|(uri, modified)| (uri.as_str(), *modified)).collect();
        let most = RECORDED.saturating_sub(self.recorded_bytes);
        for (version, entry) in entries_of(self.connection, history, &versions, most).await? {
            self.recorded_bytes += i64::try_from(entry.json.len()).unwrap_or(RECORDED);
            self.recorded.entry(version).or_default().push(entry);
        }
        Ok(())
    }

    async fn read_newest(&mut self, history: i64, uris: BTreeSet<String>) -> sqlx::Result<()> {
        if !self.rules.include_previous {
            return Ok(());
        }
        let uris: Vec<String> = uris.into_iter().filter(|uri| !self.newest.contains_key(uri)).collect();
        for uris in uris.chunks(CHUNK) {
            let statement = Statement::new("WITH given (uri) AS (VALUES ")
                .rows(uris.iter().map(|uri| [uri.as_str()]))
                .push(
                    ") SELECT given.uri, entry.object_modified, entry.json FROM given \
                     JOIN sidecar_entries AS entry ON entry.history = ",
                )
                .bind(history)
                .push(
                    " AND entry.last_modified = (SELECT last_modified FROM sidecar_entries WHERE history = ",
                )
                .bind(history)
                .push(" AND uri = given.uri ORDER BY last_modified DESC LIMIT 1)");
            for row in statement.fetch(self.connection).await? {
                self.newest.insert(row.try_get(0)?, Some((timestamp(&row, 1)?, row.try_get(2)?)));
            }
            for uri in uris {
                self.newest.entry(uri.clone()).or_default();
            }
        }
        Ok(())
    }

    /// Entries of a bucket were removed: the newest ones may be others now.
    pub(super) async fn read_newest_again(&mut self, bucket: &str) -> sqlx::Result<()> {
        let object = Object::Bucket(bucket.to_owned()).to_string();
        let (from, to) = below(&object);
        let is_inside = |uri: &str| uri == object || (from.as_str()..to.as_str()).contains(&uri);
        let uris: BTreeSet<String> = self.newest.keys().filter(|uri| is_inside(uri)).cloned().collect();
        self.newest.retain(|uri, _| !uris.contains(uri));
        let history = self.history(bucket).await?.id;
        self.read_newest(history, uris).await
    }

    /// An object's state; only of those that were read.
    pub(super) fn state(&self, uri: &str) -> Option<&ObjectState> {
        self.objects.get(uri)?.as_ref()
    }

    /// Notes an object's state.
    pub(super) fn set_state(&mut self, uri: &str, state: ObjectState) {
        self.objects.insert(uri.to_owned(), Some(state));
        self.changed.insert(uri.to_owned());
    }

    /// The entries about this version.
    pub(super) fn recorded(&self, uri: &str, modified: Timestamp) -> &[Recorded] {
        self.recorded.get(&(uri.to_owned(), modified)).map(Vec::as_slice).unwrap_or_default()
    }

    /// The newest entry about an object, and the version that it is about.
    pub(super) fn newest(&self, uri: &str) -> Option<&(Timestamp, String)> {
        self.newest.get(uri)?.as_ref()
    }

    /// Adds an entry to the history of this name.
    pub(super) fn add(&mut self, name: &str, row: EntryRow) {
        self.count(name, 1);
        if self.is_recording && !is_hidden(name) {
            let recorded = Recorded { user_id: row.user_id.clone(), json: row.json.clone() };
            self.recorded.entry((row.uri.clone(), row.object_modified)).or_default().push(recorded);
            self.newest.insert(row.uri.clone(), Some((row.object_modified, row.json.clone())));
        }
        self.rows.push(row);
    }

    /// A bucket is created. Where another one is known to be there under its name, that vanished without being deleted
    /// (its storage was flushed, or is that of an older backup): its history is kept, hidden from those who may read the
    /// new one.
    pub(super) async fn hide_ended(&mut self, object: &Object) -> sqlx::Result<()> {
        let Object::Bucket(bucket) = object else { return Ok(()) };
        let Some(life) = self.ended.iter().find(|life| life.bucket == *bucket).map(|life| life.history)
        else {
            return Ok(());
        };
        let uri = object.to_string();
        let is_there = self.state(&uri).is_some_and(|state| !state.deleted);
        if is_there && self.history(bucket).await?.id == life {
            self.forget(object, true).await?;
            self.objects.insert(uri, None);
        }
        Ok(())
    }

    /// Forgets what is below a collection or bucket that is gone, and with a bucket its history, or hides that.
    pub(super) async fn forget(&mut self, object: &Object, is_hidden: bool) -> sqlx::Result<()> {
        if !matches!(object, Object::Bucket(_) | Object::Collection(..)) {
            return Ok(());
        }
        self.store().await?;
        let (from, to) = below(&object.to_string());
        let is_below = |uri: &String| (from.as_str()..to.as_str()).contains(&uri.as_str());
        self.objects.iter_mut().filter(|(uri, _)| is_below(uri)).for_each(|(_, state)| *state = None);
        for (table, column) in [("sidecar_objects", "uri"), ("sidecar_watermarks", "list")] {
            let range =
                Statement::new(&format!("DELETE FROM {table} WHERE {column} >= ")).bind(from.as_str());
            range.push(&format!(" AND {column} < ")).bind(to.as_str()).execute(self.connection).await?;
        }
        if let Object::Bucket(bucket) = object {
            self.end_history(bucket, is_hidden).await?;
            let is_inside = |uri: &String| is_below(uri) || *uri == object.to_string();
            self.recorded.retain(|(uri, _), _| !is_inside(uri));
            self.newest.iter_mut().filter(|(uri, _)| is_inside(uri)).for_each(|(_, newest)| *newest = None);
        }
        Ok(())
    }

    /// Says that versions of a collection's objects may be missing from a moment on.
    pub(super) async fn mark_gap(&mut self, object: &Object, since: Timestamp) -> sqlx::Result<()> {
        let Some(collection) = object.collection() else { return Ok(()) };
        let history = self.history(object.bucket()).await?.id;
        mark_gap(self.connection, history, collection, since).await
    }

    /// Writes what was noted.
    pub(super) async fn store(&mut self) -> sqlx::Result<()> {
        intents::write(self.connection, &std::mem::take(&mut self.intents)).await?;
        intents::remove(self.connection, &std::mem::take(&mut self.settled)).await?;
        self.store_entries().await?;
        self.chains.store(self.connection).await?;
        for (_, history) in self.histories.iter_mut().filter(|(_, history)| history.is_changed) {
            let update = Statement::new("UPDATE sidecar_histories SET timestamp = ")
                .bind(history.timestamp)
                .push(", entries = entries + ")
                .bind(std::mem::take(&mut history.added))
                .push(" WHERE id = ")
                .bind(history.id);
            update.execute(self.connection).await?;
            history.is_changed = false;
        }
        let changed: Vec<String> = std::mem::take(&mut self.changed).into_iter().collect();
        for uris in changed.chunks(at_once(self.kind)) {
            let states =
                uris.iter().filter_map(|uri| self.objects.get(uri)?.as_ref().map(|state| (uri, state)));
            let rows: Vec<_> = states.map(|(uri, state)| object_row(uri, state)).collect();
            if rows.is_empty() {
                continue;
            }
            let into = "sidecar_objects (uri, list, modified, deleted, permissions, is_entry)";
            let upsert = Statement::insert(self.kind, into, rows).push(
                " ON CONFLICT (uri) DO UPDATE SET modified = excluded.modified, deleted = excluded.deleted, \
                 permissions = excluded.permissions, is_entry = excluded.is_entry",
            );
            upsert.execute(self.connection).await?;
        }
        Ok(())
    }

    async fn store_entries(&mut self) -> sqlx::Result<()> {
        let mut entries = std::mem::take(&mut self.rows).into_iter();
        let kind = self.kind;
        let mut inserts = std::iter::from_fn(move || {
            let rows: Vec<_> = entries.by_ref().take(at_once(kind)).map(EntryRow::into_values).collect();
            (!rows.is_empty()).then(|| Statement::insert(kind, ENTRIES, rows))
        });
        let mut next = inserts.next();
        while let Some(insert) = next {
            // The next one is put together while the engine works.
            let (done, following) = tokio::join!(insert.execute(self.connection), async { inserts.next() });
            done?;
            next = following;
        }
        Ok(())
    }
}
