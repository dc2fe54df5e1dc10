//! An entry as JSON, field for field as Kinto's plugin writes it.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt::Write;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Action, Note, Object, Permissions, ResourceName};
use crate::kinto::{self, Timestamp};

/// What an entry is made of.
pub(super) struct Draft<'d> {
    pub(super) id: &'d str,
    pub(super) last_modified: Timestamp,
    pub(super) date: &'d str,
    pub(super) action: Action,
    pub(super) object: &'d Object,
    pub(super) user_id: Option<&'d str>,
    pub(super) note: Option<&'d Note>,
    pub(super) data: &'d RawValue,
    pub(super) permissions: Option<&'d Permissions>,
    pub(super) previous: Option<&'d RawValue>,
}

/// What an entry says of its object.
#[derive(Debug, Deserialize)]
pub(super) struct Told<'e> {
    #[serde(borrow)]
    pub(super) action: Cow<'e, str>,
    #[serde(borrow)]
    pub(super) target: Target<'e>,
}

/// See [`Told`].
#[derive(Debug, Deserialize)]
pub(super) struct Target<'e> {
    #[serde(borrow)]
    pub(super) data: &'e RawValue,
    #[serde(default)]
    pub(super) permissions: Permissions,
}

impl Action {
    /// As Kinto writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Update => "update",
            Self::Delete => "delete",
        }
    }
}

impl Draft<'_> {
    /// The whole entry.
    pub(super) fn json(&self) -> String {
        let mut json = String::with_capacity(self.data.get().len() + 512);
        json.push('{');
        member(&mut json, "id", Some(self.id));
        // Writing to a String cannot fail.
        let _ = write!(json, "\"last_modified\":{},", self.last_modified);
        member(&mut json, "date", Some(self.date));
        member(&mut json, "action", Some(self.action.as_str()));
        member(&mut json, "resource_name", Some(self.object.resource().as_str()));
        member(&mut json, "uri", Some(&self.object.to_string()));
        member(&mut json, "user_id", self.user_id);
        if let Object::Record(_, collection, _) = self.object {
            member(&mut json, "collection_id", Some(collection));
        }
        let id = match self.object.resource() {
            ResourceName::Bucket => "bucket_id",
            ResourceName::Group => "group_id",
            ResourceName::Collection => "collection_id",
            ResourceName::Record => "record_id",
        };
        member(&mut json, id, Some(self.object.id()));
        if let Some(reason) = self.note.and_then(|note| note.reason.as_deref()) {
            member(&mut json, "reason", Some(reason));
        }
        if let Some(reverts) = self.note.map(|note| &note.reverts).filter(|reverts| !reverts.is_empty()) {
            // Writing to a String cannot fail, and texts always serialize.
            let _ = write!(json, "\"reverts\":{},", serde_json::to_string(reverts).unwrap_or_default());
        }
        json.push_str("\"target\":{\"data\":");
        json.push_str(self.data.get());
        json.push_str(",\"permissions\":");
        let permissions = self.permissions.and_then(|permissions| serde_json::to_string(permissions).ok());
        json.push_str(permissions.as_deref().unwrap_or("{}"));
        if let Some(previous) = self.previous {
            json.push_str(",\"previous\":");
            json.push_str(previous.get());
        }
        json.push_str("}}");
        json
    }
}

/// An entry without the version before: whoever may see the entry may not have been allowed to see that.
pub(super) fn without_previous(json: String) -> String {
    #[derive(Deserialize)]
    struct Entry<'e> {
        #[serde(borrow)]
        target: Target<'e>,
    }
    #[derive(Deserialize)]
    struct Target<'e> {
        #[serde(borrow)]
        previous: Option<&'e RawValue>,
    }
    const NAME: &str = "\"previous\"";
    if !json.contains(NAME) {
        return json;
    }
    let previous = serde_json::from_str::<Entry<'_>>(&json).ok().and_then(|entry| entry.target.previous);
    let Some(previous) = previous.map(RawValue::get) else { return json };
    let start = (previous.as_ptr() as usize).saturating_sub(json.as_ptr() as usize);
    let (before, after) = (json.get(..start).unwrap_or_default(), start + previous.len());
    let before = before.rfind(NAME).and_then(|name| before.get(..name)).unwrap_or_default().trim_end();
    let after = json.get(after..).unwrap_or_default().trim_start();
    match before.strip_suffix(',') {
        Some(before) => format!("{before}{after}"),
        None => format!("{before}{}", after.strip_prefix(',').unwrap_or(after)),
    }
}

