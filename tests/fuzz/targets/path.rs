//! Paths: whose they are, and what they name.
//!
//! What the sidecar answers itself has one spelling, in which no cache, proxy or Kinto can see another resource; and a path
//! that names an object for the history names the same one when it is written out.

#![no_main]

use std::borrow::Cow;
use std::sync::Arc;

use http::{HeaderMap, Method};
use kinto_sidecar::access::Credentials;
use kinto_sidecar::writes::Write;
use kinto_sidecar::journal::Object;
use kinto_sidecar::kinto::{RequestPath, Resource, Sent, is_segment};
use kinto_sidecar::route::Route;
use kinto_sidecar::settings::Settings;
use libfuzzer_sys::fuzz_target;
use percent_encoding::percent_decode_str;

fuzz_target!(|path: &str| {
    thread_local! {
        static SETTINGS: Settings = Settings::default();
    }
    let route = SETTINGS.with(|settings| Route::of(path, settings));
    assert_eq!(route != Route::Forward, is_own(path), "{path}: {route:?}");
    names(path);
    for sent in [Sent::Alone, Sent::InBatch] {
        if let Ok(read) = RequestPath::read(path, "v1", sent) {
            write(path, &read);
        }
    }
});

/// The table of routes, said once more.
fn is_own(path: &str) -> bool {
    let Some(path) = path.strip_prefix("/v1/") else { return false };
    match path.split('/').collect::<Vec<_>>().as_slice() {
        ["" | "batch" | "__api__" | "__broadcasts__" | "_changes"] => true,
        ["buckets", bucket, rest @ ..] if id(bucket).is_some() => match rest {
            ["history" | "_changes"] | ["history", "_changes"] => true,
            ["collections", collection, leaf] if id(collection).is_some() => {
                let is_list = (id(bucket).as_deref(), id(collection).as_deref(), *leaf)
                    == (Some("monitor"), Some("changes"), "records");
                is_list || matches!(*leaf, "" | "_changes" | "changeset")
            }
            ["snapshot", "collections", place] => id(place).is_some_and(|place| {
                place
                    .rsplit_once('@')
                    .is_some_and(|(collection, moment)| is_segment(collection) && !moment.is_empty())
            }),
            _ => false,
        },
        _ => false,
    }
}

/// What a segment names: printable ASCII, in which each `%` escapes something.
fn id(segment: &str) -> Option<Cow<'_, str>> {
    let mut rest = segment.bytes();
    while let Some(byte) = rest.next() {
        let is_escape = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_hexdigit());
        let is_whole = byte != b'%' || is_escape(rest.next()) && is_escape(rest.next());
        if !is_whole || !byte.is_ascii_graphic() || byte == b'\\' {
            return None;
        }
    }
    percent_decode_str(segment).decode_utf8().ok().filter(|id| is_segment(id))
}

fn names(uri: &str) {
    let resource = Resource::of(uri);
    if resource != Resource::Other && resource != Resource::Accounts {
        assert_eq!(Resource::of(&resource.to_string()), resource, "{uri}");
    }
    if let Some(object) = Object::of_uri(uri) {
        assert!(is_segment(object.bucket()) && is_segment(object.id()), "{uri}");
        assert_eq!(Object::of_uri(&object.to_string()), Some(object), "{uri}");
    }
}

fn write(path: &str, read: &RequestPath) {
    let credentials = Credentials::of(&HeaderMap::new());
    let default: Arc<str> = "0a1b".into();
    let write = Write::new(&Method::PUT, read.clone(), &HeaderMap::new(), credentials, Some(default));
    let uri = write.uri();
    assert!(!uri.starts_with("/buckets/default/") && uri != "/buckets/default", "{path}");
    assert!(uri.is_ascii() && !uri.contains("//"), "{path}: {uri}");
    if let Some(list) = write.target.as_ref().and_then(|target| target.list()) {
        assert!(uri.starts_with(&list), "{path} is not in {list}");
    }
}
