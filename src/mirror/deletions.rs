//! Deletions that the upstream has forgotten since, as the journal knows them.
//!
//! Kinto's operators purge tombstones now and then, and readers who were away for longer would keep what is gone. The
//! journal has the last state of each record that it ever knew: what of it the upstream lists no more is gone. Of a
//! collection that was deleted and made again, the upstream never lists what went with it. Since when it knows of all
//! deletions of a collection is remembered beside the list's watermark. The oldest are left out where they are too many to
//! be kept.

use std::collections::HashMap;
use std::sync::OnceLock;

use parking_lot::RwLock;

use super::content::Row;
use crate::journal::{EverKnown, Journal, Wanted};
use crate::kinto::{CollectionKey, Timestamp};

/// Deletions, as far as the journal knows them.
#[derive(Debug, Default)]
pub struct Deletions {
    journal: OnceLock<Journal>,
    complete_since: RwLock<HashMap<CollectionKey, Timestamp>>,
}

impl Deletions {
    /// The journal, once it is there.
    pub(super) fn set_journal(&self, journal: &Journal) {
        // There is one for the life of the process.
        let _ = self.journal.set(journal.clone());
    }

    /// The records that were known before a collection was last deleted, or were ever known, the newest as far as they find
    /// room; `None` where nobody can say yet.
    pub(super) async fn of(&self, key: &CollectionKey, is_ever: bool, room: u64) -> Option<EverKnown> {
        let wanted = Wanted { present: is_ever, room, each: Row::TOMBSTONE_BYTES };
        let known = self.journal.get()?.ever_known(key, wanted).await;
        let known = known.inspect_err(|error| {
            tracing::warn!(collection = %key, %error, "could not ask for what was deleted in {key}");
        });
        let known = known.ok()?;
        if let Some(left_out) = known.left_out {
            tracing::warn!(
                collection = %key,
                "what was deleted in {key} until {left_out} is left out: half of sidecar.cache_size is too little for it"
            );
        }
        Some(known)
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
