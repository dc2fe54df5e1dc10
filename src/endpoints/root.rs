//! What the sidecar adds to the upstream's own descriptions: the `changes` capability in `GET /v1/`, and the paths of its
//! endpoints in `GET /v1/__api__`.
//!
//! The upstream's document is what it answered to this requester; every byte of it stays as it was. It has to be read
//! without a `Content-Encoding`, and its `Content-Length` is that of what is returned here.

use std::collections::HashMap;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use crate::settings::{ChangesSettings, Compat, Settings};

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

/// Text to put in front of a byte of a document.
struct Insertion {
    offset: usize,
    text: String,
}

/// Adds the `changes` capability to the root view. A document that has it, or that is not one, stays as it is.
pub fn add_capability(body: &Bytes, settings: &Settings) -> Bytes {
    let insertion = || {
        let document = std::str::from_utf8(body).ok()?;
        let root: Root<'_> = serde_json::from_str(document).ok()?;
        append_members(document, root.capabilities, &[("changes", capability(settings))])
    };
    insertion().map_or_else(|| body.clone(), |insertion| insert(body, vec![insertion]))
}

/// Adds the sidecar's endpoints to the `OpenAPI` description. Paths that it has already stay as they are.
pub fn add_paths(body: &Bytes, settings: &Settings) -> Bytes {
    let insertions = || {
        let document = std::str::from_utf8(body).ok()?;
        let api: Api<'_> = serde_json::from_str(document).ok()?;
        let paths = paths(&settings.changes);
        let paths: Vec<_> = paths.iter().map(|(path, text)| (path.as_str(), text.clone())).collect();
        let mut insertions = vec![append_members(document, api.paths, &paths)?];
        insertions.extend(api.tags.and_then(|tags| append_tags(document, tags)));
        Some(insertions)
    };
    insertions().map_or_else(|| body.clone(), |insertions| insert(body, insertions))
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

fn paths(changes: &ChangesSettings) -> [(String, String); 2] {
    let parameter =
        |name: &str, kind: &str| json!({"name": name, "in": "query", "required": false, "type": kind});
    let in_path = |name: &str| json!({"name": name, "in": "path", "required": true, "type": "string"});
    let tag = |name: &str| json!({"name": name, "in": "header", "required": false, "type": "string"});
    let list = |name: &str| json!({"name": name, "in": "query", "required": false, "type": "array", "items": {"type": "string"}});
    let changeset = json!({
        "parameters": [in_path("bid"), in_path("cid")],
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
            "parameters": [
                parameter("_limit", "integer"), list("_sort"), parameter("_token", "string"),
                parameter("_since", "integer"), parameter("_to", "integer"), parameter("_before", "integer"),
                parameter("id", "string"), parameter("last_modified", "integer"), list("_fields"),
                tag("If-Match"), tag("If-None-Match"),
            ],
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
    Some(Insertion { offset, text }).filter(|insertion| !insertion.text.is_empty())
}

fn append_tags(document: &str, tags: &RawValue) -> Option<Insertion> {
    let present: Vec<serde_json::Value> = serde_json::from_str(tags.get()).ok()?;
    let mut text = String::new();
    for name in ["Collection-changeset", "Changess"] {
        if !present.iter().any(|tag| tag["name"] == name) {
            text.push_str(if present.is_empty() && text.is_empty() { "" } else { "," });
            text.push_str(&json!({ "name": name }).to_string());
        }
    }
    let offset = closing(document, tags)?;
    Some(Insertion { offset, text }).filter(|insertion| !insertion.text.is_empty())
}

/// Where the bracket that closes a part of a document is.
fn closing(document: &str, part: &RawValue) -> Option<usize> {
    // A borrowed raw value is a slice of the document that it was read from.
    let start = (part.get().as_ptr() as usize).checked_sub(document.as_ptr() as usize)?;
    let closing = start.checked_add(part.get().len())?.checked_sub(1)?;
    (document.get(start..)?.starts_with(part.get())).then_some(closing)
}

fn insert(body: &[u8], mut insertions: Vec<Insertion>) -> Bytes {
    insertions.sort_by_key(|insertion| insertion.offset);
    let added: usize = insertions.iter().map(|insertion| insertion.text.len()).sum();
    let mut result = Vec::with_capacity(body.len() + added);
    let mut copied = 0;
    for Insertion { offset, text } in &insertions {
        result.extend_from_slice(body.get(copied..*offset).unwrap_or_default());
        result.extend_from_slice(text.as_bytes());
        copied = *offset;
    }
    result.extend_from_slice(body.get(copied..).unwrap_or_default());
    result.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    fn settings() -> Settings {
        let mut settings = Settings::default();
        settings.changes.resources = vec!["/buckets/a".into(), "/buckets/b/collections/one".into()];
        settings
    }

    const CAPABILITY: &str = r#"{"description":"Track modifications of records in Kinto and store the collection timestamps into a specific bucket and collection.","url":"http://kinto.readthedocs.io/en/latest/tutorials/synchronisation.html#polling-for-remote-changes","version":"4.1.2","collections":["/buckets/a","/buckets/b/collections/one"]}"#;

    fn with_capability(document: &str) -> String {
        String::from_utf8(add_capability(&Bytes::copy_from_slice(document.as_bytes()), &settings()).to_vec())
            .unwrap()
    }

    #[test]
    fn the_capability_is_added_and_nothing_else_changes() {
        for (before, after) in [
            (
                "{\"url\": \"\\u002fv1/\",\"capabilities\":{\"a\":{}}, \"n\":1.50}\n",
                "{\"url\": \"\\u002fv1/\",\"capabilities\":{\"a\":{},\"changes\":@}, \"n\":1.50}\n",
            ),
            ("{\"capabilities\":{}}", "{\"capabilities\":{\"changes\":@}}"),
            (
                "{\"x\":{\"capabilities\":{}},\"capabilities\":{ \"a\" : 1 } }",
                "{\"x\":{\"capabilities\":{}},\"capabilities\":{ \"a\" : 1 ,\"changes\":@} }",
            ),
        ] {
            assert_eq!(with_capability(before), after.replace('@', CAPABILITY));
        }
    }

    #[test]
    fn what_has_the_capability_or_is_no_root_view_stays() {
        for document in [
            "",
            "null",
            "[]",
            "{}",
            "{\"capabilities\":null}",
            "{\"capabilities\":{\"changes\":{\"version\":\"1\"}}}",
            "{\"capabilities\":{}",
        ] {
            assert_eq!(with_capability(document), document);
        }
        let garbage = Bytes::from_static(b"\xff{\"capabilities\":{}}");
        assert_eq!(add_capability(&garbage, &settings()), garbage);
    }

    #[test]
    fn the_description_gains_the_endpoints() {
        let document = Bytes::from_static(
            br#"{"tags":[{"name":"Batch"}],"paths":{"/batch":{"post":{}}},"swagger":"2.0"}"#,
        );
        let described = add_paths(&document, &settings());
        let described: Value = serde_json::from_slice(&described).unwrap();
        let names: Vec<_> =
            described["tags"].as_array().unwrap().iter().map(|tag| tag["name"].as_str()).collect();
        assert_eq!(names, [Some("Batch"), Some("Collection-changeset"), Some("Changess")]);
        let get = &described["paths"]["/buckets/monitor/collections/changes/records"]["get"];
        assert_eq!(get["operationId"], "get_changess");
        assert!(described["paths"]["/buckets/{bid}/collections/{cid}/changeset"]["get"].is_object());
        let again: Bytes = serde_json::to_vec(&described).unwrap().into();
        assert_eq!(add_paths(&again, &settings()), again);
    }

    fn documents() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just("null".to_owned()),
            Just(" 1.50e0 ".to_owned()),
            Just("\"capabilities\"".to_owned()),
            Just("\"\\u007d}]\\\"\"".to_owned()),
        ];
        leaf.prop_recursive(3, 16, 3, |inner| {
            let name = prop::sample::select(vec!["capabilities", "changes", "a", "paths", "tags"]);
            let member = (name, inner.clone()).prop_map(|(name, value)| format!(" \"{name}\" :{value}"));
            prop_oneof![
                prop::collection::vec(inner, 0..3).prop_map(|items| format!("[{}]", items.join(","))),
                prop::collection::vec(member, 0..4)
                    .prop_map(|members| format!("{{{}\n}}", members.join(","))),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_document_stays_what_it_was_but_for_what_is_added(document in documents()) {
            let before = Bytes::from(document.clone());
            for added in [add_capability(&before, &settings()), add_paths(&before, &settings())] {
                // All bytes are still there, in their order.
                let mut rest = added.iter();
                prop_assert!(before.iter().all(|byte| rest.any(|other| other == byte)));
                let is_json = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).is_ok();
                prop_assert_eq!(is_json(&before), is_json(&added));
            }
        }
    }
}
