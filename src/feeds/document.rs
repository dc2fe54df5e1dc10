//! A record as CouchDB's clients know documents: with `_id`, `_rev` and, where it was deleted, `_deleted`.
//!
//! Everything else of the record stays to the byte. Members of its own that have one of these names are left out: a name
//! that came twice would mean one thing to one reader and another to the next.

use serde_json::{Map, Value, json};

use crate::feeds::snapshot::FeedRow;
use crate::kinto::members::Members;

/// The names that are not the record's to give.
const OURS: [&str; 3] = ["_id", "_rev", "_deleted"];

/// Appends a row's document.
pub fn write(text: &mut Vec<u8>, row: &FeedRow) {
    write_with(text, row, |name| !OURS.contains(&name), None);
}

/// Appends a row's document for a program that copies it, with the names of the versions before: such programs take no other
/// member whose name begins with `_`.
pub fn write_copied(text: &mut Vec<u8>, row: &FeedRow, revisions: Option<&str>) {
    write_with(text, row, |name| !name.starts_with('_'), revisions);
}

fn write_with(text: &mut Vec<u8>, row: &FeedRow, stays: impl Fn(&str) -> bool, revisions: Option<&str>) {
    text.push(b'{');
    if write_members(text, &row.json, stays) {
        text.push(b',');
    }
    text.extend_from_slice(format!(r#""_id":{},"_rev":"{}""#, json!(*row.id), row.rev()).as_bytes());
    if row.deleted {
        text.extend_from_slice(br#","_deleted":true"#);
    }
    if let Some(revisions) = revisions {
        text.extend_from_slice(format!(r#","_revisions":{revisions}"#).as_bytes());
    }
    text.push(b'}');
}

/// A row's document, made of its record.
pub fn value(row: &FeedRow, record: Map<String, Value>) -> Value {
    let mut document = record;
    document.insert("_id".to_owned(), json!(*row.id));
    document.insert("_rev".to_owned(), Value::from(row.rev()));
    if row.deleted {
        document.insert("_deleted".to_owned(), Value::Bool(true));
    } else {
        document.remove("_deleted");
    }
    Value::Object(document)
}

/// Appends the members of a record that are to stay; whether there were any.
fn write_members(text: &mut Vec<u8>, record: &[u8], stays: impl Fn(&str) -> bool) -> bool {
    if may_have_ours(record)
        && let Ok(Members(members)) = serde_json::from_slice(record)
    {
        let members = members.into_iter().filter(|(name, _)| stays(name));
        let mut count = 0;
        for (name, value) in members {
            let comma = if count == 0 { "" } else { "," };
            text.extend_from_slice(format!("{comma}{}:", json!(name)).as_bytes());
            extend_in_line(text, value.get().as_bytes());
            count += 1;
        }
        return count > 0;
    }
    let record = record.trim_ascii();
    let members = record.strip_prefix(b"{").unwrap_or(record);
    let members = members.strip_suffix(b"}").unwrap_or(members).trim_ascii();
    extend_in_line(text, members);
    !members.is_empty()
}

/// Whether a record has to be looked into: only a text that begins with `_`, or with something escaped, can be such a name.
fn may_have_ours(record: &[u8]) -> bool {
    memchr::memchr_iter(b'"', record).any(|place| matches!(record.get(place + 1), Some(b'_' | b'\\')))
}

/// A line end can only stand between tokens, and would end the row.
pub(super) fn extend_in_line(text: &mut Vec<u8>, json: &[u8]) {
    let start = text.len();
    text.extend_from_slice(json);
    let mut rest = text.get_mut(start..).unwrap_or_default();
    while let Some(place) = memchr::memchr2(b'\n', b'\r', rest)
        && let Some((end, after)) = rest.get_mut(place..).and_then(<[u8]>::split_first_mut)
    {
        *end = b' ';
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinto::Timestamp;
    use crate::kinto::seq::Seq;

    fn written(json: &'static str, deleted: bool) -> String {
        let row = FeedRow::new(Seq::of(Timestamp(20)), "a".into(), Timestamp(10), deleted, json.into());
        let mut text = Vec::new();
        write(&mut text, &row);
        let text = String::from_utf8(text).unwrap();
        // What selectors see is what readers are given.
        let record = serde_json::from_str(json).unwrap();
        assert_eq!(value(&row, record), serde_json::from_str::<Value>(&text).unwrap(), "{json}");
        text
    }

    #[test]
    fn a_record_stays_to_the_byte() {
        for (json, document) in [
            ("{}", r#"{"_id":"a","_rev":"1-10"}"#),
            (" {\n} ", r#"{"_id":"a","_rev":"1-10"}"#),
            (r#"{"x":1.0,"é":"\u00e9" }"#, r#"{"x":1.0,"é":"\u00e9","_id":"a","_rev":"1-10"}"#),
            ("{\"x\":\r\n[1]}", r#"{"x":  [1],"_id":"a","_rev":"1-10"}"#),
        ] {
            assert_eq!(written(json, false), document);
        }
    }

    #[test]
    fn what_was_deleted_says_so() {
        assert_eq!(
            written(r#"{"id":"a","deleted":true}"#, true),
            r#"{"id":"a","deleted":true,"_id":"a","_rev":"1-10","_deleted":true}"#
        );
    }

    #[test]
    fn members_of_these_names_are_given_once() {
        for (json, document) in [
            (r#"{"_id":"x"}"#, r#"{"_id":"a","_rev":"1-10"}"#),
            (r#"{"_deleted":true,"x":1.0,"_rev":{"_id":1}}"#, r#"{"x":1.0,"_id":"a","_rev":"1-10"}"#),
            (r#"{"\u005fid":1,"_\u0069d":2,"x":{"_id":3}}"#, r#"{"x":{"_id":3},"_id":"a","_rev":"1-10"}"#),
            (r#"{"x":"_id","_ids":1}"#, r#"{"x":"_id","_ids":1,"_id":"a","_rev":"1-10"}"#),
        ] {
            assert_eq!(written(json, false), document, "{json}");
        }
    }
}
