//! What one transaction reads and writes: read in a few statements for all its changes, worked on in memory, and
//! written in a few statements.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::SystemTime;

use sqlx::{AnyConnection, Row};

use super::engine::Kind;
use super::readers::ReaderSets;
use super::statement::{Bound, Statement, timestamp, truth};
use super::{Change, Known, Object, Permissions};
use crate::kinto::Timestamp;
use crate::settings::HistorySettings;

/// Values of one statement; both engines take more.
pub(super) const CHUNK: usize = 500;
/// Rows of one statement, each of many values.
const ROWS: usize = 200;

/// See the module.
pub(super) struct Ledger<'c> {
    pub(super) connection: &'c mut AnyConnection,
    pub(super) kind: Kind,
    pub(super) rules: &'c HistorySettings,
    /// Whether objects have readers of their own.
    pub(super) explicit_permissions: bool,
    pub(super) reader_sets: &'c mut ReaderSets,
    /// By bucket.
    histories: HashMap<String, History>,
    /// By URI; `None` for those that are not known.
    objects: HashMap<String, Option<State>>,
    changed: BTreeSet<String>,
    recorded: HashSet<(String, Timestamp)>,
    /// The newest entry of a URI.
    newest: HashMap<String, Option<String>>,
    rows: Vec<EntryRow>,
    /// What was recorded, for those who wait for news.
    pub(super) news: Vec<(Object, Timestamp)>,
}

/// A bucket's history.
#[derive(Debug, Clone, Copy)]
pub(super) struct History {
    pub(super) id: i64,
    pub(super) timestamp: Timestamp,
    added: i64,
    is_changed: bool,
}

/// The state of an object as last recorded.
#[derive(Debug, Clone, Default)]
pub(super) struct State {
    pub(super) modified: Timestamp,
    pub(super) deleted: bool,
    pub(super) permissions: Option<Permissions>,
    /// Whether the newest entry about the object shows this state.
    pub(super) is_entry: bool,
}

/// A row of the table of entries.
#[derive(Debug)]
pub(super) struct EntryRow {
    pub(super) history: i64,
    pub(super) last_modified: Timestamp,
    pub(super) id: String,
    pub(super) object: Object,
    pub(super) object_modified: Timestamp,
    pub(super) action: &'static str,
    pub(super) user_id: Option<String>,
    pub(super) date: String,
    pub(super) reader_set: i64,
    pub(super) knows_readers: bool,
    pub(super) json: String,
}

// === impl State ===

impl State {
    pub(super) fn known(&self) -> Known {
        Known { modified: self.modified, deleted: self.deleted, permissions: self.permissions.clone() }
    }
}

// === impl Ledger ===

