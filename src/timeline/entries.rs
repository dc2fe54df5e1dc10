//! The list of timestamps behind monitor/changes, as an immutable snapshot that any number of requests share.
//!
//! An entry's id follows `kinto_changes.utils.changes_object`: the UUID of the MD5 of host and collection URI.

use std::sync::{Arc, OnceLock};

use md5::{Digest, Md5};
use serde_json::Value;
use uuid::Uuid;

use super::document::Document;
use crate::kinto::seq::Seq;
use crate::kinto::{CollectionKey, Timestamp};

/// One monitored collection.
#[derive(Debug, Clone)]
pub struct MonitorEntry {
    /// The collection.
    pub key: CollectionKey,
    /// Its id in the list, a UUID.
    pub id: Arc<str>,
    /// The collection's records timestamp.
    pub last_modified: Timestamp,
    /// The list's timestamp at the moment when this entry was learned, where that was not below `last_modified`:
    /// readers whose `_since` is at or below it have not heard of this entry.
    pub late: Option<Seq>,
    /// The list's generation since which it has this entry.
    pub generation: u64,
}

/// A collection that is no more in the list.
#[derive(Debug, Clone)]
pub struct Gone {
    /// The collection.
    pub key: CollectionKey,
    /// The id that it had in the list.
    pub id: Arc<str>,
    /// The place after the greatest timestamp that the list had by then.
    pub seen: Seq,
    /// The list's generation since which it is gone.
    pub generation: u64,
}

/// The two documents that show all rows.
#[derive(Debug, Clone, Default)]
pub struct Rendered {
    list: OnceLock<Arc<Document>>,
    changeset: OnceLock<Arc<Document>>,
}

/// All monitored collections at one moment.
#[derive(Debug, Clone, Default)]
pub struct Entries {
    /// Newest first.
    pub rows: Vec<MonitorEntry>,
    /// The greatest `last_modified`; zero where there is no entry.
    pub timestamp: Timestamp,
    /// Moves whenever the content does; unique within a process.
    pub generation: u64,
    /// The list's timestamp when it was first known: what readers from before it have missed is not known.
    pub first_known: Timestamp,
    /// The newest place of an entry that there ever was: the greatest timestamp, and what was learned late since.
    pub high: Seq,
    /// Collections that left the list lately.
    pub gone: Vec<Gone>,
    /// The rows as bytes, made when they are first asked for.
    pub rendered: Rendered,
}

impl MonitorEntry {
    /// Whether readers whose `_since` is this have not heard of the entry, whatever its `last_modified`.
    pub fn is_late_for(&self, since: Timestamp) -> bool {
        self.late.is_some_and(|late| late.at >= since)
    }
}

impl Entries {
    /// The same list with these rows, newest first, in place of its own.
    #[must_use]
    pub fn with(&self, rows: Vec<MonitorEntry>) -> Self {
        let timestamp = rows.first().map(|row| row.last_modified).unwrap_or_default();
        let Self { generation, first_known, high, .. } = *self;
        Self { rows, timestamp, generation, first_known, high, ..Self::default() }
    }

    /// Whether a reader who has the list of this timestamp has not heard of some entry.
    pub fn has_late_at(&self, timestamp: Timestamp) -> bool {
        self.rows.iter().any(|entry| entry.is_late_for(timestamp))
    }
}

impl Rendered {
    /// `{"data":[…]}`
    pub fn list(&self, rows: &[MonitorEntry], host: &str) -> &Arc<Document> {
        self.list.get_or_init(|| Arc::new(document("{\"data\":[", rows, host)))
    }

    /// `{"metadata":{},"timestamp":…,"changes":[…]}`, of which `opening` is what comes before the first row.
    pub fn changeset(
        &self,
        rows: &[MonitorEntry],
        host: &str,
        opening: impl FnOnce() -> String,
    ) -> &Arc<Document> {
        self.changeset.get_or_init(|| Arc::new(document(&opening(), rows, host)))
    }
}

/// These rows as a document that begins with `opening`. The order of a row's members is that of the plugin.
pub fn document(opening: &str, rows: &[MonitorEntry], host: &str) -> Document {
    let host = json_text(host);
    Document::new(opening, rows, |text, row| write_row(text, row, &host))
}

fn write_row(text: &mut String, row: &MonitorEntry, host: &str) {
    use std::fmt::Write;
    // Writing to a String cannot fail, and ids need no escapes.
    let _ = write!(
        text,
        "{{\"id\":\"{}\",\"last_modified\":{},\"bucket\":{},\"collection\":{},\"host\":{host}}}",
        row.id,
        row.last_modified,
        Value::from(&*row.key.bucket),
        Value::from(&*row.key.collection)
    );
}

/// A text as JSON.
fn json_text(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_else(|_| "\"\"".to_owned())
}

/// The id of a collection's entry: the UUID of `md5(host + uri)`, its bits taken as they are.
pub fn entry_id(host: &str, key: &CollectionKey) -> Arc<str> {
    let digest = Md5::new().chain_update(host).chain_update(key.uri()).finalize();
    Uuid::from_bytes(digest.into()).to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_written_as_the_plugin_writes_them() {
        let key = CollectionKey::new("a", "b");
        let row =
            MonitorEntry { key, id: "x".into(), last_modified: Timestamp(3), late: None, generation: 1 };
        let text = document("[", &[row], "h\"").select(1, &[]).concat();
        let expected = r#"[{"id":"x","last_modified":3,"bucket":"a","collection":"b","host":"h\""}]}"#;
        assert_eq!(text, expected.as_bytes());
    }

    #[test]
    fn entry_ids_are_those_of_the_plugin() {
        let key = CollectionKey::new("a", "b");
        assert_eq!(&*entry_id("", &key), "9527d115-6191-fa49-a530-8fbfc4997755");
        assert_eq!(&*entry_id("https://localhost:443", &key), "fa48a96d-1600-f561-8645-3395acb08a5a");
    }
}
