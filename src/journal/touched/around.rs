//! What the history knows of objects before, between and after the entries that were selected, and those entries.

use std::collections::{BTreeSet, HashMap, HashSet};

use futures_util::TryStreamExt;
use serde_json::value::RawValue;
use sqlx::{AnyConnection, Row};

use super::Touched;
use crate::journal::engine::Kind;
use crate::journal::select::Question;
use crate::journal::statement::{Statement, timestamp, truth};
use crate::journal::verdicts::settled;
use crate::journal::{Action, Journal, JournalError, Object, Sees};
use crate::kinto::Timestamp;
use crate::query::Query;

/// What somebody sees of an object beside the entries that were selected.
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
    /// What somebody sees of objects beside what was selected of them, in their order.
    pub async fn around(
        &self,
        bucket: &str,
        touched: &[Touched],
        sees: &Sees<'_>,
    ) -> Result<Vec<Around>, JournalError> {
        let all = Query::between(Timestamp::ZERO, Timestamp::LAST, 1, true);
        let all = &all;
        let around = settled(sees, |known| {
            self.of_history(bucket, async move |reading, history, _| {
                let kind = self.engine.kind;
                let mut question =
                    Question::begin(reading.connection().await?, kind, (bucket, history), all, sees, known)
                        .await?;
                let around = question.around(reading.connection().await?, touched).await;
                question.verdicts.put(around)
            })
        });
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
        let all = Query::between(Timestamp::ZERO, Timestamp::LAST, 1, true);
        let all = &all;
        let entries = settled(sees, |known| {
            self.of_history(bucket, async move |reading, history, _| {
                let kind = self.engine.kind;
                let mut question =
                    Question::begin(reading.connection().await?, kind, (bucket, history), all, sees, known)
                        .await?;
                let entries = question.entries(reading.connection().await?, whole, heads).await;
                question.verdicts.put(entries)
            })
        });
        Ok(entries.await?.unwrap_or_default())
    }

    /// How many bytes the entries with these timestamps have.
    pub async fn lengths(
        &self,
        bucket: &str,
        entries: &BTreeSet<Timestamp>,
    ) -> Result<HashMap<Timestamp, usize>, JournalError> {
        let lengths = self.of_history(bucket, async |reading, history, _| {
            let select = "SELECT last_modified, CAST(octet_length(json) AS BIGINT) FROM sidecar_entries WHERE history = ";
            let select = among(self.engine.kind, Statement::new(select).bind(history), entries.iter());
            let mut lengths = HashMap::new();
            for row in select.fetch(reading.connection().await?).await? {
                let length: i64 = row.try_get(1)?;
                lengths.insert(timestamp(&row, 0)?, usize::try_from(length).unwrap_or(usize::MAX));
            }
            Ok(lengths)
        });
        Ok(lengths.await?.unwrap_or_default())
    }
}

impl Question<'_, '_> {
    async fn entries(
        &mut self,
        connection: &mut AnyConnection,
        whole: &BTreeSet<Timestamp>,
        heads: &BTreeSet<Timestamp>,
    ) -> sqlx::Result<Vec<SeenEntry>> {
        let mut entries = self.at(connection, whole.iter(), "json").await?;
        entries.extend(self.at(connection, heads.difference(whole), "''").await?);
        Ok(entries)
    }

    async fn at(
        &mut self,
        connection: &mut AnyConnection,
        timestamps: impl Iterator<Item = &Timestamp>,
        json: &str,
    ) -> sqlx::Result<Vec<SeenEntry>> {
        let mut seen = Vec::new();
        let timestamps: Vec<Timestamp> = timestamps.copied().collect();
        if timestamps.is_empty() {
            return Ok(seen);
        }
        let mut stream = self.select_at(&timestamps, json).stream(connection);
        while let Some(row) = stream.try_next().await? {
            if truth(&row, 5)? || self.verdict(row.try_get(3)?)? {
                seen.push(SeenEntry {
                    last_modified: timestamp(&row, 0)?,
                    id: row.try_get(1)?,
                    user_id: row.try_get(2)?,
                    json: RawValue::from_string(self.shown()(row.try_get(4)?)).ok(),
                });
            }
        }
        Ok(seen)
    }

    /// The entries with these timestamps, however many: they are bound as one value.
    pub(in crate::journal) fn select_at(&self, timestamps: &[Timestamp], json: &str) -> Statement {
        let select = Statement::new(&format!("SELECT last_modified, id, user_id, uri, {json}, "));
        let select = self.sight(select).push(" FROM sidecar_entries WHERE history = ").bind(self.history);
        among(self.kind, self.seen(select), timestamps.iter())
    }

    /// Of these objects, those about which the requester sees entries whose readers are not known.
    async fn open(
        &mut self,
        connection: &mut AnyConnection,
        touched: &[Touched],
    ) -> sqlx::Result<HashSet<String>> {
        let mut open = HashSet::new();
        if matches!(self.sees, Sees::Everything) {
            return Ok(open);
        }
        let given: Vec<String> = touched.iter().map(|touched| touched.object.to_string()).collect();
        let given = serde_json::to_string(&given).unwrap_or_default();
        let select = Statement::new("SELECT DISTINCT uri FROM sidecar_entries WHERE history = ");
        let select = select.bind(self.history).push(" AND knows_readers = 0 AND uri IN (");
        let select = match self.kind {
            Kind::Sqlite => select.push("SELECT value FROM json_each(").bind(given).push("))"),
            Kind::Postgres => {
                select.push("SELECT json_array_elements_text(CAST(").bind(given).push(" AS json)))")
            }
        };
        for row in select.fetch(connection).await? {
            let uri: String = row.try_get(0)?;
            if self.verdict(&uri)? {
                open.insert(uri);
            }
        }
        Ok(open)
    }

