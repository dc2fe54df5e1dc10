//! What the journal is told, and what it tells.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::{RawValue, to_raw_value};

use crate::kinto::Timestamp;
use crate::kinto::object::Object;

/// Permission names with their principals, as Kinto writes them.
pub type Permissions = BTreeMap<String, Vec<String>>;

/// What was done to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It was not there before.
    Create,
    /// It was.
    Update,
    /// It is a tombstone now.
    Delete,
}

/// What is said of a write beside what it writes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// Why it was written.
    pub reason: Option<String>,
    /// The ids of the entries that it undoes.
    pub reverts: Vec<String>,
}

/// One new version of an object, to be recorded.
#[derive(Debug, Clone)]
pub struct Change {
    /// The object.
    pub object: Object,
    /// What was done; where it is `None`, `create` for an object that the journal does not know to be alive, else
    /// `update`.
    pub action: Option<Action>,
    /// The `last_modified` of the version.
    pub modified: Timestamp,
    /// The new version or the tombstone, as the upstream sent it; `None` where only permissions are to be learned.
    pub data: Option<Box<RawValue>>,
    /// The object's permissions; where they were not shown, the last that are known stand.
    pub permissions: Option<Permissions>,
    /// Who did it; `None` for somebody anonymous or unknown.
    pub user_id: Option<String>,
    /// What is said of it.
    pub note: Option<Arc<Note>>,
    /// When it was done, for the entry's `date`; now where it is `None`.
    pub date: Option<Timestamp>,
    /// Whether it was seen when the upstream was looked at, and not told by the answer to a write: what is recorded since
    /// may be newer.
    pub is_found: bool,
}

impl Change {
    /// Of this change nothing else is known.
    pub(crate) fn bare(object: Object, action: Option<Action>, modified: Timestamp) -> Self {
        Self {
            object,
            action,
            modified,
            data: None,
            permissions: None,
            user_id: None,
            note: None,
            date: None,
            is_found: false,
        }
    }

    /// The deletion of an object by nobody knows whom.
    pub(super) fn end(object: Object, modified: Timestamp) -> Option<Self> {
        let tombstone = json!({"id": object.id(), "last_modified": modified.0, "deleted": true});
        let data = to_raw_value(&tombstone).ok()?;
        Some(Self { data: Some(data), ..Self::bare(object, Some(Action::Delete), modified) })
    }
}

/// A write that is about to go to the upstream.
#[derive(Debug, Clone)]
pub struct Intent {
    /// The bucket that it is in; empty for writes of the list of buckets.
    pub bucket: String,
    /// Who writes.
    pub user_id: Option<String>,
    /// `PUT`, `POST`, `PATCH` or `DELETE`.
    pub method: String,
    /// The path below the API version, decoded, with the requester's own bucket in place of `default`.
    pub uri: String,
    /// The `data` of the request's body, where it is small: it tells whose an object is that a POST made.
    pub sent: Option<Box<RawValue>>,
    /// What is said of it.
    pub note: Option<Arc<Note>>,
    /// The newest timestamp that was known of the list that the object is in.
    pub known: Timestamp,
    /// How long the request's body is, in bytes, as far as it is known: as long may its entry be.
    pub length: u64,
}

/// Intents that were put into the journal together (one request, or one batch).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct IntentGroup(pub i64);

/// What became of a group of intents.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// The intents that are closed by it, if any.
    pub closes: Option<IntentGroup>,
    /// What was written, in its order.
    pub changes: Vec<Change>,
    /// State that is taken as known without an entry.
    pub known: Vec<Change>,
    /// Watermarks of lists: the list's URI, and the timestamp up to which everything in it is recorded.
    pub watermarks: Vec<(String, Timestamp)>,
    /// Lives of buckets that are over where a bucket of the same name is created by one of the changes.
    pub ended: Vec<Life>,
}

impl Outcome {
    /// The same in parts that can be recorded one after the other; the last one closes the intents.
    pub(super) fn parts(&self) -> Vec<Self> {
        let nothing = Self { ended: self.ended.clone(), ..Self::default() };
        let known = self.known.iter().map(|known| Self { known: vec![known.clone()], ..nothing.clone() });
        let changes = self.changes.iter().map(|one| Self { changes: vec![one.clone()], ..nothing.clone() });
        let marks =
            self.watermarks.iter().map(|mark| Self { watermarks: vec![mark.clone()], ..nothing.clone() });
        known.chain(changes).chain(marks).chain([Self { closes: self.closes, ..nothing.clone() }]).collect()
    }
}

/// A bucket for as long as it is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Life {
    /// The bucket's id.
    pub bucket: String,
    /// Its history.
    pub(super) history: i64,
}

/// The state of an object as last recorded.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    /// The `last_modified` of its version.
    pub modified: Timestamp,
    /// Whether that is a tombstone.
    pub deleted: bool,
}

/// Something was recorded, by this process or by another one on the same journal.
#[derive(Debug, Clone)]
pub struct News {
    /// The objects, with their versions; for large commits only the newest of each list. None where this process was cut
    /// off from the others for a while, and they may have recorded anything.
    pub objects: Vec<(Object, Timestamp)>,
    /// Whether another process recorded it.
    pub is_foreign: bool,
}
