//! `record_cache_expires_seconds`, its maximum and its minimum, and their per-bucket and per-collection forms.
//!
//! Bucket and collection ids are open, and an environment name does not tell `-`, `.` and `_` apart. So, as
//! Kinto does, a name is never taken apart: the name of a key that is asked for is made and looked up.

use std::collections::HashMap;

use super::error::Origin;
use super::key::Key;
use super::names::environment_names;

const DEFAULT: &str = "record_cache_expires_seconds";
const MAXIMUM: &str = "record_cache_maximum_expires_seconds";
const MINIMUM: &str = "record_cache_minimum_expires_seconds";

/// How long an answer may be cached, in seconds; `None` where no setting says so. Below zero it is over before it comes, as in
/// Kinto.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheExpiry {
    /// `record_cache_expires_seconds`: without `_expected`.
    pub default: Option<i64>,
    /// `record_cache_maximum_expires_seconds`: with an `_expected`.
    pub maximum: Option<i64>,
    /// `record_cache_minimum_expires_seconds`: with a cache-busting `_expected`.
    pub minimum: Option<i64>,
}

/// What each place says about record caching, strongest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct RecordCache {
    /// By key, from `--set`.
    assigned: HashMap<String, i64>,
    /// By environment name.
    environment: HashMap<String, i64>,
    /// By key, from the file.
    file: HashMap<String, i64>,
}

/// What all of the family have in common.
pub(super) static FAMILY: Key =
    Key::new("Kinto's own", DEFAULT, "", "for how many seconds answers may be cached").live();

impl RecordCache {
    /// Whether a key (without the `kinto.` prefix) is one of this family.
    pub(super) fn owns(key: &str) -> bool {
        [DEFAULT, MAXIMUM, MINIMUM]
            .iter()
            .any(|name| key.strip_suffix(name).is_some_and(|ids| ids.is_empty() || ids.ends_with('.')))
    }

    /// Whether an environment name may be one of this family.
    pub(super) fn owns_environment(name: &str) -> bool {
        [DEFAULT, MAXIMUM, MINIMUM].iter().any(|suffix| name.ends_with(&suffix.to_uppercase()))
    }

    /// Adds what one place says.
    pub(super) fn insert(&mut self, name: &str, origin: &Origin, seconds: i64) {
        let place = match origin {
            Origin::Environment(_) => &mut self.environment,
            Origin::File(..) => &mut self.file,
            Origin::Assignment | Origin::Flag(_) | Origin::Default => &mut self.assigned,
        };
        place.insert(name.to_owned(), seconds);
    }

    pub(super) fn of(&self, bucket: &str, collection: &str) -> CacheExpiry {
        if self.assigned.is_empty() && self.environment.is_empty() && self.file.is_empty() {
            return CacheExpiry::default();
        }
        // The plugin knows the last two of a collection only, and takes them elsewhere for nothing.
        let nearest = |name| {
            self.get(&format!("{bucket}.{collection}.{name}"))
                .or_else(|| self.get(&format!("{bucket}.{name}")))
                .or_else(|| self.get(name))
        };
        let default = nearest(DEFAULT);
        CacheExpiry { default, maximum: nearest(MAXIMUM).or(default), minimum: nearest(MINIMUM).or(default) }
    }

    fn get(&self, key: &str) -> Option<i64> {
        let of_environment = || {
            // Asked for with each answer: names are made only where there is anything to find.
            let names = (!self.environment.is_empty()).then(|| environment_names(key))?;
            names.iter().find_map(|name| self.environment.get(name))
        };
        self.assigned.get(key).or_else(of_environment).or_else(|| self.file.get(key)).copied()
    }
}
