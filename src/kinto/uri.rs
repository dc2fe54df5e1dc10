//! What URIs name, and how ids stand in them.
//!
//! An id is whatever the upstream's id generators allow: any segment of a path. It is escaped here and nowhere else.
//!
//! Follows `instance_uri` of `kinto.core.utils`, and what Pyramid and WebOb leave unescaped in a path.

use std::fmt;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, PercentEncode, percent_decode_str, utf8_percent_encode};

/// What stands escaped in a segment of a URI that Kinto writes.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'!')
    .remove(b'$')
    .remove(b'&')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')')
    .remove(b'*')
    .remove(b'+')
    .remove(b',')
    .remove(b';')
    .remove(b'=')
    .remove(b':')
    .remove(b'@');

/// The same in several segments.
const ESCAPED_BETWEEN_SLASHES: &AsciiSet = &ESCAPED.remove(b'/');

/// Whether an object of this id can be named by a path that every server reads alike, and be written down.
pub fn is_segment(id: &str) -> bool {
    !id.is_empty() && !matches!(id, "." | "..") && !id.contains(['/', '\0'])
}

/// An id as a segment of a URI.
pub fn segment(id: &str) -> PercentEncode<'_> {
    utf8_percent_encode(id, ESCAPED)
}

/// Several segments of a URI, with the slashes between them.
pub fn segments(path: &str) -> PercentEncode<'_> {
    utf8_percent_encode(path, ESCAPED_BETWEEN_SLASHES)
}

/// An id as the value of a filter in a query: a text also where it looks like a number, and without a comma, at which
/// Kinto splits lists.
pub fn selector(id: &str) -> String {
    let json = serde_json::Value::from(id).to_string().replace(',', "\\u002c");
    utf8_percent_encode(&json, NON_ALPHANUMERIC).to_string()
}

/// A URI as the path of a sub-request: Kinto refuses a batch in which one holds `/batch`, be it the beginning of an id.
pub fn batch_path(uri: &str) -> String {
    uri.replace("/batch", "/%62atch")
}

/// What a URI of Kinto names, by its path below the API version (`/buckets/a/collections/b`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resource {
    /// `/buckets`
    Buckets,
    /// `/buckets/{bucket}`
    Bucket(String),
    /// `/buckets/{bucket}/collections`
    Collections(String),
    /// `/buckets/{bucket}/collections/{collection}`
    Collection(String, String),
    /// `/buckets/{bucket}/groups`
    Groups(String),
    /// `/buckets/{bucket}/groups/{group}`
    Group(String, String),
    /// `/buckets/{bucket}/collections/{collection}/records`
    Records(String, String),
    /// `/buckets/{bucket}/collections/{collection}/records/{record}`
    Record(String, String, String),
    /// Something that belongs to a record, by what follows the record's URI and a slash.
    Part(String, String, String, String),
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
            ["buckets", bucket] => id(bucket).map(Self::Bucket),
            ["buckets", bucket, "collections"] => id(bucket).map(Self::Collections),
            ["buckets", bucket, "groups"] => id(bucket).map(Self::Groups),
            ["buckets", bucket, "groups", group] => id(bucket).zip(id(group)).map(|(b, g)| Self::Group(b, g)),
            ["buckets", bucket, "collections", collection, rest @ ..] => {
                id(bucket).zip(id(collection)).and_then(|(b, c)| match rest {
                    [] => Some(Self::Collection(b, c)),
                    ["records"] => Some(Self::Records(b, c)),
                    ["records", record] => Some(Self::Record(b, c, id(record)?)),
                    ["records", record, part] => Some(Self::Part(b, c, id(record)?, (*part).to_owned())),
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
            Self::Bucket(bucket)
            | Self::Collections(bucket)
            | Self::Collection(bucket, _)
            | Self::Groups(bucket)
            | Self::Group(bucket, _)
            | Self::Records(bucket, _)
            | Self::Record(bucket, ..)
            | Self::Part(bucket, ..) => Some(bucket),
            Self::Buckets | Self::Accounts | Self::Flush | Self::Batch | Self::Other => None,
        }
    }

    /// The same in another bucket.
    #[must_use]
    pub(super) fn in_bucket(mut self, other: &str) -> Self {
        match &mut self {
            Self::Bucket(bucket)
            | Self::Collections(bucket)
            | Self::Collection(bucket, _)
            | Self::Groups(bucket)
            | Self::Group(bucket, _)
            | Self::Records(bucket, _)
            | Self::Record(bucket, ..)
            | Self::Part(bucket, ..) => other.clone_into(bucket),
            Self::Buckets | Self::Accounts | Self::Flush | Self::Batch | Self::Other => {}
        }
        self
    }

    /// The ids at its end: a line feed there is part of the id, while Kinto passes over one at the end of a word.
    pub(super) fn ends_with_id(&self) -> bool {
        matches!(self, Self::Bucket(_) | Self::Collection(..) | Self::Group(..) | Self::Record(..))
    }
}

impl fmt::Display for Resource {
    /// The URI, without the API version; nothing for what has none.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bucket = self.bucket().map(segment);
        if let Some(bucket) = bucket {
            write!(formatter, "/buckets/{bucket}")?;
        }
        match self {
            Self::Bucket(_) | Self::Other => Ok(()),
            Self::Buckets => formatter.write_str("/buckets"),
            Self::Collections(_) => formatter.write_str("/collections"),
            Self::Groups(_) => formatter.write_str("/groups"),
            Self::Group(_, group) => write!(formatter, "/groups/{}", segment(group)),
            Self::Collection(_, collection) => write!(formatter, "/collections/{}", segment(collection)),
            Self::Records(_, collection) => {
                write!(formatter, "/collections/{}/records", segment(collection))
            }
            Self::Record(_, collection, record) => {
                write!(formatter, "/collections/{}/records/{}", segment(collection), segment(record))
            }
            Self::Part(_, collection, record, part) => {
                let (collection, record, part) = (segment(collection), segment(record), segments(part));
                write!(formatter, "/collections/{collection}/records/{record}/{part}")
            }
            Self::Accounts => formatter.write_str("/accounts"),
            Self::Flush => formatter.write_str("/__flush__"),
            Self::Batch => formatter.write_str("/batch"),
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
        assert_eq!(Resource::of("/buckets/a"), Resource::Bucket(a.clone()));
        assert_eq!(Resource::of("/buckets/a/collections/"), Resource::Collections(a.clone()));
        assert_eq!(Resource::of("/buckets/a/groups/b"), Resource::Group(a.clone(), b.clone()));
        let part = Resource::Part(a.clone(), b.clone(), c, "attachment".to_owned());
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
            let record = Resource::Record("b".to_owned(), "c".to_owned(), id.to_owned());
            assert_eq!(record.to_string(), format!("/buckets/b/collections/c/records/{escaped}"));
            assert_eq!(Resource::of(&record.to_string()), record);
        }
        assert_eq!(selector("a,\"b"), "%22a%5Cu002c%5C%22b%22");
    }
}
