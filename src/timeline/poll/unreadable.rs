//! What the service account may not read of that which is monitored or which a bucket's readers follow.
//!
//! Such a collection is not in the list, and nobody who reads the list can tell. So the log says it once, with what mends
//! it, and a gauge counts it for as long as it is so.

use std::collections::BTreeMap;

use http::StatusCode;

use super::error::PollError;
use crate::kinto::{CollectionKey, Resource, segment};

/// By the path that was refused.
#[derive(Debug, Default)]
pub(super) struct Unreadable(BTreeMap<String, String>);

/// What to do where the collections of a bucket cannot be listed, or not all of them.
pub fn cannot_list(bucket: &str, status: StatusCode) -> String {
    format!(
        "the collections of /buckets/{} cannot be listed ({status}): give the service account read permission on that \
         bucket, or name its user id in Kinto's bucket_read_principals and collection_read_principals",
        segment(bucket)
    )
}

/// What to do where the records of a collection cannot be read.
pub fn cannot_read(key: &CollectionKey, status: StatusCode) -> String {
    format!(
        "the records of {} cannot be read ({status}): give the service account read permission on the bucket or the \
         collection, or name its user id in Kinto's record_read_principals",
        key.uri()
    )
}

impl Unreadable {
    /// The list of a bucket's collections was refused.
    pub(super) fn bucket(&mut self, bucket: &str, status: StatusCode) -> PollError {
        self.note(list_of(bucket), cannot_list(bucket, status))
    }

    /// A collection's records were refused.
    pub(super) fn collection(&mut self, key: &CollectionKey, status: StatusCode) {
        self.note(key.uri(), cannot_read(key, status));
    }

    /// Why a collection's records cannot be read.
    pub(super) fn why(&self, key: &CollectionKey) -> Option<PollError> {
        self.0.get(&key.uri()).cloned().map(PollError::Unreadable)
    }

    /// A collection can be read, or is not there.
    pub(super) fn is_readable(&mut self, key: &CollectionKey) {
        if !self.0.is_empty() && self.0.remove(&key.uri()).is_some() {
            self.count();
        }
    }

    /// A bucket's list was read, and has these collections.
    pub(super) fn is_listed(&mut self, bucket: &str, is_present: impl Fn(&CollectionKey) -> bool) {
        let list = list_of(bucket);
        self.0.retain(|path, _| match path.strip_prefix(&list) {
            Some("") => false,
            Some(_) => is_present_at(path, &is_present),
            None => true,
        });
        self.count();
    }

    fn note(&mut self, path: String, words: String) -> PollError {
        if self.0.insert(path, words.clone()).as_ref() != Some(&words) {
            tracing::warn!("{words}");
            self.count();
        }
        PollError::Unreadable(words)
    }

    fn count(&self) {
        #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
        let count = self.0.len() as f64;
        metrics::gauge!("kinto_sidecar_unreadable").set(count);
    }
}

fn list_of(bucket: &str) -> String {
    format!("/buckets/{}/collections", segment(bucket))
}

fn is_present_at(path: &str, is_present: impl Fn(&CollectionKey) -> bool) -> bool {
    match Resource::of(path) {
        Resource::Collection(bucket, collection) => is_present(&CollectionKey::new(&bucket, &collection)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gone_or_can_be_read_is_unreadable_no_more() {
        let mut unreadable = Unreadable::default();
        let (one, two) = (CollectionKey::new("a b", "one"), CollectionKey::new("a b", "two"));
        unreadable.bucket("a b", StatusCode::FORBIDDEN);
        unreadable.bucket("a", StatusCode::FORBIDDEN);
        for key in [&one, &two] {
            unreadable.collection(key, StatusCode::FORBIDDEN);
            assert!(unreadable.why(key).is_some());
        }
        unreadable.is_listed("a b", |key| *key == one);
        assert!(unreadable.why(&one).is_some() && unreadable.why(&two).is_none());
        unreadable.is_readable(&one);
        assert_eq!(unreadable.0.keys().collect::<Vec<_>>(), ["/buckets/a/collections"]);
    }
}
