//! Kinto's vocabulary: timestamps, and the URIs of buckets, collections and records.
//!
//! Follows `kinto.core.utils` (`instance_uri`, `decode_header`).

use serde::de::{Deserialize, Deserializer, Visitor};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::HeaderValue;

mod absence;
mod date;
mod escape;
pub mod given;
pub mod head;
pub(crate) mod members;
mod moment;
pub(crate) mod object;
mod path;
pub(crate) mod python;
pub mod seq;
mod uri;

pub use absence::is_absence;
pub(crate) use date::iso_date;
pub use escape::{batch_path, is_segment, segment, segments, selector};
pub use moment::moment;
pub use path::{DEFAULT_BUCKET, RequestPath, Sent};
pub use uri::Resource;

/// A `last_modified` or an `ETag` of Kinto: milliseconds since the Unix epoch as the *upstream* counts them.
///
/// It is never compared with the sidecar's own clock, except for the age of a `_since`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(pub u64);

impl<'de> Deserialize<'de> for Timestamp {
    /// Reads what Python takes for a whole number: Kinto keeps a record with `"last_modified": true`, which is 1 there.
    /// What is negative is before everything here.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number;
        impl Visitor<'_> for Number {
            type Value = Timestamp;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a timestamp")
            }

            fn visit_bool<E>(self, value: bool) -> Result<Timestamp, E> {
                Ok(Timestamp(value.into()))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Timestamp, E> {
                Ok(Timestamp(value))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Timestamp, E> {
                Ok(Timestamp(value.try_into().unwrap_or_default()))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Timestamp, E> {
                // Only what no u64 holds comes here, or has a fraction, which Kinto does not keep.
                Ok(if value > 0.0 { Timestamp::LAST } else { Timestamp::ZERO })
            }
        }
        deserializer.deserialize_any(Number)
    }
}

/// A day.
pub(crate) const DAY: Duration = Duration::from_secs(24 * 3600);

impl Timestamp {
    /// Before everything; also "not known".
    pub const ZERO: Self = Self(0);

    /// After everything: no database stores a greater one.
    pub const LAST: Self = Self(i64::MAX.unsigned_abs());

    /// Whatever is above this (the year 2100) is made up.
    pub const PLAUSIBLE: Self = Self(4_102_444_800_000);

    /// The timestamp between double quotes, as Kinto writes it in `ETag`.
    pub fn etag(self) -> HeaderValue {
        HeaderValue::try_from(format!("\"{self}\"")).unwrap_or(HeaderValue::from_static("\"0\""))
    }

    /// Reads an `ETag` such as `"1469006098757"`; `None` for anything else.
    pub fn from_etag(value: &HeaderValue) -> Option<Self> {
        Self::from_etag_text(value.to_str().ok()?)
    }

    /// Reads an `ETag` that stands in JSON.
    pub(crate) fn from_etag_text(value: &str) -> Option<Self> {
        unquoted(value.trim())?.parse().ok().map(Self)
    }

    /// Reads digits and nothing else; more than a number holds is no timestamp.
    pub(crate) fn from_digits(text: &str) -> Option<Self> {
        text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok().map(Self))?
    }

    /// Whether Kinto would take this for a time to compare with: less than a day ahead.
    pub(crate) fn is_near(self, now: Self) -> bool {
        self < now.forth(DAY)
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

    /// This timestamp moved forth by `duration`.
    #[must_use]
    pub fn forth(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
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

/// What stands between double quotes, if anything does.
pub(crate) fn unquoted(text: &str) -> Option<&str> {
    text.strip_prefix('"')?.strip_suffix('"')
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
        format!("/buckets/{}/collections/{}", segment(&self.bucket), segment(&self.collection))
    }

    /// The URI of the collection's list of records.
    pub fn records_uri(&self) -> String {
        format!("{}/records", self.uri())
    }
}

impl fmt::Display for CollectionKey {
    /// Both ids as they stand in URIs, so that logs and headers can hold them.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", segment(&self.bucket), segment(&self.collection))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etags_are_quoted_timestamps() {
        assert_eq!(Timestamp::from_etag(&Timestamp(42).etag()), Some(Timestamp(42)));
        assert_eq!(Timestamp::from_etag(&HeaderValue::from_static("W/\"42\"")), None);
        assert_eq!(Timestamp(u64::MAX).http_date(), "Fri, 31 Dec 9999 23:59:59 GMT");
    }
}
