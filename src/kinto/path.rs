//! What the path of a request names, as Kinto and every server in front of it read it: decoded once, as a whole.
//!
//! A path that some servers read otherwise than others is not read at all. Each of these was tried: waitress drops
//! leading slashes; uWSGI resolves `.` and `..`, makes something of a `%` that escapes nothing, and takes bytes that are
//! not ASCII, which others refuse. Kinto's routes pass over a line feed at the end of a word.

use std::borrow::Cow;
use std::sync::Arc;

use percent_encoding::percent_decode_str;

use super::escape::is_segment;
use super::object::Object;
use super::uri::Resource;

/// The bucket that each requester has for themself.
pub const DEFAULT_BUCKET: &str = "default";

/// How a path came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// As the target of a request.
    Alone,
    /// As that of a sub-request of a batch, with its query.
    InBatch,
}

/// What a request's path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestPath {
    resource: Resource,
    is_in_default_bucket: bool,
    /// What the default bucket makes for a request whose own path names nothing.
    implied: Option<Resource>,
}

impl RequestPath {
    /// Reads the path of a target that begins with the API version, such as `v1`; else what is wrong with it.
    pub fn read(target: &str, version: &str, sent: Sent) -> Result<Self, &'static str> {
        let (path, query) =
            target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        if !path.starts_with('/') {
            return Err("it does not begin with a slash");
        }
        if !path.is_ascii() {
            return Err("it has characters that are not escaped");
        }
        if path.contains('\\') {
            return Err("it has a backslash");
        }
        if sent == Sent::Alone && has_vain_percent(path) {
            return Err("a % escapes nothing");
        }
        let decoded = percent_decode_str(path).decode_utf8().map_err(|_| "it is not UTF-8")?;
        if decoded.contains("//") {
            return Err("it has a doubled slash");
        }
        if decoded.split('/').any(|segment| matches!(segment, "." | "..")) {
            return Err("it has a segment of dots");
        }
        if decoded.contains('\0') {
            return Err("it has a null character");
        }
        // SECURITY: Kinto finds the query behind the last place where the path stands, when it follows its own redirect.
        if sent == Sent::InBatch && decoded.ends_with('/') && query.is_some_and(|query| query.contains('/')) {
            return Err("it ends with a slash, and its query has one");
        }
        let read = Self::of_decoded(&decoded, version);
        let is_default = read.resource == Resource::Object(Object::Bucket(format!("{DEFAULT_BUCKET}\n")));
        if decoded.ends_with('\n') && (!read.resource.ends_with_id() || is_default) {
            return Err("it ends with a line feed");
        }
        Ok(read)
    }

    /// The path of a URI without the API version.
    pub fn of_uri(uri: &str) -> Self {
        percent_decode_str(uri).decode_utf8().map_or_else(|_| Self::unread(), |uri| Self::of_below(&uri))
    }

    /// Stands for a path that is not read.
    pub fn unread() -> Self {
        Self { resource: Resource::Other, is_in_default_bucket: false, implied: None }
    }

    /// Whether a path may lead into the bucket that each requester has for themself: most do not, and need not be read.
    pub fn may_be_in_default_bucket(target: &str) -> bool {
        target.contains('%') || target.contains(DEFAULT_BUCKET)
    }

    /// Whether some server may take a path that is not read for one that leads there.
    pub fn may_be_read_in_default_bucket(target: &str) -> bool {
        let path = target.split('?').next().unwrap_or_default();
        percent_decode_str(path).decode_utf8_lossy().contains(DEFAULT_BUCKET)
    }

    /// Whether the path leads into the bucket that each requester has for themself.
    pub fn is_in_default_bucket(&self) -> bool {
        self.is_in_default_bucket
    }

    /// What it names; `default` is the requester's own bucket, where they have one.
    pub fn resource(&self, default: Option<&Arc<str>>) -> Cow<'_, Resource> {
        match default.filter(|_| self.is_in_default_bucket) {
            Some(default) => Cow::Owned(self.resource.clone().in_bucket(default)),
            None => Cow::Borrowed(&self.resource),
        }
    }

    /// The URI of what it names, or else of what the default bucket makes for it.
    pub fn uri(&self, default: Option<&Arc<str>>) -> String {
        match self.implied.as_ref().zip(default) {
            Some((implied, default)) => implied.clone().in_bucket(default).to_string(),
            None => self.resource(default).to_string(),
        }
    }

    fn of_decoded(path: &str, version: &str) -> Self {
        let below = path.strip_prefix('/').and_then(|path| path.strip_prefix(version));
        below.filter(|below| below.starts_with('/')).map_or_else(Self::unread, Self::of_below)
    }

    fn of_below(below: &str) -> Self {
        let rest = below.strip_prefix("/buckets/").and_then(|path| path.strip_prefix(DEFAULT_BUCKET));
        let rest = rest.filter(|rest| rest.is_empty() || rest.starts_with('/'));
        let resource = Resource::of_decoded(below);
        let implied = rest.filter(|_| resource == Resource::Other).map(|rest| {
            let collection = rest.strip_prefix("/collections/").and_then(|rest| rest.split('/').next());
            let bucket = DEFAULT_BUCKET.to_owned();
            Resource::Object(match collection.filter(|collection| is_segment(collection)) {
                Some(collection) => Object::Collection(bucket, collection.to_owned()),
                None => Object::Bucket(bucket),
            })
        });
        Self { resource, is_in_default_bucket: rest.is_some(), implied }
    }
}

