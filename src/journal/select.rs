//! Rows of a history that a query selects and somebody sees: as much as possible by the engine, the rest in batches
//! that go through the list language. Batches follow one another by timestamp, and so what comes meanwhile does no harm.

use std::collections::HashSet;
use std::time::Duration;

use futures_util::TryStreamExt;
use sqlx::{AnyConnection, Row};

use tokio::time::Instant;

use super::Object;
use super::candidate::Candidate;
use super::condition::{Conditions, Rows};
use super::engine::Kind;
use super::reading::{self, Reading};
use super::room::Room;
use super::statement::{Statement, timestamp, truth};
use super::verdicts::{Sees, Verdicts};
use super::{ends, entry};
use crate::aside::LITTLE;
use crate::kinto::Timestamp;
use crate::query::{Fields, Query, Selection};

/// How long rows are looked at before others on the same thread have their turn.
const FAIR_SHARE: Duration = Duration::from_millis(2);

/// Rows read at once: enough to be fast, and few enough to be held. How large they are is known once the first are there.
const BATCH: usize = 500;
const BATCH_BYTES: usize = 1 << 20;
const FIRST: usize = 16;

/// What is selected is there twice once its text is made.
const COPIES: usize = 2;

/// SECURITY: so many principals are bound one by one: engines bind some ten thousand values and no more, and who somebody is
/// has no such bound.
const BOUND: usize = 500;

/// The text of an entry as a column, empty where it is large.
pub(super) fn small(text: &str) -> String {
    format!("CASE WHEN octet_length({text}) <= {LITTLE} THEN {text} ELSE '' END")
}

/// Something of the `earlier` entry about the same object, as another column.
pub(super) fn before(what: &str) -> String {
    format!(
        ", (SELECT {what} FROM sidecar_entries AS earlier WHERE earlier.history = sidecar_entries.history \
         AND earlier.uri = sidecar_entries.uri AND earlier.last_modified < sidecar_entries.last_modified \
         ORDER BY earlier.last_modified DESC LIMIT 1)"
    )
}

/// A question to a history.
pub(super) struct Question<'q, 's> {
    pub(super) kind: Kind,
    pub(super) history: i64,
    pub(super) query: &'q Query,
    pub(super) sees: &'q Sees<'s>,
    /// Whether nothing of the rows is wanted but their names.
    by_name: bool,
    /// What is known of objects whose readers are not known.
    pub(super) verdicts: Verdicts,
    /// Where the rows are kept that are shown.
    pub(super) room: Room,
    /// The collections that ended since the history began. Others may have made them anew.
    ended: HashSet<String>,
}

impl<'q, 's> Question<'q, 's> {
    /// A new one.
    pub(super) fn new(kind: Kind, history: i64, query: &'q Query, sees: &'q Sees<'s>) -> Self {
        Self {
            kind,
            history,
            query,
            sees,
            by_name: false,
            verdicts: Verdicts::default(),
            room: Room::default(),
            ended: HashSet::new(),
        }
    }

    /// The same question, by which nothing but the rows' names is wanted.
    pub(super) fn by_name(self) -> Self {
        Self { by_name: true, ..self }
    }

    /// A new one of somebody who may not see everything.
    pub(super) async fn begin(
        connection: &mut AnyConnection,
        kind: Kind,
        (bucket, history): (&str, i64),
        query: &'q Query,
        sees: &'q Sees<'s>,
        verdicts: Verdicts,
    ) -> sqlx::Result<Self> {
        let mut question = Self { verdicts, ..Self::new(kind, history, query, sees) };
        let unread = "SELECT id FROM sidecar_entries WHERE knows_readers = 0 AND history = ";
        let unread = Statement::new(unread).bind(history).push(" LIMIT 1");
        // Who sees what is asked of the upstream for these only.
        if matches!(sees, Sees::Some { .. }) && unread.first(connection).await?.is_some() {
            question.ended = ends::of_collections(connection, history, bucket).await?;
        }
        Ok(question)
    }

