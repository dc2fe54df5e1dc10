//! What of a request is written down with its intent: enough to know it again, and no more.
//!
//! Most of what strangers send is refused, so little of it is kept: of a large member only a digest. That is enough to see
//! later whether an object has what was sent.

use std::fmt::Write as _;

use serde_json::value::RawValue;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::query::members;

/// A member whose text is longer is kept as a digest.
const LONGEST_MEMBER: usize = 128;
/// An id that is no longer is kept as it is: it says what object a request is about.
const LONGEST_ID: usize = 4 << 10;
/// More than this is not kept at all.
const LARGEST: usize = 8 << 10;
/// The member that stands for a digest. What was sent with such a name is kept as a digest, too.
const DIGEST: &str = "\u{1f}sha256";
/// Whether it was an object.
const IS_OBJECT: &str = "\u{1f}object";

/// The `data` of a request as it is kept.
pub(super) fn kept(data: &RawValue) -> Option<Box<RawValue>> {
    let Ok(mut members) = serde_json::from_str::<Map<String, Value>>(data.get()) else {
        return (data.get().len() <= LONGEST_MEMBER).then(|| data.to_owned());
    };
    for (name, value) in &mut members {
        let text = value.to_string();
        let longest = if name == "id" && value.is_string() { LONGEST_ID } else { LONGEST_MEMBER };
        if text.len() > longest || value.get(DIGEST).is_some() {
            let is_object = value.is_object();
            *value = Value::Object(Map::from_iter([
                (DIGEST.to_owned(), digest(&text).into()),
                (IS_OBJECT.to_owned(), is_object.into()),
            ]));
        }
    }
    serde_json::value::to_raw_value(&members).ok().filter(|kept| kept.get().len() <= LARGEST)
}

/// Whether there is anything by which it could be known again.
pub(super) fn says_anything(kept: &RawValue) -> bool {
    !members(kept.get().as_bytes()).is_empty()
}

/// The id that was sent, where one was.
pub(super) fn id(kept: &RawValue) -> Option<String> {
    Some(members(kept.get().as_bytes()).get("id")?.as_str()?.to_owned())
}

/// Whether an id was sent of which only a digest is kept.
pub(super) fn has_long_id(kept: &RawValue) -> bool {
    members(kept.get().as_bytes()).get("id").is_some_and(|id| id.get(DIGEST).is_some() && !is_object(id))
}

/// Whether an object has everything that was sent by a method, of which this was kept, but for some members.
pub(super) fn is_in(kept: Option<&RawValue>, method: &str, data: &RawValue, but: &[&str]) -> bool {
    let read = |json: &RawValue| members(json.get().as_bytes());
    let (kept, data) = (kept.map(read).unwrap_or_default(), read(data));
    // What a patch merges or takes away looks otherwise afterwards.
    let is_merged = |value: &Value| method == "PATCH" && (value.is_null() || is_object(value));
    let is_there = |(name, value): (&String, &Value)| is_same(value, data.get(name)) || is_merged(value);
    kept.iter().filter(|(name, _)| !but.contains(&name.as_str())).all(is_there)
}

/// Whether this was kept of all that an object has, and that is anything.
pub(super) fn is_all_of(kept: &RawValue, data: &RawValue) -> bool {
    let [kept_members, members] = [kept, data].map(|json| members(json.get().as_bytes()));
    let is_kintos = |name: &str| matches!(name, "id" | "last_modified" | "schema");
    let is_sent = |name: &String| is_kintos(name) || kept_members.contains_key(name);
    kept_members.keys().any(|name| !is_kintos(name))
        && members.keys().all(is_sent)
        && is_in(Some(kept), "PUT", data, &[])
}

/// Whether a member is what was sent, of which this was kept.
fn is_same(kept: &Value, value: Option<&Value>) -> bool {
    match (kept.get(DIGEST).and_then(Value::as_str), value) {
        (Some(kept), Some(value)) => kept == digest(&value.to_string()),
        _ => value == Some(kept),
    }
}

/// Whether an object was sent, of which this was kept.
fn is_object(kept: &Value) -> bool {
    match kept.get(IS_OBJECT).filter(|_| kept.get(DIGEST).is_some()) {
        Some(is_object) => is_object.as_bool() == Some(true),
        None => kept.is_object(),
    }
}

fn digest(text: &str) -> String {
    let digest = Sha256::digest(text);
    digest.iter().take(16).fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn large_members_are_known_again() {
        let sent = json!({
            "id": "a", "text": "x".repeat(60_000), "deep": {"b": "y".repeat(1_000), "a": 1.5}, "list": vec![1; 500], "n": 1,
            "odd": {DIGEST: "00"}
        });
        let kept = kept(&serde_json::value::to_raw_value(&sent).unwrap()).unwrap();
        assert!(kept.get().len() < 500, "{kept}");
        let kept: Map<String, Value> = serde_json::from_str(kept.get()).unwrap();
        assert_eq!((&kept["id"], &kept["n"]), (&json!("a"), &json!(1)));
        for (name, value) in sent.as_object().unwrap() {
            assert!(is_same(&kept[name], Some(value)), "{name}");
            assert!(!is_same(&kept[name], Some(&json!("other"))) && !is_same(&kept[name], None), "{name}");
            assert_eq!(is_object(&kept[name]), value.is_object(), "{name}");
        }
    }

    #[test]
    fn what_is_small_is_kept_as_it_is_and_what_is_too_much_is_not() {
        let raw = |value: &Value| serde_json::value::to_raw_value(value).unwrap();
        assert_eq!(kept(&raw(&json!({"a": 1.50}))).unwrap().get(), "{\"a\":1.5}");
        let many: Map<String, Value> =
            (0..2_000).map(|number| (format!("m{number}"), number.into())).collect();
        assert!(kept(&raw(&Value::Object(many))).is_none());
        assert_eq!(kept(&raw(&json!(7))).unwrap().get(), "7");
    }
}
