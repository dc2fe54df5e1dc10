//! A journal written as lines, batch by batch.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use serde_json::value::RawValue;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Executor, Row};

use super::{ChainLink, Content, Line};
use crate::journal::chain::{began, whole};
use crate::journal::engine::{Engine, Writing, bounded, failed};
use crate::journal::rows::below;
use crate::journal::statement::{Statement, timestamp, truth};
use crate::journal::transaction::{hidden_names, is_hidden};
use crate::journal::{JournalError, Object, PATIENCE};
use crate::kinto::Timestamp;

/// The most lines at once.
const BATCH: usize = 500;
/// The most objects at once, with their chains.
const CHAINS: usize = 100;
/// The most bytes of entries at once; one entry may be longer.
const BYTES: i64 = 4 << 20;

/// A journal, or a bucket's part of it, being written: as it was when the first lines were read, whatever is recorded
/// meanwhile.
#[derive(Debug)]
pub struct Export {
    engine: Arc<Engine>,
    only: Option<String>,
    /// What reads, and the parts that are still to be written; none before the first.
    begun: Option<(Writing, VecDeque<Part>)>,
    lines: u64,
    is_ended: bool,
}

/// What is written next, from after a key.
#[derive(Debug)]
enum Part {
    History(String, Timestamp),
    Entries(Option<String>, i64, Timestamp),
    Tombstones(String, i64, Timestamp),
    Gaps(String, i64),
    Objects {
        from: String,
        to: String,
    },
    /// Objects of which nothing but the chain is known.
    Chains {
        from: String,
        to: String,
    },
    Watermarks {
        from: String,
        to: String,
    },
}

impl Export {
    pub(in crate::journal) fn new(engine: Arc<Engine>, only: Option<String>) -> Self {
        Self { engine, only, begun: None, lines: 0, is_ended: false }
    }

    /// The next lines; none after the line that says that it is the last one. After an error there is nothing more.
    pub async fn next(&mut self) -> Result<Option<Vec<String>>, JournalError> {
        if self.is_ended {
            return Ok(None);
        }
        self.is_ended = true;
        let answer = bounded(PATIENCE, self.batch()).await;
        let contents = answer.map_err(|error| failed(&error))?;
        self.lines += contents.len() as u64;
        let mut lines: Vec<String> = contents.iter().map(Line::text).collect();
        self.is_ended = self.begun.as_ref().is_none_or(|(_, parts)| parts.is_empty());
        if self.is_ended {
            self.begun = None;
            lines.push(Line::text(&Content::End { end: self.lines }));
        }
        Ok(Some(lines))
    }

