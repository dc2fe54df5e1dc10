//! Which collections are monitored: `changes.resources` less `changes.excluded_collections`.
//!
//! As `kinto_changes.utils.monitored_collections` reads them, but for its matching by prefix: `/buckets/a/collections/b`
//! names that one collection and no other. With `sidecar.changes = upstream` it is the upstream's plugin that says which.

use std::collections::BTreeSet;

use parking_lot::RwLock;

use crate::kinto::CollectionKey;
use crate::kinto::object::Object;

/// Buckets and collections, and what of them is left out.
#[derive(Debug, Default)]
pub struct Resources {
    /// What the upstream's own list names, where that decides.
    listed: Option<RwLock<BTreeSet<CollectionKey>>>,
    buckets: BTreeSet<String>,
    collections: BTreeSet<CollectionKey>,
    excluded_buckets: BTreeSet<String>,
    excluded_collections: BTreeSet<CollectionKey>,
}

impl Resources {
    /// Reads the URIs of the settings; what is neither a bucket nor a collection is passed over.
    pub fn new(included: &[String], excluded: &[String]) -> Self {
        let mut resources = Self::default();
        let Self { buckets, collections, excluded_buckets, excluded_collections, .. } = &mut resources;
        for (setting, uris, buckets, collections) in [
            ("changes.resources", included, buckets, collections),
            ("changes.excluded_collections", excluded, excluded_buckets, excluded_collections),
        ] {
            for uri in uris {
                match Object::of_uri(uri) {
                    Some(Object::Bucket(bucket)) => _ = buckets.insert(bucket),
                    Some(Object::Collection(bucket, collection)) => {
                        collections.insert(CollectionKey::new(&bucket, &collection));
                    }
                    _ => tracing::warn!(uri, "{setting}: neither a bucket nor a collection"),
                }
            }
        }
        resources
    }

    /// Whatever the upstream's own monitor/changes lists.
    pub fn of_upstream() -> Self {
        Self { listed: Some(RwLock::default()), ..Self::default() }
    }

    /// The upstream lists these collections now; `false` where the upstream does not decide.
    pub fn set_listed(&self, keys: BTreeSet<CollectionKey>) -> bool {
        let Some(listed) = &self.listed else { return false };
        *listed.write() = keys;
        true
    }

    /// Whether a collection is monitored.
    pub fn include(&self, key: &CollectionKey) -> bool {
        if let Some(listed) = &self.listed {
            return listed.read().contains(key);
        }
        (self.buckets.contains(&*key.bucket) || self.collections.contains(key))
            && !self.excluded_buckets.contains(&*key.bucket)
            && !self.excluded_collections.contains(key)
    }

    /// The buckets of which all collections are monitored.
    pub fn buckets(&self) -> impl Iterator<Item = &str> {
        self.buckets.iter().map(String::as_str)
    }

    /// The collections that are monitored by name.
    pub fn collections(&self) -> impl Iterator<Item = &CollectionKey> {
        self.collections.iter().filter(|key| self.include(key))
    }

    /// Whether a collection is monitored by its own name.
    pub fn names(&self, key: &CollectionKey) -> bool {
        self.collections.contains(key) && self.include(key)
    }

    /// Whether nothing can be monitored.
    pub fn is_empty(&self) -> bool {
        self.listed.is_none() && self.buckets.is_empty() && self.collections.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collection_is_matched_by_its_whole_name() {
        let resources = Resources::new(
            &["/buckets/a/collections/cert".into(), "/buckets/b".into()],
            &["/buckets/b/collections/x".into()],
        );
        assert!(resources.include(&CollectionKey::new("a", "cert")));
        assert!(!resources.include(&CollectionKey::new("a", "certificates")));
        assert!(resources.include(&CollectionKey::new("b", "later")));
        assert!(!resources.include(&CollectionKey::new("b", "x")));
        assert!(!resources.include(&CollectionKey::new("bb", "later")));
    }
}
