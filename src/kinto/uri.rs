//! What URIs of Kinto name.

use std::fmt;

use percent_encoding::percent_decode_str;

use super::escape::{is_segment, segment, segments};
use super::object::Object;

/// What a URI of Kinto names, by its path below the API version (`/buckets/a/collections/b`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resource {
    /// `/buckets`
    Buckets,
    /// `/buckets/{bucket}/collections`
    Collections(String),
    /// `/buckets/{bucket}/groups`
    Groups(String),
    /// `/buckets/{bucket}/collections/{collection}/records`
    Records(String, String),
    /// A bucket, a group, a collection or a record.
    Object(Object),
    /// Something that belongs to a record, by what follows the record's URI and a slash.
    Part(Object, String),
    /// `/accounts` and what is below it
    Accounts,
    /// `/__flush__`
    Flush,
    /// `/batch`
    Batch,
    /// Anything else.
    Other,
}

impl Resource {
    /// Reads a URI.
    pub fn of(uri: &str) -> Self {
        percent_decode_str(uri).decode_utf8().map_or(Self::Other, |path| Self::of_decoded(&path))
    }

    /// Reads a path that was decoded as a whole, as Kinto routes it; one trailing slash is tolerated, as Kinto redirects
    /// it away.
    pub(super) fn of_decoded(path: &str) -> Self {
        let path = path.strip_suffix('/').unwrap_or(path);
        let Some(path) = path.strip_prefix('/') else { return Self::Other };
        let segments: Vec<&str> = path.splitn(7, '/').collect();
        let id = |id: &str| is_segment(id).then(|| id.to_owned());
        let named = match segments.as_slice() {
            ["buckets"] => Some(Self::Buckets),
            ["buckets", bucket] => id(bucket).map(Object::Bucket).map(Self::Object),
            ["buckets", bucket, "collections"] => id(bucket).map(Self::Collections),
            ["buckets", bucket, "groups"] => id(bucket).map(Self::Groups),
            ["buckets", bucket, "groups", group] => {
                id(bucket).zip(id(group)).map(|(b, g)| Self::Object(Object::Group(b, g)))
            }
            ["buckets", bucket, "collections", collection, rest @ ..] => {
                id(bucket).zip(id(collection)).and_then(|(b, c)| match rest {
                    [] => Some(Self::Object(Object::Collection(b, c))),
                    ["records"] => Some(Self::Records(b, c)),
                    ["records", record, part @ ..] => {
                        let record = Object::Record(b, c, id(record)?);
                        Some(match part {
                            [] => Self::Object(record),
                            [part, ..] => Self::Part(record, (*part).to_owned()),
                        })
                    }
                    _ => None,
                })
            }
            ["accounts", ..] => Some(Self::Accounts),
            ["__flush__"] => Some(Self::Flush),
            ["batch"] => Some(Self::Batch),
            _ => None,
        };
        named.unwrap_or(Self::Other)
    }

    /// The id of the bucket that it is or that it is in.
    pub fn bucket(&self) -> Option<&str> {
        match self {
            Self::Collections(bucket) | Self::Groups(bucket) | Self::Records(bucket, _) => Some(bucket),
            Self::Object(object) | Self::Part(object, _) => Some(object.bucket()),
            Self::Buckets | Self::Accounts | Self::Flush | Self::Batch | Self::Other => None,
        }
    }

    /// The same in another bucket.
    #[must_use]
    pub(super) fn in_bucket(mut self, other: &str) -> Self {
        match &mut self {
            Self::Collections(bucket) | Self::Groups(bucket) | Self::Records(bucket, _) => {
                other.clone_into(bucket);
            }
            Self::Object(object) | Self::Part(object, _) => other.clone_into(object.bucket_mut()),
            Self::Buckets | Self::Accounts | Self::Flush | Self::Batch | Self::Other => {}
        }
        self
    }

    /// The ids at its end: a line feed there is part of the id, while Kinto passes over one at the end of a word.
    pub(super) fn ends_with_id(&self) -> bool {
        matches!(self, Self::Object(_))
    }
}

