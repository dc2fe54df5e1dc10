//! The objects that selected entries are about.
//!
//! The deletion of a collection makes no entries of its records: those that were there then are told of, too.

use std::collections::HashMap;

use futures_util::TryStreamExt;
use serde_json::value::RawValue;
use sqlx::{AnyConnection, Row};

use super::candidate::Candidate;
use super::condition::{Conditions, Rows};
use super::engine::Kind;
use super::reading::{self, Reading};
use super::room::Room;
use super::select::{Question, small};
use super::statement::{Statement, timestamp, truth};
use super::verdicts::settled;
use super::{Action, Journal, JournalError, Object, Sees};
use crate::kinto::Timestamp;
use crate::query::Query;
use crate::wire::buffers::Hold;

pub(super) mod around;

pub use around::{Around, SeenEntry};

/// What an object takes beside its URI, in bytes.
const OBJECT: usize = 160;
const ENTRY: usize = size_of::<Timestamp>();

/// Entries are meant that are about versions after one moment and until another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Versions {
    /// The moment before.
    pub after: Timestamp,
    /// The last moment.
    pub until: Timestamp,
}

/// An object, and which of its entries were selected. Entries are named by their timestamps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Touched {
    /// The object.
    pub object: Object,
    /// The entries, oldest first.
    pub entries: Vec<Timestamp>,
    /// The entry of the deletion of its collection, which it went with.
    pub lost: Option<Timestamp>,
}

/// What a selection came to.
#[derive(Debug, Default)]
pub struct Touches {
    /// The objects, those whose newest entry is newest first.
    pub objects: Vec<Touched>,
    /// Whether these are all.
    pub is_all: bool,
    /// Whether there is any entry, of whatever selection, that the reader sees.
    pub sees_any: bool,
    /// Held for the objects, where that is counted.
    pub room: Option<Hold>,
}

// === impl Touched ===

impl Touched {
    /// The first that was done to it.
    pub fn first(&self) -> Timestamp {
        self.entries.iter().chain(&self.lost).min().copied().unwrap_or_default()
    }

    /// The last that was done to it.
    pub fn last(&self) -> Timestamp {
        self.entries.iter().chain(&self.lost).max().copied().unwrap_or_default()
    }

    /// What an entry is about.
    pub fn of_entry(entry: &RawValue) -> Option<Self> {
        #[derive(serde::Deserialize)]
        struct Head {
            uri: String,
            last_modified: Timestamp,
        }
        let Head { uri, last_modified } = serde_json::from_str(entry.get()).ok()?;
        Some(Self { object: Object::of_uri(&uri)?, entries: vec![last_modified], lost: None })
    }

    /// How much it holds, in bytes.
    pub fn weight(&self) -> usize {
        OBJECT + self.object.to_string().len() + ENTRY * self.entries.len()
    }
}

// === impl Journal ===

impl Journal {
    /// The objects that the entries are about which a query selects and somebody sees; no more of them than `most` bytes
    /// hold. Room for them is taken beside what `hold` holds.
    pub async fn touched(
        &self,
        bucket: &str,
        query: &Query,
        versions: Option<Versions>,
        sees: &Sees<'_>,
        most: usize,
        hold: Option<&Hold>,
    ) -> Result<Touches, JournalError> {
        let touches = settled(sees, |known| {
            self.of_history(bucket, async move |reading, history, _| {
                let kind = self.engine.kind;
                let mut question =
                    Question::begin(reading.connection().await?, kind, (bucket, history), query, sees, known)
                        .await?;
                question.room = Room::beside(hold);
                let touches = question.touches(reading, versions, most).await;
                let touches = question.room.filled(touches);
                let room = question.room.into_hold();
                question
                    .verdicts
                    .put(touches.map(|touches| touches.map(|touches| Touches { room, ..touches })))
            })
        });
        let none = || Ok(Touches { is_all: true, ..Touches::default() });
        Ok(touches.await?.unwrap_or_else(none)?)
    }
}

/// What was found so far.
#[derive(Default)]
struct Found {
    objects: HashMap<String, Touched>,
    /// Deletions of collections.
    deletions: Vec<(Object, Timestamp)>,
    bytes: usize,
    most: usize,
}

impl Found {
    fn object(&mut self, uri: String) -> Option<&mut Touched> {
        let object = Object::of_uri(&uri)?;
        let length = uri.len();
        let bytes = &mut self.bytes;
        Some(self.objects.entry(uri).or_insert_with(|| {
            *bytes += 2 * length + OBJECT;
            Touched { object, entries: Vec::new(), lost: None }
        }))
    }

    /// Takes an entry about an object.
    fn take(&mut self, uri: String, last_modified: Timestamp, action: &str) {
        let Some(touched) = self.object(uri) else { return };
        touched.entries.push(last_modified);
        let deleted = Some(&touched.object).filter(|_| action == Action::Delete.as_str());
        if let Some(collection @ Object::Collection(..)) = deleted {
            let collection = collection.clone();
            self.deletions.push((collection, last_modified));
        }
        self.bytes += ENTRY;
    }

    fn is_full(&self) -> bool {
        self.bytes > self.most
    }