    /// Shows a selection the rows that belong on its page.
    pub(super) async fn show<R: Fields + From<Candidate>>(
        &mut self,
        reading: &mut Reading<'_>,
        rows: Rows,
        selection: &mut Selection<'_, R>,
    ) -> sqlx::Result<()> {
        let conditions = Conditions::of(self.query, rows);
        let order = self.query.by_timestamp();
        let is_ascending = order.is_some_and(|descending| !descending);
        // One more than the page has, and the last one of the page before.
        let wanted = self.query.limit.filter(|_| order.is_some()).map(|limit| limit.saturating_add(2));
        let mut from = self.query.start_timestamp();
        let is_unread = self.is_unread(&conditions);
        let (mut is_inclusive, mut shown) = (true, 0);
        let most = wanted.filter(|_| conditions.are_exact).unwrap_or(BATCH).min(BATCH);
        let mut batch = most.min(FIRST);
        let mut begun = Instant::now();
        while !conditions.are_hopeless() && wanted.is_none_or(|wanted| shown < wanted) {
            let mut statement = self.columns(rows, &conditions);
            if let Some(from) = from {
                let operator = match (is_ascending, is_inclusive) {
                    (false, true) => " AND last_modified <= ",
                    (false, false) => " AND last_modified < ",
                    (true, true) => " AND last_modified >= ",
                    (true, false) => " AND last_modified > ",
                };
                statement = statement.push(operator).bind(from);
            }
            let (column, direction) = (conditions.order(self.kind), if is_ascending { "" } else { " DESC" });
            let statement = statement.push(&format!(" ORDER BY {column}{direction} LIMIT {batch}"));
            let (mut found, mut bytes, mut last, mut large) = (0, 0, None, None);
            let mut stream = statement.stream(reading.connection().await?);
            while let Some(row) = stream.try_next().await? {
                found += 1;
                last = Some(timestamp(&row, 1)?);
                if begun.elapsed() >= FAIR_SHARE {
                    reading::yield_now().await;
                    begun = Instant::now();
                }
                let candidate = match rows {
                    Rows::Tombstones => Candidate::tombstone(row.try_get(0)?, timestamp(&row, 1)?),
                    Rows::Entries => {
                        if !truth(&row, 4)? && !self.verdict(row.try_get(3)?)? {
                            continue;
                        }
                        let json: String = row.try_get(2)?;
                        let before: Option<String> = if self.query.changed { row.try_get(5)? } else { None };
                        if json.is_empty() || before.as_ref().is_some_and(String::is_empty) {
                            large = Some((row.try_get(0)?, timestamp(&row, 1)?));
                            break;
                        }
                        let json = self.shown()(json);
                        bytes += json.len();
                        if before.is_some_and(|before| entry::is_repetition(&json, &before)) {
                            continue;
                        }
                        Candidate::new(row.try_get(0)?, timestamp(&row, 1)?, json)
                    }
                };
                shown += if is_unread {
                    selection.take(candidate.into());
                    1
                } else {
                    usize::from(selection.show(candidate.into()))
                };
                self.room.fit(COPIES * selection.bytes())?;
                if selection.has_ended() && order.is_some() {
                    return Ok(());
                }
            }
            drop(stream);
            let (is_end, is_large) = (found < batch && large.is_none(), large.is_some());
            if let Some((id, last_modified)) = large
                && let Some(candidate) = self.large(reading, id, last_modified).await?
            {
                selection.take(candidate.into());
                self.room.fit(COPIES * selection.bytes())?;
                shown += 1;
                if selection.has_ended() && order.is_some() {
                    return Ok(());
                }
            }
            let Some(last) = last else { break };
            (from, is_inclusive) = (Some(last), false);
            batch = (BATCH_BYTES / (bytes / found.max(1)).max(1)).clamp(FIRST.min(most), most);
            // What follows a large one may be large, too.
            batch = if is_large { FIRST.min(most) } else { batch };
            if is_end {
                break;
            }
        }
        Ok(())
    }

    /// Whether entries are not looked into: the engine decides what is selected, and nothing but names is wanted.
    fn is_unread(&self, conditions: &Conditions) -> bool {
        self.by_name && conditions.are_exact && self.query.is_in_order_by_name()
    }

