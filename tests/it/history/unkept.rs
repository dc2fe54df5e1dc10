//! What a journal in PostgreSQL cannot keep: URIs that are longer than a row of an index. Kinto takes them.

use std::sync::LazyLock;

use serde_json::json;

use super::entries;
use crate::support::{
    Client, Fate, Kinto, KintoOptions, Recorder, SERVICE_ACCOUNT, Sidecar, database, eventually, unique,
};

static KINTO: LazyLock<Kinto> = LazyLock::new(|| Kinto::start(KintoOptions::postgres()));

/// An id that nothing makes shorter.
fn long_id(stem: &str, length: usize) -> String {
    let mut state: u64 = 7;
    let mut letter = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(
            b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_"[(state >> 58) as usize],
        )
    };
    stem.chars().chain((stem.len()..length).map(|_| letter())).collect()
}

/// A bucket of alice's with a collection, both with long ids, and a name for a record that the journal cannot keep.
struct Long {
    bucket: String,
    collection: String,
    record: String,
}

impl Long {
    fn new(stem: &str) -> Self {
        let bucket = format!("/buckets/{}", long_id(&unique(stem), 600));
        let collection = format!("{bucket}/collections/{}", long_id("c", 600));
        let record = format!("{collection}/records/{}", long_id("r", 600));
        Self { bucket, collection, record }
    }
}

#[tokio::test]
async fn a_write_that_could_not_be_recorded_is_refused_before_it_is_sent() {
    let Long { bucket, collection, record } = Long::new("refused");
    let journal = database();
    let settings = [SERVICE_ACCOUNT, ("sidecar.journal", &*journal), ("history.resources", &*bucket)];
    let sidecar = Sidecar::start(KINTO.url(), &settings);
    let (alice, direct) = (sidecar.client().user("alice"), KINTO.client().user("alice"));
    alice.put(&bucket).await.expect(201);
    alice.put(&collection).await.expect(201);
    let refused = alice.put(&record).await.expect(400).json();
    assert_eq!((&refused["errno"], &refused["error"]), (&json!(107), &json!("Invalid parameters")));
    assert_eq!(refused["details"][0]["location"], "path");
    assert!(refused["message"].as_str().unwrap().starts_with("path: Invalid object id"), "{refused}");
    let id = record.rsplit('/').next().unwrap();
    let records = format!("{collection}/records");
    for id in [id.to_owned(), long_id("r", 5000)] {
        let refused = alice.post(&records).data(json!({"id": id})).await.expect(400).json();
        assert_eq!(refused["details"][0]["location"], "body");
    }
    let batch = json!({"defaults": {"method": "PUT"}, "requests": [
        {"path": format!("{records}/short")},
        {"path": record},
    ]});
    alice.post("/batch").json(batch).await.expect(400);
    assert!(direct.get(&records).await.expect(200).data().as_array().unwrap().is_empty(), "nothing was sent");
    alice.put(&format!("/buckets/{}", long_id("b", 3000))).await.expect(400);
    alice.post(&records).data(json!({"n": 1})).await.expect(201);
    assert_eq!(entries(&alice, &bucket).await.len(), 3);
    // A journal in SQLite keeps it.
    let sidecar = Sidecar::start(KINTO.url(), &[SERVICE_ACCOUNT]);
    let alice = sidecar.client().user("alice");
    alice.put(&record).await.expect(201);
    let recorded = entries(&alice, &bucket).await;
    assert!(recorded.iter().any(|entry| entry["uri"] == record && entry["user_id"].is_string()));
}

