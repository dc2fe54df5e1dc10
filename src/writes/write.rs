//! A write as it was asked for: decoded and classified once, for the journal, the timeline and the permissions.

use std::borrow::Cow;
use std::sync::Arc;

use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Method};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::sent;
use crate::access::Credentials;
use crate::error::Error;
use crate::journal::{Intent, Journal, Note, Object};
use crate::kinto::{CollectionKey, RequestPath, Resource, Timestamp, is_segment};
use crate::query::{Fault, Invalid};
use crate::wire::arrival::Arrival;

/// A larger `data` of a request is not written down with its intent, in bytes.
pub const LARGEST_SENT: usize = 64 << 10;
/// As long are the ids that Kinto gives.
const GIVEN_ID: &str = "00000000-0000-0000-0000-000000000000";

/// One request, or one sub-request of a batch.
#[derive(Debug, Clone)]
pub struct Write {
    /// Its method.
    pub method: Method,
    path: RequestPath,
    /// The bucket that the requester knows as `default`, where the path leads into it.
    default: Option<Arc<str>>,
    /// What it may write; `None` for a read, and where nobody here wants to know of it.
    pub target: Option<Target>,
    /// Who asks.
    pub credentials: Credentials,
    /// Whether the answer will show a part of the object only.
    pub is_partial: bool,
    /// Of the `data` of the request's body what is kept, where it is known and small.
    pub sent: Option<Box<RawValue>>,
    /// How long the body is, as far as it is known.
    pub length: u64,
    /// What is said of it beside what it writes.
    pub note: Option<Arc<Note>>,
    /// Whether its body has come, where it is passed on while it does.
    pub arrival: Option<Arrival>,
}

/// What a request may write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// One object.
    Object(Object),
    /// Something that belongs to a record, such as its attachment.
    Part(Object),
    /// Objects of this list.
    List(Resource),
    /// Who somebody is, of which there is no history.
    Accounts,
    /// Everything there is (`POST /__flush__`).
    Everything,
}

#[derive(Deserialize)]
struct Body<'b> {
    #[serde(borrow)]
    data: Option<&'b RawValue>,
}

#[derive(Deserialize)]
struct Named {
    id: Option<IgnoredAny>,
}

// === impl Write ===

impl Write {
    /// Reads a request; `default` is the requester's own bucket.
    pub fn new(
        method: &Method,
        path: RequestPath,
        headers: &HeaderMap,
        credentials: Credentials,
        default: Option<Arc<str>>,
    ) -> Self {
        let default = default.filter(|_| path.is_in_default_bucket());
        Self {
            method: method.clone(),
            target: Target::of(method, || path.resource(default.as_ref())),
            path,
            default,
            credentials,
            is_partial: *method == Method::PATCH && headers.contains_key("response-behavior"),
            sent: None,
            length: headers
                .get(CONTENT_LENGTH)
                .and_then(|length| length.to_str().ok()?.parse().ok())
                .unwrap_or_default(),
            note: None,
            arrival: None,
        }
    }

