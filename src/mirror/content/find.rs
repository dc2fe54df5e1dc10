//! Rows as they are found: in time, late, or gone.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;

use super::{NewRow, Row, hash};
use crate::kinto::Timestamp;

/// What is known of the moment when rows are found.
#[derive(Clone, Copy)]
pub(super) struct Find {
    /// The timestamp up to which the collection was known before.
    pub(super) known: Timestamp,
    /// The newest row that was known before.
    pub(super) high: Timestamp,
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
    /// Whether readers hear of this row by the timestamp of another.
    pub fn is_behind(&self) -> bool {
        self.invented || self.seq != self.last_modified
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
            found: find.newest,
            seq: if find.any_known { new.last_modified.max(find.high) } else { new.last_modified },
            serial: find.serial,
            witnessed: false,
            hash: hash(&new.json),
            place: 0..0,
        };
        (row, new.json)
    }

    pub(super) fn vanished(id: &Arc<str>, find: Find) -> (Self, Bytes) {
        let at = find.at;
        let quoted = Value::from(&**id);
        let json = Bytes::from(format!(r#"{{"id":{quoted},"last_modified":{at},"deleted":true}}"#));
        let row = Self {
            id: id.clone(),
            last_modified: at,
            deleted: true,
            late: Some(at),
            invented: true,
            found: find.newest,
            seq: find.high,
            serial: find.serial,
            witnessed: false,
            hash: hash(&json),
            place: 0..0,
        };
        (row, json)
    }
}
