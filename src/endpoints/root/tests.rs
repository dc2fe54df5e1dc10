//! What is added to the upstream's descriptions, and that nothing else of them changes.

use super::*;
use proptest::prelude::*;
use serde_json::Value;

fn settings() -> Settings {
    let mut settings = Settings::default();
    settings.changes.resources = vec!["/buckets/a".into(), "/buckets/b/collections/one".into()];
    settings.history_mode = HistoryMode::Off;
    settings
}

const CAPABILITY: &str = r#"{"description":"Track modifications of records in Kinto and store the collection timestamps into a specific bucket and collection.","url":"http://kinto.readthedocs.io/en/latest/tutorials/synchronisation.html#polling-for-remote-changes","version":"4.1.2","collections":["/buckets/a","/buckets/b/collections/one"]}"#;

fn with_capability(document: &str) -> String {
    String::from_utf8(add_capabilities(&Bytes::copy_from_slice(document.as_bytes()), &settings()).to_vec())
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
    assert_eq!(add_capabilities(&garbage, &settings()), garbage);
}

#[test]
fn the_description_gains_the_endpoints() {
    let document =
        Bytes::from_static(br#"{"tags":[{"name":"Batch"}],"paths":{"/batch":{"post":{}}},"swagger":"2.0"}"#);
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
    let with_history = add_paths(&again, &Settings::default());
    let with_history: Value = serde_json::from_slice(&with_history).unwrap();
    assert_eq!(
        with_history["paths"]["/buckets/{bucket_id}/history"]["delete"]["operationId"],
        "delete_history"
    );
    assert_eq!(with_history["tags"].as_array().unwrap().len(), 5);
}

#[test]
fn each_capability_is_added_where_the_sidecar_has_it() {
    let root = Bytes::from_static(b"{\"capabilities\":{}}");
    let names = |settings: &Settings| {
        let root: Value = serde_json::from_slice(&add_capabilities(&root, settings)).unwrap();
        root["capabilities"].as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ")
    };
    let mut settings = Settings::default();
    assert_eq!(names(&settings), "changes history");
    settings.changes_mode = ChangesMode::Off;
    assert_eq!(names(&settings), "history");
    settings.history_mode = HistoryMode::Upstream;
    assert_eq!(names(&settings), "");
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
            prop::collection::vec(member, 0..4).prop_map(|members| format!("{{{}\n}}", members.join(","))),
        ]
    })
}

proptest! {
    #[test]
    fn any_document_stays_what_it_was_but_for_what_is_added(document in documents()) {
        let before = Bytes::from(document.clone());
        let all = Settings::default();
        for added in [
            add_capabilities(&before, &settings()),
            add_paths(&before, &settings()),
            add_capabilities(&before, &all),
            add_paths(&before, &all),
        ] {
            // All bytes are still there, in their order.
            let mut rest = added.iter();
            prop_assert!(before.iter().all(|byte| rest.any(|other| other == byte)));
            let is_json = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).is_ok();
            prop_assert_eq!(is_json(&before), is_json(&added));
        }
    }
}
