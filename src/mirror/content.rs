//! A collection's records and tombstones at one moment, newest first, as the bytes that the upstream sent.
//!
//! `_since` and `_limit` of a changeset both select a prefix of that order, so an answer is a slice of one buffer. Three
//! kinds of rows are added to such a prefix, because a plain `last_modified > _since` loses rows (Kinto gives out
//! timestamps before the transactions that use them commit):
//!
//! - a row that was found *late* goes to every `_since` at or below the collection's timestamp at the find;
//! - whoever comes with a `_since` may have it from another sidecar, which may not have seen yet what this one first saw
//!   together with the row of that timestamp. So it is answered from an overlap before it, less the rows that were once seen
//!   to be the newest, and those that were there before anything of that timestamp could be;
//! - a row that vanished without a tombstone is given one.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};

use crate::kinto::Timestamp;
use crate::kinto::seq::Seq;

mod build;
mod by_id;
mod kept;
mod new_row;

pub use build::{Former, Update};

use crate::upstream::kinto::Metadata;
use by_id::ById;

/// Where a row stands in the buffer, and what has to be known of it.
#[derive(Debug, Clone)]
pub struct Row {
    /// The record's id.
    pub id: Arc<str>,
    /// Its timestamp.
    pub last_modified: Timestamp,
    /// Whether it is a tombstone.
    pub deleted: bool,
    /// Whether it says `"deleted": true`, which a live record may, too.
    pub is_marked: bool,
    /// The collection's timestamp when this row was found with a lower one of its own.
    pub late: Option<Timestamp>,
    /// Whether this is a tombstone of the sidecar's own for a row that vanished without one.
    pub invented: bool,
    /// The collection's timestamp when this row was first seen: who knows of nothing above it may have read before this
    /// row was there, who knows of more has not.
    pub found: Timestamp,
    /// The place at which readers of feeds hear of this row: its own timestamp, or the next after the newest row which
    /// they had heard of when this one was found behind that.
    pub seq: Seq,
    /// The first content of this mirror that had this row as it is, see [`Content::serial`].
    pub serial: u64,
    /// Whether this row was once seen to be the collection's newest.
    pub witnessed: bool,
    /// Where this is a tombstone for what went with a former life of the collection: who knows of nothing up to here never
    /// read it, and is not told of it. Else zero.
    pub born: Timestamp,
    hash: u64,
    place: Range<usize>,
}

/// A collection at one moment.
#[derive(Debug)]
pub struct Content {
    /// The collection's attributes at that moment.
    pub metadata: Metadata,
    /// The records timestamp at that moment.
    pub timestamp: Timestamp,
    /// Counts the contents of one mirror.
    pub serial: u64,
    rows: Vec<Row>,
    /// All rows, separated by commas.
    bytes: Bytes,
    live: usize,
    live_bytes: OnceLock<(Bytes, Vec<usize>)>,
    /// Indices of the rows that are marked late.
    late: Vec<usize>,
    /// The newest [`Row::born`].
    newest_born: Timestamp,
    digest: u64,
    /// The newest place of a row that there ever was. Kinto may tell a collection's timestamp before it shows the row.
    pub high: Seq,
    /// Indices of all rows by [`Row::seq`], oldest first.
    by_seq: OnceLock<Vec<usize>>,
    by_id: ById,
    /// Ascending: of two of these rows, the one with the lower timestamp was visible first.
    lone: Vec<Timestamp>,
    began: Timestamp,
    /// Since when all that the journal knows of deletions is among the rows, once it is.
    remembers: Option<Timestamp>,
}

// === impl Content ===

impl Content {
    /// Since when all that the journal knows of deletions is among the rows, once it is.
    pub fn remembers(&self) -> Option<Timestamp> {
        self.remembers
    }

    /// Names this content: two contents of one collection with the same digest are the same.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// The timestamp of the first content of this mirror.
    pub fn began(&self) -> Timestamp {
        self.began
    }

    /// The number of live records.
    pub fn live(&self) -> usize {
        self.live
    }

    /// Whether the upstream can have counted this many live records.
    pub fn may_count(&self, total: u64) -> bool {
        // Kinto in memory leaves out those that say that they were deleted.
        let odd = || self.rows.iter().filter(|row| row.is_marked && !row.deleted).count();
        usize::try_from(total).is_ok_and(|total| total == self.live || total + odd() == self.live)
    }

    /// The serial of the last content in which something was found late, zero where nothing was.
    pub fn found_late(&self) -> u64 {
        self.late.iter().filter_map(|index| Some(self.rows.get(*index)?.serial)).max().unwrap_or(0)
    }

    /// Whether a row with this timestamp is known to be a tombstone.
    pub fn has_tombstone(&self, timestamp: Timestamp) -> bool {
        let first = self.rows.partition_point(|row| row.last_modified > timestamp);
        let of_then = self.rows.iter().skip(first).take_while(|row| row.last_modified == timestamp);
        of_then.fold(None, |all, row| Some(all.unwrap_or(true) && row.deleted && !row.invented)) == Some(true)
    }

