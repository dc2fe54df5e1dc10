//! How a content comes from the one before it and from what was read.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock};

use bytes::{BufMut, Bytes, BytesMut};

use super::by_id::ById;
use super::new_row::Find;
use super::{Content, Row, hash};
use crate::journal::{EverKnown, LastVersion};
use crate::kinto::Timestamp;
use crate::kinto::seq::Seq;
use crate::upstream::kinto::{Metadata, NewRow};

/// What is to become of a content.
#[derive(Debug, Default)]
pub struct Update {
    /// Rows read.
    pub rows: Vec<NewRow>,
    /// Whether `rows` are all rows of the collection: what is not among them is gone.
    pub complete: bool,
    /// Ids that were found to be gone.
    pub gone: HashSet<Arc<str>>,
    /// See [`Clock::witnessed`](crate::timeline::clock::Clock::witnessed).
    pub witnessed: Vec<Timestamp>,
    /// See [`Clock::lone`](crate::timeline::clock::Clock::lone).
    pub lone: Vec<Timestamp>,
    /// A place that some reader of a feed has.
    pub heard: Seq,
    /// Whether tombstones stay that the upstream has no more.
    pub keeps_deleted: bool,
    /// What the journal knows of the collection: what of it is not among the rows is gone.
    pub remembered: Vec<LastVersion>,
    /// Where the collection may be another one than before.
    pub former: Option<Former>,
}

/// What is known of a collection's former life.
#[derive(Debug, Default)]
pub struct Former {
    /// When its bucket was last deleted, zero where it never was.
    pub ended: Timestamp,
    /// Since when records were there that are no more.
    pub born: HashMap<Arc<str>, Timestamp>,
    /// The same for all others.
    pub others: Timestamp,
}

impl Content {
    /// The content of a collection that `rows` are all of; `before` is what was known of it earlier, if anything.
    pub fn new(metadata: Metadata, timestamp: Timestamp, before: Option<&Self>, mut update: Update) -> Self {
        update.complete = true;
        Self::build(metadata, timestamp, before, update)
    }

    /// This content after `update`, at `timestamp`.
    #[must_use]
    pub fn updated(&self, metadata: Metadata, timestamp: Timestamp, update: Update) -> Self {
        Self::build(metadata, timestamp, Some(self), update)
    }

    /// This content with what the journal knows of its collection.
    #[must_use]
    pub fn remembering(self, known: EverKnown) -> Self {
        let remembers = Some(known.left_out.unwrap_or(Timestamp::ZERO));
        let remembered = known.records;
        let there: HashSet<&str> = self.rows.iter().map(|row| &*row.id).collect();
        let is_same = remembered.iter().all(|known| there.contains(&*known.id));
        let content = if is_same {
            self
        } else {
            let update = Update { remembered, lone: self.lone.clone(), ..Update::default() };
            self.updated(self.metadata.clone(), self.timestamp, update)
        };
        Self { remembers, ..content }
    }

