//! What an engine can keep of one object, and what becomes of the rest.
//!
//! SQLite keeps everything. PostgreSQL has no NUL in a text, and no row of an index that is longer than 2 704 bytes. What it
//! cannot keep is a matter of that one object: it is left out, told to the log and counted, and nothing waits for it.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use parking_lot::Mutex;

use super::engine::Kind;
use super::queue::Work;
use super::rows::list;
use super::{Change, Journal, Outcome};
use crate::metrics;

/// PostgreSQL: how long the texts may be that stand together in a row of an index, in bytes. Beside them are some numbers.
const LONGEST: usize = 2600;
/// How much of a URI the log is told, in characters.
pub(super) const TOLD: usize = 200;
/// How many versions are remembered that the log was told of.
const REMEMBERED: usize = 1000;

/// The versions that were left out last.
#[derive(Debug, Default)]
pub(super) struct LeftOut(Mutex<HashSet<u64>>);

// === impl Kind ===

impl Kind {
    /// Whether an object can be kept that has this URI. The longest rows of an index have its list's URI beside it, or are
    /// about a list within it.
    pub(super) fn keeps(self, uri: &str) -> bool {
        // In a URI it is escaped; its ids stand beside it as they are.
        let has_nul = || uri.contains("%00");
        self.keeps_together(&[list(uri), uri, "/collections"]) && (self == Self::Sqlite || !has_nul())
    }

    /// Whether these texts can stand together in a row of an index.
    pub(super) fn keeps_together(self, texts: &[&str]) -> bool {
        let is_long = || texts.iter().map(|text| text.len()).sum::<usize>() > LONGEST;
        let has_nul = || texts.iter().any(|text| text.contains('\0'));
        self == Self::Sqlite || !is_long() && !has_nul()
    }

    /// Leaves out of what is to be written what cannot be kept.
    pub(super) fn fitting(self, mut work: Work, left_out: &LeftOut) -> Work {
        if self == Self::Sqlite {
            return work;
        }
        match &mut work {
            Work::Settle { outcome: Outcome { changes, known, watermarks, .. }, .. } => {
                changes.retain(|change| {
                    let is_kept = self.keeps(&change.object.to_string());
                    if !is_kept {
                        left_out.tell(change, "its URI is longer than the journal can keep");
                    }
                    is_kept
                });
                known.retain(|change| self.keeps(&change.object.to_string()));
                watermarks.retain(|(list, _)| self.keeps_together(&[list]));
            }
            Work::Tell(_, changes) => changes.retain(|change| self.keeps(&change.object.to_string())),
            Work::Enter { seen, .. } => seen.retain(|seen| self.keeps(&seen.uri)),
            _ => {}
        }
        work
    }
}

// === impl LeftOut ===

impl LeftOut {
    /// A change is left out. Whoever looks finds it again and again: the log is told once.
    pub(super) fn tell(&self, change: &Change, reason: &str) {
        let mut uri = change.object.to_string();
        let mut hasher = DefaultHasher::new();
        (&uri, change.modified).hash(&mut hasher);
        let mut told = self.0.lock();
        if told.len() == REMEMBERED {
            told.clear();
        }
        if told.insert(hasher.finish()) {
            metrics::journal::count_left_out();
            // What is not ASCII is escaped in a URI.
            uri.truncate(TOLD);
            tracing::error!(uri, modified = %change.modified, reason, "a change has no entry");
        }
    }
}

// === impl Journal ===

impl Journal {
    /// Whether what becomes of an object can be recorded, by its URI.
    pub fn keeps(&self, uri: &str) -> bool {
        self.engine.kind.keeps(uri)
    }

    /// Whether what a user does can be recorded.
    pub fn keeps_author(&self, user_id: &str) -> bool {
        self.engine.kind.keeps_together(&[user_id])
    }
}