/// Whether some `%` is not followed by two hexadecimal digits.
fn has_vain_percent(path: &str) -> bool {
    path.split('%').skip(1).any(|rest| {
        let digits = rest.as_bytes().get(..2);
        !digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(target: &str) -> Result<String, &'static str> {
        RequestPath::read(target, "v1", Sent::Alone).map(|path| path.resource(None).to_string())
    }

    #[test]
    fn every_spelling_of_an_id_is_read() {
        let records = "/buckets/b/collections/c/records";
        for (spelt, uri) in [
            ("/v1/buckets/b/collections/c/records/r", format!("{records}/r")),
            ("/v1/%62uckets/b/collections/c/records/r", format!("{records}/r")),
            ("/%76%31/buckets/b%2Fcollections%2Fc/records/r", format!("{records}/r")),
            ("/v1/buckets/b/collections/c/records/r/?/v1/x", format!("{records}/r")),
            ("/v1/buckets/b/collections/c/records/r%0a", format!("{records}/r%0A")),
            ("/v1/buckets/b/collections/c/records/%2525", format!("{records}/%2525")),
            ("/v1/buckets/b/collections/c/records/r;x=1", format!("{records}/r;x=1")),
            (
                "/v1/buckets/b/collections/c%0A/records/r%5c",
                "/buckets/b/collections/c%0A/records/r%5C".to_owned(),
            ),
        ] {
            assert_eq!(read(spelt), Ok(uri), "{spelt}");
        }
    }

    #[test]
    fn what_servers_read_otherwise_is_not_read() {
        for target in [
            "//v1/buckets/b", "/v1//buckets/b", "/v1/buckets/b%2F%2F", "/v1/./buckets/b",
            "/v1/x/%2e%2E/buckets/b", "/v1/buckets/b/..", "/v1\\buckets\\b", "/v1/buckets/%",
            "/v1/buckets/%zz", "/v1/buckets/%4", "/v1/buckets/é", "/v1/buckets/%ff", "/v1/buckets/%00",
            "/v1/buckets%0a", "/v1/batch%0a", "/v1/__flush__%0A", "/v1/buckets/default%0a", "v1/buckets/b",
            "*", "",
        ] {
            assert!(read(target).is_err(), "{target}");
        }
    }

    #[test]
    fn sub_requests_are_read_as_kinto_reads_them() {
        let read = |target: &str| RequestPath::read(target, "v1", Sent::InBatch);
        let named = |target: &str| read(target).map(|path| path.resource(None).to_string());
        assert_eq!(named("/v1/buckets/100%"), Ok("/buckets/100%25".to_owned()));
        assert_eq!(named("/v1/buckets/a b#c\n"), Ok("/buckets/a%20b%23c%0A".to_owned()));
        assert_eq!(named("/v1/buckets/a/?_since=1"), Ok("/buckets/a".to_owned()));
        read("/v1/buckets/a/?x=/v1/buckets/a/b").unwrap_err();
    }

    #[test]
    fn the_default_bucket_is_the_requesters_own() {
        let own: Arc<str> = "own".into();
        for (target, uri) in [
            ("/v1/buckets/default", "/buckets/own"),
            ("/v1/buckets/%64efault/collections/c", "/buckets/own/collections/c"),
            ("/v1/buckets/defaults", "/buckets/defaults"),
        ] {
            let path = RequestPath::read(target, "v1", Sent::Alone).unwrap();
            assert_eq!(path.resource(Some(&own)).to_string(), uri);
            assert_eq!(path.is_in_default_bucket(), uri.starts_with("/buckets/own"));
        }
    }
}