    /// The same write with the body that was sent.
    #[must_use]
    pub fn with_body(self, body: &[u8]) -> Self {
        let data = match serde_json::from_slice::<Body<'_>>(body) {
            Ok(Body { data: Some(data) }) => Some(data),
            Err(_) if !body.is_empty() => None,
            // Permissions alone, or nothing at all.
            _ => serde_json::from_str("{}").ok(),
        };
        let length = u64::try_from(body.len()).unwrap_or(u64::MAX);
        Self { length, ..self.with_data(data) }
    }

    /// The same write with the `data` that was sent.
    #[must_use]
    pub fn with_data(mut self, data: Option<&RawValue>) -> Self {
        self.sent = data.filter(|data| data.get().len() <= LARGEST_SENT).and_then(sent::kept);
        self
    }

    /// The URI that it is about, with the requester's own bucket in place of `default`.
    pub fn uri(&self) -> String {
        self.path.uri(self.default.as_ref())
    }

    /// What its path names, with the requester's own bucket in place of `default`.
    pub(super) fn resource(&self) -> Cow<'_, Resource> {
        self.path.resource(self.default.as_ref())
    }

    /// The requester's own bucket, where the path leads into it as `default`.
    pub(super) fn default(&self) -> Option<&Arc<str>> {
        self.default.as_ref()
    }

    /// The URI as it was asked for.
    pub(super) fn default_uri(&self) -> String {
        self.path.uri(None)
    }

    /// The bucket or collection that it is about, where that is what the default bucket makes by itself.
    pub(super) fn object_of_default_bucket(&self) -> Option<&Object> {
        match &self.target {
            Some(Target::Object(object @ (Object::Bucket(_) | Object::Collection(..)))) => {
                self.default.as_ref().map(|_| object)
            }
            _ => None,
        }
    }

    /// Whether nobody has to know of it.
    pub fn is_nothing(&self) -> bool {
        self.target.is_none() && self.default.is_none()
    }

    /// Whether its body has not come yet.
    pub(super) fn is_coming(&self) -> bool {
        self.arrival.as_ref().is_some_and(|arrival| !arrival.is_complete())
    }

    /// Whether Kinto writes nothing before it has the whole body.
    pub fn needs_its_body(&self) -> bool {
        matches!(self.method, Method::POST | Method::PUT | Method::PATCH)
            && matches!(self.target, Some(Target::Object(_) | Target::List(_) | Target::Part(_)))
    }

    /// Refuses what the journal could not record.
    pub(super) fn check_kept(&self, journal: &Journal) -> Result<(), Error> {
        let (location, is_kept) = match &self.target {
            Some(Target::Object(object) | Target::Part(object)) => {
                ("path", journal.keeps(&object.to_string()))
            }
            Some(Target::List(list)) => {
                let sent = self.sent.as_deref().filter(|_| self.method == Method::POST);
                match sent.and_then(sent::id).and_then(|id| object_in(list, &id)) {
                    Some(object) => ("body", journal.keeps(&object.to_string())),
                    None if sent.is_some_and(sent::has_long_id) => ("body", false),
                    None => ("path", journal.keeps(&format!("{list}/{GIVEN_ID}"))),
                }
            }
            Some(Target::Accounts | Target::Everything) | None => return Ok(()),
        };
        if is_kept {
            return Ok(());
        }
        Err(not_kept(location, "Invalid object id: the history cannot keep a URI that is so long"))
    }

    /// Whether it may write something that has a history.
    pub(super) fn has_history(&self) -> bool {
        self.target.as_ref().is_some_and(|target| *target != Target::Accounts)
    }

    /// Whether what was sent may name the object that it makes.
    pub(super) fn may_name_its_object(&self) -> bool {
        let names = |data: &RawValue| {
            // Of members of one name, any may count.
            serde_json::from_str::<Named>(data.get()).map_or(true, |named| named.id.is_some())
        };
        let is_unread = self.length == 0 || self.length > LARGEST_SENT as u64;
        self.sent.as_deref().map_or(is_unread, names)
    }

    /// The bucket that it may make, where its name is known before it is sent.
    pub(super) fn made_bucket(&self) -> Option<String> {
        match &self.target {
            Some(Target::Object(Object::Bucket(bucket))) if self.method == Method::PUT => {
                Some(bucket.clone())
            }
            Some(Target::List(_)) if self.makes_a_bucket() => self.sent.as_deref().and_then(sent::id),
            _ => None,
        }
    }

    /// Whether it is sent to the list of buckets, to make one.
    pub(super) fn makes_a_bucket(&self) -> bool {
        self.method == Method::POST && self.target == Some(Target::List(Resource::Buckets))
    }

    /// The list whose objects it deletes.
    pub(super) fn emptied_list(&self) -> Option<String> {
        match &self.target {
            Some(Target::List(list)) if self.method == Method::DELETE => Some(list.to_string()),
            _ => None,
        }
    }

    /// What the journal is told before it is sent.
    pub(super) fn intent(&self, user_id: Option<String>, known: Timestamp) -> Intent {
        let resource = self.path.resource(None);
        Intent {
            bucket: self.default.as_deref().or(resource.bucket()).unwrap_or_default().to_owned(),
            user_id,
            method: self.method.to_string(),
            uri: self.uri(),
            sent: self.sent.clone(),
            note: self.note.clone(),
            known,
            length: self.length,
        }
    }
}

