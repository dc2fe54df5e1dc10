//! Pages of a bucket's history.

use std::borrow::Cow;
use std::sync::OnceLock;

use serde_json::value::RawValue;
use serde_json::{Map, Value};
use sqlx::AnyConnection;

use super::condition::Rows;
use super::select::Question;
use super::{EntriesCount, EntriesPage, Sees};
use crate::kinto::Timestamp;
use crate::query::{Fields, Page, Query, Selection, members, nested};

/// An entry or a tombstone as the list language sees it.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) id: String,
    pub(super) last_modified: Timestamp,
    json: String,
    /// Read when they are asked for.
    members: OnceLock<Map<String, Value>>,
}

// === impl Candidate ===

impl Candidate {
    /// An entry.
    pub(super) fn new(id: String, last_modified: Timestamp, json: String) -> Self {
        Self { id, last_modified, json, members: OnceLock::new() }
    }

    /// A tombstone.
    pub(super) fn tombstone(id: String, last_modified: Timestamp) -> Self {
        let quoted = Value::from(id.as_str());
        let json = format!("{{\"id\":{quoted},\"last_modified\":{last_modified},\"deleted\":true}}");
        Self::new(id, last_modified, json)
    }

    /// As it is served.
    pub(super) fn serve(self, query: &Query) -> Option<Box<RawValue>> {
        let json = query.project_text(&self.json).unwrap_or(self.json);
        RawValue::from_string(json).ok()
    }
}

impl Fields for Candidate {
    fn weight(&self) -> usize {
        self.json.len() + size_of::<Self>()
    }

    fn field(&self, path: &str) -> Option<Cow<'_, Value>> {
        match path {
            "id" => Some(Cow::Owned(Value::from(self.id.as_str()))),
            "last_modified" => Some(Cow::Owned(Value::from(self.last_modified.0))),
            path => {
                let members = self.members.get_or_init(|| members(self.json.as_bytes()));
                nested(members, path).map(Cow::Borrowed)
            }
        }
    }
}

/// The rows of a page.
pub(super) async fn rows(
    connection: &mut AnyConnection,
    question: &mut Question<'_, '_>,
    with_tombstones: bool,
) -> sqlx::Result<Page<Candidate>> {
    let mut selection = Selection::of(question.query);
    question.show(connection, Rows::Entries, &mut selection).await?;
    if with_tombstones {
        question.show(connection, Rows::Tombstones, &mut selection).await?;
    }
    Ok(selection.page())
}

/// Reads a page.
pub(super) async fn read(
    connection: &mut AnyConnection,
    mut question: Question<'_, '_>,
    timestamp: Timestamp,
) -> sqlx::Result<EntriesPage> {
    let query = question.query;
    // Of a tombstone nobody knows whose the entry was.
    let with_tombstones = query.includes_deleted() && matches!(question.sees, Sees::Everything);
    let page = rows(connection, &mut question, with_tombstones).await?;
    let sees_any = !page.rows.is_empty() || question.any(connection).await?;
    let rows = page.rows.into_iter().filter_map(|row| row.serve(query)).collect();
    Ok(EntriesPage { rows, next: page.next, sees_any, timestamp })
}

/// Counts what is on all pages.
pub(super) async fn count(
    connection: &mut AnyConnection,
    mut question: Question<'_, '_>,
    timestamp: Timestamp,
) -> sqlx::Result<EntriesCount> {
    let total = question.count(connection).await?;
    let sees_any = total > 0 || question.any(connection).await?;
    Ok(EntriesCount { total, sees_any, timestamp })
}
