//! Collections whose newest changeset is held back: an older one is published in its place.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use tokio::time::Instant;

use crate::kinto::{CollectionKey, Timestamp};
use crate::timeline::entries::Entries;

/// What is held back, as the list has to show it.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// When the newest content that was looked at was read: what is found of an older one tells nothing any more.
    looked: HashMap<CollectionKey, Instant>,
    /// The timestamps of what is published in place of it.
    timestamps: HashMap<CollectionKey, Timestamp>,
    /// A list, and the same with these timestamps: made once for all who ask, with all that is written for it.
    listed: Option<(Arc<Entries>, Arc<Entries>)>,
}

impl Held {
    /// In place of the content that was read at `began`, one of this timestamp is published; `None`: none is.
    pub(super) fn note(&mut self, key: &CollectionKey, began: Instant, timestamp: Option<Timestamp>) {
        match self.looked.get_mut(key) {
            Some(looked) if *looked > began => return,
            Some(looked) => *looked = began,
            None => _ = self.looked.insert(key.clone(), began),
        }
        if self.timestamps.get(key).copied() != timestamp {
            match timestamp {
                Some(timestamp) => _ = self.timestamps.insert(key.clone(), timestamp),
                None => _ = self.timestamps.remove(key),
            }
            self.listed = None;
        }
    }

    pub(super) fn listed(&mut self, entries: Arc<Entries>) -> Arc<Entries> {
        if self.timestamps.is_empty() {
            return entries;
        }
        if let Some((of, listed)) = &self.listed
            && Arc::ptr_eq(of, &entries)
        {
            return Arc::clone(listed);
        }
        let mut rows = entries.rows.clone();
        for row in &mut rows {
            if let Some(timestamp) = self.timestamps.get(&row.key) {
                row.last_modified = *timestamp;
            }
        }
        rows.sort_by_key(|row| Reverse(row.last_modified));
        let listed = Arc::new(entries.with(rows));
        self.listed = Some((entries, Arc::clone(&listed)));
        listed
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &CollectionKey> {
        self.timestamps.keys()
    }

    /// Lets go of all but those that are meant.
    pub(super) fn retain(&mut self, is_meant: impl Fn(&CollectionKey) -> bool) {
        self.looked.retain(|key, _| is_meant(key));
        let before = self.timestamps.len();
        self.timestamps.retain(|key, _| is_meant(key));
        if self.timestamps.len() != before {
            self.listed = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinto::seq::Seq;
    use crate::timeline::entries::MonitorEntry;

    fn entries(rows: &[(&str, u64)]) -> Arc<Entries> {
        let row = |(collection, timestamp): &(&str, u64)| MonitorEntry {
            key: CollectionKey::new("b", collection),
            id: (*collection).into(),
            last_modified: Timestamp(*timestamp),
            late: None,
            generation: 1,
        };
        let (timestamp, generation) = (Timestamp(rows.first().map_or(0, |row| row.1)), 7);
        let rows = rows.iter().map(row).collect();
        Arc::new(Entries { rows, timestamp, generation, high: Seq::of(timestamp), ..Entries::default() })
    }

    #[test]
    fn a_list_is_made_once_for_what_is_held() {
        let (mut held, began) = (Held::default(), Instant::now());
        let list = entries(&[("new", 9), ("old", 5)]);
        assert!(Arc::ptr_eq(&held.listed(Arc::clone(&list)), &list));
        let key = CollectionKey::new("b", "new");
        held.note(&key, began, Some(Timestamp(3)));
        let listed = held.listed(Arc::clone(&list));
        let shown = |list: &Entries| -> Vec<(String, u64)> {
            list.rows.iter().map(|row| (row.id.to_string(), row.last_modified.0)).collect()
        };
        assert_eq!(shown(&listed), [("old".to_owned(), 5), ("new".to_owned(), 3)]);
        assert_eq!((listed.timestamp, listed.generation, listed.high), (Timestamp(5), 7, list.high));
        held.note(&key, began, Some(Timestamp(3)));
        assert!(Arc::ptr_eq(&held.listed(Arc::clone(&list)), &listed));
        held.note(&key, began, Some(Timestamp(4)));
        assert_eq!(held.listed(Arc::clone(&list)).rows.last().map(|row| row.last_modified.0), Some(4));
        let other = entries(&[("new", 11), ("old", 5)]);
        assert_eq!(held.listed(Arc::clone(&other)).timestamp, Timestamp(5));
        held.note(&key, began, None);
        assert!(Arc::ptr_eq(&held.listed(Arc::clone(&other)), &other));
        assert!(held.listed.is_none(), "nothing is kept of it");
        held.note(&key, began, Some(Timestamp(3)));
        held.retain(|_| false);
        assert!(Arc::ptr_eq(&held.listed(Arc::clone(&other)), &other), "it is in the list no more");
    }

    #[test]
    fn a_look_at_an_older_content_that_ends_late_changes_nothing() {
        let (mut held, older) = (Held::default(), Instant::now());
        let newer = older + std::time::Duration::from_millis(1);
        let (key, list) = (CollectionKey::new("b", "new"), entries(&[("new", 9)]));
        held.note(&key, newer, Some(Timestamp(3)));
        held.note(&key, older, None);
        assert_eq!(held.listed(Arc::clone(&list)).timestamp, Timestamp(3));
        held.note(&key, newer, None);
        held.note(&key, older, Some(Timestamp(2)));
        assert_eq!(held.listed(list).timestamp, Timestamp(9));
    }
}
