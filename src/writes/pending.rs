//! The collections for which the upstream is asked again and again, because it could not answer.

use std::collections::HashSet;

use crate::kinto::CollectionKey;

/// The most that the names of collections may take, in bytes, for which the upstream is asked again and again. What is
/// beyond is left to polling.
const MOST_PENDING: usize = 1 << 20;

/// The collections for which the upstream is asked again and again.
#[derive(Debug, Default)]
pub(super) struct Pending {
    keys: HashSet<CollectionKey>,
    bytes: usize,
}

impl Pending {
    /// Whether there is room for it, and it was not there.
    pub(super) fn insert(&mut self, key: &CollectionKey) -> bool {
        let bytes = self.bytes + Self::weight(key);
        let is_new = bytes <= MOST_PENDING && self.keys.insert(key.clone());
        if is_new {
            self.bytes = bytes;
        }
        is_new
    }

    pub(super) fn remove(&mut self, key: &CollectionKey) {
        if self.keys.remove(key) {
            self.bytes -= Self::weight(key);
        }
    }

    /// With the task that asks.
    fn weight(key: &CollectionKey) -> usize {
        key.bucket.len() + key.collection.len() + 512
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_for_a_number_of_bytes() {
        let mut pending = Pending::default();
        let key = |n: usize| CollectionKey::new("a", &format!("{n:->1000}"));
        let kept = (0..10_000).filter(|n| pending.insert(&key(*n))).count();
        assert!((100..1000).contains(&kept), "{kept}");
        assert!(!pending.insert(&key(0)), "once is enough");
        pending.remove(&key(0));
        assert!(pending.insert(&key(0)));
        (0..10_000).for_each(|n| pending.remove(&key(n)));
        assert_eq!((pending.bytes, pending.keys.len()), (0, 0));
    }
}
