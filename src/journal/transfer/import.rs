//! Lines read into a journal. What is there already is left as it is, and so an import can be repeated.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};
use sqlx::Row;

use super::{Action, ChainLink, Content, Head, Imported, Line, Members};
use crate::journal::engine::Kind;
use crate::journal::entry::Told;
use crate::journal::fits::TOLD;
use crate::journal::queue::{self, Done, Work};
use crate::journal::rows::{CHUNK, EntryRow, ObjectState, at_once, entries_of, mark_gap};
use crate::journal::statement::{Bound, Statement, timestamp};
use crate::journal::transaction::Transaction;
use crate::journal::{Journal, JournalError, Object, Permissions};
use crate::kinto::Timestamp;

impl Journal {
    /// Whether other processes may write at the same time, and wait for this one.
    pub fn is_shared(&self) -> bool {
        self.engine.kind == Kind::Postgres
    }

    /// Adds what lines say; durable when it returns. Many at once are best.
    pub async fn import(&self, lines: Arc<Vec<Line>>) -> Result<Imported, JournalError> {
        match self.write(Work::Import(lines)).await? {
            Done::Imported(imported) => Ok(imported),
            _ => Err(queue::gone()),
        }
    }
}

/// Who wrote a version, where that is known, and the entry about it.
type Written<'w> = (Option<&'w str>, &'w str);

/// An entry to be added.
struct Arrival<'l> {
    head: &'l Head,
    object: &'l Object,
    entry: &'l RawValue,
    readers: &'l [String],
    knows_readers: bool,
}