    /// `id`, `last_modified`, and for entries `json`, `uri`, whether the requester sees them for certain, and where it matters
    /// the entry before about the same object.
    pub(super) fn columns(&self, rows: Rows, conditions: &Conditions) -> Statement {
        let statement = match rows {
            Rows::Tombstones => {
                Statement::new("SELECT id, last_modified FROM sidecar_tombstones WHERE history = ")
                    .bind(self.history)
            }
            Rows::Entries => {
                let json = if self.is_unread(conditions) { "'{}'".to_owned() } else { small("json") };
                let statement = Statement::new(&format!("SELECT id, last_modified, {json}, uri, "));
                let statement = self.sight(statement);
                let statement = if self.query.changed {
                    statement.push(&before(&small("earlier.json")))
                } else {
                    statement
                };
                let statement = statement.push(" FROM sidecar_entries");
                let statement = match conditions.hint(self.kind) {
                    Some(hint) => statement.push(&hint),
                    None => statement,
                };
                self.seen(statement.push(" WHERE history = ").bind(self.history))
            }
        };
        conditions.write(statement, self.kind, true)
    }

    /// Makes of an entry what the requester is shown, and what filters see: the version before is for those who see everything.
    pub(super) fn shown(&self) -> fn(String) -> String {
        match self.sees {
            Sees::Everything => std::convert::identity,
            Sees::Some { .. } => entry::without_previous,
        }
    }

    /// As a column whether the requester sees an entry for certain.
    pub(super) fn sight(&self, statement: Statement) -> Statement {
        match self.sees {
            Sees::Everything => statement.push("1"),
            Sees::Some { .. } => self.is_reader(statement.push("CAST(")).push(" AS INTEGER)"),
        }
    }

    /// That the requester sees an entry, or may see it.
    pub(super) fn seen(&self, statement: Statement) -> Statement {
        match self.sees {
            Sees::Everything => statement,
            Sees::Some { .. } => self.is_reader(statement.push(" AND (knows_readers = 0 OR ")).push(")"),
        }
    }

    /// That the requester sees an entry; of one whose readers are not known, a condition says whether they do.
    pub(super) fn seen_if(&self, statement: Statement, condition: &str) -> Statement {
        match self.sees {
            Sees::Everything => statement,
            Sees::Some { .. } => {
                let statement = statement.push(&format!(" AND (knows_readers = 0 AND {condition} OR "));
                self.is_reader(statement).push(")")
            }
        }
    }

    /// That one of the requester's principals is among an entry's readers.
    fn is_reader(&self, statement: Statement) -> Statement {
        let Sees::Some { principals, .. } = self.sees else { return statement.push("1 = 1") };
        let statement =
            statement.push("reader_set IN (SELECT reader_set FROM sidecar_readers WHERE principal IN (");
        let statement = if principals.len() <= BOUND {
            statement.list(principals.iter().map(String::as_str))
        } else {
            let list = serde_json::to_string(principals).unwrap_or_default();
            match self.kind {
                Kind::Sqlite => statement.push("SELECT value FROM json_each(").bind(list).push(")"),
                Kind::Postgres => {
                    statement.push("SELECT json_array_elements_text(CAST(").bind(list).push(" AS json))")
                }
            }
        };
        statement.push("))")
    }

    /// Whether the requester sees what is about an object. Where nobody knows yet, it may break off.
    pub(super) fn verdict(&mut self, uri: &str) -> sqlx::Result<bool> {
        if matches!(self.sees, Sees::Everything) {
            return Ok(true);
        }
        match (self.verdicts.of(uri), Object::of_uri(uri)) {
            (Some(known), _) => Ok(known),
            (None, None) => Ok(false),
            (None, Some(object)) => {
                let object = self.lasting(object);
                self.verdicts.want(uri, object).map(|()| false)
            }
        }
    }

    /// The object, or its bucket where it may be another's that was made in its place.
    fn lasting(&self, object: Object) -> Object {
        let collection = match &object {
            Object::Record(bucket, collection, _) => Object::Collection(bucket.clone(), collection.clone()),
            other => other.clone(),
        };
        let is_ended = self.ended.contains(&collection.to_string());
        if is_ended { Object::Bucket(object.bucket().to_owned()) } else { object }
    }

