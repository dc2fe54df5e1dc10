//! Rows of the journal's tables, as they are written and read.

use std::collections::{HashMap, HashSet};
use std::time::SystemTime;

use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row};

use super::engine::Kind;
use super::statement::{Bound, Statement, timestamp, truth};
use super::{Known, Object, Permissions};
use crate::kinto::Timestamp;

/// Values of one statement; both engines take more.
pub(super) const CHUNK: usize = 500;
/// Rows of one statement, each of some values.
const ROWS: usize = 100;
/// The same for PostgreSQL, which is given a value for each column.
const ROWS_OF_ARRAYS: usize = 1000;

/// A row of the table of entries.
#[derive(Debug)]
pub(super) struct EntryRow {
    pub(super) history: i64,
    pub(super) last_modified: Timestamp,
    pub(super) id: String,
    pub(super) object: Object,
    /// The object's.
    pub(super) uri: String,
    pub(super) object_modified: Timestamp,
    pub(super) action: &'static str,
    pub(super) user_id: Option<String>,
    pub(super) date: String,
    pub(super) reader_set: i64,
    pub(super) knows_readers: bool,
    pub(super) json: String,
}

/// The state of an object as last recorded.
#[derive(Debug, Clone, Default)]
pub(super) struct ObjectState {
    pub(super) modified: Timestamp,
    pub(super) deleted: bool,
    pub(super) permissions: Option<Permissions>,
    /// Whether the newest entry about the object shows this state.
    pub(super) is_entry: bool,
}

// === impl EntryRow ===

/// The columns of [`EntryRow::into_values`].
pub(super) const ENTRIES: &str = "sidecar_entries (history, last_modified, id, uri, object_modified, resource_name, action, \
    user_id, date, bucket_id, group_id, collection_id, record_id, reader_set, knows_readers, json)";

impl EntryRow {
    /// The values of its columns, in the order of [`ENTRIES`].
    pub(super) fn into_values(self) -> [Bound; 16] {
        let object = &self.object;
        let id_of = |is_it: bool| is_it.then(|| object.id());
        [
            self.history.into(),
            self.last_modified.into(),
            self.id.into(),
            self.uri.into(),
            self.object_modified.into(),
            object.resource().as_str().into(),
            self.action.into(),
            self.user_id.into(),
            self.date.into(),
            id_of(matches!(object, Object::Bucket(_))).into(),
            id_of(matches!(object, Object::Group(..))).into(),
            object.collection().into(),
            id_of(matches!(object, Object::Record(..))).into(),
            self.reader_set.into(),
            self.knows_readers.into(),
            self.json.into(),
        ]
    }
}

/// How many rows there may be in [`Statement::insert`].
pub(super) fn at_once(kind: Kind) -> usize {
    match kind {
        Kind::Sqlite => ROWS,
        Kind::Postgres => ROWS_OF_ARRAYS,
    }
}

// === impl ObjectState ===

impl ObjectState {
    pub(super) fn known(&self) -> Known {
        Known { modified: self.modified, deleted: self.deleted }
    }
}

pub(super) fn object_row(uri: &str, state: &ObjectState) -> [Bound; 6] {
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

/// The URI of the list that an object is in.
pub(super) fn list(uri: &str) -> &str {
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
) -> sqlx::Result<Vec<(String, ObjectState)>> {
    let mut states = Vec::new();
    for uris in uris.chunks(CHUNK) {
        let select =
            "SELECT uri, modified, deleted, permissions, is_entry FROM sidecar_objects WHERE uri IN (";
        let select = Statement::new(select).list(uris.iter().map(String::as_str)).push(")");
        for row in select.fetch(connection).await? {
            let permissions: Option<String> = row.try_get(3)?;
            let permissions = permissions.and_then(|permissions| serde_json::from_str(&permissions).ok());
            let (modified, deleted, is_entry) = (timestamp(&row, 1)?, truth(&row, 2)?, truth(&row, 4)?);
            states.push((row.try_get(0)?, ObjectState { modified, deleted, permissions, is_entry }));
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
    // With the id, which the index by URI does not have: SQLite would read that one from end to end.
    let versions: Vec<Timestamp> = versions.collect();
    let rows = of_versions("uri, object_modified, id", connection, history, &versions).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, timestamp(row, 1)?))).collect()
}

/// What is recorded of one version.
pub(super) struct Recorded {
    pub(super) user_id: Option<String>,
    /// The entry.
    pub(super) json: String,
}

/// SECURITY: so many entries are read that are about one version. Who deletes an object and makes it again may give it the
/// same one, time and again.
const OF_A_VERSION: usize = 4;

/// The entries of a history that are about one of these versions, by URI and version: the newest ones, of not more than so
/// many bytes, but for a single one.
pub(super) async fn entries_of(
    connection: &mut AnyConnection,
    history: i64,
    versions: &[(&str, Timestamp)],
    most: i64,
) -> sqlx::Result<Vec<((String, Timestamp), Recorded)>> {
    let mut numbers: HashMap<(&str, Timestamp), usize> =
        versions.iter().map(|version| (*version, 0)).collect();
    let timestamps: Vec<Timestamp> = versions.iter().map(|(_, modified)| *modified).collect();
    let columns = "uri, object_modified, last_modified, CAST(octet_length(json) AS BIGINT)";
    let mut found = Vec::new();
    for row in of_versions(columns, connection, history, &timestamps).await? {
        let (uri, version): (String, _) = (row.try_get(0)?, timestamp(&row, 1)?);
        found.push((timestamp(&row, 2)?, row.try_get::<i64, _>(3)?, uri, version));
    }
    found.sort_unstable_by_key(|(entry, ..)| std::cmp::Reverse(*entry));
    let (mut wanted, mut bytes) = (Vec::new(), 0);
    for (entry, length, uri, version) in &found {
        let Some(number) = numbers.get_mut(&(uri.as_str(), *version)) else { continue };
        *number += 1;
        if *number <= OF_A_VERSION && (wanted.is_empty() || bytes + length <= most) {
            bytes += length;
            wanted.push(*entry);
        }
    }
    let mut entries = Vec::new();
    for wanted in wanted.chunks(CHUNK) {
        let select = "SELECT uri, object_modified, user_id, json FROM sidecar_entries WHERE history = ";
        let select = Statement::new(select).bind(history).push(" AND last_modified IN (");
        for row in select.list(wanted.iter().copied()).push(")").fetch(connection).await? {
            let recorded = Recorded { user_id: row.try_get(2)?, json: row.try_get(3)? };
            entries.push(((row.try_get(0)?, timestamp(&row, 1)?), recorded));
        }
    }
    Ok(entries)
}

async fn of_versions(
    columns: &str,
    connection: &mut AnyConnection,
    history: i64,
    versions: &[Timestamp],
) -> sqlx::Result<Vec<AnyRow>> {
    let mut rows = Vec::new();
    for versions in versions.chunks(CHUNK) {
        let select = Statement::new(&format!("SELECT {columns} FROM sidecar_entries WHERE history = "))
            .bind(history)
            .push(" AND object_modified IN (")
            .list(versions.iter().copied())
            .push(")");
        rows.extend(select.fetch(connection).await?);
    }
    Ok(rows)
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
