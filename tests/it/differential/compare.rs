//! A bucket's history, object by object.

use std::collections::BTreeMap;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::wire::{basic, exchange};

/// What is compared of an entry.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry {
    action: String,
    resource_name: String,
    user_id: Option<String>,
    ids: [Option<String>; 4],
    data: BTreeMap<String, String>,
    permissions: BTreeMap<String, Vec<String>>,
}

#[derive(Deserialize)]
struct List {
    data: Vec<Written>,
}

#[derive(Deserialize)]
struct Written {
    uri: String,
    action: String,
    resource_name: String,
    user_id: Option<String>,
    bucket_id: Option<String>,
    group_id: Option<String>,
    collection_id: Option<String>,
    record_id: Option<String>,
    target: Target,
}

#[derive(Deserialize)]
struct Target {
    data: BTreeMap<String, Box<RawValue>>,
    permissions: BTreeMap<String, Vec<String>>,
}

/// The entries of each object of a bucket, oldest first. Of a user's own bucket without the creations that Kinto brings
/// about by itself: in memory it keeps what it made for a request that failed, and does not always tell the plugin.
///
/// In order of their versions: what a batch did to one object the plugin has in the order of the kinds of change.
pub fn histories(
    address: &str,
    bucket: &str,
    is_default: bool,
    is_plugins: bool,
) -> BTreeMap<String, Vec<Entry>> {
    let bucket = utf8_percent_encode(bucket, NON_ALPHANUMERIC);
    let bytes = format!(
        "GET /v1/buckets/{bucket}/history?_sort=last_modified HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nAuthorization: {}\r\n\r\n",
        basic("sidecar")
    );
    let answer = exchange(address, bytes.as_bytes());
    let list: Option<List> = serde_json::from_slice(answer.body()).ok();
    let mut histories: BTreeMap<String, Vec<(u64, Entry)>> = BTreeMap::new();
    for written in list.map(|list| list.data).unwrap_or_default() {
        let may_be_implicit = matches!(written.resource_name.as_str(), "bucket" | "collection");
        if is_default && may_be_implicit && written.action == "create" {
            continue;
        }
        let mut data: BTreeMap<_, _> =
            written.target.data.into_iter().map(|(name, value)| (name, value.get().to_owned())).collect();
        let version = data.remove("last_modified").and_then(|version| version.parse().ok()).unwrap_or(0);
        let mut permissions = written.target.permissions;
        for principals in permissions.values_mut() {
            principals.sort();
        }
        let entry = Entry {
            action: written.action,
            resource_name: written.resource_name,
            user_id: written.user_id,
            ids: [written.bucket_id, written.group_id, written.collection_id, written.record_id],
            data,
            permissions,
        };
        histories.entry(written.uri).or_default().push((version, entry));
    }
    let in_order = |mut entries: Vec<(u64, Entry)>| {
        if is_plugins {
            entries.sort_by_key(|(version, _)| *version);
        }
        entries.into_iter().map(|(_, entry)| entry).collect()
    };
    histories.into_iter().map(|(uri, entries)| (uri, in_order(entries))).collect()
}
