//! The upstream's answer to a write, read once: what it says goes to the journal as well as to the timeline.

use bytes::Bytes;
use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::journal::Permissions;
use crate::kinto::Timestamp;

/// The answer to a request, or to a sub-request of a batch.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// The timestamp in its `ETag`.
    modified: Option<Timestamp>,
    /// The objects that it names.
    data: Option<Data>,
    /// The text of the object's permissions, where they are shown.
    permissions: Option<Bytes>,
}

#[derive(Debug)]
enum Data {
    Several(Vec<Row>),
    One(Row),
}

/// An object in an answer.
#[derive(Debug)]
struct Row {
    head: Head,
    text: Bytes,
}

/// An answer may show neither, where it shows a part of the object only.
#[derive(Debug, Deserialize)]
struct Head {
    id: Option<String>,
    last_modified: Option<Timestamp>,
}

/// A version of an object.
#[derive(Debug, Clone)]
pub struct Version {
    /// The object's id.
    pub id: String,
    /// Its `last_modified`.
    pub modified: Timestamp,
    /// Whether it is a tombstone.
    pub deleted: bool,
    /// The object, as the upstream sent it.
    pub data: Box<RawValue>,
    /// Its permissions, where they were shown.
    pub permissions: Option<Permissions>,
}

#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow)]
    data: &'a RawValue,
    #[serde(borrow, default)]
    permissions: Option<&'a RawValue>,
}

// === impl Answer ===

impl Answer {
    /// Reads an answer, which takes long where its body is. A body that is not an object of Kinto's, or a list of them, names
    /// nothing.
    pub fn read(status: StatusCode, body: &Bytes, modified: Option<Timestamp>) -> Self {
        let read: Option<Body<'_>> = serde_json::from_slice(body).ok();
        let permissions = read.as_ref().and_then(|read| read.permissions);
        Self {
            status,
            modified,
            data: read.and_then(|read| Data::read(body, read.data)),
            permissions: permissions.map(|permissions| body.slice_ref(permissions.get().as_bytes())),
        }
    }

    /// An answer of which nothing but its status is wanted.
    pub fn with_status(status: StatusCode) -> Self {
        Self { status, modified: None, data: None, permissions: None }
    }

    /// How long the texts are that it shows.
    pub(super) fn length(&self) -> usize {
        let permissions = self.permissions.as_ref().map_or(0, Bytes::len);
        permissions + self.rows().iter().map(|row| row.text.len()).sum::<usize>()
    }

    /// Whether it names objects, or none in a list of them.
    pub(super) fn names_objects(&self) -> bool {
        self.data.is_some()
    }

    /// Whether it gives an object as it was before: a POST of an id that exists changes nothing.
    pub(super) fn changed_nothing(&self, method: &Method) -> bool {
        *method == Method::POST && self.status == StatusCode::OK && matches!(self.data, Some(Data::One(_)))
    }

    /// The timestamps of all objects; `None` where one has none or nothing is named.
    pub fn timestamps(&self) -> Option<Vec<Timestamp>> {
        self.data.as_ref()?;
        self.rows().iter().map(|row| row.head.last_modified).collect()
    }

    /// The ids that are named.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.rows().iter().filter_map(|row| row.head.id.as_deref())
    }

    /// The timestamp of the version that was written.
    pub(super) fn modified(&self) -> Option<Timestamp> {
        self.modified.or(match &self.data {
            Some(Data::One(row)) => row.head.last_modified,
            _ => None,
        })
    }

    /// The one object that it shows, or the tombstone: which of them it is does not stand in it.
    pub fn version(&self, deleted: bool) -> Option<Version> {
        let Some(Data::One(row)) = &self.data else { return None };
        row.version(self.permissions().ok()?, deleted)
    }

    /// The tombstones that it shows, of all objects of a list that were deleted.
    pub fn tombstones(&self) -> Option<Vec<Version>> {
        let Some(Data::Several(rows)) = &self.data else { return None };
        rows.iter().map(|row| row.version(None, true)).collect()
    }

    /// The `data` of the one object that it shows.
    pub(super) fn data(&self) -> Option<&RawValue> {
        let Some(Data::One(row)) = &self.data else { return None };
        serde_json::from_slice(&row.text).ok()
    }

    /// The permissions, where they are shown.
    pub(super) fn permissions(&self) -> Result<Option<Permissions>, serde_json::Error> {
        self.permissions.as_deref().map(serde_json::from_slice).transpose()
    }

    /// Whether somebody else made what it shows: Kinto lets whoever makes an object write it.
    pub(super) fn is_made_by_another(&self, user_id: &str) -> bool {
        let permissions =
            if self.status == StatusCode::CREATED { self.permissions().ok().flatten() } else { None };
        permissions.is_some_and(|mut permissions| {
            let writers = permissions.remove("write").unwrap_or_default();
            !writers.is_empty() && writers.iter().all(|writer| writer != user_id)
        })
    }

    fn rows(&self) -> &[Row] {
        match &self.data {
            None => &[],
            Some(Data::One(row)) => std::slice::from_ref(row),
            Some(Data::Several(rows)) => rows,
        }
    }
}

impl Data {
    /// What an object holds besides is skipped, however large it is.
    fn read(body: &Bytes, data: &RawValue) -> Option<Self> {
        let row = |data: &RawValue| {
            let text = data.get().as_bytes();
            Some(Row { head: serde_json::from_slice(text).ok()?, text: body.slice_ref(text) })
        };
        if data.get().starts_with('[') {
            let rows: Vec<&RawValue> = serde_json::from_str(data.get()).ok()?;
            rows.into_iter().map(row).collect::<Option<_>>().map(Self::Several)
        } else {
            row(data).map(Self::One)
        }
    }
}

impl Row {
    fn version(&self, permissions: Option<Permissions>, deleted: bool) -> Option<Version> {
        let data: &RawValue = serde_json::from_slice(&self.text).ok()?;
        let Head { id, last_modified } = &self.head;
        let modified = last_modified.unwrap_or_default();
        Some(Version { id: id.clone()?, modified, deleted, data: data.to_owned(), permissions })
    }
}

impl Version {
    /// Reads the answer to a request for one object.
    pub fn of_object(body: &Bytes) -> Option<Self> {
        Answer::read(StatusCode::OK, body, None).version(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(body: &'static str) -> Answer {
        Answer::read(StatusCode::OK, &Bytes::from_static(body.as_bytes()), None)
    }

    #[test]
    fn answers_name_their_objects() {
        let one = answer(r#"{"permissions":{},"data":{"id":"a","last_modified":3,"x":[1]}}"#);
        assert_eq!(one.timestamps(), Some(vec![Timestamp(3)]));
        assert_eq!(one.version(false).unwrap().data.get(), r#"{"id":"a","last_modified":3,"x":[1]}"#);
        let several =
            answer(r#"{"data":[{"id":"a","last_modified":3,"deleted":true},{"id":"b","last_modified":4}]}"#);
        assert_eq!(several.timestamps(), Some(vec![Timestamp(3), Timestamp(4)]));
        assert_eq!(several.ids().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(several.tombstones().unwrap().len(), 2);
        assert_eq!(answer(r#"{"data":[]}"#).timestamps(), Some(vec![]));
    }

    #[test]
    fn answers_without_timestamps_say_so() {
        for body in ["{}", "", r#"{"location":"https://cdn/x"}"#, r#"{"data":{"id":"a"}}"#] {
            assert_eq!(answer(body).timestamps(), None);
        }
    }
}
