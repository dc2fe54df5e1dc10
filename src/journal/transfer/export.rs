//! A journal written as lines, batch by batch.

use std::collections::VecDeque;

use serde_json::value::RawValue;
use sqlx::{AnyConnection, Row};

use super::{Content, Line};
use crate::journal::engine::bounded;
use crate::journal::rows::below;
use crate::journal::statement::{Statement, timestamp, truth};
use crate::journal::transaction::{hidden_names, is_hidden};
use crate::journal::{Journal, JournalError, Object, PATIENCE};
use crate::kinto::Timestamp;

const BATCH: usize = 500;

/// A journal, or a bucket's part of it, being written.
#[derive(Debug)]
pub struct Export {
    journal: Journal,
    only: Option<String>,
    /// The parts that are still to be written; none before the first.
    parts: Option<VecDeque<Part>>,
}

/// What is written next, from after a key.
#[derive(Debug, Clone)]
enum Part {
    History(String, Timestamp),
    Entries(Option<String>, i64, Timestamp),
    Tombstones(String, i64, Timestamp),
    Gaps(String, i64),
    Objects { from: String, to: String },
    Watermarks { from: String, to: String },
}

impl Journal {
    /// Writes the journal, or one bucket's part of it, as lines.
    pub fn export(&self, bucket: Option<String>) -> Export {
        Export { journal: self.clone(), only: bucket, parts: None }
    }
}

impl Export {
    /// The next lines; none at the end.
    pub async fn next(&mut self) -> Result<Option<Vec<String>>, JournalError> {
        let mut reading = self.journal.reading().await?;
        let lines = bounded(PATIENCE, batch(&mut reading, self.only.as_deref(), &mut self.parts)).await;
        reading.take(lines)
    }
}

async fn batch(
    connection: &mut AnyConnection,
    only: Option<&str>,
    parts: &mut Option<VecDeque<Part>>,
) -> sqlx::Result<Option<Vec<String>>> {
    let mut left = match parts.take() {
        Some(parts) => parts,
        None => begin(connection, only).await?,
    };
    let Some(part) = left.pop_front() else { return Ok(None) };
    // Where it fails, the part is still to be written.
    let mut restored = left.clone();
    restored.push_front(part.clone());
    *parts = Some(restored);
    let (contents, rest) = read(connection, part).await?;
    if let Some(rest) = rest {
        left.push_front(rest);
    }
    *parts = Some(left);
    Ok(Some(contents.iter().map(Line::text).collect()))
}

/// All parts, those of each bucket in the order in which they are best read again.
async fn begin(connection: &mut AnyConnection, only: Option<&str>) -> sqlx::Result<VecDeque<Part>> {
    let histories =
        Statement::new("SELECT bucket, id, timestamp FROM sidecar_histories WHERE is_current = 1");
    let histories = match only {
        Some(bucket) => {
            let (from, to) = hidden_names(bucket);
            let histories = histories.push(" AND (bucket = ").bind(bucket).push(" OR bucket >= ").bind(from);
            histories.push(" AND bucket < ").bind(to).push(")")
        }
        None => histories,
    };
    let mut parts = VecDeque::new();
    for row in histories.push(" ORDER BY bucket").fetch(connection).await? {
        let (bucket, history): (String, i64) = (row.try_get(0)?, row.try_get(1)?);
        let uri = Object::Bucket(bucket.clone()).to_string();
        let (from, to) = below(&uri);
        let hidden = Some(&bucket).filter(|bucket| is_hidden(bucket)).cloned();
        let is_hidden = hidden.is_some();
        parts.extend([
            Part::History(bucket.clone(), timestamp(&row, 2)?),
            Part::Gaps(bucket.clone(), history),
            Part::Entries(hidden, history, Timestamp::ZERO),
            Part::Tombstones(bucket, history, Timestamp::ZERO),
        ]);
        if is_hidden {
            continue;
        }
        parts.extend([
            Part::Objects { from: uri.clone(), to: format!("{uri}\u{1}") },
            Part::Objects { from: from.clone(), to: to.clone() },
            Part::Watermarks { from, to },
        ]);
    }
    if only.is_none() {
        parts.push_back(Part::Watermarks { from: "/buckets".to_owned(), to: "/buckets/".to_owned() });
    }
    Ok(parts)
}

