//! How a key is spelt in the file and in the environment, by Kinto's rule.

use std::collections::BTreeMap;

/// The environment, by name.
pub type Environment = BTreeMap<String, String>;

/// A key without Kinto's optional prefix.
pub(super) fn without_prefix(key: &str) -> &str {
    key.strip_prefix("kinto.").unwrap_or(key)
}

/// The environment names of a key, strongest first: `KINTO_CHANGES_RESOURCES`, `CHANGES_RESOURCES`.
pub(super) fn environment_names(key: &str) -> [String; 2] {
    let name = key.replace(['.', '-'], "_").to_uppercase();
    [format!("KINTO_{name}"), name]
}