impl<'c> Ledger<'c> {
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
            recorded: HashSet::new(),
            newest: HashMap::new(),
            rows: Vec::new(),
            news: Vec::new(),
        }
    }

    /// Reads all that is needed to record changes.
    pub(super) async fn prefetch(&mut self, changes: &[&Change]) -> sqlx::Result<()> {
        let mut uris = BTreeSet::new();
        let mut versions: BTreeMap<&str, Vec<(String, Timestamp)>> = BTreeMap::new();
        for change in changes {
            let object = &change.object;
            let uri = object.to_string();
            versions.entry(object.bucket()).or_default().push((uri.clone(), change.modified));
            uris.insert(uri);
            uris.extend(parents(object).map(|parent| parent.to_string()));
        }
        uris.retain(|uri| !self.objects.contains_key(uri));
        self.read_objects(uris).await?;
        for (bucket, versions) in versions {
            let history = self.history(bucket).await?.id;
            self.read_recorded(history, &versions).await?;
            self.read_newest(history, versions.into_iter().map(|(uri, _)| uri).collect()).await?;
        }
        Ok(())
    }

    async fn read_objects(&mut self, uris: BTreeSet<String>) -> sqlx::Result<()> {
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
        let recorded =
            recorded(self.connection, history, versions.iter().map(|(_, modified)| *modified)).await?;
        self.recorded.extend(recorded);
        Ok(())
    }

    async fn read_newest(&mut self, history: i64, uris: BTreeSet<String>) -> sqlx::Result<()> {
        let uris: Vec<String> = uris.into_iter().filter(|uri| !self.newest.contains_key(uri)).collect();
        for uris in uris.chunks(CHUNK) {
            let statement = Statement::new("WITH given (uri) AS (VALUES ")
                .rows(uris.iter().map(|uri| [uri.as_str()]))
                .push(") SELECT uri, (SELECT json FROM sidecar_entries WHERE history = ")
                .bind(history)
                .push(" AND uri = given.uri ORDER BY last_modified DESC LIMIT 1) FROM given");
            for row in statement.fetch(self.connection).await? {
                self.newest.insert(row.try_get(0)?, row.try_get(1)?);
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

    /// A bucket's history; a new one where there is none.
    pub(super) async fn history(&mut self, bucket: &str) -> sqlx::Result<History> {
        if let Some(history) = self.histories.get(bucket) {
            return Ok(*history);
        }
        let found =
            Statement::new("SELECT id, timestamp FROM sidecar_histories WHERE is_current = 1 AND bucket = ");
        let found = found.bind(bucket).first(self.connection).await?;
        let history = match found {
            Some(row) => {
                History { id: row.try_get(0)?, timestamp: timestamp(&row, 1)?, added: 0, is_changed: false }
            }
            // Kinto: the timestamp of a list that was never written is that of the first look at it.
            None => self.begin_history(bucket, Timestamp::now()).await?,
        };
        self.histories.insert(bucket.to_owned(), history);
        Ok(history)
    }

    async fn begin_history(&mut self, bucket: &str, timestamp: Timestamp) -> sqlx::Result<History> {
        let begun =
            Statement::new("INSERT INTO sidecar_histories (bucket, is_current, timestamp, entries) VALUES (")
                .bind(bucket)
                .push(", 1, ")
                .bind(timestamp)
                .push(", 0) RETURNING id");
        let row = begun.first(self.connection).await?.ok_or(sqlx::Error::RowNotFound)?;
        Ok(History { id: row.try_get(0)?, timestamp, added: 0, is_changed: false })
    }

    /// The next timestamp of a bucket's history.
    pub(super) async fn next_timestamp(&mut self, bucket: &str) -> sqlx::Result<Timestamp> {
        let mut history = self.history(bucket).await?;
        history.timestamp = Timestamp::now().max(Timestamp(history.timestamp.0.saturating_add(1)));
        history.is_changed = true;
        self.histories.insert(bucket.to_owned(), history);
        Ok(history.timestamp)
    }

    /// Counts entries that came or went without [`Self::add`].
    pub(super) fn count(&mut self, bucket: &str, added: i64) {
        if let Some(history) = self.histories.get_mut(bucket) {
            history.added = history.added.saturating_add(added);
            history.is_changed = true;
        }
    }

    /// An object's state; only of those that were read.
    pub(super) fn state(&self, uri: &str) -> Option<&State> {
        self.objects.get(uri)?.as_ref()
    }

    /// Notes an object's state.
    pub(super) fn set_state(&mut self, uri: &str, state: State) {
        self.objects.insert(uri.to_owned(), Some(state));
        self.changed.insert(uri.to_owned());
    }

    /// Whether there is an entry about this version.
    pub(super) fn is_recorded(&self, uri: &str, modified: Timestamp) -> bool {
        self.recorded.contains(&(uri.to_owned(), modified))
    }

    /// The newest entry about an object.
    pub(super) fn newest(&self, uri: &str) -> Option<&str> {
        self.newest.get(uri)?.as_deref()
    }

    /// Adds an entry.
    pub(super) fn add(&mut self, row: EntryRow) {
        let uri = row.object.to_string();
        self.count(row.object.bucket(), 1);
        self.recorded.insert((uri.clone(), row.object_modified));
        self.newest.insert(uri, Some(row.json.clone()));
        self.rows.push(row);
    }

    /// Forgets what is below a deleted collection or bucket, and with a bucket its history.
    pub(super) async fn forget_below(&mut self, object: &Object) -> sqlx::Result<()> {
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
            self.end_history(bucket).await?;
            let is_inside = |uri: &String| is_below(uri) || *uri == object.to_string();
            self.recorded.retain(|(uri, _)| !is_inside(uri));
            self.newest.iter_mut().filter(|(uri, _)| is_inside(uri)).for_each(|(_, json)| *json = None);
        }
        Ok(())
    }

    /// The history of a bucket ends; that of its next life begins with later timestamps.
    async fn end_history(&mut self, bucket: &str) -> sqlx::Result<()> {
        let history = self.history(bucket).await?;
        let end = Statement::new("UPDATE sidecar_histories SET is_current = 0 WHERE id = ").bind(history.id);
        end.execute(self.connection).await?;
        let next = self.begin_history(bucket, history.timestamp).await?;
        self.histories.insert(bucket.to_owned(), next);
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
        self.store_entries().await?;
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
        for uris in changed.chunks(ROWS) {
            let states =
                uris.iter().filter_map(|uri| self.objects.get(uri)?.as_ref().map(|state| (uri, state)));
            let rows: Vec<_> = states.map(|(uri, state)| object_row(uri, state)).collect();
            if rows.is_empty() {
                continue;
            }
            let upsert = Statement::new(
                "INSERT INTO sidecar_objects (uri, list, modified, deleted, permissions, is_entry) VALUES ",
            )
            .rows(rows)
            .push(
                " ON CONFLICT (uri) DO UPDATE SET modified = excluded.modified, deleted = excluded.deleted, \
                 permissions = excluded.permissions, is_entry = excluded.is_entry",
            );
            upsert.execute(self.connection).await?;
        }
        Ok(())
    }

    async fn store_entries(&mut self) -> sqlx::Result<()> {
        let entries = std::mem::take(&mut self.rows);
        for entries in entries.chunks(ROWS) {
            let insert = Statement::new(INSERT_ENTRIES).rows(entries.iter().map(EntryRow::values));
            insert.execute(self.connection).await?;
        }
        Ok(())
    }
}

// === impl EntryRow ===

/// The columns of [`EntryRow::values`].
pub(super) const INSERT_ENTRIES: &str = "INSERT INTO sidecar_entries (history, last_modified, id, uri, \
    object_modified, resource_name, action, user_id, date, bucket_id, group_id, collection_id, record_id, reader_set, \
    knows_readers, json) VALUES ";

impl EntryRow {
    /// The values of its columns, in the order of [`INSERT_ENTRIES`].
    pub(super) fn values(&self) -> [Bound; 16] {
        let object = &self.object;
        let id_of = |is_it: bool| is_it.then(|| object.id());
        [
            self.history.into(),
            self.last_modified.into(),
            self.id.as_str().into(),
            object.to_string().into(),
            self.object_modified.into(),
            object.resource().as_str().into(),
            self.action.into(),
            self.user_id.as_deref().into(),
            self.date.as_str().into(),
            id_of(matches!(object, Object::Bucket(_))).into(),
            id_of(matches!(object, Object::Group(..))).into(),
            object.collection().into(),
            id_of(matches!(object, Object::Record(..))).into(),
            self.reader_set.into(),
            self.knows_readers.into(),
            self.json.as_str().into(),
        ]
    }
}

fn object_row(uri: &str, state: &State) -> [Bound; 6] {
    let list = list(uri);
    let permissions =
        state.permissions.as_ref().and_then(|permissions| serde_json::to_string(permissions).ok());
    [
        uri.into(),
        list.into(),
        state.modified.into(),
        state.deleted.into(),
        permissions.into(),
        state.is_entry.into(),
    ]
}

/// The objects that an object is in.
pub(super) fn parents(object: &Object) -> impl Iterator<Item = Object> + use<> {
    let bucket = (!matches!(object, Object::Bucket(_))).then(|| Object::Bucket(object.bucket().to_owned()));
    let collection = match object {
        Object::Record(bucket, collection, _) => Some(Object::Collection(bucket.clone(), collection.clone())),
        _ => None,
    };
    bucket.into_iter().chain(collection)
}

/// The URI of the list that an object is in.
pub(super) fn list_of(object: &Object) -> String {
    list(&object.to_string()).to_owned()
}

fn list(uri: &str) -> &str {
    uri.rsplit_once('/').map_or("", |(list, _)| list)
}

/// The range of the URIs below one.
pub(super) fn below(uri: &str) -> (String, String) {
    // `0` is what follows `/`.
    (format!("{uri}/"), format!("{uri}0"))
}

/// The states of objects that are known.
pub(super) async fn states(
    connection: &mut AnyConnection,
    uris: &[String],
) -> sqlx::Result<Vec<(String, State)>> {
    let mut states = Vec::new();
    for uris in uris.chunks(CHUNK) {
        let select =
            "SELECT uri, modified, deleted, permissions, is_entry FROM sidecar_objects WHERE uri IN (";
        let select = Statement::new(select).list(uris.iter().map(String::as_str)).push(")");
        for row in select.fetch(connection).await? {
            let permissions: Option<String> = row.try_get(3)?;
            let permissions = permissions.and_then(|permissions| serde_json::from_str(&permissions).ok());
            let (modified, deleted, is_entry) = (timestamp(&row, 1)?, truth(&row, 2)?, truth(&row, 4)?);
            states.push((row.try_get(0)?, State { modified, deleted, permissions, is_entry }));
        }
    }
    Ok(states)
}

/// The versions of a history's entries that have one of these timestamps.
pub(super) async fn recorded(
    connection: &mut AnyConnection,
    history: i64,
    versions: impl Iterator<Item = Timestamp>,
) -> sqlx::Result<HashSet<(String, Timestamp)>> {
    let mut recorded = HashSet::new();
    let versions: Vec<Timestamp> = versions.collect();
    for versions in versions.chunks(CHUNK) {
        let select = Statement::new("SELECT uri, object_modified FROM sidecar_entries WHERE history = ")
            .bind(history)
            .push(" AND object_modified IN (")
            .list(versions.iter().copied())
            .push(")");
        for row in select.fetch(connection).await? {
            recorded.insert((row.try_get(0)?, timestamp(&row, 1)?));
        }
    }
    Ok(recorded)
}

/// Says that versions of a collection's objects may be missing from a moment on.
pub(super) async fn mark_gap(
    connection: &mut AnyConnection,
    history: i64,
    collection: &str,
    since: Timestamp,
) -> sqlx::Result<()> {
    let mark = Statement::new("INSERT INTO sidecar_gaps (history, collection_id, since) VALUES (")
        .bind(history)
        .push(", ")
        .bind(collection)
        .push(", ")
        .bind(since)
        .push(
            ") ON CONFLICT (history, collection_id) DO UPDATE SET since = CASE \
             WHEN excluded.since < sidecar_gaps.since THEN excluded.since ELSE sidecar_gaps.since END",
        );
    mark.execute(connection).await.map(drop)
}

/// This machine's clock in microseconds.
pub(super) fn now_microseconds() -> u64 {
    let elapsed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX)
}