    /// All rows, newest first.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Indices of all rows by their [`Row::seq`], oldest first.
    pub fn by_seq(&self) -> &[usize] {
        self.by_seq.get_or_init(|| {
            let mut indices: Vec<usize> = (0..self.rows.len()).rev().collect();
            // What was there first comes first: who has it has seen everything before it.
            indices.sort_by_key(|index| {
                self.rows.get(*index).map(|row| (row.seq, row.is_behind(), row.last_modified))
            });
            indices
        })
    }

    /// The JSON of a row of this content.
    pub fn json(&self, row: &Row) -> Bytes {
        self.bytes.slice(row.place.clone())
    }

    /// The memory that it takes, in bytes.
    pub fn weight(&self) -> usize {
        let live = if self.live == self.rows.len() { 0 } else { self.bytes.len() };
        // A changeset has the attributes in another form.
        self.bytes.len() + live + self.rows.len() * Row::BYTES + 2 * self.metadata.json.len() + 1024
    }

    /// The live records, at most `limit` of them, separated by commas.
    pub fn all(&self, limit: Option<usize>) -> Vec<Bytes> {
        let count = limit.unwrap_or(usize::MAX).min(self.live);
        if count == 0 {
            return Vec::new();
        }
        if self.live == self.rows.len() {
            let end = self.rows.get(count - 1).map_or(0, |row| row.place.end);
            return vec![self.bytes.slice(..end)];
        }
        let (bytes, ends) = self.live_bytes.get_or_init(|| self.without_tombstones());
        vec![bytes.slice(..ends.get(count - 1).copied().unwrap_or(0))]
    }

    /// Whether somebody who knows of `since`, here or at another sidecar, may have read before this row was visible, though
    /// its timestamp is not above that.
    pub fn may_hide(&self, row: &Row, since: Timestamp) -> bool {
        let is_lone = |timestamp| self.lone.binary_search(&timestamp).is_ok();
        let was_first = row.witnessed || is_lone(row.last_modified) && is_lone(since);
        since <= row.found && (row.is_behind() || !was_first)
    }

    /// Whether a row was visible before what has a later timestamp, if that is of the next write that is the only one here.
    pub fn may_follow(&self, row: &Row, since: Timestamp) -> bool {
        self.lone.binary_search(&row.last_modified).is_ok()
            && self.lone.last().is_some_and(|last| *last < since)
    }

    /// The rows that a reader who knows the collection up to `since` has to be given, at most `limit` of them.
    pub fn since(&self, since: Timestamp, limit: Option<usize>, overlap: Duration) -> RowSelection {
        let newer = self.rows.partition_point(|row| row.last_modified > since);
        let from = since.back(overlap);
        let end = self.rows.partition_point(|row| row.last_modified > from);
        let doubtful = self.rows.iter().enumerate().take(end).skip(newer);
        let doubtful = doubtful.filter(|(_, row)| row.last_modified != since && self.may_hide(row, since));
        let mut indices: Vec<usize> = doubtful.map(|(index, _)| index).collect();
        for index in &self.late {
            let late = self.rows.get(*index).and_then(|row| row.late);
            if *index >= newer && late.is_some_and(|late| late >= since) {
                indices.push(*index);
            }
        }
        indices.sort_unstable();
        indices.dedup();
        let mut newer = newer;
        if since < self.newest_born {
            let is_told = |index: &usize| self.rows.get(*index).is_some_and(|row| row.born <= since);
            let first = (0..newer).take_while(is_told).count();
            indices = (first..newer).chain(indices).filter(is_told).collect();
            newer = first;
        }
        let limit = limit.unwrap_or(usize::MAX);
        indices.truncate(limit.saturating_sub(newer));
        RowSelection { newer: newer.min(limit), others: indices }
    }

    /// The bytes of a selection, separated by commas.
    pub fn chunks(&self, selection: &RowSelection) -> Vec<Bytes> {
        let mut runs: Vec<Range<usize>> = Vec::new();
        if selection.newer > 0 {
            runs.push(0..selection.newer);
        }
        for index in &selection.others {
            match runs.last_mut() {
                Some(run) if run.end == *index => run.end += 1,
                _ => runs.push(*index..index + 1),
            }
        }
        let mut chunks = Vec::with_capacity(runs.len() * 2);
        for run in runs {
            let (Some(first), Some(last)) = (self.rows.get(run.start), self.rows.get(run.end - 1)) else {
                continue;
            };
            if !chunks.is_empty() {
                chunks.push(Bytes::from_static(b","));
            }
            chunks.push(self.bytes.slice(first.place.start..last.place.end));
        }
        chunks
    }

    fn without_tombstones(&self) -> (Bytes, Vec<usize>) {
        let mut bytes = BytesMut::with_capacity(self.bytes.len());
        let mut ends = Vec::with_capacity(self.live);
        for row in self.rows.iter().filter(|row| !row.deleted) {
            if !bytes.is_empty() {
                bytes.put_u8(b',');
            }
            bytes.put_slice(&self.bytes.slice(row.place.clone()));
            ends.push(bytes.len());
        }
        (bytes.freeze(), ends)
    }
}

/// Rows of one content: its `newer` first ones, and some after them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RowSelection {
    /// How many rows from the newest.
    pub newer: usize,
    /// Indices of further rows, ascending.
    pub others: Vec<usize>,
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests;
