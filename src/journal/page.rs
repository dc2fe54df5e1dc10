//! Pages of a bucket's history.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};

use serde_json::value::RawValue;
use serde_json::{Map, Value};
use sqlx::{AnyConnection, Row};

use super::ledger::CHUNK;
use super::statement::{Statement, timestamp, truth};
use super::{EntriesPage, Object, Sees};
use crate::kinto::Timestamp;
use crate::query::{Fields, Query, Selection, nested};

/// Rows read at once.
const BATCH: i64 = 1000;

/// An entry or a tombstone as the list language sees it.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) id: String,
    pub(super) last_modified: Timestamp,
    pub(super) json: String,
    members: OnceCell<Map<String, Value>>,
}

impl Candidate {
    /// One of these.
    pub(super) fn new(id: String, last_modified: Timestamp, json: String) -> Self {
        Self { id, last_modified, json, members: OnceCell::new() }
    }

    /// A tombstone.
    pub(super) fn tombstone(id: String, last_modified: Timestamp) -> Self {
        let json = format!(
            "{{\"id\":{},\"last_modified\":{last_modified},\"deleted\":true}}",
            Value::from(id.as_str())
        );
        Self::new(id, last_modified, json)
    }

    fn members(&self) -> &Map<String, Value> {
        self.members.get_or_init(|| serde_json::from_str(&self.json).unwrap_or_default())
    }
}

impl Fields for Candidate {
    fn field(&self, path: &str) -> Option<Cow<'_, Value>> {
        match path {
            "id" => Some(Cow::Owned(Value::from(self.id.as_str()))),
            "last_modified" => Some(Cow::Owned(Value::from(self.last_modified.0))),
            path => nested(self.members(), path).map(Cow::Borrowed),
        }
    }
}

/// Reads a page.
pub(super) async fn read(
    connection: &mut AnyConnection,
    bucket: &str,
    query: &Query,
    sees: &Sees<'_>,
) -> sqlx::Result<Option<EntriesPage>> {
    let history =
        Statement::new("SELECT id, timestamp FROM sidecar_histories WHERE is_current = 1 AND bucket = ");
    let Some(history) = history.bind(bucket).first(connection).await? else { return Ok(None) };
    let (history, timestamp_) = (history.try_get::<i64, _>(0)?, timestamp(&history, 1)?);
    let mut verdicts = Verdicts { sees, known: HashMap::new(), sets: visible_sets(connection, sees).await? };
    let mut selection = Selection::of(query);
    let (mut sees_any, mut tombstones) = (false, 0);
    let mut before = i64::MAX;
    loop {
        let select = "SELECT id, last_modified, json, uri, reader_set, knows_readers FROM sidecar_entries WHERE history = ";
        let select = Statement::new(select).bind(history).push(" AND last_modified < ").bind(before);
        let rows = select.push(" ORDER BY last_modified DESC LIMIT ").bind(BATCH).fetch(connection).await?;
        let Some(last) = rows.last() else { break };
        before = last.try_get(1)?;
        for row in rows {
            if verdicts.sees(row.try_get(3)?, row.try_get(4)?, truth(&row, 5)?).await {
                sees_any = true;
                selection.show(Candidate::new(row.try_get(0)?, timestamp(&row, 1)?, row.try_get(2)?));
            }
        }
    }
    if query.includes_deleted() {
        let select =
            Statement::new("SELECT id, last_modified FROM sidecar_tombstones WHERE history = ").bind(history);
        for row in select.fetch(connection).await? {
            let tombstone = Candidate::tombstone(row.try_get(0)?, timestamp(&row, 1)?);
            tombstones += usize::from(selection.show(tombstone));
        }
    }
    let page = selection.page();
    Ok(Some(EntriesPage {
        rows: page.rows.into_iter().filter_map(|row| served(row, query)).collect(),
        next: page.next,
        total: page.total.saturating_sub(tombstones),
        sees_any,
        timestamp: timestamp_,
    }))
}

/// A row as it is served.
pub(super) fn served(row: Candidate, query: &Query) -> Option<Box<RawValue>> {
    if query.fields.is_none() {
        return RawValue::from_string(row.json).ok();
    }
    let members = serde_json::from_str(&row.json).unwrap_or_default();
    serde_json::value::to_raw_value(&query.project(members)).ok()
}

struct Verdicts<'r, 's> {
    sees: &'r Sees<'s>,
    known: HashMap<String, bool>,
    sets: HashSet<i64>,
}

impl Verdicts<'_, '_> {
    async fn sees(&mut self, uri: String, reader_set: i64, knows_readers: bool) -> bool {
        let Sees::Some { verdict, .. } = self.sees else { return true };
        if self.sets.contains(&reader_set) {
            return true;
        }
        if knows_readers {
            return false;
        }
        if let Some(known) = self.known.get(&uri) {
            return *known;
        }
        let sees = match Object::of_uri(&uri) {
            Some(object) => verdict(object).await,
            None => false,
        };
        self.known.insert(uri, sees);
        sees
    }
}

/// The sets with one of the reader's principals.
async fn visible_sets(connection: &mut AnyConnection, sees: &Sees<'_>) -> sqlx::Result<HashSet<i64>> {
    let Sees::Some { principals, .. } = sees else { return Ok(HashSet::new()) };
    let mut sets = HashSet::new();
    for principals in principals.chunks(CHUNK) {
        let select = Statement::new("SELECT DISTINCT reader_set FROM sidecar_readers WHERE principal IN (");
        let select = select.list(principals.iter().map(String::as_str)).push(")");
        for row in select.fetch(connection).await? {
            sets.insert(row.try_get(0)?);
        }
    }
    Ok(sets)
}
