//! For how long clients and CDNs may keep what the sidecar answers about a collection's records.
//!
//! Follows `_handle_cache_expires` of kinto-changes and of remote-settings, and `cache_expires` of WebOb.
//! What the plugin's clients see in `Cache-Control` stays as it was; what only a CDN should know goes into RFC 9213's
//! `CDN-Cache-Control` beside it.

use std::time::{Duration, SystemTime};

use http::header::{AGE, CACHE_CONTROL, EXPIRES, HeaderMap, HeaderName, HeaderValue, PRAGMA};

use crate::kinto::segment;
use crate::settings::{Compat, Settings};
use crate::wire::vary;

/// RFC 9213: for shared caches only.
pub const CDN_CACHE_CONTROL: HeaderName = HeaderName::from_static("cdn-cache-control");

/// RFC 9211.
pub const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// What Fastly and Varnish purge by.
pub const SURROGATE_KEY: HeaderName = HeaderName::from_static("surrogate-key");

/// What Cloudflare, Akamai and Google purge by.
pub const CACHE_TAG: HeaderName = HeaderName::from_static("cache-tag");

const NEVER: HeaderValue = HeaderValue::from_static("no-cache, no-store");

/// What decides how caches may treat an answer about a collection's records.
#[derive(Debug, Clone, Copy)]
pub struct Caching<'c> {
    /// All settings.
    pub settings: &'c Settings,
    /// The bucket that it shows.
    pub bucket: &'c str,
    /// The collection that it shows; empty where it shows the whole bucket.
    pub collection: &'c str,
    /// For how many seconds it may be kept; `None` where nobody says.
    pub expiry: Option<i64>,
    /// Whether anybody may have it.
    pub is_public: bool,
    /// This machine's clock.
    pub now: SystemTime,
}

/// Where an answer comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Served {
    /// From memory.
    Memory,
    /// From memory, after the upstream was asked for what is newer.
    Refreshed,
    /// From memory, because the upstream fails; of so many seconds ago.
    Stale(u64),
    /// The same, and not to be kept by anybody: caches have what is as old.
    Behind(u64),
    /// From the upstream, for this request alone.
    Upstream,
}

impl Caching<'_> {
    /// Tells caches for how long they may keep an answer, who else may have it, and what it shows.
    pub fn insert(&self, headers: &mut HeaderMap) {
        let Self { settings, bucket, collection, expiry, is_public, now } = *self;
        if let Some(seconds) = expiry {
            allow(headers, seconds, now);
        }
        if !is_public {
            keep_private(headers);
        } else if let Some(seconds) = expiry {
            allow_stale(headers, seconds, settings.stale_if_error);
        }
        if !collection.is_empty() {
            tag(headers, bucket, collection);
        }
    }
}

impl Served {
    /// From memory, which may be behind for so many seconds because the upstream fails.
    pub fn from_memory(behind: Option<u64>) -> Self {
        behind.map_or(Self::Memory, Self::Behind)
    }

    /// Says so in `Cache-Status`, and in `Age` how old what is stale is.
    pub fn insert(self, headers: &mut HeaderMap) {
        let status = match self {
            Self::Memory => HeaderValue::from_static("kinto-sidecar; hit"),
            Self::Refreshed => HeaderValue::from_static("kinto-sidecar; fwd=stale"),
            Self::Upstream => HeaderValue::from_static("kinto-sidecar; fwd=bypass"),
            Self::Stale(age) | Self::Behind(age) => {
                if matches!(self, Self::Behind(_)) {
                    forbid(headers);
                }
                headers.insert(AGE, HeaderValue::from(age));
                let status = format!("kinto-sidecar; hit; ttl=-{age}; detail=upstream-failed");
                HeaderValue::try_from(status).unwrap_or(HeaderValue::from_static("kinto-sidecar; hit"))
            }
        };
        headers.insert(CACHE_STATUS, status);
    }
}

/// For how many seconds an answer about this collection's records may be kept, where a setting of Kinto's says so.
/// `expected` is the request's `_expected`, where it has one.
pub fn expiry(settings: &Settings, bucket: &str, collection: &str, expected: Option<&str>) -> Option<i64> {
    let expiry = settings.kinto.record_cache(bucket, collection);
    match expected {
        None => expiry.default,
        Some(expected) if settings.compat == Compat::RemoteSettings && busts_caches(expected) => {
            expiry.minimum
        }
        Some(_) => expiry.maximum,
    }
}

/// Whether a client chose this `_expected` only to get past caches.
pub fn busts_caches(expected: &str) -> bool {
    let expected = expected.trim_matches('"');
    expected == "0" || expected.starts_with("9999")
}

/// [`allow`], for so long.
pub fn allow_for(headers: &mut HeaderMap, lifetime: Duration, now: SystemTime) {
    allow(headers, seconds(lifetime), now);
}