/// What a part begins with, and what is left of it.
async fn read(connection: &mut AnyConnection, part: Part) -> sqlx::Result<(Vec<Content>, Option<Part>)> {
    let mut contents = Vec::new();
    let mut rest = None;
    match part {
        Part::History(bucket, timestamp) => {
            contents.push(Content::History { bucket, timestamp: timestamp.0 });
        }
        Part::Gaps(bucket, history) => {
            let select = Statement::new("SELECT collection_id, since FROM sidecar_gaps WHERE history = ");
            for row in select.bind(history).fetch(connection).await? {
                let (collection, since) = (row.try_get(0)?, timestamp(&row, 1)?.0);
                contents.push(Content::Gap { bucket: bucket.clone(), collection, since });
            }
        }
        Part::Entries(hidden, history, after) => {
            let select = "SELECT e.json, s.principals, e.knows_readers, e.last_modified FROM sidecar_entries e \
                          JOIN sidecar_reader_sets s ON s.id = e.reader_set WHERE e.history = ";
            let select = Statement::new(select).bind(history).push(" AND e.last_modified > ").bind(after);
            let select = select.push(&format!(" ORDER BY e.last_modified LIMIT {BATCH}"));
            for row in select.fetch(connection).await? {
                rest = Some(Part::Entries(hidden.clone(), history, timestamp(&row, 3)?));
                let Ok(entry) = RawValue::from_string(row.try_get(0)?) else { continue };
                let readers = serde_json::from_str(row.try_get::<&str, _>(1)?).unwrap_or_default();
                let (hidden, knows_readers) = (hidden.clone(), truth(&row, 2)?);
                contents.push(Content::Entry { entry, readers, knows_readers, hidden });
            }
        }
        Part::Tombstones(bucket, history, after) => {
            let select = Statement::new("SELECT id, last_modified FROM sidecar_tombstones WHERE history = ");
            let select = select.bind(history).push(" AND last_modified > ").bind(after);
            let select = select.push(&format!(" ORDER BY last_modified LIMIT {BATCH}"));
            for row in select.fetch(connection).await? {
                let last_modified = timestamp(&row, 1)?;
                rest = Some(Part::Tombstones(bucket.clone(), history, last_modified));
                let (bucket, tombstone) = (bucket.clone(), row.try_get(0)?);
                contents.push(Content::Tombstone { bucket, tombstone, last_modified: last_modified.0 });
            }
        }
        Part::Objects { from, to } => {
            let select =
                "SELECT uri, modified, deleted, permissions, is_entry FROM sidecar_objects WHERE uri >= ";
            let select = Statement::new(select).bind(from).push(" AND uri < ").bind(to.as_str());
            for row in select.push(&format!(" ORDER BY uri LIMIT {BATCH}")).fetch(connection).await? {
                let object: String = row.try_get(0)?;
                rest = Some(Part::Objects { from: format!("{object}\u{1}"), to: to.clone() });
                let permissions: Option<String> = row.try_get(3)?;
                contents.push(Content::Object {
                    object,
                    modified: timestamp(&row, 1)?.0,
                    deleted: truth(&row, 2)?,
                    permissions: permissions.and_then(|permissions| serde_json::from_str(&permissions).ok()),
                    is_entry: truth(&row, 4)?,
                });
            }
        }
        Part::Watermarks { from, to } => {
            let select = Statement::new("SELECT list, timestamp FROM sidecar_watermarks WHERE list >= ");
            let select = select.bind(from).push(" AND list < ").bind(to);
            for row in select.fetch(connection).await? {
                contents.push(Content::Watermark { list: row.try_get(0)?, timestamp: timestamp(&row, 1)?.0 });
            }
        }
    }
    let is_end = contents.is_empty();
    Ok((contents, rest.filter(|_| !is_end)))
}
