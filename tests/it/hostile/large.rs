//! Objects that are large, and what is small to ask for of them.

use serde_json::json;

use super::{ask, at_once, bounded, public};
use crate::support::{Sidecar, eventually};

const MIB: usize = 1 << 20;

/// A bucket that everybody may read, with the history of two large collections in it, and one of their records.
async fn with_large_objects() -> (Sidecar, String) {
    let (sidecar, collection) = public(&[("sidecar.history", "journal")]).await;
    let alice = sidecar.client().user("alice");
    for number in 0..2 {
        let path = format!("{collection}{number}");
        alice.put(&path).data(json!({"numbers": vec![0; MIB], "a": number})).await.expect(201);
    }
    alice.put(&format!("{collection}/records/x")).data(json!({"numbers": vec![0; MIB]})).await.expect(201);
    (sidecar, collection)
}

#[tokio::test]
async fn nothing_is_made_of_what_a_filter_of_a_history_does_not_look_at() {
    let (sidecar, collection) = with_large_objects().await;
    let bucket = collection.trim_end_matches("/collections/c");
    let alice = sidecar.client().user("alice");
    for (filter, found) in [
        ("target.data.a=1", 1),
        ("in_target.data.a=0,1&_sort=target.data.a", 2),
        ("target.data.numbers.x=1", 0),
        ("contains_target.data.numbers=[0]", 3),
        ("has_target.data.numbers=true&_changed=true", 3),
    ] {
        let entries = alice.all(&format!("{bucket}/history?{filter}&_fields=uri")).await;
        assert_eq!(entries.len(), found, "{filter}");
    }
    for path in [
        "history?target.data.a=7",
        "history?_sort=target.data.a&_limit=1",
        "history/diff?from=1&target.data.a=7",
    ] {
        let request = format!("GET /v1{bucket}/{path} HTTP/1.1\r\n");
        bounded(&sidecar, path, || {
            at_once(12, |_| {
                let status = ask(sidecar.address(), &request, b"");
                assert!(matches!(status, Some(200 | 503)), "{status:?}");
            });
        });
    }
}

#[tokio::test]
async fn documents_that_are_large_are_written_aside() {
    let (sidecar, collection) = with_large_objects().await;
    let bucket = collection.trim_end_matches("/collections/c");
    let feeds = [
        format!("{bucket}/history/_changes?include_docs=true"),
        format!("{collection}/_changes?include_docs=true&feed=longpoll&since=0&cursor=0"),
    ];
    for feed in feeds {
        let request = format!("GET /v1{feed} HTTP/1.1\r\n");
        let is_there = async || (ask(sidecar.address(), &request, b"") == Some(200)).then_some(());
        eventually("the feed", is_there).await;
        bounded(&sidecar, &feed, || {
            at_once(4, |_| assert_eq!(ask(sidecar.address(), &request, b""), Some(200)));
        });
    }
}

#[tokio::test]
async fn long_lists_of_ids_are_taken_and_let_go_of_aside() {
    let (sidecar, collection) = public(&[]).await;
    let ids: Vec<String> = (0..95_000).map(|number| format!("aaaaaaaaaaaaaaaaaaaa{number}")).collect();
    let asked: Vec<_> = ids.iter().map(|id| json!({"id": id})).take(45_000).collect();
    for (path, body) in [
        ("_changes?filter=_doc_ids", json!({"doc_ids": ids})),
        ("_changes?filter=_kinto&x=1", json!({"doc_ids": ids})),
        ("_changes?feed=none", json!({"ids": ids, "selector": {}})),
        ("_bulk_get", json!({"docs": asked, "x": ids.get(..1_000)})),
    ] {
        let request = format!("POST /v1{collection}/{path} HTTP/1.1\r\nContent-Type: application/json\r\n");
        let body = body.to_string();
        bounded(&sidecar, path, || {
            at_once(8, |_| {
                let status = ask(sidecar.address(), &request, body.as_bytes());
                assert!(matches!(status, Some(200 | 400 | 403 | 413 | 503)), "{status:?}");
            });
        });
    }
}