    async fn batch(&mut self) -> sqlx::Result<Vec<Content>> {
        // Taken out: what fails or is given up is not used again.
        let (mut writing, mut parts) = if let Some(begun) = self.begun.take() {
            begun
        } else {
            let mut writing = self.engine.writing().await?;
            writing.connection().execute(self.engine.kind.begin_reading()).await?;
            let parts = begin(writing.connection(), self.only.as_deref()).await?;
            (writing, parts)
        };
        let mut contents = Vec::new();
        if let Some(part) = parts.pop_front() {
            let (read, rest) = read(writing.connection(), part).await?;
            contents = read;
            if let Some(rest) = rest {
                parts.push_front(rest);
            }
        }
        if parts.is_empty() {
            writing.connection().execute("COMMIT").await?;
        }
        self.begun = Some((writing, parts));
        Ok(contents)
    }
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
            Part::Chains { from: uri.clone(), to: format!("{uri}\u{1}") },
            Part::Chains { from: from.clone(), to: to.clone() },
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
            let chains = Some(began(connection).await?).filter(|began| !began.is_empty());
            contents.push(Content::History { bucket, timestamp: timestamp.0, chains });
        }
        Part::Gaps(bucket, history) => {
            let select = Statement::new("SELECT collection_id, since FROM sidecar_gaps WHERE history = ");
            for row in select.bind(history).fetch(connection).await? {
                let (collection, since) = (row.try_get(0)?, timestamp(&row, 1)?.0);
                contents.push(Content::Gap { bucket: bucket.clone(), collection, since });
            }
        }
        Part::Entries(hidden, history, after) => {
            let Some(until) = some_entries(connection, history, after).await? else {
                return Ok((contents, None));
            };
            let select = "SELECT e.json, s.principals, e.knows_readers FROM sidecar_entries e \
                          LEFT JOIN sidecar_reader_sets s ON s.id = e.reader_set WHERE e.history = ";
            let select = Statement::new(select).bind(history).push(" AND e.last_modified > ").bind(after);
            let select =
                select.push(" AND e.last_modified <= ").bind(until).push(" ORDER BY e.last_modified");
            rest = Some(Part::Entries(hidden.clone(), history, until));
            for row in select.fetch(connection).await? {
                let entry = RawValue::from_string(row.try_get(0)?);
                let entry = entry.map_err(|error| sqlx::Error::Decode(error.into()))?;
                // Where it is lost who may read an entry, the upstream is asked.
                let readers: Option<String> = row.try_get(1)?;
                let readers: Option<Vec<String>> =
                    readers.and_then(|readers| serde_json::from_str(&readers).ok());
                let knows_readers = readers.is_some() && truth(&row, 2)?;
                let (readers, hidden) = (readers.unwrap_or_default(), hidden.clone());
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
            let rows = select.push(&format!(" ORDER BY uri LIMIT {CHAINS}")).fetch(connection).await?;
            let mut chains = chains(connection, &rows).await?;
            for row in rows {
                let object: String = row.try_get(0)?;
                rest = Some(Part::Objects { from: format!("{object}\u{1}"), to: to.clone() });
                let permissions: Option<String> = row.try_get(3)?;
                contents.push(Content::Object {
                    chain: chains.remove(&object).unwrap_or_default(),
                    only_chain: false,
                    object,
                    modified: timestamp(&row, 1)?.0,
                    deleted: truth(&row, 2)?,
                    permissions: permissions.and_then(|permissions| serde_json::from_str(&permissions).ok()),
                    is_entry: truth(&row, 4)?,
                });
            }
        }
        Part::Chains { from, to } => {
            let select = "SELECT DISTINCT v.uri FROM sidecar_versions v WHERE NOT EXISTS \
                          (SELECT 1 FROM sidecar_objects o WHERE o.uri = v.uri) AND v.uri >= ";
            let select = Statement::new(select).bind(from).push(" AND v.uri < ").bind(to.as_str());
            let rows = select.push(&format!(" ORDER BY v.uri LIMIT {CHAINS}")).fetch(connection).await?;
            let mut chains = chains(connection, &rows).await?;
            for row in rows {
                let object: String = row.try_get(0)?;
                rest = Some(Part::Chains { from: format!("{object}\u{1}"), to: to.clone() });
                let chain = chains.remove(&object).unwrap_or_default();
                // Whoever does not know of chains takes it for an object that is gone.
                contents.push(Content::Object {
                    modified: chain.last().map_or(0, |link| link.modified),
                    object,
                    deleted: true,
                    permissions: None,
                    is_entry: false,
                    chain,
                    only_chain: true,
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

/// The chains of the objects that these rows begin with, each from its oldest version on.
async fn chains(
    connection: &mut AnyConnection,
    rows: &[AnyRow],
) -> sqlx::Result<HashMap<String, Vec<ChainLink>>> {
    let uris: Vec<String> = rows.iter().map(|row| row.try_get(0)).collect::<sqlx::Result<_>>()?;
    let chains = whole(connection, &uris).await?.into_iter();
    Ok(chains.map(|(uri, chain)| (uri, chain.iter().rev().map(ChainLink::of).collect())).collect())
}

/// Up to which timestamp entries can be read at once; `None` where there are no more.
async fn some_entries(
    connection: &mut AnyConnection,
    history: i64,
    after: Timestamp,
) -> sqlx::Result<Option<Timestamp>> {
    let select =
        "SELECT last_modified, CAST(octet_length(json) AS BIGINT) FROM sidecar_entries WHERE history = ";
    let select = Statement::new(select).bind(history).push(" AND last_modified > ").bind(after);
    let select = select.push(&format!(" ORDER BY last_modified LIMIT {BATCH}"));
    let (mut until, mut bytes) = (None, 0_i64);
    for row in select.fetch(connection).await? {
        bytes = bytes.saturating_add(row.try_get(1)?);
        if until.is_some() && bytes > BYTES {
            break;
        }
        until = Some(timestamp(&row, 0)?);
    }
    Ok(until)
}
