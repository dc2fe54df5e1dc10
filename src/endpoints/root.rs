//! What the sidecar adds to the upstream's own descriptions: the `changes` and `history` capabilities in `GET /v1/`, and
//! the paths of its endpoints in `GET /v1/__api__`.
//!
//! The upstream's document is what it answered to this requester; every byte of it stays as it was. It has to be read
//! without a `Content-Encoding`, and its `Content-Length` is that of what is returned here.

use std::collections::HashMap;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

mod history;

use crate::settings::{ChangesMode, ChangesSettings, Compat, HistoryMode, Settings};

/// `GET /v1/`, as far as it is looked at.
#[derive(Deserialize)]
struct Root<'d> {
    #[serde(borrow)]
    capabilities: &'d RawValue,
}

/// `GET /v1/__api__`, as far as it is looked at.
#[derive(Deserialize)]
struct Api<'d> {
    #[serde(borrow)]
    paths: &'d RawValue,
    #[serde(borrow)]
    tags: Option<&'d RawValue>,
}

/// Text to put in front of a byte of a document, in place of some bytes from there.
struct Insertion {
    offset: usize,
    replaced: usize,
    text: String,
}

/// Adds the capabilities to the root view. Those that a document has stay as they are, as does what is not a root view.
pub fn add_capabilities(body: &Bytes, settings: &Settings) -> Bytes {
    let insertion = || {
        let document = std::str::from_utf8(body).ok()?;
        let root: Root<'_> = serde_json::from_str(document).ok()?;
        let mut capabilities = Vec::new();
        if has_changes(settings) {
            capabilities.push(("changes", capability(settings)));
        }
        if has_history(settings) {
            capabilities.push(("history", history::capability(&settings.history)));
        }
        let of_readers = has_changes(settings) && settings.compat == Compat::RemoteSettings;
        let mut insertions: Vec<Insertion> = of_readers
            .then(|| elsewhere(document, root.capabilities, settings))
            .flatten()
            .into_iter()
            .collect();
        if of_readers {
            capabilities.push(("attachments", attachments(settings).to_string()));
        }
        insertions.extend(append_members(document, root.capabilities, &capabilities));
        Some(insertions)
    };
    insertion().map_or_else(|| body.clone(), |insertions| insert(body, insertions))
}

/// Adds the sidecar's endpoints to the `OpenAPI` description. Paths that it has already stay as they are.
pub fn add_paths(body: &Bytes, settings: &Settings) -> Bytes {
    let insertions = || {
        let document = std::str::from_utf8(body).ok()?;
        let api: Api<'_> = serde_json::from_str(document).ok()?;
        let (mut paths, mut tags) = (Vec::new(), Vec::new());
        if has_changes(settings) {
            paths.extend(changes_paths(&settings.changes));
            tags.extend(["Collection-changeset", "Changess"]);
        }
        if has_history(settings) {
            paths.extend(history::paths());
            tags.extend(history::TAGS);
        }
        let paths: Vec<_> = paths.iter().map(|(path, text)| (path.as_str(), text.clone())).collect();
        let mut insertions = vec![append_members(document, api.paths, &paths)?];
        insertions.extend(api.tags.and_then(|present| append_tags(document, present, &tags)));
        Some(insertions)
    };
    insertions().map_or_else(|| body.clone(), |insertions| insert(body, insertions))
}

fn has_changes(settings: &Settings) -> bool {
    settings.changes_mode != ChangesMode::Off
}

/// Whether the history is the sidecar's, unless the upstream keeps it: then it describes it, too.
fn has_history(settings: &Settings) -> bool {
    matches!(settings.history_mode, HistoryMode::Auto | HistoryMode::Journal)
}

/// The capability, in the order and the words of the plugin.
fn capability(settings: &Settings) -> String {
    let version = match settings.compat {
        Compat::KintoChanges => "4.1.2",
        // What the plugin calls itself where its deployment does not say otherwise.
        Compat::RemoteSettings => "0.0.0",
    };
    let collections = json!(settings.changes.resources);
    format!(
        "{{\"description\":\"Track modifications of records in Kinto and store the collection timestamps into a \
         specific bucket and collection.\",\"url\":\"http://kinto.readthedocs.io/en/latest/tutorials/\
         synchronisation.html#polling-for-remote-changes\",\"version\":\"{version}\",\"collections\":{collections}}}"
    )
}

fn changes_paths(changes: &ChangesSettings) -> [(String, String); 2] {
    let changeset = json!({
        "parameters": [in_path("bid", "string"), in_path("cid", "string")],
        "get": {
            "tags": ["Collection-changeset"],
            "operationId": "get_collection-changeset",
            "produces": ["application/json"],
            "parameters": [
                {"name": "_since", "in": "query", "required": false, "type": "string", "pattern": "^\"([0-9]+?)\"$"},
                {"name": "_expected", "in": "query", "required": true, "type": "string"},
                parameter("_limit", "integer"),
                parameter("bucket", "string"),
                parameter("collection", "string"),
            ],
            "responses": {
                "200": {"description": "The collection's metadata, its timestamp and its changes."},
                "304": {"description": "The changeset has not changed since value in If-None-Match header"},
                "400": {"description": "The request is invalid."},
                "default": {"description": "Unexpected error."},
            },
        },
    });
    let records = json!({
        "get": {
            "tags": ["Changess"],
            "operationId": "get_changess",
            "produces": ["application/json"],
            "parameters": list_parameters(true),
            "responses": {
                "200": {"description": "Return a list of matching objects."},
                "304": {"description": "Response has not changed since value in If-None-Match header"},
                "400": {"description": "The request is invalid."},
                "406": {"description": "The client doesn't accept supported responses Content-Type."},
                "412": {"description": "Object was changed or deleted since value in `If-Match` header."},
                "default": {"description": "Unexpected error."},
            },
        },
    });
    let (bucket, collection) = (&changes.bucket, &changes.collection);
    [
        ("/buckets/{bid}/collections/{cid}/changeset".to_owned(), changeset.to_string()),
        (format!("/buckets/{bucket}/collections/{collection}/records"), records.to_string()),
    ]
}

