//! One row of the list, as the list language and clients see it, and which rows a `_since` selects.

use std::borrow::Cow;
use std::time::Duration;

use serde_json::Value;

use crate::kinto::Timestamp;
use crate::query::Fields;
use crate::timeline::entries::MonitorEntry;

/// The fields that a query may name.
pub(super) const FIELDS: [&str; 6] = ["id", "last_modified", "deleted", "host", "bucket", "collection"];
/// The fields that a row has, in the plugin's order.
const MEMBERS: [&str; 5] = ["id", "last_modified", "bucket", "collection", "host"];

/// A row as the list language sees it.
#[derive(Debug, Clone, Copy)]
pub(super) struct ListRow<'m> {
    pub(super) entry: &'m MonitorEntry,
    pub(super) host: &'m str,
    pub(super) since_rule: SinceRule,
}

/// Which rows a `_since` selects.
///
/// Those that are newer, and those that were learned late, when readers had already been given this `_since`. Nobody knows
/// what readers missed before the sidecar began, so they get the rows from shortly before, too.
#[derive(Debug, Clone, Copy)]
pub(super) struct SinceRule {
    pub(super) first_known: Timestamp,
    pub(super) overlap: Duration,
}

// === impl SinceRule ===

impl SinceRule {
    pub(super) fn is_newer(self, entry: &MonitorEntry, since: Timestamp) -> bool {
        let bound = if since <= self.first_known { since.back(self.overlap) } else { since };
        entry.last_modified > bound
    }
}

// === impl ListRow ===

impl ListRow<'_> {
    /// Writes the row's fields: all of them, or those of a projection in its order.
    pub(super) fn write(&self, text: &mut String, fields: Option<&[String]>) {
        let mut written: Vec<&str> = Vec::with_capacity(MEMBERS.len());
        let mut write = |name: &'static str| {
            if written.contains(&name) {
                return;
            }
            text.push_str(if written.is_empty() { "{\"" } else { ",\"" });
            text.push_str(name);
            text.push_str("\":");
            text.push_str(&self.value(name).to_string());
            written.push(name);
        };
        match fields {
            None => MEMBERS.into_iter().for_each(write),
            Some(fields) => {
                let first =
                    |path: &String| MEMBERS.into_iter().find(|name| path.split('.').next() == Some(name));
                fields.iter().filter_map(first).for_each(&mut write);
            }
        }
        text.push('}');
    }

    fn value(&self, name: &str) -> Value {
        let entry = self.entry;
        match name {
            "id" => Value::from(&*entry.id),
            "last_modified" => Value::from(entry.last_modified.0),
            "bucket" => Value::from(&*entry.key.bucket),
            "collection" => Value::from(&*entry.key.collection),
            _ => Value::from(self.host),
        }
    }
}

impl Fields for ListRow<'_> {
    fn field(&self, path: &str) -> Option<Cow<'_, Value>> {
        MEMBERS.contains(&path).then(|| Cow::Owned(self.value(path)))
    }

    fn is_newer_than(&self, since: Timestamp) -> bool {
        self.since_rule.is_newer(self.entry, since) || self.entry.is_late_for(since)
    }
}