fn member(json: &mut String, name: &str, value: Option<&str>) {
    let value = value.and_then(|value| serde_json::to_string(value).ok());
    // Writing to a String cannot fail.
    let _ = write!(json, "\"{name}\":{},", value.as_deref().unwrap_or("null"));
}

/// A moment as the plugin writes it.
pub(super) fn iso_date(microseconds: u64) -> String {
    kinto::iso_date(microseconds) + "+00:00"
}

/// Whether an entry tells of an update that made what the entry before it shows already: the same data, but for their
/// `last_modified`, and the same permissions.
pub(super) fn is_repetition(entry: &str, before: &str) -> bool {
    let read = |json| serde_json::from_str::<Told<'_>>(json);
    let (Ok(entry), Ok(before)) = (read(entry), read(before)) else { return false };
    entry.action == Action::Update.as_str()
        && are_same_permissions(&entry.target.permissions, &before.target.permissions)
        && is_same_but_modified(entry.target.data, before.target.data)
}

/// Whether the same principals have the same permissions, in whatever order.
pub fn are_same_permissions(left: &Permissions, right: &Permissions) -> bool {
    let pairs = |permissions: &Permissions| -> BTreeSet<(String, String)> {
        let pairs = permissions.iter().flat_map(|(name, who)| who.iter().map(move |who| (name, who)));
        pairs.map(|(name, who)| (name.clone(), who.clone())).collect()
    };
    pairs(left) == pairs(right)
}

/// Whether two objects say the same but for their `last_modified`. Numbers are compared by how they are written, so that
/// none is too large or too precise.
pub fn is_same_but_modified(left: &RawValue, right: &RawValue) -> bool {
    match (members(left), members(right)) {
        (Some(mut left), Some(mut right)) => {
            left.remove("last_modified");
            right.remove("last_modified");
            left.len() == right.len()
                && left.iter().zip(&right).all(|(left, right)| left.0 == right.0 && is_same(left.1, right.1))
        }
        _ => is_same(left, right),
    }
}

type Members<'j> = std::collections::BTreeMap<String, &'j RawValue>;

fn items(json: &RawValue) -> Option<Vec<&RawValue>> {
    serde_json::from_str(json.get()).ok()
}

fn members(json: &RawValue) -> Option<Members<'_>> {
    serde_json::from_str(json.get()).ok()
}

fn is_same(left: &RawValue, right: &RawValue) -> bool {
    if left.get() == right.get() {
        return true;
    }
    match (left.get().as_bytes().first(), right.get().as_bytes().first()) {
        (Some(b'{'), Some(b'{')) => match (members(left), members(right)) {
            (Some(left), Some(right)) => {
                left.len() == right.len()
                    && left.iter().zip(&right).all(|(l, r)| l.0 == r.0 && is_same(l.1, r.1))
            }
            _ => false,
        },
        (Some(b'['), Some(b'[')) => match (items(left), items(right)) {
            (Some(left), Some(right)) => {
                left.len() == right.len() && left.iter().zip(&right).all(|(l, r)| is_same(l, r))
            }
            _ => false,
        },
        (Some(b'"'), Some(b'"')) => {
            let text = |json: &RawValue| serde_json::from_str::<String>(json.get()).ok();
            text(left).is_some_and(|left| Some(left) == text(right))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_before_is_taken_out_and_nothing_else() {
        for (entry, without) in [
            (
                r#"{"a":1,"target":{"data":{"previous":1},"previous":{"x":"}"}}}"#,
                r#"{"a":1,"target":{"data":{"previous":1}}}"#,
            ),
            (
                r#"{"target": {"previous" : {"x": 1} , "data": {"y": 2}}, "b": 3}"#,
                r#"{"target": {"data": {"y": 2}}, "b": 3}"#,
            ),
            (r#"{"target":{"previous":{"previous":1}}}"#, r#"{"target":{}}"#),
            (r#"{"target":{"data":{"previous":{"x":1}}}}"#, r#"{"target":{"data":{"previous":{"x":1}}}}"#),
            (r#"{"previous":1,"target":{"data":{}}}"#, r#"{"previous":1,"target":{"data":{}}}"#),
        ] {
            let shown = without_previous(entry.to_owned());
            let read = |json: &str| serde_json::from_str::<serde_json::Value>(json).unwrap();
            assert_eq!(read(&shown), read(without), "{shown}");
        }
    }
}