fn parameter(name: &str, kind: &str) -> Value {
    json!({"name": name, "in": "query", "required": false, "type": kind})
}

fn in_path(name: &str, kind: &str) -> Value {
    json!({"name": name, "in": "path", "required": true, "type": kind})
}

/// The parameters of every list of Kinto; `_fields` only where it is read.
fn list_parameters(is_read: bool) -> Vec<Value> {
    let tag = |name: &str| json!({"name": name, "in": "header", "required": false, "type": "string"});
    let list = |name: &str| json!({"name": name, "in": "query", "required": false, "type": "array", "items": {"type": "string"}});
    let mut parameters = vec![parameter("_limit", "integer"), list("_sort"), parameter("_token", "string")];
    parameters.extend(["_since", "_to", "_before"].map(|name| parameter(name, "integer")));
    parameters.extend([parameter("id", "string"), parameter("last_modified", "integer")]);
    parameters.extend(is_read.then(|| list("_fields")));
    parameters.extend([tag("If-Match"), tag("If-None-Match")]);
    parameters
}

/// The insertion that adds to an object what it does not have; `None` where it has all or is no object.
fn append_members(document: &str, object: &RawValue, members: &[(&str, String)]) -> Option<Insertion> {
    let present: HashMap<String, &RawValue> = serde_json::from_str(object.get()).ok()?;
    let mut text = String::new();
    for (name, value) in members.iter().filter(|(name, _)| !present.contains_key(*name)) {
        if !present.is_empty() || !text.is_empty() {
            text.push(',');
        }
        text.push_str(&json!(name).to_string());
        text.push(':');
        text.push_str(value);
    }
    let offset = closing(document, object)?;
    Some(Insertion { offset, replaced: 0, text }).filter(|insertion| !insertion.text.is_empty())
}

fn append_tags(document: &str, tags: &RawValue, names: &[&str]) -> Option<Insertion> {
    let present: Vec<Value> = serde_json::from_str(tags.get()).ok()?;
    let mut text = String::new();
    for name in names {
        if !present.iter().any(|tag| tag["name"] == **name) {
            text.push_str(if present.is_empty() && text.is_empty() { "" } else { "," });
            text.push_str(&json!({ "name": name }).to_string());
        }
    }
    let offset = closing(document, tags)?;
    Some(Insertion { offset, replaced: 0, text }).filter(|insertion| !insertion.text.is_empty())
}

/// Where the bracket that closes a part of a document is.
fn closing(document: &str, part: &RawValue) -> Option<usize> {
    start(document, part)?.checked_add(part.get().len())?.checked_sub(1)
}

/// Where a part of a document begins.
fn start(document: &str, part: &RawValue) -> Option<usize> {
    // A borrowed raw value is a slice of the document that it was read from.
    let start = (part.get().as_ptr() as usize).checked_sub(document.as_ptr() as usize)?;
    (document.get(start..)?.starts_with(part.get())).then_some(start)
}

/// The capability that names where attachments and bundles are, for Remote Settings' readers.
pub(super) fn attachments(settings: &Settings) -> Value {
    json!({
        "description": "Add file attachments to records",
        "url": "https://github.com/Kinto/kinto-attachment/",
        "version": env!("CARGO_PKG_VERSION"),
        "base_url": settings.attachments_base_url(),
    })
}

/// Has the upstream's own capability of attachments name where they are found here, with the bundles.
fn elsewhere(document: &str, capabilities: &RawValue, settings: &Settings) -> Option<Insertion> {
    let capabilities: HashMap<String, &RawValue> = serde_json::from_str(capabilities.get()).ok()?;
    let members: HashMap<String, &RawValue> =
        serde_json::from_str(capabilities.get("attachments")?.get()).ok()?;
    let base_url = members.get("base_url")?;
    let text = json!(settings.attachments_base_url()).to_string();
    Some(Insertion { offset: start(document, base_url)?, replaced: base_url.get().len(), text })
}

fn insert(body: &[u8], mut insertions: Vec<Insertion>) -> Bytes {
    insertions.sort_by_key(|insertion| insertion.offset);
    let added: usize = insertions.iter().map(|insertion| insertion.text.len()).sum();
    let mut result = Vec::with_capacity(body.len() + added);
    let mut copied = 0;
    for Insertion { offset, replaced, text } in &insertions {
        result.extend_from_slice(body.get(copied..*offset).unwrap_or_default());
        result.extend_from_slice(text.as_bytes());
        copied = offset + replaced;
    }
    result.extend_from_slice(body.get(copied..).unwrap_or_default());
    result.into()
}

#[cfg(test)]
mod tests;