    /// The entry of an object's last deletion before another entry, of those that the requester sees; zero where there is none.
    pub(super) async fn end_before(
        &mut self,
        connection: &mut AnyConnection,
        object: &Object,
        before: Timestamp,
    ) -> sqlx::Result<Timestamp> {
        let uri = object.to_string();
        let select = self.sight(Statement::new("SELECT last_modified, "));
        let select = select.push(" FROM sidecar_entries WHERE history = ").bind(self.history);
        let select = self.seen(select).push(" AND uri = ").bind(&*uri);
        let select = select.push(" AND action = 'delete' AND last_modified < ").bind(before);
        let mut stream = select.push(" ORDER BY last_modified DESC").stream(connection);
        while let Some(row) = stream.try_next().await? {
            if truth(&row, 1)? || self.verdict(&uri)? {
                return timestamp(&row, 0);
            }
        }
        Ok(Timestamp::ZERO)
    }

    /// How many entries are selected and seen.
    pub(super) async fn count(&mut self, reading: &mut Reading<'_>) -> sqlx::Result<usize> {
        let conditions = Conditions::of(self.query, Rows::Entries);
        if !conditions.are_exact {
            let unpaged = self.query.unpaged();
            let mut selection = Selection::<Candidate>::of(&unpaged);
            let mut question = Question::new(self.kind, self.history, &unpaged, self.sees);
            question.verdicts = std::mem::take(&mut self.verdicts);
            question.ended.clone_from(&self.ended);
            let shown = question.show(reading, Rows::Entries, &mut selection).await;
            self.verdicts = question.verdicts;
            return shown.map(|()| selection.page().total);
        }
        let everything = matches!(self.sees, Sees::Everything);
        let statement = if everything && conditions.are_none() {
            Statement::new("SELECT entries FROM sidecar_histories WHERE id = ").bind(self.history)
        } else {
            let statement =
                Statement::new("SELECT count(*) FROM sidecar_entries WHERE history = ").bind(self.history);
            let statement = if everything { statement } else { self.is_reader(statement.push(" AND ")) };
            conditions.write(statement, self.kind, false)
        };
        let connection = reading.connection().await?;
        let mut counted = usize::try_from(statement.number(connection).await?).unwrap_or_default();
        if !everything {
            let statement = Statement::new("SELECT uri, count(*) FROM sidecar_entries WHERE history = ");
            let statement = statement.bind(self.history).push(" AND knows_readers = 0 AND NOT ");
            let statement =
                conditions.write(self.is_reader(statement), self.kind, false).push(" GROUP BY uri");
            for row in statement.fetch(connection).await? {
                let count = usize::try_from(row.try_get::<i64, _>(1)?).unwrap_or_default();
                counted += if self.verdict(row.try_get(0)?)? { count } else { 0 };
            }
        }
        Ok(counted)
    }

    /// Whether the requester sees any entry at all.
    pub(super) async fn any(&mut self, connection: &mut AnyConnection) -> sqlx::Result<bool> {
        let any = Statement::new("SELECT id FROM sidecar_entries WHERE history = ").bind(self.history);
        let any = self.is_reader(any.push(" AND ")).push(" LIMIT 1");
        if any.first(connection).await?.is_some() || matches!(self.sees, Sees::Everything) {
            return Ok(true);
        }
        let mut after = String::new();
        loop {
            let objects = Statement::new(
                "SELECT DISTINCT uri FROM sidecar_entries WHERE knows_readers = 0 AND history = ",
            );
            let objects = objects.bind(self.history).push(" AND uri > ").bind(after.as_str());
            let objects = objects.push(" ORDER BY uri LIMIT 100").fetch(connection).await?;
            for row in &objects {
                after = row.try_get(0)?;
                if self.verdict(&after)? {
                    return Ok(true);
                }
            }
            if objects.is_empty() {
                return Ok(false);
            }
        }
    }
}
