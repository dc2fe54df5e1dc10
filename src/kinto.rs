//! Kinto's vocabulary: timestamps, and the identifiers and URIs of buckets, collections and records.
//!
//! Follows `kinto.core.utils` (`instance_uri`, `decode_header`) and the id generators of `kinto.core.storage.generators`.

use serde::de::{Deserialize, Deserializer, Error as _};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::HeaderValue;

/// A `last_modified` or an `ETag` of Kinto: milliseconds since the Unix epoch as the *upstream* counts them.
///
/// It is never compared with the sidecar's own clock, except for the age of a `_since`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(pub u64);

impl<'de> Deserialize<'de> for Timestamp {
    /// Reads a whole number. Kinto takes a negative one for a record that is made; it is before everything here.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = serde_json::Number::deserialize(deserializer)?;
        let negative = || number.as_i64().map(|_| Self::ZERO);
        let whole = number.as_u64().map(Self).or_else(negative);
        whole.ok_or_else(|| D::Error::custom(format!("{number} is no timestamp")))
    }
}

impl Timestamp {
    /// Before everything; also "not known".
    pub const ZERO: Self = Self(0);

    /// After everything: no database stores a greater one.
    pub const LAST: Self = Self(i64::MAX.unsigned_abs());

    /// The timestamp between double quotes, as Kinto writes it in `ETag`.
    pub fn etag(self) -> HeaderValue {
        HeaderValue::try_from(format!("\"{self}\"")).unwrap_or(HeaderValue::from_static("\"0\""))
    }

    /// Reads an `ETag` such as `"1469006098757"`; `None` for anything else.
    pub fn from_etag(value: &HeaderValue) -> Option<Self> {
        value.to_str().ok()?.trim().strip_prefix('"')?.strip_suffix('"')?.parse().ok().map(Self)
    }

    /// The timestamp in the form of an HTTP date (`Last-Modified`), which counts in seconds.
    pub fn http_date(self) -> String {
        // The formatter's range ends with the year 9999.
        let seconds = (self.0 / 1000).min(253_402_300_799);
        httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
    }

    /// This timestamp moved back by `duration`, never below zero.
    #[must_use]
    pub fn back(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }

    /// A time of somebody's clock.
    pub fn of(time: SystemTime) -> Option<Self> {
        let elapsed = time.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        Some(Self(u64::try_from(elapsed.as_millis()).ok()?))
    }

    /// The present time of this machine's clock.
    pub fn now() -> Self {
        let elapsed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// Names one collection: the ids of its bucket and of itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CollectionKey {
    /// The bucket's id.
    pub bucket: Arc<str>,
    /// The collection's id.
    pub collection: Arc<str>,
}

impl CollectionKey {
    /// A key of two ids.
    pub fn new(bucket: &str, collection: &str) -> Self {
        Self { bucket: bucket.into(), collection: collection.into() }
    }

    /// The collection's URI, without the API version: `/buckets/{bucket}/collections/{collection}`.
    pub fn uri(&self) -> String {
        format!("/buckets/{}/collections/{}", self.bucket, self.collection)
    }

    /// The URI of the collection's list of records.
    pub fn records_uri(&self) -> String {
        format!("/buckets/{}/collections/{}/records", self.bucket, self.collection)
    }
}

impl fmt::Display for CollectionKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.bucket, self.collection)
    }
}

/// Whether a path segment is an id that Kinto accepts for a bucket, a collection, a group or a record.
///
/// Anything else in that place (escapes, dots, semicolons) is not an object of Kinto, and the sidecar has no opinion
/// of it.
pub fn is_id(segment: &str) -> bool {
    let bytes = segment.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

/// What a URI of Kinto names, by its path below the API version (`/buckets/a/collections/b`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resource<'a> {
    /// `/buckets`
    Buckets,
    /// `/buckets/{bucket}`
    Bucket(&'a str),
    /// `/buckets/{bucket}/collections`
    Collections(&'a str),
    /// `/buckets/{bucket}/collections/{collection}`
    Collection(&'a str, &'a str),
    /// `/buckets/{bucket}/groups` and what is below it
    Groups(&'a str),
    /// `/buckets/{bucket}/collections/{collection}/records`
    Records(&'a str, &'a str),
    /// `/buckets/{bucket}/collections/{collection}/records/{record}`, or a sub-resource of it
    Record(&'a str, &'a str, &'a str),
    /// Anything else.
    Other,
}

impl<'a> Resource<'a> {
    /// Reads a path below the API version; one trailing slash is tolerated, as Kinto redirects it away.
    pub fn of(path: &'a str) -> Self {
        let path = path.strip_suffix('/').unwrap_or(path);
        let mut segments = path.split('/');
        if segments.next() != Some("") || segments.next() != Some("buckets") {
            return Self::Other;
        }
        let Some(bucket) = segments.next() else { return Self::Buckets };
        if !is_id(bucket) {
            return Self::Other;
        }
        match (segments.next(), segments.next(), segments.next(), segments.next()) {
            (None, ..) => Self::Bucket(bucket),
            (Some("groups"), ..) => Self::Groups(bucket),
            (Some("collections"), None, ..) => Self::Collections(bucket),
            (Some("collections"), Some(collection), rest, record) if is_id(collection) => {
                match (rest, record) {
                    (None, _) => Self::Collection(bucket, collection),
                    (Some("records"), None) => Self::Records(bucket, collection),
                    (Some("records"), Some(record)) if is_id(record) => {
                        Self::Record(bucket, collection, record)
                    }
                    _ => Self::Other,
                }
            }
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_name_their_resource() {
        assert_eq!(Resource::of("/buckets"), Resource::Buckets);
        assert_eq!(Resource::of("/buckets/a"), Resource::Bucket("a"));
        assert_eq!(Resource::of("/buckets/a/collections/"), Resource::Collections("a"));
        assert_eq!(Resource::of("/buckets/a/groups/g"), Resource::Groups("a"));
        assert_eq!(
            Resource::of("/buckets/a/collections/b/records/c/attachment"),
            Resource::Record("a", "b", "c")
        );
        assert_eq!(Resource::of("/buckets/a/collections/b%2Fc"), Resource::Other);
        assert_eq!(Resource::of("/v1/buckets/a"), Resource::Other);
    }

    #[test]
    fn etags_are_quoted_timestamps() {
        assert_eq!(Timestamp::from_etag(&Timestamp(42).etag()), Some(Timestamp(42)));
        assert_eq!(Timestamp::from_etag(&HeaderValue::from_static("W/\"42\"")), None);
        assert_eq!(Timestamp(u64::MAX).http_date(), "Fri, 31 Dec 9999 23:59:59 GMT");
    }
}