/// So long, in seconds.
pub fn seconds(lifetime: Duration) -> i64 {
    i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX)
}

/// Lets an answer be kept for so many seconds; none at all for zero. Below that it is old when it comes, as in Kinto.
pub fn allow(headers: &mut HeaderMap, seconds: i64, now: SystemTime) {
    if seconds == 0 {
        // Kinto: this is what WebOb makes of an expiry of zero.
        let never = "max-age=0, must-revalidate, no-cache, no-store, post-check=0, pre-check=0";
        headers.insert(CACHE_CONTROL, HeaderValue::from_static(never));
        headers.insert(PRAGMA, HeaderValue::from_static("no-cache"));
    } else if let Ok(value) = HeaderValue::try_from(format!("max-age={seconds}")) {
        headers.insert(CACHE_CONTROL, value);
    }
    if let Some(expires) = expires(seconds, now) {
        headers.insert(EXPIRES, expires);
    }
}

/// Forbids caches to keep an answer. Kinto says so of a list for which no setting gives an expiry.
pub fn forbid(headers: &mut HeaderMap) {
    headers.insert(CACHE_CONTROL, NEVER);
}

/// Whether some cache may keep an answer and give it to others.
pub fn is_for_caches(headers: &HeaderMap) -> bool {
    let allows = |name: &HeaderName| {
        let value = headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        value.contains("max-age=") && !value.contains("no-store")
    };
    allows(&CACHE_CONTROL) || allows(&CDN_CACHE_CONTROL)
}

/// Lets a CDN give out an answer for some time after its `seconds` are over: while it asks for a new one, and while it
/// cannot get one.
fn allow_stale(headers: &mut HeaderMap, seconds: i64, if_error: Duration) {
    let value =
        format!("max-age={seconds}, stale-while-revalidate={seconds}, stale-if-error={}", if_error.as_secs());
    if let (true, Ok(value)) = (seconds > 0, HeaderValue::try_from(value)) {
        headers.insert(CDN_CACHE_CONTROL, value);
    }
}

/// Names what an answer shows, so that a CDN can be told to drop it: the bucket, and the collection.
fn tag(headers: &mut HeaderMap, bucket: &str, collection: &str) {
    let (bucket, both) = (tag_of(bucket), format!("{}/{}", tag_of(bucket), tag_of(collection)));
    if let Ok(keys) = HeaderValue::try_from(format!("{bucket} {both}")) {
        headers.insert(SURROGATE_KEY, keys);
    }
    if let Ok(tags) = HeaderValue::try_from(format!("{bucket},{both}")) {
        headers.insert(CACHE_TAG, tags);
    }
}

/// An id as a tag, which has no space and no comma.
pub fn tag_of(id: &str) -> String {
    segment(id).to_string().replace(',', "%2C")
}

/// Keeps an answer that was made for one requester out of every shared cache.
pub fn keep_private(headers: &mut HeaderMap) {
    headers.insert(CDN_CACHE_CONTROL, HeaderValue::from_static("no-store"));
    vary::by(headers, "Authorization");
    vary::by(headers, "Cookie");
}

fn expires(seconds: i64, now: SystemTime) -> Option<HeaderValue> {
    // The format ends with the year 9999.
    const CENTURY: u64 = 100 * 365 * 24 * 3600;
    let distance = Duration::from_secs(seconds.unsigned_abs().min(CENTURY));
    let expires = if seconds < 0 { now.checked_sub(distance) } else { now.checked_add(distance) }?;
    // The format begins with the year 1970.
    let expires = expires.max(SystemTime::UNIX_EPOCH);
    HeaderValue::try_from(httpdate::fmt_http_date(expires)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expiry_is_given_in_both_headers() {
        let mut headers = HeaderMap::new();
        allow(&mut headers, 60, SystemTime::UNIX_EPOCH);
        assert_eq!(headers[CACHE_CONTROL], "max-age=60");
        assert_eq!(headers[EXPIRES], "Thu, 01 Jan 1970 00:01:00 GMT");
        allow(&mut headers, 0, SystemTime::UNIX_EPOCH);
        assert_eq!(headers[PRAGMA], "no-cache");
        allow(&mut headers, i64::MAX, SystemTime::UNIX_EPOCH);
        assert_eq!(headers[CACHE_CONTROL], "max-age=9223372036854775807");
        allow(&mut headers, -1, SystemTime::UNIX_EPOCH + Duration::from_secs(2));
        assert_eq!(headers[CACHE_CONTROL], "max-age=-1");
        assert_eq!(headers[EXPIRES], "Thu, 01 Jan 1970 00:00:01 GMT");
    }

    #[test]
    fn cache_busting_is_recognised() {
        assert!(["0", "99990000", "999999851237", "\"0\""].into_iter().all(busts_caches));
        assert!(!["", "00", "1", "1795245794711", "999"].into_iter().any(busts_caches));
    }
}