    /// What is around these objects, however many: they are bound as one value.
    pub(in crate::journal) fn select_around(&self, touched: &[Touched], open: &HashSet<String>) -> Statement {
        let given = |touched: &Touched| {
            let uri = touched.object.to_string();
            let is_open = u8::from(open.contains(&uri));
            (uri, touched.first().0, is_open)
        };
        let given: Vec<(String, u64, u8)> = touched.iter().map(given).collect();
        let given = serde_json::to_string(&given).unwrap_or_default();
        let select = Statement::new("WITH given (uri, first, is_open) AS (SELECT ");
        let select = match self.kind {
            Kind::Sqlite => select
                .push(
                    "json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]') ",
                )
                .push("FROM json_each(")
                .bind(given)
                .push(")"),
            Kind::Postgres => select
                .push("value ->> 0, CAST(value ->> 1 AS BIGINT), CAST(value ->> 2 AS BIGINT) ")
                .push("FROM json_array_elements(CAST(")
                .bind(given)
                .push(" AS json))"),
        };
        let newest = " ORDER BY last_modified DESC LIMIT 1";
        let select = select.push(") SELECT uri, first, ");
        let select = self.one(select, "last_modified", " AND last_modified < given.first", newest).push(", ");
        let select = self.one(select, "action", " AND last_modified = given.first", "").push(", ");
        let versions = "CAST(last_modified AS TEXT) || ' ' || CAST(object_modified AS TEXT)";
        let select = self.one(select, versions, "", newest).push(", ");
        self.one(select, "count(*)", " AND last_modified >= given.first", "").push(" FROM given")
    }

    /// As a column, something of those entries about an object that are seen.
    fn one(&self, statement: Statement, what: &str, condition: &str, order: &str) -> Statement {
        let statement = statement.push(&format!("(SELECT {what} FROM sidecar_entries WHERE history = "));
        let statement = statement.bind(self.history).push(" AND uri = given.uri").push(condition);
        self.seen_if(statement, "given.is_open = 1").push(order).push(")")
    }

    async fn around(
        &mut self,
        connection: &mut AnyConnection,
        touched: &[Touched],
    ) -> sqlx::Result<Vec<Around>> {
        let open = self.open(connection, touched).await?;
        let mut known = Vec::with_capacity(touched.len());
        let mut deletions: HashMap<Object, Timestamp> = HashMap::new();
        // Where each entry is looked at by itself, an object is there several times.
        let mut found: HashMap<(String, Timestamp), (Around, usize)> = HashMap::new();
        for row in self.select_around(touched, &open).fetch(connection).await? {
            let before: Option<i64> = row.try_get(2)?;
            let action: Option<String> = row.try_get(3)?;
            let newest: Option<String> = row.try_get(4)?;
            let newest = newest.as_deref().and_then(|newest| newest.split_once(' '));
            let read = |text: &str| text.parse().ok().map(Timestamp);
            let around = Around {
                before: before.map(|before| Timestamp(u64::try_from(before).unwrap_or_default())),
                is_creation: action.as_deref() == Some(Action::Create.as_str()),
                newest: newest.and_then(|(newest, version)| read(newest).zip(read(version))),
                has_others: false,
                gone_with: None,
            };
            let since = usize::try_from(row.try_get::<i64, _>(5)?).unwrap_or_default();
            found.insert((row.try_get(0)?, timestamp(&row, 1)?), (around, since));
        }
        for touched in touched {
            let found = found.remove(&(touched.object.to_string(), touched.first()));
            let (mut around, since) = found.unwrap_or_else(|| (Around::default(), touched.entries.len()));
            around.has_others = since != touched.entries.len();
            if let Some(collection) = touched.object.parents().nth(1) {
                let deletion = match deletions.get(&collection) {
                    Some(known) => *known,
                    None => self.end_before(connection, &collection, Timestamp::LAST).await?,
                };
                deletions.insert(collection.clone(), deletion);
                if deletion > around.newest.map(|(newest, _)| newest).unwrap_or_default() {
                    around.gone_with = Some(deletion);
                }
                // What was there before belongs to another life of the collection.
                if deletion > around.before.unwrap_or_default() && deletion > Timestamp::ZERO {
                    let before = self.end_before(connection, &collection, touched.first()).await?;
                    around.before = around.before.filter(|entry| *entry > before);
                }
            }
            known.push(around);
        }
        Ok(known)
    }
}

/// Of what a statement selects, what has these timestamps.
fn among<'t>(kind: Kind, select: Statement, timestamps: impl Iterator<Item = &'t Timestamp>) -> Statement {
    let select = select.push(" AND last_modified ");
    let list: Vec<u64> = timestamps.map(|timestamp| timestamp.0).collect();
    let list = serde_json::to_string(&list).unwrap_or_default();
    match kind {
        Kind::Sqlite => select.push("IN (SELECT value FROM json_each(").bind(list).push("))"),
        Kind::Postgres => select
            .push("= ANY (ARRAY(SELECT CAST(json_array_elements_text(CAST(")
            .bind(list)
            .push(" AS json)) AS BIGINT)))"),
    }
}