    fn touches(self) -> Touches {
        let is_all = !self.is_full();
        let mut objects: Vec<Touched> = self.objects.into_values().collect();
        for touched in &mut objects {
            touched.entries.sort_unstable();
        }
        objects.sort_by_cached_key(|touched| (std::cmp::Reverse(touched.last()), touched.object.to_string()));
        Touches { objects, is_all, sees_any: false, room: None }
    }
}

impl Question<'_, '_> {
    async fn touches(
        &mut self,
        reading: &mut Reading<'_>,
        versions: Option<Versions>,
        most: usize,
    ) -> sqlx::Result<Touches> {
        let mut found = Found { most, ..Found::default() };
        self.touch(reading, versions, &mut found).await?;
        for (collection, deletion) in std::mem::take(&mut found.deletions) {
            if found.is_full() {
                break;
            }
            self.lose(reading.connection().await?, &collection, deletion, &mut found).await?;
        }
        let sees_any = !found.objects.is_empty() || self.any(reading.connection().await?).await?;
        Ok(Touches { sees_any, ..found.touches() })
    }

    async fn touch(
        &mut self,
        reading: &mut Reading<'_>,
        versions: Option<Versions>,
        found: &mut Found,
    ) -> sqlx::Result<()> {
        let conditions = Conditions::of(self.query, Rows::Entries);
        if conditions.are_hopeless() {
            return Ok(());
        }
        // What the engine cannot decide is looked for in the entry.
        let json = if conditions.are_exact { "''".to_owned() } else { small("json") };
        let select = Statement::new(&format!("SELECT id, last_modified, {json}, uri, action, "));
        let select = self.sight(select).push(" FROM sidecar_entries");
        let is_window = versions.is_some_and(|versions| versions.after > Timestamp::ZERO);
        let by_version = is_window && !conditions.are_of_few();
        let hint = match self.kind {
            Kind::Sqlite if by_version => Some(" INDEXED BY sidecar_entries_version".to_owned()),
            kind => conditions.hint(kind),
        };
        let select = select.push(&hint.unwrap_or_default()).push(" WHERE history = ").bind(self.history);
        let select = conditions.write(self.seen(select), self.kind, true);
        let select = match versions {
            Some(Versions { after, until }) => select
                .push(" AND object_modified > ")
                .bind(after)
                .push(" AND object_modified <= ")
                .bind(until),
            None => select,
        };
        let mut large: Vec<(String, Timestamp, String, String)> = Vec::new();
        let mut stream = select.stream(reading.connection().await?);
        while let Some(row) = stream.try_next().await? {
            let uri: String = row.try_get(3)?;
            if !truth(&row, 5)? && !self.verdict(&uri)? {
                continue;
            }
            let last_modified = timestamp(&row, 1)?;
            let action: String = row.try_get(4)?;
            if conditions.are_exact {
                found.take(uri, last_modified, &action);
            } else {
                let json: String = row.try_get(2)?;
                if json.is_empty() {
                    found.bytes += 2 * uri.len() + OBJECT;
                    large.push((row.try_get(0)?, last_modified, uri, action));
                } else {
                    let candidate = Candidate::new(row.try_get(0)?, last_modified, self.shown()(json));
                    reading::consume_budget().await;
                    if self.query.matches(&candidate) {
                        found.take(uri, last_modified, &action);
                    }
                }
            }
            self.room.fit(found.bytes)?;
            if found.is_full() {
                break;
            }
        }
        drop(stream);
        for (id, last_modified, uri, action) in large {
            if self.large(reading, id, last_modified).await?.is_some() {
                found.take(uri, last_modified, &action);
            }
        }
        Ok(())
    }

    /// The records that went with a collection.
    async fn lose(
        &mut self,
        connection: &mut AnyConnection,
        collection: &Object,
        deletion: Timestamp,
        found: &mut Found,
    ) -> sqlx::Result<()> {
        let before = self.end_before(connection, collection, deletion).await?;
        let select = self.sight(Statement::new("SELECT uri, ")).push(" FROM sidecar_entries");
        let hint = match self.kind {
            Kind::Sqlite => " INDEXED BY sidecar_entries_collection",
            Kind::Postgres => "",
        };
        let select = select.push(hint).push(" WHERE history = ").bind(self.history);
        let select = self.seen(select).push(" AND collection_id = ").bind(collection.id());
        let select = select.push(" AND record_id IS NOT NULL AND action <> 'delete' AND last_modified < ");
        let select = select.bind(deletion).push(" AND last_modified > ").bind(before);
        let select = select.push(
            " AND NOT EXISTS (SELECT 1 FROM sidecar_entries AS later WHERE later.history = sidecar_entries.history \
             AND later.uri = sidecar_entries.uri AND later.last_modified > sidecar_entries.last_modified \
             AND later.last_modified < ",
        );
        let mut stream = select.bind(deletion).push(")").stream(connection);
        while let Some(row) = stream.try_next().await? {
            let uri: String = row.try_get(0)?;
            if !truth(&row, 1)? && !self.verdict(&uri)? {
                continue;
            }
            if let Some(touched) = found.object(uri) {
                touched.lost = touched.lost.max(Some(deletion));
            }
            self.room.fit(found.bytes)?;
            if found.is_full() {
                break;
            }
        }
        Ok(())
    }
}