    fn build(metadata: Metadata, timestamp: Timestamp, before: Option<&Self>, update: Update) -> Self {
        let known = before.map_or(Timestamp::ZERO, |before| before.timestamp);
        // The newest that could be seen, also where the list is not of one moment.
        let newest = update.rows.iter().map(|row| row.last_modified).max().unwrap_or(timestamp);
        let find = Find {
            known,
            high: before.map_or(Seq::ZERO, |before| before.high),
            heard: update.heard,
            at: timestamp.max(known),
            newest: timestamp.max(known).max(newest),
            serial: before.map_or(1, |before| before.serial + 1),
            any_known: before.is_some(),
        };
        let mut fresh: HashMap<Arc<str>, NewRow> =
            update.rows.into_iter().map(|row| (row.id.clone(), row)).collect();
        let mut rows: Vec<(Row, Bytes)> =
            Vec::with_capacity(fresh.len() + before.map_or(0, |before| before.rows.len()));
        for row in before.map_or(&[][..], |before| &before.rows) {
            let json = before.map_or(Bytes::new(), |before| before.bytes.slice(row.place.clone()));
            match fresh.remove(&row.id) {
                Some(new)
                    if (new.last_modified, new.deleted) == (row.last_modified, row.deleted)
                        && hash(&new.json) == row.hash =>
                {
                    rows.push((row.clone(), json));
                }
                Some(new) => rows.push(Row::found(new, find)),
                // It went with its bucket, and another one is there.
                None if update.former.as_ref().is_some_and(|former| row.last_modified <= former.ended) => {}
                None if row.invented => rows.push((row.clone(), json)),
                None if update.complete || update.gone.contains(&row.id) => {
                    if !row.deleted {
                        let born =
                            update.former.as_ref().map_or(Timestamp::ZERO, |former| former.of(&row.id));
                        rows.push(Row::vanished(&row.id, born, find));
                    } else if update.keeps_deleted {
                        rows.push((row.clone(), json));
                    }
                }
                None => rows.push((row.clone(), json)),
            }
        }
        rows.extend(fresh.into_values().map(|new| Row::found(new, find)));
        if !update.remembered.is_empty() {
            let there: HashSet<Arc<str>> = rows.iter().map(|(row, _)| row.id.clone()).collect();
            let gone = update.remembered.iter().filter(|known| !there.contains(&known.id));
            rows.extend(gone.map(|known| {
                if known.deleted {
                    Row::remembered(known, find)
                } else {
                    Row::vanished(&known.id, known.born, find)
                }
            }));
        }
        rows.sort_by(|(one, _), (other, _)| {
            other.last_modified.cmp(&one.last_modified).then_with(|| one.id.cmp(&other.id))
        });

        let mut bytes = BytesMut::with_capacity(rows.iter().map(|(_, json)| json.len() + 1).sum());
        let mut placed = Vec::with_capacity(rows.len());
        for (mut row, json) in rows {
            if !bytes.is_empty() {
                bytes.put_u8(b',');
            }
            let start = bytes.len();
            bytes.put_slice(&json);
            row.place = start..bytes.len();
            // What was the newest row of a state that was read cannot appear after a later one.
            row.witnessed |=
                row.last_modified == timestamp || update.witnessed.binary_search(&row.last_modified).is_ok();
            placed.push(row);
        }
        let content = Self::of(metadata, timestamp, placed, bytes.freeze());
        Self {
            serial: find.serial,
            high: find.high.max(content.high),
            lone: update.lone,
            began: before.map_or(timestamp, |before| before.began),
            remembers: before.and_then(|before| before.remembers),
            ..content
        }
    }

    /// The first content of a mirror, with all that its rows say by themselves.
    pub(super) fn of(metadata: Metadata, timestamp: Timestamp, rows: Vec<Row>, bytes: Bytes) -> Self {
        let hashes = rows.iter().map(|row| row.hash.wrapping_add(u64::from(row.deleted)));
        let late = rows.iter().enumerate().filter(|(_, row)| row.late.is_some());
        Self {
            digest: hashes.fold(hash(&metadata.json).wrapping_add(timestamp.0), u64::wrapping_add),
            metadata,
            timestamp,
            serial: 1,
            live: rows.iter().filter(|row| !row.deleted).count(),
            live_bytes: OnceLock::new(),
            late: late.map(|(index, _)| index).collect(),
            newest_born: rows.iter().map(|row| row.born).max().unwrap_or_default(),
            high: rows.iter().map(|row| row.seq).max().unwrap_or_default(),
            rows,
            bytes,
            by_seq: OnceLock::new(),
            by_id: ById::default(),
            lone: Vec::new(),
            began: timestamp,
            remembers: None,
        }
    }
}

impl Former {
    fn of(&self, id: &str) -> Timestamp {
        self.born.get(id).copied().unwrap_or(self.others)
    }
}
