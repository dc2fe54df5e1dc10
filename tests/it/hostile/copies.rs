//! What is small to ask for and large to answer: copies of a large record, and what was done to large ones.

use serde_json::json;

use super::{ask, bounded};
use crate::support::{Kinto, SERVICE_ACCOUNT, Sidecar, unique};

const MIB: usize = 1 << 20;

const AS_ALICE: &str = "Authorization: Basic YWxpY2U6c2VjcmV0\r\nContent-Type: application/json\r\n";

/// A bucket that everybody may read, with a history and a collection.
async fn with_history() -> (Sidecar, String) {
    let bucket = format!("/buckets/{}", unique("copies"));
    let settings = [SERVICE_ACCOUNT, ("sidecar.history", "journal"), ("history.resources", &*bucket)];
    let sidecar = Sidecar::start(Kinto::shared().url(), &settings);
    let alice = sidecar.client().user("alice");
    alice.put(&bucket).json(json!({"permissions": {"read": ["system.Everyone"]}})).await.expect(201);
    alice.put(&format!("{bucket}/collections/c")).await.expect(201);
    (sidecar, bucket)
}

/// A collection in such a bucket, with a record that was written a few times.
async fn with_a_large_record() -> (Sidecar, String) {
    let (sidecar, bucket) = with_history().await;
    let (alice, collection) = (sidecar.client().user("alice"), format!("{bucket}/collections/c"));
    let record = format!("{collection}/records/x");
    for number in 0..40 {
        alice.put(&record).data(json!({"n": number})).await;
    }
    alice.put(&record).data(json!({"text": "y".repeat(8 * MIB)})).await.expect(200);
    (sidecar, collection)
}

#[tokio::test]
async fn one_record_asked_for_many_times_is_counted_before_it_is_copied() {
    let (sidecar, collection) = with_a_large_record().await;
    let request =
        format!("POST /v1{collection}/_bulk_get?latest=true HTTP/1.1\r\nContent-Type: application/json\r\n");
    let status = ask(sidecar.address(), &request, br#"{"docs":[{"id":"x"}]}"#);
    assert_eq!(status, Some(200));
    let body = json!({"docs": vec![json!({"id": "x"}); 50]}).to_string();
    bounded(&sidecar, "50 copies of a record", || {
        let status = ask(sidecar.address(), &request, body.as_bytes());
        assert_eq!(status, Some(503));
    });
}

#[tokio::test]
async fn a_record_is_copied_once_by_however_many_names_it_is_asked_for() {
    let (sidecar, collection) = with_a_large_record().await;
    let newest = sidecar.client().get(&format!("{collection}/x?revs=true&latest=true&open_revs=all"));
    let copies = newest.header("accept", "application/json").await.expect(200).json();
    let revisions = &copies[0]["ok"]["_revisions"];
    let start = revisions["start"].as_u64().unwrap();
    let names = revisions["ids"].as_array().unwrap().iter().enumerate();
    let names: Vec<String> =
        names.map(|(place, id)| format!("{}-{}", start - place as u64, id.as_str().unwrap())).collect();
    assert!(names.len() > 40, "{names:?}");
    let names = json!(names).to_string().replace('"', "%22");
    let request = format!("GET /v1{collection}/x?latest=true&open_revs={names} HTTP/1.1\r\n");
    bounded(&sidecar, "one record by many names", || {
        assert_eq!(ask(sidecar.address(), &request, b""), Some(200));
    });
}

#[tokio::test]
async fn differences_between_large_records_are_made_one_after_the_other() {
    let (sidecar, bucket) = with_history().await;
    let alice = sidecar.client().user("alice");
    for number in 0..2 {
        for record in 0..10 {
            let path = format!("{bucket}/collections/c/records/r{record}");
            let answer = alice.put(&path).data(json!({"numbers": vec![number; MIB]})).await;
            assert!(answer.status < 300, "{answer}");
        }
    }
    for undone in ["diff?from=1", "deleted?", "diff?from=1&_limit=3"] {
        let request = format!("GET /v1{bucket}/history/{undone} HTTP/1.1\r\n");
        bounded(&sidecar, undone, || assert_eq!(ask(sidecar.address(), &request, b""), Some(200)));
    }
    let body = json!({"from": 1, "to": "now", "dry_run": true}).to_string();
    let request = format!("POST /v1{bucket}/history/revert HTTP/1.1\r\n{AS_ALICE}");
    bounded(&sidecar, "a preview", || {
        assert_eq!(ask(sidecar.address(), &request, body.as_bytes()), Some(200));
    });
}

#[tokio::test]
async fn fields_that_lie_deep_in_a_large_record_are_given_back_in_one_go() {
    let (sidecar, bucket) = with_history().await;
    let alice = sidecar.client().user("alice");
    let path = format!("{bucket}/collections/c/records/r");
    let text = json!("y".repeat(4 * MIB));
    let deep = (0..18).fold(json!({"text": text}), |inner, _| json!({"a": inner}));
    for data in [deep, json!({"b": 1})] {
        let answer = alice.put(&path).data(data).await;
        assert!(answer.status < 300, "{answer}");
    }
    let fields: Vec<String> = (0..20).map(|number| format!("{}f{number}", "a.".repeat(19))).collect();
    let revert = format!("POST /v1{bucket}/history/revert HTTP/1.1\r\n{AS_ALICE}");
    let body = json!({"from": 1, "dry_run": true, "fields": fields});
    let undone = alice.post(&format!("{bucket}/history/revert")).json(body.clone()).await.expect(200);
    assert!(String::from_utf8_lossy(&undone.body).contains(r#""complete":true"#), "{undone}");
    bounded(&sidecar, "fields that lie deep", || {
        assert_eq!(ask(sidecar.address(), &revert, body.to_string().as_bytes()), Some(200));
    });
}
