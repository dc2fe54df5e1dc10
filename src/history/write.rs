//! A write as it was asked for, as far as the history has to know.

use std::sync::Arc;

use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Method};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use crate::access::Credentials;
use crate::journal::{Intent, Object};
use crate::kinto::{Resource, Timestamp, is_id};

/// A larger `data` of a request is not written down with its intent, in bytes.
pub const LARGEST_SENT: usize = 64 << 10;

/// One request, or one sub-request of a batch.
#[derive(Debug, Clone)]
pub struct Write {
    /// Its method.
    pub method: Method,
    /// Its path below the API version, decoded, with the requester's own bucket in place of `default`.
    pub uri: String,
    /// What it may write; `None` where that is nothing that history is about.
    pub target: Option<Target>,
    /// Who asks.
    pub credentials: Credentials,
    /// Whether the path led into the bucket that the requester knows as `default`.
    pub is_default: bool,
    /// Whether the answer will show a part of the object only.
    pub is_partial: bool,
    /// The `data` of the request's body, where it is known and small.
    pub sent: Option<Box<RawValue>>,
    /// How long the body is, as far as it is known.
    pub length: u64,
}

/// What a request may write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// One object.
    Object(Object),
    /// Something that belongs to a record, such as its attachment.
    Part(Object),
    /// Objects of a list, which is the list's URI.
    List(String),
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
    /// Reads a request whose `path` is below the API version and decoded; `default` is the requester's own bucket.
    pub fn new(
        method: &Method,
        path: &str,
        headers: &HeaderMap,
        credentials: Credentials,
        default: Option<&Arc<str>>,
    ) -> Self {
        let below_default = path
            .strip_prefix("/buckets/default")
            .filter(|rest| rest.is_empty() || rest.starts_with('/'))
            .zip(default);
        let uri = match below_default {
            Some((rest, default)) => format!("/buckets/{default}{rest}"),
            None => path.to_owned(),
        };
        Self {
            method: method.clone(),
            target: Target::of(method, &uri),
            uri,
            credentials,
            is_default: below_default.is_some(),
            is_partial: *method == Method::PATCH && headers.contains_key("response-behavior"),
            sent: None,
            length: headers
                .get(CONTENT_LENGTH)
                .and_then(|length| length.to_str().ok()?.parse().ok())
                .unwrap_or_default(),
        }
    }

    /// The same write with what was sent.
    #[must_use]
    pub fn with_body(self, body: &[u8]) -> Self {
        let data = serde_json::from_slice::<Body<'_>>(body).ok().and_then(|body| body.data);
        let length = u64::try_from(body.len()).unwrap_or(u64::MAX);
        Self { length, ..self.with_data(data) }
    }

    /// The same write with the `data` that was sent.
    #[must_use]
    pub fn with_data(mut self, data: Option<&RawValue>) -> Self {
        self.sent = data.filter(|data| data.get().len() <= LARGEST_SENT).map(ToOwned::to_owned);
        self
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

    /// What the journal is told before it is sent.
    pub fn intent(&self, user_id: Option<String>, known: Timestamp) -> Intent {
        let bucket = self.uri.strip_prefix("/buckets/").and_then(|rest| rest.split('/').next());
        Intent {
            bucket: bucket.unwrap_or_default().to_owned(),
            user_id,
            method: self.method.to_string(),
            uri: self.uri.clone(),
            sent: self.sent.clone(),
            known,
            length: self.length,
        }
    }
}

// === impl Target ===

impl Target {
    /// What a request with this path below the API version may write.
    pub fn of(method: &Method, uri: &str) -> Option<Self> {
        if matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) {
            return None;
        }
        let uri = uri.strip_suffix('/').unwrap_or(uri);
        match Resource::of(uri) {
            Resource::Buckets | Resource::Collections(_) | Resource::Records(..) => {
                Some(Self::List(uri.to_owned()))
            }
            Resource::Groups(bucket) => match uri.strip_prefix(&*format!("/buckets/{bucket}/groups")) {
                Some("") => Some(Self::List(uri.to_owned())),
                Some(rest) => rest
                    .strip_prefix('/')
                    .filter(|group| is_id(group))
                    .map(|group| Self::Object(Object::Group(bucket.to_owned(), group.to_owned()))),
                None => None,
            },
            Resource::Bucket(bucket) => Some(Self::Object(Object::Bucket(bucket.to_owned()))),
            Resource::Collection(bucket, collection) => {
                Some(Self::Object(Object::Collection(bucket.to_owned(), collection.to_owned())))
            }
            Resource::Record(bucket, collection, record) => {
                let object = Object::Record(bucket.to_owned(), collection.to_owned(), record.to_owned());
                let is_whole = uri.ends_with(&format!("/records/{record}"));
                Some(if is_whole { Self::Object(object) } else { Self::Part(object) })
            }
            Resource::Other => (uri == "/__flush__").then_some(Self::Everything),
        }
    }

    /// The URI of the list that the target is in or is.
    pub fn list(&self) -> Option<String> {
        match self {
            Self::Object(object) | Self::Part(object) => Some(list_of(object)),
            Self::List(list) => Some(list.clone()),
            Self::Everything => None,
        }
    }
}

/// The URI of the list that an object is in.
pub(super) fn list_of(object: &Object) -> String {
    match object {
        Object::Bucket(_) => "/buckets".to_owned(),
        Object::Group(bucket, _) => format!("/buckets/{bucket}/groups"),
        Object::Collection(bucket, _) => format!("/buckets/{bucket}/collections"),
        Object::Record(bucket, collection, _) => {
            format!("/buckets/{bucket}/collections/{collection}/records")
        }
    }
}

/// The object of this id in a list.
pub(super) fn object_in(list: &str, id: &str) -> Option<Object> {
    Object::of_uri(&format!("{list}/{id}")).filter(|_| is_id(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_have_their_targets() {
        let of = |uri: &str| Target::of(&Method::PUT, uri);
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
            assert_eq!(of(uri), Some(Target::List(uri.to_owned())), "{uri}");
        }
        let record = "/buckets/a/collections/c/records/r";
        assert_eq!(of(&format!("{record}/attachment")), Some(Target::Part(object(record))));
        assert_eq!(of("/__flush__"), Some(Target::Everything));
        assert_eq!(of("/accounts/alice"), None);
        assert_eq!(Target::of(&Method::GET, record), None);
    }

    #[test]
    fn objects_are_found_in_their_lists() {
        for uri in ["/buckets/a", "/buckets/a/groups/g", "/buckets/a/collections/c/records/r"] {
            let object = Object::of_uri(uri).unwrap();
            assert_eq!(object_in(&list_of(&object), object.id()), Some(object));
        }
    }
}
