//! Records of a collection as they were at a moment: which versions those are, and what they say.
//!
//! What they say may be large, and is read by and by. How large it is, is told first.

use std::collections::{HashMap, HashSet};

use futures_util::TryStreamExt;
use sqlx::{AnyConnection, Row};

use super::entry::Told;
use super::large;
use super::reading::Reading;
use super::rows::CHUNK;
use super::select::small;
use super::statement::{Statement, timestamp, truth};
use super::{Journal, JournalError, Object, ends};
use crate::aside;
use crate::kinto::{Timestamp, segment};

/// The version of a record that was the newest at a moment.
#[derive(Debug, Clone, Copy)]
pub struct PastVersion {
    /// The timestamp of its entry.
    pub entry: Timestamp,
    /// The version itself.
    pub modified: Timestamp,
    /// How many bytes its entry has.
    pub length: usize,
    /// Whether the record was deleted by it.
    pub is_deletion: bool,
}

/// What is known of records at a moment.
#[derive(Debug, Default)]
pub struct PastVersions {
    /// Their versions.
    pub versions: Vec<PastVersion>,
    /// Whether entries of the collection were trimmed or purged, so that one may be missing.
    pub has_gaps: bool,
    /// Whether each record without a version was made since: its first entry is its creation.
    pub are_others_newer: bool,
}

// === impl Journal ===

impl Journal {
    /// For each record of a collection, the newest entry whose version is at or before a moment.
    pub async fn versions_at(
        &self,
        collection: &Object,
        records: &[&str],
        moment: Timestamp,
    ) -> Result<PastVersions, JournalError> {
        let found = self.of_history(collection.bucket(), async |reading, history, _| {
            Past { history, collection, moment }.versions(reading.connection().await?, records).await
        });
        Ok(found.await?.unwrap_or_else(|| PastVersions {
            are_others_newer: records.is_empty(),
            ..PastVersions::default()
        }))
    }

    /// What these entries of a bucket say of their objects, by their timestamps. What is gone meanwhile is not among it.
    pub async fn data_at(
        &self,
        bucket: &str,
        entries: &[Timestamp],
    ) -> Result<HashMap<Timestamp, Vec<u8>>, JournalError> {
        let data = self.of_history(bucket, async |reading, history, _| data(reading, history, entries).await);
        Ok(data.await?.unwrap_or_default())
    }
}

/// A collection of a history, at a moment.
struct Past<'p> {
    history: i64,
    collection: &'p Object,
    moment: Timestamp,
}

impl Past<'_> {
    async fn versions(&self, connection: &mut AnyConnection, records: &[&str]) -> sqlx::Result<PastVersions> {
        let Self { history, collection, moment } = *self;
        // What was in a collection went with it, each by an entry that is the collection's.
        let ended = ends::version(connection, history, collection, moment).await?.unwrap_or_default();
        let mut past = PastVersions { are_others_newer: true, ..PastVersions::default() };
        for records in records.chunks(CHUNK) {
            let mut unknown: HashSet<String> =
                records.iter().map(|record| format!("{collection}/records/{}", segment(record))).collect();
            let statement = Statement::new("WITH given (uri) AS (VALUES ")
                .rows(unknown.iter().map(|uri| [uri.as_str()]))
                .push(
                    ") SELECT given.uri, entry.last_modified, entry.object_modified, \
                     CAST(octet_length(entry.json) AS BIGINT), \
                     CAST(CASE WHEN entry.action = 'delete' THEN 1 ELSE 0 END AS BIGINT) \
                     FROM given JOIN sidecar_entries AS entry ON entry.history = ",
                )
                .bind(history)
                .push(
                    " AND entry.last_modified = (SELECT last_modified FROM sidecar_entries WHERE history = ",
                )
                .bind(history)
                .push(" AND uri = given.uri AND object_modified <= ")
                .bind(moment)
                .push(" AND object_modified > ")
                .bind(ended)
                .push(" ORDER BY last_modified DESC LIMIT 1)");
            for row in statement.fetch(connection).await? {
                unknown.remove(&row.try_get::<String, _>(0)?);
                let length: i64 = row.try_get(3)?;
                past.versions.push(PastVersion {
                    entry: timestamp(&row, 1)?,
                    modified: timestamp(&row, 2)?,
                    length: usize::try_from(length).unwrap_or(usize::MAX),
                    is_deletion: truth(&row, 4)?,
                });
            }
            past.are_others_newer = past.are_others_newer && self.are_newer(connection, &unknown).await?;
        }
        let gap = Statement::new("SELECT since FROM sidecar_gaps WHERE history = ")
            .bind(history)
            .push(" AND collection_id IN (")
            .list(["", collection.collection().unwrap_or_default()])
            .push(") AND since <= ")
            .bind(moment)
            .push(" LIMIT 1");
        past.has_gaps = gap.first(connection).await?.is_some();
        Ok(past)
    }

    /// Whether the first that is known of each of these is that it was made.
    async fn are_newer(&self, connection: &mut AnyConnection, uris: &HashSet<String>) -> sqlx::Result<bool> {
        if uris.is_empty() {
            return Ok(true);
        }
        let firsts = Statement::new("WITH given (uri) AS (VALUES ")
            .rows(uris.iter().map(|uri| [uri.as_str()]))
            .push(") SELECT (SELECT action FROM sidecar_entries WHERE history = ")
            .bind(self.history)
            .push(
                " AND uri = given.uri AND action IN ('create', 'delete') ORDER BY last_modified LIMIT 1) FROM given",
            );
        for row in firsts.fetch(connection).await? {
            if row.try_get::<Option<String>, _>(0)?.as_deref() != Some("create") {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

async fn data(
    reading: &mut Reading<'_>,
    history: i64,
    entries: &[Timestamp],
) -> sqlx::Result<HashMap<Timestamp, Vec<u8>>> {
    let mut data = HashMap::new();
    let told = |json: &str| {
        let told = serde_json::from_str::<Told<'_>>(json).ok();
        told.map(|told| told.target.data.get().as_bytes().to_vec())
    };
    for entries in entries.chunks(CHUNK) {
        let columns =
            format!("SELECT last_modified, {} FROM sidecar_entries WHERE history = ", small("json"));
        let select = Statement::new(&columns).bind(history).push(" AND last_modified IN (");
        let select = select.list(entries.iter().copied()).push(")");
        let (mut rows, mut large) = (select.stream(reading.connection().await?), Vec::new());
        while let Some(row) = rows.try_next().await? {
            let (entry, json): (_, String) = (timestamp(&row, 0)?, row.try_get(1)?);
            if json.is_empty() {
                large.push(entry);
            } else {
                data.extend(told(&json).map(|told| (entry, told)));
            }
        }
        drop(rows);
        for entry in large {
            let Some(large) = large::text(reading, history, entry, false).await? else { continue };
            let told = aside::run(large.json.len(), move || (told(&large.json), large.room));
            let (told, _room) = told.await.map_err(|_| sqlx::Error::WorkerCrashed)?;
            data.extend(told.map(|told| (entry, told)));
        }
    }
    Ok(data)
}
