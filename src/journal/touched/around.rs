//! What the history knows of objects before, between and after the entries that were selected, and those entries.

use std::collections::{BTreeSet, HashMap};

use futures_util::TryStreamExt;
use serde_json::value::RawValue;
use sqlx::{AnyConnection, Row};

use super::{Touched, deletion_before};
use crate::journal::select::Question;
use crate::journal::statement::{Bound, Statement, timestamp, truth};
use crate::journal::{Action, Journal, JournalError, Object, Sees};
use crate::kinto::Timestamp;
use crate::query::Query;

/// Objects of one statement, each of two values.
const CHUNK: usize = 200;
/// What a history knows of an object beside the entries that were selected.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Around {
    /// The entry before all that was selected, of the same life of its collection.
    pub before: Option<Timestamp>,
    /// Whether the first that was selected created it.
    pub is_creation: bool,
    /// The newest entry, and the version that it is about.
    pub newest: Option<(Timestamp, Timestamp)>,
    /// Whether there are others since the first that was selected.
    pub has_others: bool,
    /// The deletion of its collection, where nothing is known of it since.
    pub gone_with: Option<Timestamp>,
}

/// An entry that somebody sees.
#[derive(Debug)]
pub struct SeenEntry {
    /// Its timestamp.
    pub last_modified: Timestamp,
    /// Its id.
    pub id: String,
    /// Who made it.
    pub user_id: Option<String>,
    /// All of it, where that was wanted.
    pub json: Option<Box<RawValue>>,
}

// === impl Journal ===

impl Journal {
    /// What is known of objects beside what was selected of them, in their order.
    pub async fn around(&self, bucket: &str, touched: &[Touched]) -> Result<Vec<Around>, JournalError> {
        let around = self
            .of_history(bucket, async |connection, history, _| around(connection, history, touched).await);
        Ok(around.await?.unwrap_or_else(|| vec![Around::default(); touched.len()]))
    }

    /// Of the entries with these timestamps, those that somebody sees; all of each that is in `whole`.
    pub async fn entries_at(
        &self,
        bucket: &str,
        whole: &BTreeSet<Timestamp>,
        heads: &BTreeSet<Timestamp>,
        sees: &Sees<'_>,
    ) -> Result<Vec<SeenEntry>, JournalError> {
        let entries = self.of_history(bucket, async |connection, history, _| {
            let all = Query::between(Timestamp::ZERO, Timestamp::LAST, 1, true);
            let mut question = Question::begin(connection, self.engine.kind, history, &all, sees).await?;
            let mut entries = question.at(connection, whole.iter(), "json").await?;
            entries.extend(question.at(connection, heads.difference(whole), "''").await?);
            Ok(entries)
        });
        Ok(entries.await?.unwrap_or_default())
    }
}

impl Question<'_, '_> {
    async fn at(
        &mut self,
        connection: &mut AnyConnection,
        timestamps: impl Iterator<Item = &Timestamp>,
        json: &str,
    ) -> sqlx::Result<Vec<SeenEntry>> {
        let mut seen = Vec::new();
        let timestamps: Vec<Timestamp> = timestamps.copied().collect();
        for timestamps in timestamps.chunks(CHUNK) {
            let select = Statement::new(&format!("SELECT last_modified, id, user_id, uri, {json}, "));
            let select = self.sight(select).push(" FROM sidecar_entries WHERE history = ").bind(self.history);
            let select = self.seen(select).push(" AND last_modified IN (");
            let mut stream = select.list(timestamps.iter().copied()).push(")").stream(connection);
            while let Some(row) = stream.try_next().await? {
                if truth(&row, 5)? || self.verdict(row.try_get(3)?).await {
                    seen.push(SeenEntry {
                        last_modified: timestamp(&row, 0)?,
                        id: row.try_get(1)?,
                        user_id: row.try_get(2)?,
                        json: RawValue::from_string(row.try_get(4)?).ok(),
                    });
                }
            }
        }
        Ok(seen)
    }
}

async fn around(
    connection: &mut AnyConnection,
    history: i64,
    touched: &[Touched],
) -> sqlx::Result<Vec<Around>> {
    let mut known = Vec::with_capacity(touched.len());
    let mut deletions: HashMap<Object, Timestamp> = HashMap::new();
    for touched in touched.chunks(CHUNK) {
        let uris: Vec<String> = touched.iter().map(|touched| touched.object.to_string()).collect();
        let of = |select: &str| format!("(SELECT {select} FROM sidecar_entries WHERE history = ");
        let own = " AND uri = given.uri";
        let newest = " ORDER BY last_modified DESC LIMIT 1)";
        let select = Statement::new("WITH given (uri, first) AS (VALUES ")
            .rows(
                uris.iter()
                    .zip(touched)
                    .map(|(uri, touched)| -> [Bound; 2] { [uri.as_str().into(), touched.first().into()] }),
            )
            .push(") SELECT uri, ")
            .push(&of("last_modified"))
            .bind(history)
            .push(&format!("{own} AND last_modified < given.first{newest}, "))
            .push(&of("action"))
            .bind(history)
            .push(&format!("{own} AND last_modified = given.first), "))
            .push(&of("last_modified"))
            .bind(history)
            .push(&format!("{own}{newest}, "))
            .push(&of("object_modified"))
            .bind(history)
            .push(&format!("{own}{newest}, "))
            .push(&of("count(*)"))
            .bind(history)
            .push(&format!("{own} AND last_modified >= given.first) FROM given"));
        let mut found: HashMap<String, Around> = HashMap::new();
        let mut since: HashMap<String, usize> = HashMap::new();
        for row in select.fetch(connection).await? {
            let at = |column: usize| -> sqlx::Result<Option<Timestamp>> {
                let value: Option<i64> = row.try_get(column)?;
                Ok(value.map(|value| Timestamp(u64::try_from(value).unwrap_or_default())))
            };
            let uri: String = row.try_get(0)?;
            let action: Option<String> = row.try_get(2)?;
            let around = Around {
                before: at(1)?,
                is_creation: action.as_deref() == Some(Action::Create.as_str()),
                newest: at(3)?.zip(at(4)?),
                has_others: false,
                gone_with: None,
            };
            since.insert(uri.clone(), usize::try_from(row.try_get::<i64, _>(5)?).unwrap_or_default());
            found.insert(uri, around);
        }
        for (uri, touched) in uris.iter().zip(touched) {
            let mut around = found.remove(uri).unwrap_or_default();
            around.has_others = since.get(uri).is_some_and(|since| *since != touched.entries.len());
            if let Some(collection) = touched.object.parents().nth(1) {
                let deletion = match deletions.get(&collection) {
                    Some(known) => *known,
                    None => deletion_before(connection, history, &collection, Timestamp::LAST).await?,
                };
                deletions.insert(collection.clone(), deletion);
                if deletion > around.newest.map(|(newest, _)| newest).unwrap_or_default() {
                    around.gone_with = Some(deletion);
                }
                // What was there before belongs to another life of the collection.
                if deletion > around.before.unwrap_or_default() && deletion > Timestamp::ZERO {
                    let before = deletion_before(connection, history, &collection, touched.first()).await?;
                    around.before = around.before.filter(|entry| *entry > before);
                }
            }
            known.push(around);
        }
    }
    Ok(known)
}
