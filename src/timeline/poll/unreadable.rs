//! What of that which is monitored, or which a bucket's readers follow, the service account may not read, and what of it
//! is not there.
//!
//! Such a collection is not in the list, and nobody who reads the list can tell. So the log says it once, with what mends
//! it, and whoever asks how the sidecar is, or for its metrics, is told for as long as it is so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use http::StatusCode;
use parking_lot::Mutex;

use super::error::PollError;
use crate::complaint::Complaint;
use crate::kinto::object::Object;
use crate::kinto::{CollectionKey, Resource, segment};

/// See the module. Told by the one who asks, and read by those who want to know.
#[derive(Debug, Default)]
pub(super) struct Unreadable(Mutex<BTreeMap<String, Lack>>);

/// What is lacking at a path, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Lack {
    Refused(Complaint),
    Missing(Complaint),
}

/// What is lacking of what is monitored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lacking {
    /// What the service account may not read.
    pub unreadable: Vec<Complaint>,
    /// What the settings name and is not there.
    pub missing: Vec<Complaint>,
}

impl Unreadable {
    /// The list of a bucket's collections was refused.
    pub(super) fn bucket(&self, bucket: &str, status: StatusCode) -> PollError {
        let complaint = Complaint::cannot_list(bucket, status);
        let words = complaint.to_string();
        self.note(list_of(bucket), Lack::Refused(complaint));
        PollError::Unreadable(words)
    }

    /// A collection's records were refused.
    pub(super) fn collection(&self, key: &CollectionKey, status: StatusCode) {
        self.note(key.uri(), Lack::Refused(Complaint::cannot_read(key, status)));
    }

    /// The settings name a bucket that is not there.
    pub(super) fn no_bucket(&self, bucket: &str) {
        self.note(list_of(bucket), Lack::Missing(Complaint::no_bucket(bucket)));
    }

    /// The settings name a collection that is not there.
    pub(super) fn no_collection(&self, key: &CollectionKey) {
        self.note(key.uri(), Lack::Missing(Complaint::no_collection(key)));
    }

    /// What is monitored is another thing now, and is asked for anew.
    pub(super) fn forget(&self) {
        self.0.lock().clear();
    }

    /// Why a collection's records cannot be read.
    pub(super) fn why(&self, key: &CollectionKey) -> Option<PollError> {
        match self.0.lock().get(&key.uri())? {
            Lack::Refused(complaint) => Some(PollError::Unreadable(complaint.to_string())),
            Lack::Missing(_) => None,
        }
    }

    /// A collection can be read, or is not there and nobody names it.
    pub(super) fn is_readable(&self, key: &CollectionKey) {
        let mut lacking = self.0.lock();
        if !lacking.is_empty() {
            lacking.remove(&key.uri());
        }
    }

    /// A bucket's list was read, and has these collections; there may be no such bucket.
    pub(super) fn is_listed(
        &self,
        bucket: &str,
        is_missing: bool,
        is_present: impl Fn(&CollectionKey) -> bool,
    ) {
        let list = list_of(bucket);
        let mut lacking = self.0.lock();
        lacking.retain(|path, lack| match path.strip_prefix(&list) {
            Some("") => is_missing && matches!(lack, Lack::Missing(_)),
            // What is there and was missing is asked for next, and what is gone and was refused is refused no more.
            Some(_) => is_present_at(path, &is_present) == matches!(lack, Lack::Refused(_)),
            None => true,
        });
    }

    /// The buckets of which something is lacking.
    pub(super) fn buckets(&self) -> BTreeSet<Arc<str>> {
        let lacking = self.0.lock();
        lacking.keys().filter_map(|path| Resource::of(path).bucket().map(Arc::from)).collect()
    }

    /// All of it.
    pub(super) fn lacking(&self) -> Lacking {
        let mut all = Lacking::default();
        for lack in self.0.lock().values() {
            match lack {
                Lack::Refused(complaint) => all.unreadable.push(complaint.clone()),
                Lack::Missing(complaint) => all.missing.push(complaint.clone()),
            }
        }
        all
    }

    fn note(&self, path: String, lack: Lack) {
        let mut lacking = self.0.lock();
        if lacking.insert(path, lack.clone()).as_ref() != Some(&lack) {
            let (Lack::Refused(complaint) | Lack::Missing(complaint)) = lack;
            tracing::warn!("{complaint}");
        }
    }
}

fn list_of(bucket: &str) -> String {
    format!("/buckets/{}/collections", segment(bucket))
}

fn is_present_at(path: &str, is_present: impl Fn(&CollectionKey) -> bool) -> bool {
    match Object::of_uri(path) {
        Some(Object::Collection(bucket, collection)) => is_present(&CollectionKey::new(&bucket, &collection)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(unreadable: &Unreadable) -> Vec<String> {
        unreadable.0.lock().keys().cloned().collect()
    }

    #[test]
    fn what_is_gone_or_can_be_read_is_unreadable_no_more() {
        let unreadable = Unreadable::default();
        let (one, two) = (CollectionKey::new("a b", "one"), CollectionKey::new("a b", "two"));
        unreadable.bucket("a b", StatusCode::FORBIDDEN);
        unreadable.bucket("a", StatusCode::FORBIDDEN);
        for key in [&one, &two] {
            unreadable.collection(key, StatusCode::FORBIDDEN);
            assert!(unreadable.why(key).is_some());
        }
        unreadable.is_listed("a b", false, |key| *key == one);
        assert!(unreadable.why(&one).is_some() && unreadable.why(&two).is_none());
        unreadable.is_readable(&one);
        assert_eq!(paths(&unreadable), ["/buckets/a/collections"]);
    }

    #[test]
    fn what_is_named_is_missing_until_it_is_there() {
        let unreadable = Unreadable::default();
        let key = CollectionKey::new("a", "one");
        unreadable.no_bucket("a");
        unreadable.no_collection(&key);
        assert!(unreadable.why(&key).is_none(), "it is not refused");
        assert_eq!(unreadable.lacking().missing.len(), 2);
        unreadable.is_listed("a", true, |_| false);
        assert_eq!(unreadable.lacking().missing.len(), 2);
        unreadable.is_listed("a", false, |_| false);
        assert_eq!(paths(&unreadable), ["/buckets/a/collections/one"]);
        unreadable.is_listed("a", false, |_| true);
        assert_eq!(unreadable.lacking(), Lacking::default());
    }
}