/// What the journal could not record is not sent. Kinto has no name for what is wrong with an id, either.
pub(super) fn not_kept(location: &'static str, description: &str) -> Error {
    Error::Invalid(Invalid::faults(vec![Fault { location, name: None, description: description.to_owned() }]))
}

// === impl Target ===

impl Target {
    /// What a request for this may write.
    pub(super) fn of<'r>(method: &Method, resource: impl FnOnce() -> Cow<'r, Resource>) -> Option<Self> {
        // A batch may have a `TRACE`, which makes what the default bucket makes for any request, and no more.
        if !matches!(*method, Method::PUT | Method::POST | Method::PATCH | Method::DELETE) {
            return None;
        }
        Some(match resource().into_owned() {
            list @ (Resource::Buckets
            | Resource::Collections(_)
            | Resource::Groups(_)
            | Resource::Records(..)) => Self::List(list),
            Resource::Object(object) => Self::Object(object),
            Resource::Part(record, _) => Self::Part(record),
            Resource::Accounts => Self::Accounts,
            Resource::Flush => Self::Everything,
            Resource::Batch | Resource::Other => return None,
        })
    }

    /// The collection of whose records it is about one or all.
    pub(super) fn collection(&self) -> Option<CollectionKey> {
        match self {
            Self::Object(Object::Record(bucket, collection, _))
            | Self::Part(Object::Record(bucket, collection, _))
            | Self::List(Resource::Records(bucket, collection)) => {
                Some(CollectionKey::new(bucket, collection))
            }
            _ => None,
        }
    }

    /// The URI of the list that the target is in or is.
    pub fn list(&self) -> Option<String> {
        match self {
            Self::Object(object) | Self::Part(object) => Some(object.list()),
            Self::List(list) => Some(list.to_string()),
            Self::Accounts | Self::Everything => None,
        }
    }
}

/// The object of this id in a list.
pub(super) fn object_in(list: &Resource, id: &str) -> Option<Object> {
    let id = Some(id).filter(|id| is_segment(id))?.to_owned();
    match list {
        Resource::Buckets => Some(Object::Bucket(id)),
        Resource::Groups(bucket) => Some(Object::Group(bucket.clone(), id)),
        Resource::Collections(bucket) => Some(Object::Collection(bucket.clone(), id)),
        Resource::Records(bucket, collection) => Some(Object::Record(bucket.clone(), collection.clone(), id)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_have_their_targets() {
        let of = |uri: &str| Target::of(&Method::PUT, || Cow::Owned(Resource::of(uri)));
        let object = |uri: &str| Object::of_uri(uri).unwrap();
        for uri in [
            "/buckets/a",
            "/buckets/a/groups/g",
            "/buckets/a/collections/c",
            "/buckets/a/collections/c/records/r",
        ] {
            assert_eq!(of(uri), Some(Target::Object(object(uri))), "{uri}");
        }
        for uri in
            ["/buckets", "/buckets/a/groups", "/buckets/a/collections", "/buckets/a/collections/c/records"]
        {
            assert_eq!(of(uri), Some(Target::List(Resource::of(uri))), "{uri}");
        }
        let record = "/buckets/a/collections/c/records/r";
        assert_eq!(of(&format!("{record}/attachment")), Some(Target::Part(object(record))));
        assert_eq!(of("/__flush__"), Some(Target::Everything));
        assert_eq!(of("/accounts/alice"), Some(Target::Accounts));
        assert_eq!(of("/permissions"), None);
        for method in [Method::GET, Method::TRACE] {
            assert_eq!(Target::of(&method, || Cow::Owned(Resource::of(record))), None);
        }
    }

    #[test]
    fn objects_are_found_in_their_lists() {
        for uri in ["/buckets/a.b", "/buckets/_a/groups/%C3%A9", "/buckets/a%20b/collections/c/records/r%0A"]
        {
            let object = Object::of_uri(uri).unwrap();
            assert_eq!(object_in(&Resource::of(&object.list()), object.id()), Some(object));
        }
    }
}
