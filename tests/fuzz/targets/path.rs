//! Paths: whose they are, and what they name.
//!
//! What the sidecar answers itself has one spelling, in which no cache, proxy or Kinto can see another resource; and a path
//! that names an object for the history names the same one when it is written out.

#![no_main]

use http::{HeaderMap, Method};
use kinto_sidecar::access::Credentials;
use kinto_sidecar::history::Write;
use kinto_sidecar::journal::Object;
use kinto_sidecar::kinto::{Resource, is_id};
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
    if route != Route::Forward {
        let place = path.split_once('@').map_or(path, |(place, _)| place);
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'-' | b'_');
        assert!(place.bytes().all(is_plain) && !path.contains("//") && !path.contains('%'), "{path}");
    }
    if let Ok(decoded) = percent_decode_str(path).decode_utf8() {
        names(&decoded);
        write(decoded.strip_prefix("/v1").unwrap_or(&decoded));
    }
});

/// The table of routes, said once more.
fn is_own(path: &str) -> bool {
    let Some(path) = path.strip_prefix("/v1/") else { return false };
    match path.split('/').collect::<Vec<_>>().as_slice() {
        ["" | "batch" | "__api__" | "__broadcasts__" | "_changes"] => true,
        ["buckets", bucket, rest @ ..] if is_id(bucket) => match rest {
            ["history" | "_changes"] | ["history", "_changes"] => true,
            ["collections", collection, leaf] if is_id(collection) => {
                let is_list = (*bucket, *collection, *leaf) == ("monitor", "changes", "records");
                is_list || matches!(*leaf, "" | "_changes" | "changeset")
            }
            ["snapshot", "collections", place] => {
                place.split_once('@').is_some_and(|(collection, moment)| {
                    is_id(collection) && !moment.is_empty() && !moment.contains(['%', '@'])
                })
            }
            _ => false,
        },
        _ => false,
    }
}

fn names(uri: &str) {
    let ids: Vec<&str> = match Resource::of(uri) {
        Resource::Bucket(bucket) | Resource::Collections(bucket) | Resource::Groups(bucket) => vec![bucket],
        Resource::Collection(bucket, collection) | Resource::Records(bucket, collection) => {
            vec![bucket, collection]
        }
        Resource::Record(bucket, collection, record) => vec![bucket, collection, record],
        Resource::Buckets | Resource::Other => Vec::new(),
    };
    assert!(ids.into_iter().all(is_id), "{uri}");
    if let Some(object) = Object::of_uri(uri) {
        assert_eq!(Object::of_uri(&object.to_string()), Some(object.clone()), "{uri}");
        assert!(uri.starts_with(&object.to_string()), "{uri}: {object}");
    }
}

fn write(path: &str) {
    let credentials = Credentials::of(&HeaderMap::new());
    let default = "0a1b".into();
    let write = Write::new(&Method::PUT, path, &HeaderMap::new(), credentials, Some(&default));
    assert!(!write.uri.starts_with("/buckets/default/") && write.uri != "/buckets/default", "{path}");
    if let Some(list) = write.target.as_ref().and_then(|target| target.list()) {
        assert!(write.uri.starts_with(&list), "{path} is not in {list}");
    }
}
