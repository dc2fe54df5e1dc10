//! Rows as they are found: in time, late, or gone.

use std::sync::Arc;

use bytes::Bytes;

use super::{NewRow, Row, hash};
use crate::kinto::Timestamp;

/// What is known of the moment when rows are found.
#[derive(Clone, Copy)]
pub(super) struct Find {
    /// The timestamp up to which the collection was known before.
    pub(super) known: Timestamp,
    /// The collection's timestamp.
    pub(super) at: Timestamp,
    /// The newest timestamp that could be seen.
    pub(super) newest: Timestamp,
    /// The content's.
    pub(super) serial: u64,
    /// Whether anything was known before.
    pub(super) any_known: bool,
}

impl Row {
    /// The timestamp by which readers hear of this row: its own, or that up to which they had heard of others when it was
    /// found late.
    pub fn seq(&self) -> Timestamp {
        if self.late.is_some() { self.found } else { self.last_modified }
    }

    /// A row just read: late where its timestamp is not above what was known.
    pub(super) fn found(new: NewRow, find: Find) -> (Self, Bytes) {
        let is_late = find.any_known && new.last_modified <= find.known;
        let row = Self {
            id: new.id,
            last_modified: new.last_modified,
            deleted: new.deleted,
            late: Some(find.newest).filter(|_| is_late),
            invented: false,
            found: if is_late { find.known } else { find.newest },
            serial: find.serial,
            witnessed: false,
            hash: hash(&new.json),
            place: 0..0,
        };
        (row, new.json)
    }

    pub(super) fn vanished(id: &Arc<str>, find: Find) -> (Self, Bytes) {
        let at = find.at;
        let json = Bytes::from(format!(r#"{{"id":"{id}","last_modified":{at},"deleted":true}}"#));
        let row = Self {
            id: id.clone(),
            last_modified: at,
            deleted: true,
            late: Some(at),
            invented: true,
            found: find.known,
            serial: find.serial,
            witnessed: false,
            hash: hash(&json),
            place: 0..0,
        };
        (row, json)
    }
}