impl fmt::Display for Resource {
    /// The URI, without the API version; nothing for what has none.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Buckets => formatter.write_str("/buckets"),
            Self::Collections(bucket) => write!(formatter, "/buckets/{}/collections", segment(bucket)),
            Self::Groups(bucket) => write!(formatter, "/buckets/{}/groups", segment(bucket)),
            Self::Records(bucket, collection) => {
                let (bucket, collection) = (segment(bucket), segment(collection));
                write!(formatter, "/buckets/{bucket}/collections/{collection}/records")
            }
            Self::Object(object) => object.fmt(formatter),
            Self::Part(record, part) => write!(formatter, "{record}/{}", segments(part)),
            Self::Accounts => formatter.write_str("/accounts"),
            Self::Flush => formatter.write_str("/__flush__"),
            Self::Batch => formatter.write_str("/batch"),
            Self::Other => Ok(()),
        }
    }
}

impl Object {
    /// Reads a URI without the API version; `None` where it names no object.
    pub fn of_uri(uri: &str) -> Option<Self> {
        match Resource::of(uri) {
            Resource::Object(object) => Some(object),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_name_their_resource() {
        let [a, b, c] = ["a", "b", "c"].map(str::to_owned);
        assert_eq!(Resource::of("/buckets"), Resource::Buckets);
        assert_eq!(Resource::of("/buckets/a"), Resource::Object(Object::Bucket(a.clone())));
        assert_eq!(Resource::of("/buckets/a/collections/"), Resource::Collections(a.clone()));
        let group = Object::Group(a.clone(), b.clone());
        assert_eq!(Resource::of("/buckets/a/groups/b"), Resource::Object(group));
        let part = Resource::Part(Object::Record(a.clone(), b.clone(), c), "attachment".to_owned());
        assert_eq!(Resource::of("/buckets/a/collections/b/records/c/attachment"), part);
        // Decoded as a whole.
        let records = Resource::Records(a, b);
        assert_eq!(Resource::of("/buckets/a%2Fcollections/%62/records"), records);
        for uri in ["/v1/buckets/a", "/buckets//collections", "/buckets/..", "/buckets/%00", "/buckets/%ff"] {
            assert_eq!(Resource::of(uri), Resource::Other, "{uri}");
        }
    }

    #[test]
    fn ids_are_escaped_as_kinto_escapes_them() {
        for (id, escaped) in [
            ("a-_.~!$&'()*+,;=:@", "a-_.~!$&'()*+,;=:@"),
            ("a b", "a%20b"),
            ("é", "%C3%A9"),
            ("r\n", "r%0A"),
            ("\"<%>\"", "%22%3C%25%3E%22"),
            ("#?[]\\^`{|}", "%23%3F%5B%5D%5C%5E%60%7B%7C%7D"),
        ] {
            assert_eq!(segment(id).to_string(), escaped);
            let record = Object::Record("b".to_owned(), "c".to_owned(), id.to_owned());
            assert_eq!(record.to_string(), format!("/buckets/b/collections/c/records/{escaped}"));
            assert_eq!(Object::of_uri(&record.to_string()), Some(record));
        }
    }

    #[test]
    fn objects_are_their_uris() {
        for uri in [
            "/buckets/a",
            "/buckets/a/groups/g",
            "/buckets/a/collections/c",
            "/buckets/a/collections/c/records/r",
            "/buckets/a.b/collections/%C3%A9/records/x@example.org",
            "/buckets/_a/groups/100%25%0A",
        ] {
            assert_eq!(Object::of_uri(uri).map(|object| object.to_string()), Some(uri.to_owned()));
        }
        for uri in [
            "/buckets",
            "/buckets/a/groups",
            "/buckets/a/groups/g/x",
            "/buckets/a/groups/x/groups/g",
            "/buckets/a/groups/g//",
            "/buckets/a/collections/c/records",
        ] {
            assert_eq!(Object::of_uri(uri), None, "{uri}");
        }
    }
}
