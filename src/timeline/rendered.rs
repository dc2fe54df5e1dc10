//! The list of timestamps as bytes, made once for each snapshot and sliced for each answer.
//!
//! Rows stand newest first, so what `_since` and `_limit` select is a prefix (and, rarely, a few late rows behind it).
//! The order of a row's members is that of the plugin.

use std::sync::OnceLock;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::entries::Entry;

/// The two documents that show all rows.
#[derive(Debug, Clone, Default)]
pub struct Rendered {
    list: OnceLock<Document>,
    changeset: OnceLock<Document>,
}

/// A document around a list of rows, and where each row ends in it.
#[derive(Debug, Clone)]
pub struct Document {
    bytes: Bytes,
    /// Where the first row begins.
    begin: usize,
    ends: Vec<usize>,
    digest: u64,
}

const CLOSING: &[u8] = b"]}";

impl Rendered {
    /// `{"data":[…]}`
    pub fn list(&self, rows: &[Entry], host: &str) -> &Document {
        self.list.get_or_init(|| Document::new("{\"data\":[", rows, host))
    }

    /// `{"metadata":{},"timestamp":…,"changes":[…]}`, of which `opening` is what comes before the first row.
    pub fn changeset(&self, rows: &[Entry], host: &str, opening: impl FnOnce() -> String) -> &Document {
        self.changeset.get_or_init(|| Document::new(&opening(), rows, host))
    }
}

impl Document {
    /// Writes a document: what comes before the rows, the rows, and the end.
    pub fn new(opening: &str, rows: &[Entry], host: &str) -> Self {
        let host = json_text(host);
        let mut text = String::with_capacity(opening.len() + rows.len() * (host.len() + 160));
        text.push_str(opening);
        let mut ends = Vec::with_capacity(rows.len());
        for row in rows {
            if !ends.is_empty() {
                text.push(',');
            }
            write_row(&mut text, row, &host);
            ends.push(text.len());
        }
        text.push_str("]}");
        let digest = Sha256::digest(&text);
        let digest = digest.iter().take(8).fold(0_u64, |digest, byte| digest << 8 | u64::from(*byte));
        Self { bytes: text.into(), begin: opening.len(), ends, digest }
    }

    /// Names this content: other rows, another digest.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// The document with the first `count` rows and those at `others`, which are all behind them.
    pub fn select(&self, count: usize, others: &[usize]) -> Vec<Bytes> {
        if count >= self.ends.len() {
            return vec![self.bytes.clone()];
        }
        let end = count.checked_sub(1).and_then(|last| self.ends.get(last)).copied().unwrap_or(self.begin);
        let head = self.bytes.slice(..end);
        if others.is_empty() {
            return vec![head, Bytes::from_static(CLOSING)];
        }
        let mut tail = Vec::new();
        for index in others {
            let Some(end) = self.ends.get(*index) else { continue };
            let start = index.checked_sub(1).and_then(|before| self.ends.get(before));
            let start = start.map_or(self.begin, |comma| comma + 1);
            if count > 0 || !tail.is_empty() {
                tail.push(b',');
            }
            tail.extend_from_slice(&self.bytes.slice(start..*end));
        }
        tail.extend_from_slice(CLOSING);
        vec![head, tail.into()]
    }
}

fn write_row(text: &mut String, row: &Entry, host: &str) {
    use std::fmt::Write;
    // Writing to a String cannot fail, and ids need no escapes.
    let _ = write!(
        text,
        "{{\"id\":\"{}\",\"last_modified\":{},\"bucket\":\"{}\",\"collection\":\"{}\",\"host\":{host}}}",
        row.id, row.last_modified, row.key.bucket, row.key.collection
    );
}

/// A text as JSON.
fn json_text(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_else(|_| "\"\"".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinto::{CollectionKey, Timestamp};

    fn entry(collection: &str, timestamp: u64) -> Entry {
        let key = CollectionKey::new("a", collection);
        Entry { key, id: collection.into(), last_modified: Timestamp(timestamp), late: None }
    }

    fn text(chunks: &[Bytes]) -> String {
        String::from_utf8(chunks.concat()).unwrap()
    }

    #[test]
    fn any_selection_is_a_document() {
        let rows = [entry("x", 3), entry("y", 2), entry("z", 1)];
        let document = Document::new("{\"data\":[", &rows, "h\"");
        let row = |id: &str, timestamp: u64| {
            format!(
                r#"{{"id":"{id}","last_modified":{timestamp},"bucket":"a","collection":"{id}","host":"h\""}}"#
            )
        };
        let (x, y, z) = (row("x", 3), row("y", 2), row("z", 1));
        assert_eq!(text(&document.select(3, &[])), format!("{{\"data\":[{x},{y},{z}]}}"));
        assert_eq!(text(&document.select(2, &[])), format!("{{\"data\":[{x},{y}]}}"));
        assert_eq!(text(&document.select(0, &[])), "{\"data\":[]}");
        assert_eq!(text(&document.select(1, &[2])), format!("{{\"data\":[{x},{z}]}}"));
        assert_eq!(text(&document.select(0, &[1, 2])), format!("{{\"data\":[{y},{z}]}}"));
        assert_eq!(text(&Document::new("[", &[], "").select(0, &[])), "[]}");
    }
}
