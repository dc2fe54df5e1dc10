//! The history endpoints, as the plugin describes them.
//!
//! Follows `includeme` of `kinto.plugins.history`.

use serde_json::{Map, Value, json};

use super::{in_path, list_parameters};
use crate::journal::Object;
use crate::settings::HistorySettings;

/// The tags of the two endpoints.
pub(super) const TAGS: [&str; 2] = ["History_snapshot", "History"];

/// The capability, in the order and the words of the plugin.
pub(super) fn capability(settings: &HistorySettings) -> String {
    let url = "http://kinto.readthedocs.io/en/latest/api/1.x/history.html";
    let mut members = vec![("description", json!("Track changes on data.")), ("url", json!(url))];
    if let Some(count) = settings.auto_trim_max_count {
        members.push(("auto_trim_max_count", json!(count)));
    }
    if !settings.auto_trim_user_ids.is_empty() {
        members.push(("auto_trim_user_ids", json!(settings.auto_trim_user_ids)));
    }
    if !settings.exclude_resources.is_empty() {
        let resources = settings.exclude_resources.iter().filter_map(|uri| Object::of_uri(uri));
        members.push(("excluded_resources", resources.map(|object| ids(&object)).collect()));
    }
    let members: Vec<String> =
        members.into_iter().map(|(name, value)| format!("{}:{value}", json!(name))).collect();
    format!("{{{}}}", members.join(","))
}

/// The ids in an object's URI, by what they are ids of.
fn ids(object: &Object) -> Value {
    let mut ids = Map::new();
    ids.insert("bucket".to_owned(), object.bucket().into());
    ids.extend(object.collection().map(|collection| ("collection".to_owned(), collection.into())));
    ids.insert(object.resource().as_str().to_owned(), object.id().into());
    Value::Object(ids)
}

/// The two paths with their operations.
pub(super) fn paths() -> [(String, String); 2] {
    let responses = |ok: &str, can_be_unchanged: bool| {
        let mut responses = json!({
            "200": {"description": ok},
            "400": {"description": "The request is invalid."},
            "401": {"description": "The request is missing authentication headers."},
            "403": {"description": "The user is not allowed to perform the operation, or the resource is not accessible."},
            "406": {"description": "The client doesn't accept supported responses Content-Type."},
            "412": {"description": "Object was changed or deleted since value in `If-Match` header."},
            "default": {"description": "Unexpected error."},
        });
        if let Some(responses) = responses.as_object_mut().filter(|_| can_be_unchanged) {
            let unchanged =
                json!({"description": "Response has not changed since value in If-None-Match header"});
            responses.insert("304".to_owned(), unchanged);
        }
        responses
    };
    let history = json!({
        "parameters": [in_path("bucket_id", "string")],
        "get": {
            "tags": ["History"],
            "operationId": "get_history",
            "produces": ["application/json"],
            "parameters": list_parameters(true),
            "responses": responses("Return a list of matching objects.", true),
        },
        "delete": {
            "tags": ["History"],
            "operationId": "delete_history",
            "produces": ["application/json"],
            "parameters": list_parameters(false),
            "responses": responses("Return a list of matching objects.", false),
        },
    });
    let ids =
        [in_path("bucket_id", "string"), in_path("collection_id", "string"), in_path("timestamp", "integer")];
    let snapshot = json!({
        "parameters": ids,
        "get": {
            "tags": ["History_snapshot"],
            "operationId": "get_history_snapshot",
            "produces": ["application/json"],
            "parameters": ids,
            "responses": {
                "200": {"description": "Returns the records at the given timestamp."},
                "401": {"description": "The collection is not publicly readable."},
                "403": {"description": "No permission to read this collection."},
            },
        },
    });
    [
        (
            "/buckets/{bucket_id}/snapshot/collections/{collection_id}@{timestamp}".to_owned(),
            snapshot.to_string(),
        ),
        ("/buckets/{bucket_id}/history".to_owned(), history.to_string()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    #[test]
    fn the_capability_says_what_is_left_out() {
        let url = "http://kinto.readthedocs.io/en/latest/api/1.x/history.html";
        let mut settings = Settings::default().history;
        let plain = format!("{{\"description\":\"Track changes on data.\",\"url\":\"{url}\"}}");
        assert_eq!(capability(&settings), plain);
        settings.auto_trim_max_count = Some(5);
        settings.auto_trim_user_ids = vec!["plugin:x".into()];
        settings.exclude_resources =
            ["/buckets/a", "/buckets/a/groups/g", "/buckets/a/collections/c/records/r"]
                .map(str::to_owned)
                .to_vec();
        let capability: Value = serde_json::from_str(&capability(&settings)).unwrap();
        assert_eq!(
            capability,
            json!({
                "description": "Track changes on data.",
                "url": url,
                "auto_trim_max_count": 5,
                "auto_trim_user_ids": ["plugin:x"],
                "excluded_resources": [
                    {"bucket": "a"},
                    {"bucket": "a", "group": "g"},
                    {"bucket": "a", "collection": "c", "record": "r"},
                ],
            })
        );
    }
}
