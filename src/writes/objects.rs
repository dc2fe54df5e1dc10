//! The objects that Kinto's answer to a write names.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::kinto::Timestamp;

/// What an answer says was written.
#[derive(Debug, Default)]
pub struct Objects {
    data: Option<Data>,
}

#[derive(Debug)]
enum Data {
    Several(Vec<Object>),
    One(Object),
}

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    data: &'a RawValue,
}

#[derive(Debug, Deserialize)]
struct Object {
    id: Option<String>,
    last_modified: Option<Timestamp>,
}

impl Objects {
    /// Reads an answer; one that is not an object of Kinto's, or a list of them, names nothing.
    pub fn of(body: &[u8]) -> Self {
        Self { data: serde_json::from_slice(body).ok().and_then(|Answer { data }| Data::read(data.get())) }
    }

    /// Whether the answer is about anything.
    pub fn are_named(&self) -> bool {
        self.data.is_some()
    }

    /// Whether the answer is about a single object.
    pub fn is_one(&self) -> bool {
        matches!(self.data, Some(Data::One(_)))
    }

    /// The timestamps of all objects; `None` where one has none or nothing is named.
    pub fn timestamps(&self) -> Option<Vec<Timestamp>> {
        self.data.as_ref()?;
        self.all().map(|object| object.last_modified).collect()
    }

    /// The ids that are named.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.all().filter_map(|object| object.id.as_deref())
    }

    fn all(&self) -> impl Iterator<Item = &Object> {
        match &self.data {
            None => [].iter(),
            Some(Data::One(object)) => std::slice::from_ref(object).iter(),
            Some(Data::Several(objects)) => objects.iter(),
        }
    }
}

impl Data {
    /// What a record holds besides is skipped, however large it is.
    fn read(json: &str) -> Option<Self> {
        if json.starts_with('[') {
            serde_json::from_str(json).ok().map(Self::Several)
        } else {
            serde_json::from_str(json).ok().map(Self::One)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_name_their_objects() {
        let one = Objects::of(br#"{"permissions":{},"data":{"id":"a","last_modified":3,"x":[1]}}"#);
        assert_eq!(one.timestamps(), Some(vec![Timestamp(3)]));
        let several = Objects::of(
            br#"{"data":[{"id":"a","last_modified":3,"deleted":true},{"id":"b","last_modified":4}]}"#,
        );
        assert_eq!(several.timestamps(), Some(vec![Timestamp(3), Timestamp(4)]));
        assert_eq!(several.ids().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(Objects::of(br#"{"data":[]}"#).timestamps(), Some(vec![]));
    }

    #[test]
    fn answers_without_timestamps_say_so() {
        for body in [&b"{}"[..], b"", br#"{"location":"https://cdn/x"}"#, br#"{"data":{"id":"a"}}"#] {
            assert_eq!(Objects::of(body).timestamps(), None);
        }
    }
}
