//! Deletions that the upstream has forgotten since, as the journal knows them.
//!
//! Kinto's operators purge tombstones now and then, and readers who were away for longer would keep what is gone. The
//! journal has the last state of each record that it ever knew: what of it the upstream lists no more is gone. Since when
//! it knows of all deletions of a collection is remembered beside the list's watermark.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use parking_lot::RwLock;

use crate::journal::Journal;
use crate::kinto::{CollectionKey, Timestamp};

/// Deletions, as far as the journal knows them.
#[derive(Debug, Default)]
pub struct Deletions {
    journal: OnceLock<Journal>,
    complete_since: RwLock<HashMap<CollectionKey, Timestamp>>,
}

/// A record that the journal knows.
#[derive(Debug, Clone)]
pub struct Remembered {
    /// The record's id.
    pub id: Arc<str>,
    /// Its last version, or its deletion.
    pub modified: Timestamp,
    /// Whether it was deleted.
    pub deleted: bool,
}

impl Deletions {
    /// The journal, once it is there and the sidecar's to keep.
    pub(super) fn set_journal(&self, journal: &Journal) {
        // There is one for the life of the process.
        let _ = self.journal.set(journal.clone());
    }

    /// The records of a collection that were ever known; `None` where nobody can say yet.
    pub(super) async fn of(&self, key: &CollectionKey) -> Option<Vec<Remembered>> {
        let known = self.journal.get()?.ever_known(&key.records_uri()).await;
        let known = known.inspect_err(|error| {
            tracing::warn!(collection = %key, %error, "could not ask for what was deleted in {key}");
        });
        let remembered = known.ok()?.into_iter().map(|(object, state)| Remembered {
            id: object.id().into(),
            modified: state.modified,
            deleted: state.deleted,
        });
        Some(remembered.collect())
    }

    /// Since when all deletions in a collection are known, as far as that was looked up.
    pub fn complete_since(&self, key: &CollectionKey) -> Option<Timestamp> {
        self.complete_since.read().get(key).copied()
    }

    /// All deletions in a collection since then are known.
    pub fn are_complete_since(&self, key: &CollectionKey, since: Timestamp) {
        self.complete_since.write().insert(key.clone(), since);
    }

    /// A collection is gone.
    pub fn forget(&self, key: &CollectionKey) {
        self.complete_since.write().remove(key);
    }
}

/// The name under which it is remembered since when the deletions in a list of records are known.
pub fn mark_of(list: &str) -> String {
    format!("{list}?deleted")
}
