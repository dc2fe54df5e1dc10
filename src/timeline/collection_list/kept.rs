//! A list as it is kept on disk, and its readers' places in it.

use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{CollectionList, Gone, MonitorEntry, entry_id};
use crate::kinto::seq::Seq;
use crate::kinto::{CollectionKey, Timestamp};

/// A list to be kept. Two are equal where their readers are told the same.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptList {
    entries: Vec<KeptEntry>,
    gone: Vec<KeptGone>,
    high: String,
    first_known: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct KeptEntry {
    bucket: String,
    collection: String,
    last_modified: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    late: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct KeptGone {
    bucket: String,
    collection: String,
    seen: String,
}

impl KeptList {
    /// The collections in it.
    pub fn keys(&self) -> impl Iterator<Item = CollectionKey> {
        self.entries.iter().map(|entry| CollectionKey::new(&entry.bucket, &entry.collection))
    }
}

impl CollectionList {
    /// What [`Self::revive`] makes the same list of; `None` where it was never known.
    pub fn to_keep(&self) -> Option<KeptList> {
        if !self.is_loaded() && self.revived().is_none() {
            return None;
        }
        let entries = self.entries();
        let mut gone: Vec<_> = entries.gone.iter().map(KeptGone::of).collect();
        gone.sort_unstable();
        Some(KeptList {
            entries: entries.rows.iter().map(KeptEntry::of).collect(),
            gone,
            high: entries.high.to_string(),
            first_known: entries.first_known.0,
        })
    }

    /// Takes a list that was good at `moment`, as far as its collections belong here. It is old until all of it was asked
    /// for.
    pub fn revive(
        &self,
        kept: &KeptList,
        moment: Instant,
        belongs: impl Fn(&CollectionKey) -> bool,
    ) -> Vec<(CollectionKey, Timestamp)> {
        let Some(high) = Seq::parse(&kept.high) else { return Vec::new() };
        let mut list = self.list();
        let generation = self.generation.load(Ordering::Acquire) + 1;
        let mut revived = Vec::new();
        for entry in &kept.entries {
            let key = CollectionKey::new(&entry.bucket, &entry.collection);
            if !belongs(&key) {
                continue;
            }
            let last_modified = Timestamp(entry.last_modified);
            let late = entry.late.as_deref().and_then(Seq::parse);
            let id = entry_id(&self.host, &key);
            list.order.insert((last_modified, key.clone()));
            list.entries
                .insert(key.clone(), MonitorEntry { key: key.clone(), id, last_modified, late, generation });
            revived.push((key, last_modified));
        }
        for gone in &kept.gone {
            let key = CollectionKey::new(&gone.bucket, &gone.collection);
            let Some(seen) = Seq::parse(&gone.seen).filter(|_| belongs(&key)) else { continue };
            let id = entry_id(&self.host, &key);
            list.gone.insert(key.clone(), Gone { key, id, seen, generation });
        }
        list.high = high;
        list.first_known = Timestamp(kept.first_known);
        list.revived = Some(moment);
        self.bump();
        revived
    }

    /// When the list was last known to be good, where it is from before this process and was not asked for since.
    pub fn revived(&self) -> Option<Instant> {
        self.list().revived
    }
}

impl KeptEntry {
    fn of(entry: &MonitorEntry) -> Self {
        Self {
            bucket: entry.key.bucket.to_string(),
            collection: entry.key.collection.to_string(),
            last_modified: entry.last_modified.0,
            late: entry.late.map(|late| late.to_string()),
        }
    }
}

impl KeptGone {
    fn of(gone: &Gone) -> Self {
        Self {
            bucket: gone.key.bucket.to_string(),
            collection: gone.key.collection.to_string(),
            seen: gone.seen.to_string(),
        }
    }
}
