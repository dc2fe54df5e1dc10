//! Rows as they are found: in time, late, or gone.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;

use super::{Row, hash};
use crate::journal::LastVersion;
use crate::kinto::Timestamp;
use crate::kinto::seq::Seq;
use crate::upstream::kinto::NewRow;

/// What is known of the moment when rows are found.
#[derive(Clone, Copy)]
pub(super) struct Find {
    /// The timestamp up to which the collection was known before.
    pub(super) known: Timestamp,
    /// The newest place that was known before.
    pub(super) high: Seq,
    /// A place that some reader has.
    pub(super) heard: Seq,
    /// The collection's timestamp.
    pub(super) at: Timestamp,
    /// The newest timestamp that could be seen.
    pub(super) newest: Timestamp,
    /// The content's.
    pub(super) serial: u64,
    /// Whether anything was known before.
    pub(super) any_known: bool,
}

impl Find {
    /// The place of what is found late, or gone.
    fn late_seq(self) -> Seq {
        self.high.found_after_all(self.heard)
    }
}

impl Row {
    /// What a row takes besides its JSON.
    pub(super) const BYTES: usize = size_of::<Self>() + 40;
    /// What a tombstone of the sidecar's own takes besides its id.
    pub(in crate::mirror) const TOMBSTONE_BYTES: usize = Self::BYTES + 64;

    /// Whether readers hear of this row by the timestamp of another.
    pub fn is_behind(&self) -> bool {
        self.invented || self.seq != Seq::of(self.last_modified)
    }

    /// A row just read: late where its timestamp is not above what was known.
    pub(super) fn found(new: NewRow, find: Find) -> (Self, Bytes) {
        let is_late = find.any_known && new.last_modified <= find.known;
        let row = Self {
            id: new.id,
            last_modified: new.last_modified,
            deleted: new.deleted,
            is_marked: new.is_marked,
            late: Some(find.newest).filter(|_| is_late),
            invented: false,
            found: find.newest,
            // Zero is where a reader begins who has seen nothing.
            seq: if find.any_known && new.last_modified <= find.high.at {
                find.late_seq()
            } else {
                Seq::of(new.last_modified.max(Timestamp(1)))
            },
            serial: find.serial,
            witnessed: false,
            born: Timestamp::ZERO,
            hash: hash(&new.json),
            place: 0..0,
        };
        (row, new.json)
    }

    /// A row that went without a tombstone: everybody hears of it who can have read it since it was `born`.
    pub(super) fn vanished(id: &Arc<str>, born: Timestamp, find: Find) -> (Self, Bytes) {
        let (row, json) = Self::tombstone(id, find.at, find);
        (Self { late: Some(find.at), found: find.newest, seq: find.late_seq(), born, ..row }, json)
    }

    /// A row whose tombstone the upstream has no more: who was there since heard of it by that.
    pub(super) fn remembered(known: &LastVersion, find: Find) -> (Self, Bytes) {
        let (row, json) = Self::tombstone(&known.id, known.modified, find);
        (Self { witnessed: true, born: known.born, ..row }, json)
    }

    fn tombstone(id: &Arc<str>, at: Timestamp, find: Find) -> (Self, Bytes) {
        let quoted = Value::from(&**id);
        let json = Bytes::from(format!(r#"{{"id":{quoted},"last_modified":{at},"deleted":true}}"#));
        let row = Self {
            id: id.clone(),
            last_modified: at,
            deleted: true,
            is_marked: true,
            late: None,
            invented: true,
            found: at,
            seq: Seq::of(at.max(Timestamp(1))),
            serial: find.serial,
            witnessed: false,
            born: Timestamp::ZERO,
            hash: hash(&json),
            place: 0..0,
        };
        (row, json)
    }
}