#[tokio::test]
async fn what_was_written_past_it_and_cannot_be_kept_holds_up_nobody_not_even_after_a_restart() {
    let Long { bucket, collection, record } = Long::new("a");
    let other = format!("/buckets/{}", unique("b"));
    let journal = database();
    let resources = format!("{bucket} {other}");
    let settings = [
        SERVICE_ACCOUNT,
        ("sidecar.journal", &*journal),
        ("history.resources", &*resources),
        ("sidecar.timestamps_ttl", "50ms"),
        ("sidecar.poll_budget", "100%"),
        ("history.on_journal_failure", "forward"),
    ];
    let recorder = Recorder::before(KINTO.url());
    let mut sidecar = Sidecar::start(recorder.url(), &settings);
    let (alice, direct) = (sidecar.client().user("alice"), KINTO.client().user("alice"));
    for path in [&bucket, &collection, &other, &format!("{other}/collections/c")] {
        alice.put(path).await.expect(201);
    }
    direct.put(&record).await.expect(201);
    let log = eventually("the record that has no entry", async || {
        let log = sidecar.log();
        log.contains("a change has no entry").then_some(log)
    })
    .await;
    assert!(log.contains(record.get(..150).unwrap()) && !log.contains(&record), "{log}");
    let found = async |alice: &Client, id: &str| {
        direct.put(&format!("{other}/collections/c/records/{id}")).await.expect(201);
        eventually(id, async || {
            entries(alice, &other).await.iter().any(|entry| entry["record_id"] == id).then_some(())
        })
        .await;
    };
    found(&alice, "before").await;
    // It is in the journal as a write under way when the process dies.
    let path = format!("/v1{record}");
    let is_it = move |method: &str, at: &str| method == "PUT" && at == path;
    let held = is_it.clone();
    recorder.intercept(
        move |request| if held(&request.method, request.path()) { Fate::Hold } else { Fate::Pass },
    );
    let waiting = tokio::spawn(alice.put(&record).data(json!({"n": 2})).attempt());
    recorder.wait_for(1, |request| is_it(&request.method, request.path())).await;
    sidecar.kill();
    assert!(waiting.await.unwrap().is_err());
    recorder.release();
    direct.put(&record).data(json!({"n": 2})).await.expect(200);
    sidecar.restart();
    let alice = sidecar.client().user("alice");
    alice.put(&format!("{other}/collections/c/records/after")).await.expect(201);
    found(&alice, "after-that").await;
    assert!(entries(&alice, &other).await.iter().any(|entry| entry["record_id"] == "after"));
}

#[tokio::test]
async fn texts_that_postgresql_does_not_have_are_recorded_as_kinto_gives_them() {
    let (kinto, journal) = (Kinto::shared(), database());
    let bucket = format!("/buckets/{}", unique("odd-texts"));
    let settings = [SERVICE_ACCOUNT, ("sidecar.journal", &*journal), ("history.resources", &*bucket)];
    let sidecar = Sidecar::start(kinto.url(), &settings);
    let alice = sidecar.client().user("alice");
    alice.put(&bucket).await.expect(201);
    alice.put(&format!("{bucket}/collections/c")).await.expect(201);
    let record = format!("{bucket}/collections/c/records/r");
    let put =
        |body: &str| alice.put(&record).header("content-type", "application/json").body(body.to_owned());
    let mut taken = 2;
    for body in [
        r#"{"data": {"nul": "\u0000", "\u0000": 1}}"#,
        r#"{"data": {"n": 1}, "permissions": {"read": ["a\u0000b", "basicauth:x"]}}"#,
        r#"{"data": {"half": "\ud800"}}"#,
        r#"{"data": {"large": 1e400, "number": 123456789012345678901234567890}}"#,
    ] {
        let answer = put(body).await;
        assert!(matches!(answer.status, 200 | 201 | 400), "{body}: {}", answer.text());
        taken += usize::from(answer.status < 300);
        assert_eq!(entries(&alice, &bucket).await.len(), taken, "{body}");
    }
    for path in ["/buckets/a%00b", &format!("{bucket}/collections/c/records/a%00b")] {
        alice.put(path).await.expect(400);
    }
    let asked = alice.get(&format!("{bucket}/history?record_id=a%00b")).await;
    assert!(matches!(asked.status, 200 | 400), "{}", asked.text());
    alice.put(&record).data(json!({})).await.expect(200);
}
