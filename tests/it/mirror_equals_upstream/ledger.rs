//! What has been written: each content carries a number of its own, so that a row that is read names its write.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

#[derive(Debug, Default)]
pub struct Ledger {
    next_version: AtomicU64,
    written: Mutex<HashMap<u64, Written>>,
    /// The newest timestamp that some writer was told.
    expected: AtomicU64,
    readers_stop: AtomicBool,
}

#[derive(Debug)]
struct Written {
    id: String,
    last_modified: Option<u64>,
}

impl Ledger {
    /// A number for a write that is about to be sent.
    pub fn attempt(&self, id: &str) -> u64 {
        let version = self.next_version.fetch_add(1, Ordering::Relaxed);
        self.lock().insert(version, Written { id: id.to_owned(), last_modified: None });
        version
    }

    /// The upstream has said that it wrote this row.
    pub fn acknowledge(&self, row: &Value) {
        let last_modified = row["last_modified"].as_u64().unwrap();
        // A tombstone has no version.
        if let Some(version) = row["version"].as_u64()
            && let Some(written) = self.lock().get_mut(&version)
        {
            written.last_modified = Some(last_modified);
        }
        self.expected.fetch_max(last_modified, Ordering::SeqCst);
    }

    /// Fails unless such a row was once written.
    #[track_caller]
    pub fn check(&self, row: &Value) {
        if row["deleted"] == true {
            return;
        }
        let written = self.lock();
        let known = row["version"].as_u64().and_then(|version| written.get(&version));
        let known = known.unwrap_or_else(|| panic!("nobody wrote {row}"));
        assert_eq!(row["id"], known.id.as_str(), "{row} has the content of another record");
        if let Some(last_modified) = known.last_modified {
            assert_eq!(row["last_modified"], last_modified, "{row} has the timestamp of another version");
        }
    }

    /// The newest timestamp that anybody knows.
    pub fn expected(&self) -> u64 {
        self.expected.load(Ordering::SeqCst)
    }

    /// Timestamps from before a flush may be ahead of those after it.
    pub fn forget_expected(&self) {
        self.expected.store(0, Ordering::SeqCst);
    }

    pub fn versions(&self) -> usize {
        self.lock().len()
    }

    pub fn tell_readers_to_stop(&self) {
        self.readers_stop.store(true, Ordering::SeqCst);
    }

    pub fn readers_go_on(&self) -> bool {
        !self.readers_stop.load(Ordering::SeqCst)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Written>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