impl Transaction<'_> {
    /// Adds what lines say.
    pub(in crate::journal) async fn import(&mut self, lines: &[Line]) -> sqlx::Result<Imported> {
        self.store().await?;
        let lines: Vec<&Line> = lines.iter().filter(|line| line.is_kept(self.kind)).collect();
        let mut arrivals: BTreeMap<String, Vec<Arrival<'_>>> = BTreeMap::new();
        for Line { content, head, .. } in &lines {
            match content {
                Content::Entry { entry, readers, knows_readers, hidden } => {
                    let Some(head) = head else { continue };
                    let Some(object) = &head.object else { continue };
                    let name = hidden.as_deref().unwrap_or(object.bucket()).to_owned();
                    let arrivals = arrivals.entry(name).or_default();
                    arrivals.push(Arrival { head, object, entry, readers, knows_readers: *knows_readers });
                }
                Content::History { bucket, timestamp, chains } => {
                    self.reach(bucket, Timestamp(*timestamp)).await?;
                    if let Some(began) = chains {
                        self.chains_began(began).await?;
                    }
                }
                Content::Gap { bucket, collection, since } => {
                    let history = self.history(bucket).await?.id;
                    mark_gap(self.connection, history, collection, Timestamp(*since)).await?;
                }
                Content::Tombstone { .. }
                | Content::Object { .. }
                | Content::Watermark { .. }
                | Content::End { .. } => {}
            }
        }
        let mut imported = Imported::default();
        for (bucket, arrivals) in arrivals {
            let total = arrivals.len();
            let added = self.import_entries(&bucket, arrivals).await?;
            imported.added += added;
            imported.known += total - added;
        }
        self.import_tombstones(&lines).await?;
        self.import_states(&lines).await?;
        Ok(imported)
    }

    async fn import_entries(&mut self, bucket: &str, arrivals: Vec<Arrival<'_>>) -> sqlx::Result<usize> {
        let history = self.history(bucket).await?.id;
        let ids: Vec<&str> = arrivals.iter().map(|arrival| arrival.head.id.as_str()).collect();
        let known = self.known_ids(history, &ids).await?;
        let mut known: HashSet<&str> = known.iter().map(String::as_str).collect();
        let versions = arrivals.iter().map(|arrival| (arrival.head.uri.as_str(), arrival.head.version()));
        let versions: Vec<_> = versions.collect();
        let there = entries_of(self.connection, history, &versions, i64::MAX).await?;
        let mut recorded: HashMap<(&str, Timestamp), Vec<Written<'_>>> = HashMap::new();
        for ((uri, version), entry) in &there {
            let told = (entry.user_id.as_deref(), entry.json.as_str());
            recorded.entry((uri, *version)).or_default().push(told);
        }
        let mut taken = self.taken(history, &arrivals).await?;
        let mut reader_sets: HashMap<&[String], i64> = HashMap::new();
        let (mut added, mut newest) = (0, Timestamp::ZERO);
        for arrival in &arrivals {
            let head = arrival.head;
            let recorded = recorded.entry((&head.uri, head.version())).or_default();
            if !known.insert(&head.id) || recorded.iter().any(|told| arrival.is_same(*told)) {
                continue;
            }
            recorded.push((head.user_id.as_deref(), arrival.entry.get()));
            let mut last_modified = Timestamp(head.last_modified);
            while !taken.insert(last_modified) {
                // Two journals may have given the same timestamp.
                last_modified = self.free_after(history, last_modified).await?;
            }
            let reader_set = if let Some(number) = reader_sets.get(arrival.readers) {
                *number
            } else {
                let readers: BTreeSet<&String> = arrival.readers.iter().collect();
                let number = self.reader_sets.number(self.connection, &readers).await?;
                reader_sets.insert(arrival.readers, number);
                number
            };
            newest = newest.max(last_modified);
            self.add(bucket, arrival.row(history, last_modified, reader_set));
            added += 1;
        }
        self.reach(bucket, newest).await?;
        self.store().await?;
        Ok(added)
    }

    /// Of these ids, those of entries and tombstones.
    async fn known_ids(&mut self, history: i64, ids: &[&str]) -> sqlx::Result<HashSet<String>> {
        let mut known = HashSet::new();
        for table in ["sidecar_entries", "sidecar_tombstones"] {
            for ids in ids.chunks(CHUNK) {
                let select =
                    Statement::new(&format!("SELECT id FROM {table} WHERE history = ")).bind(history);
                let select = select.push(" AND id IN (").list(ids.iter().copied()).push(")");
                for row in select.fetch(self.connection).await? {
                    known.insert(row.try_get(0)?);
                }
            }
        }
        Ok(known)
    }

    /// Of these entries' timestamps, those that others have.
    async fn taken(&mut self, history: i64, arrivals: &[Arrival<'_>]) -> sqlx::Result<HashSet<Timestamp>> {
        let mut taken = HashSet::new();
        for table in ["sidecar_entries", "sidecar_tombstones"] {
            for arrivals in arrivals.chunks(CHUNK) {
                let timestamps = arrivals.iter().map(|arrival| Timestamp(arrival.head.last_modified));
                let select = Statement::new(&format!("SELECT last_modified FROM {table} WHERE history = "));
                let select = select.bind(history).push(" AND last_modified IN (").list(timestamps).push(")");
                for row in select.fetch(self.connection).await? {
                    taken.insert(timestamp(&row, 0)?);
                }
            }
        }
        Ok(taken)
    }

    /// The first timestamp after this one that nothing that is written has.
    async fn free_after(&mut self, history: i64, after: Timestamp) -> sqlx::Result<Timestamp> {
        let mut free = after;
        loop {
            free = Timestamp(free.0.saturating_add(1));
            let mut is_free = true;
            for table in ["sidecar_entries", "sidecar_tombstones"] {
                let select =
                    Statement::new(&format!("SELECT id FROM {table} WHERE history = ")).bind(history);
                let select = select.push(" AND last_modified = ").bind(free);
                is_free = is_free && select.first(self.connection).await?.is_none();
            }
            if is_free {
                return Ok(free);
            }
        }
    }

    async fn import_tombstones(&mut self, lines: &[&Line]) -> sqlx::Result<()> {
        let mut arrivals: BTreeMap<&str, Vec<(&str, Timestamp)>> = BTreeMap::new();
        for Line { content, .. } in lines {
            if let Content::Tombstone { bucket, tombstone, last_modified } = content {
                arrivals.entry(bucket).or_default().push((tombstone, Timestamp(*last_modified)));
            }
        }
        for (bucket, arrivals) in arrivals {
            let newest = arrivals.iter().map(|(_, last_modified)| *last_modified).max();
            self.reach(bucket, newest.unwrap_or_default()).await?;
            let history = self.history(bucket).await?.id;
            let ids: Vec<&str> = arrivals.iter().map(|(id, _)| *id).collect();
            let mut known = self.known_ids(history, &ids).await?;
            let row = |(id, last_modified): &(&str, Timestamp)| -> Option<[Bound; 3]> {
                known
                    .insert((*id).to_owned())
                    .then(|| [history.into(), (*last_modified).into(), (*id).into()])
            };
            let rows: Vec<_> = arrivals.iter().filter_map(row).collect();
            for rows in rows.chunks(at_once(self.kind)) {
                let into = "sidecar_tombstones (history, last_modified, id)";
                let insert =
                    Statement::insert(self.kind, into, rows.to_vec()).push(" ON CONFLICT DO NOTHING");
                insert.execute(self.connection).await?;
            }
        }
        Ok(())
    }

    /// Chains that go on from another journal's began when those did.
    async fn chains_began(&mut self, began: &str) -> sqlx::Result<()> {
        if Statement::new("SELECT 1 FROM sidecar_versions LIMIT 1").first(self.connection).await?.is_none() {
            let update = Statement::new("UPDATE sidecar_meta SET value = ").bind(began);
            update.push(" WHERE name = 'chains'").execute(self.connection).await?;
        }
        Ok(())
    }

    /// Adds what follows on the chain that there is; of another chain, nothing.
    fn import_chain(&mut self, object: &str, chain: &[ChainLink]) {
        let links = || chain.iter().filter_map(ChainLink::read);
        let first = match self.chains.end(object) {
            None => Some(0),
            Some(end) => links().position(|link| link.revision == end.revision).map(|last| last + 1),
        };
        for link in links().skip(first.unwrap_or(chain.len())) {
            self.chains.add(object, link);
        }
    }

    async fn import_states(&mut self, lines: &[&Line]) -> sqlx::Result<()> {
        let objects: BTreeSet<String> = lines
            .iter()
            .filter_map(|line| match &line.content {
                Content::Object { object, .. } if Object::of_uri(object).is_some() => Some(object.clone()),
                _ => None,
            })
            .collect();
        self.chains.read(self.connection, &objects).await?;
        self.read_objects(objects).await?;
        for Line { content, .. } in lines {
            match content {
                Content::Object { object, modified, deleted, permissions, is_entry, chain, only_chain } => {
                    self.import_chain(object, chain);
                    if *only_chain {
                        continue;
                    }
                    let modified = Timestamp(*modified);
                    let is_older = self.state(object).is_some_and(|state| state.modified >= modified);
                    if Object::of_uri(object).is_some() && !is_older {
                        let permissions: Option<Permissions> = permissions.clone();
                        let state =
                            ObjectState { modified, deleted: *deleted, permissions, is_entry: *is_entry };
                        self.set_state(object, state);
                    }
                }
                Content::Watermark { list, timestamp } => {
                    let insert = Statement::new("INSERT INTO sidecar_watermarks (list, timestamp) VALUES (")
                        .bind(list.as_str())
                        .push(", ")
                        .bind(Timestamp(*timestamp))
                        .push(") ON CONFLICT (list) DO NOTHING");
                    insert.execute(self.connection).await?;
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl Line {
    /// Whether an engine can keep what it says.
    fn is_kept(&self, kind: Kind) -> bool {
        let (about, is_kept) = match (&self.content, &self.head) {
            (Content::Entry { .. }, Some(Head { uri, id, user_id, date, .. })) => {
                let mut texts = [id, date].into_iter().chain(user_id);
                (uri, kind.keeps(uri) && texts.all(|text| kind.keeps_together(&[text])))
            }
            (Content::Object { object: uri, .. }, _) => (uri, kind.keeps(uri)),
            (
                Content::Watermark { list: text, .. }
                | Content::Tombstone { tombstone: text, .. }
                | Content::Gap { collection: text, .. }
                | Content::History { bucket: text, .. },
                _,
            ) => (text, kind.keeps_together(&[text])),
            (Content::Entry { .. } | Content::End { .. }, _) => return true,
        };
        if !is_kept {
            let about: String = about.chars().take(TOLD).collect();
            tracing::error!(
                about,
                "a line is left out: one of its texts is longer than the journal can keep, or has a NUL in it"
            );
        }
        is_kept
    }
}

impl Arrival<'_> {
    /// Whether an entry about the same version tells of the same write. Two journals may have recorded one, each as an
    /// entry of its own; and Kinto on PostgreSQL may give two writes the same version.
    fn is_same(&self, (user_id, entry): Written<'_>) -> bool {
        let own = self.head.user_id.as_deref();
        let is_authors = user_id.is_none() || own.is_none() || user_id == own;
        let data = |json: &str| {
            let told: Told<'_> = serde_json::from_str(json).ok()?;
            serde_json::from_str::<Value>(told.target.data.get()).ok()
        };
        is_authors && data(self.entry.get()) == data(entry)
    }

    fn row(&self, history: i64, last_modified: Timestamp, reader_set: i64) -> EntryRow {
        let &Self { head, object, entry, knows_readers, .. } = self;
        let action = Action::of(&head.action).unwrap_or(Action::Update).as_str();
        let json = if last_modified.0 == head.last_modified {
            entry.get().to_owned()
        } else {
            with_timestamp(entry, last_modified).unwrap_or_else(|| entry.get().to_owned())
        };
        EntryRow {
            history,
            last_modified,
            object_modified: head.version(),
            id: head.id.clone(),
            object: object.clone(),
            uri: head.uri.clone(),
            action,
            user_id: head.user_id.clone(),
            date: head.date.clone(),
            reader_set,
            knows_readers,
            json,
        }
    }
}

fn with_timestamp(entry: &RawValue, last_modified: Timestamp) -> Option<String> {
    let mut members: Members = serde_json::from_str(entry.get()).ok()?;
    members.insert("last_modified".to_owned(), to_raw_value(&last_modified.0).ok()?);
    serde_json::to_string(&members).ok()
}
