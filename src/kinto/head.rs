//! What has to be known of an object of Kinto's, of which only little is certain: the rest is what somebody wrote.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::Timestamp;

/// An object's id and timestamp, and whether it may be a tombstone. What else it holds is skipped, however deep it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Its id.
    pub id: String,
    /// Its timestamp.
    pub last_modified: Timestamp,
    /// Whether it has `"deleted": true`, which may also be data of an object that is alive.
    pub is_marked: bool,
    /// Whether it has the shape of a tombstone: `id`, `last_modified`, `"deleted": true` and nothing else.
    pub is_tombstone: bool,
}

impl Head {
    /// Reads an object; `None` for anything without an id.
    pub fn of(json: &[u8]) -> Option<Self> {
        serde_json::from_slice(json).ok()
    }
}

impl<'de> Deserialize<'de> for Head {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Head;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object of Kinto's")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Head, A::Error> {
                let (mut id, mut last_modified, mut is_marked, mut count) = (None, None, false, 0);
                while let Some(name) = members.next_key::<Cow<'de, str>>()? {
                    count += 1;
                    match &*name {
                        "id" => id = Some(members.next_value()?),
                        "last_modified" => last_modified = Some(members.next_value()?),
                        "deleted" => is_marked = members.next_value::<Box<RawValue>>()?.get() == "true",
                        _ => {
                            members.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                let id = id.ok_or_else(|| serde::de::Error::missing_field("id"))?;
                Ok(Head {
                    id,
                    is_tombstone: is_marked && last_modified.is_some() && count == 3,
                    last_modified: last_modified.unwrap_or_default(),
                    is_marked,
                })
            }
        }
        deserializer.deserialize_map(Members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(json: &str) -> (u64, bool, bool) {
        let head = Head::of(json.as_bytes()).unwrap();
        (head.last_modified.0, head.is_marked, head.is_tombstone)
    }

    #[test]
    fn odd_objects_are_read() {
        assert_eq!(head(r#"{"id":"a","last_modified":true}"#), (1, false, false));
        assert_eq!(head(r#"{"id":"a","last_modified":false}"#), (0, false, false));
        assert_eq!(head(r#"{"id":"a","last_modified":-5}"#), (0, false, false));
        assert_eq!(head(r#"{"id":"a","last_modified":9223372036854775808}"#).0, 1 << 63);
        assert_eq!(head(r#"{"id":"a"}"#), (0, false, false));
        assert_eq!(Head::of(br#"{"last_modified":1}"#), None);
        assert_eq!(Head::of(b"[]"), None);
    }

    #[test]
    fn a_tombstone_has_nothing_else() {
        assert_eq!(head(r#"{"deleted":true,"id":"a","last_modified":3}"#), (3, true, true));
        assert_eq!(head(r#"{"deleted":true,"id":"a","last_modified":3,"x":1}"#), (3, true, false));
        assert_eq!(head(r#"{"deleted":"true","id":"a","last_modified":3}"#), (3, false, false));
        assert_eq!(head(r#"{"deleted":true,"id":"a"}"#), (0, true, false));
    }

    #[test]
    fn depth_does_not_matter() {
        let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
        let json = format!(r#"{{"id":"a","deleted":{deep},"last_modified":3,"x":{deep}}}"#);
        assert_eq!(head(&json), (3, false, false));
    }
}
