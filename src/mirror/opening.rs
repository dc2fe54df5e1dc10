//! A changeset up to its first change: the collection's attributes and the timestamp.
//!
//! In remote-settings' way the attributes have `bucket` and `signatures` beside what the collection has. Clients before
//! 2026-03 read `signature`, those after it `signatures`, whose entries must be whole: whatever signs may know of only one.

use std::fmt;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::kinto::{CollectionKey, Timestamp};
use crate::settings::Compat;
use crate::upstream::kinto::Metadata;

/// What stands behind the last change.
pub const CLOSING: &[u8] = b"]}";

/// The mode of signatures that do not name one.
const MODE: &str = "p384ecdsa";

/// What stands before the first change.
pub fn opening(compat: Compat, key: &CollectionKey, metadata: &Metadata, timestamp: Timestamp) -> Bytes {
    let of_readers = match compat {
        Compat::KintoChanges => None,
        Compat::RemoteSettings => of_readers(&metadata.json, &key.bucket),
    };
    let mut opening = br#"{"metadata":"#.to_vec();
    opening.extend_from_slice(of_readers.as_deref().unwrap_or(&metadata.json));
    opening.extend_from_slice(format!(r#","timestamp":{timestamp},"changes":["#).as_bytes());
    opening.into()
}

/// SECURITY: how long the signatures may be that are read, whoever wrote them: as JSON values they take thirty times as much.
const LONGEST: usize = 256 << 10;

/// What signs a collection, among its attributes.
#[derive(Deserialize)]
struct Signed<'j> {
    #[serde(borrow, default)]
    signatures: Option<&'j RawValue>,
    #[serde(borrow, default)]
    signature: Option<&'j RawValue>,
}

/// The attributes as Remote Settings' clients want them; `None` where they are no object.
fn of_readers(metadata: &[u8], bucket: &str) -> Option<Vec<u8>> {
    let signatures = serde_json::from_slice::<Signed<'_>>(metadata).ok()?.signatures();
    let mut text = String::with_capacity(metadata.len() + signatures.len());
    text.push('{');
    Others(&mut text).deserialize(&mut serde_json::Deserializer::from_slice(metadata)).ok()?;
    text.push_str(r#""bucket":"#);
    text.push_str(&json!(bucket).to_string());
    text.push_str(r#","signatures":"#);
    text.push_str(&signatures);
    text.push('}');
    Some(text.into_bytes())
}

/// The signatures that a collection's attributes have.
pub fn signatures_of(metadata: &[u8]) -> Vec<Map<String, Value>> {
    let Ok(signed) = serde_json::from_slice::<Signed<'_>>(metadata) else { return Vec::new() };
    if signed.signatures.is_some_and(|list| list.get().len() > LONGEST) {
        return Vec::new();
    }
    serde_json::from_str(&signed.signatures()).unwrap_or_default()
}

impl Signed<'_> {
    /// The list of signatures, made of the single one where there is no list. What is whole stays as it is written, and so does
    /// what is longer than anybody's signatures.
    fn signatures(&self) -> String {
        let list = self.signatures.map(RawValue::get);
        if let Some(list) = list.filter(|list| list.len() > LONGEST) {
            return list.to_owned();
        }
        let entries: Vec<Value> = list.and_then(|list| serde_json::from_str(list).ok()).unwrap_or_default();
        let whole: Vec<Value> = entries.iter().filter_map(|entry| whole(entry.clone())).collect();
        if let Some(list) = list
            && !entries.is_empty()
            && whole == entries
        {
            return list.to_owned();
        }
        if !entries.is_empty() {
            return Value::Array(whole).to_string();
        }
        let single = self.signature.map(RawValue::get).filter(|single| single.len() <= LONGEST);
        Value::Array(single.and_then(whole_of_text).into_iter().collect()).to_string()
    }
}

/// Writes the members of an object but for those that are the sidecar's own, with a comma behind each.
struct Others<'t>(&'t mut String);

impl<'de> DeserializeSeed<'de> for Others<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Others<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self(text) = self;
        while let Some((name, value)) = map.next_entry::<String, &RawValue>()? {
            if !matches!(&*name, "bucket" | "signatures") {
                text.push_str(&json!(name).to_string());
                text.push(':');
                text.push_str(value.get());
                text.push(',');
            }
        }
        Ok(())
    }
}

fn whole_of_text(entry: &str) -> Option<Value> {
    whole(serde_json::from_str(entry).ok()?)
}

/// A signature with all members that clients insist on; `None` where it signs nothing.
fn whole(mut entry: Value) -> Option<Value> {
    let members = entry.as_object_mut()?;
    members.get("signature")?.as_str()?;
    for (name, usual) in [("x5u", ""), ("mode", MODE)] {
        if !members.get(name).is_some_and(Value::is_string) {
            members.insert(name.to_owned(), usual.into());
        }
    }
    Some(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readers(metadata: &str) -> String {
        String::from_utf8(of_readers(metadata.as_bytes(), "main").unwrap()).unwrap()
    }

    #[test]
    fn signatures_that_are_whole_stay_as_they_are_written() {
        let metadata =
            r#"{"id":"c","n":1.50,"signatures":[{ "signature":"s","x5u":"https://x","mode":"p384ecdsa"}]}"#;
        assert_eq!(
            readers(metadata),
            r#"{"id":"c","n":1.50,"bucket":"main","signatures":[{ "signature":"s","x5u":"https://x","mode":"p384ecdsa"}]}"#
        );
    }

    #[test]
    fn signatures_are_made_of_the_single_one_which_stays() {
        for (metadata, signatures) in [
            (
                r#"{"signature":{"signature":"s","x5u":"u"}}"#,
                r#"[{"mode":"p384ecdsa","signature":"s","x5u":"u"}]"#,
            ),
            (
                r#"{"signature":{"signature":"s"},"signatures":null}"#,
                r#"[{"mode":"p384ecdsa","signature":"s","x5u":""}]"#,
            ),
            (
                r#"{"signatures":[{"signature":"s"},{"x5u":"u"},3]}"#,
                r#"[{"mode":"p384ecdsa","signature":"s","x5u":""}]"#,
            ),
            (r#"{"signature":{}}"#, "[]"),
            (r#"{"signature":"s"}"#, "[]"),
            ("{}", "[]"),
        ] {
            let made: Value = serde_json::from_str(&readers(metadata)).unwrap();
            assert_eq!(made["signatures"].to_string(), signatures, "{metadata}");
            let before: Value = serde_json::from_str(metadata).unwrap();
            assert_eq!(made["signature"], before["signature"]);
        }
    }

    #[test]
    fn what_is_longer_than_anybodys_signatures_is_not_read() {
        let list = json!(vec![json!({"signature": "s"}); 20_000]).to_string();
        let metadata = format!(r#"{{"id":"c","signatures":{list}}}"#);
        assert_eq!(readers(&metadata), format!(r#"{{"id":"c","bucket":"main","signatures":{list}}}"#));
        assert!(signatures_of(metadata.as_bytes()).is_empty());
        let single = json!({"signature": {"signature": "s".repeat(LONGEST)}}).to_string();
        assert!(readers(&single).ends_with(r#""signatures":[]}"#));
    }

    #[test]
    fn no_member_is_there_twice() {
        assert_eq!(readers(r#"{"bucket":"mine","id":"c"}"#), r#"{"id":"c","bucket":"main","signatures":[]}"#);
    }
}
