//! Writes that pass through count at once: before their client has its answer, they are in the list of timestamps.
//!
//! The sidecars here are told that nothing writes past them (`sidecar.exclusive`), so that no poll can help.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::json;

use crate::support::{
    Client, Kinto, KintoOptions, Plugin, Recorder, SERVICE_ACCOUNT, Sidecar, eventually, stub, unique,
};

const EXCLUSIVE: (&str, &str) = ("sidecar.exclusive", "true");

/// A sidecar that monitors these resources and has asked for them once.
async fn sidecar(upstream: impl AsRef<str>, resources: &str) -> Sidecar {
    let settings = [SERVICE_ACCOUNT, EXCLUSIVE, ("sidecar.history", "off"), ("changes.resources", resources)];
    let sidecar = Sidecar::start(upstream, &settings);
    listed(&sidecar.client()).await;
    sidecar
}

/// The timestamps in the list, by collection.
async fn listed(client: &Client) -> BTreeMap<String, u64> {
    let rows = client.get("/buckets/monitor/collections/changes/records").await.expect(200).data();
    let rows = rows.as_array().unwrap().iter();
    rows.map(|row| (row["collection"].as_str().unwrap().to_owned(), row["last_modified"].as_u64().unwrap()))
        .collect()
}

/// What Kinto itself says is a collection's timestamp.
async fn timestamp(kinto: &Kinto, collection: &str) -> u64 {
    kinto.client().user("alice").head(&format!("{collection}/records")).await.expect(200).timestamp()
}

#[tokio::test]
async fn each_kind_of_write_of_records_is_listed_at_once() {
    let kinto = Kinto::shared();
    let bucket = format!("/buckets/{}", unique("writes"));
    let collection = format!("{bucket}/collections/c");
    let records = format!("{collection}/records");
    let sidecar = sidecar(kinto.url(), &bucket).await;
    let alice = sidecar.client().user("alice");
    alice.put(&bucket).await.expect(201);
    alice.put(&collection).await.expect(201);

    let decoded = records.replace("/collections/", "/%63ollections/");
    let writes = [
        alice.put(&format!("{records}/one")).data(json!({"n": 1})),
        alice.put(&format!("{records}/one")).data(json!({"n": 2})),
        alice.patch(&format!("{records}/one")).data(json!({"n": 3})),
        alice.patch(&format!("{records}/one")).header("Response-Behavior", "light").data(json!({"n": 4})),
        alice.patch(&format!("{records}/one")).header("Response-Behavior", "diff").data(json!({"n": 5})),
        alice
            .patch(&format!("{records}/one"))
            .header("Content-Type", "application/json-patch+json")
            .body(r#"[{"op": "replace", "path": "/data/n", "value": 6}]"#),
        alice.post(&records).data(json!({"n": 7})),
        alice.put(&format!("{decoded}/%74wo")).data(json!({"n": 8})),
        alice.delete(&format!("{records}/two")),
        alice.delete(&records),
    ];
    let mut before = 0;
    for write in writes {
        let answer = write.await;
        assert!(answer.status < 300, "{answer}");
        let known = listed(&alice).await;
        assert_eq!(known["c"], timestamp(kinto, &collection).await, "{answer}");
        assert!(known["c"] > before, "{answer}");
        before = known["c"];
    }
}

#[tokio::test]
async fn a_collection_may_have_a_name_that_kinto_refuses_in_batches() {
    let kinto = Kinto::shared();
    let bucket = format!("/buckets/{}", unique("batch"));
    let alice = kinto.client().user("alice");
    alice.put(&bucket).await.expect(201);
    alice.put(&format!("{bucket}/collections/batches")).await.expect(201);
    let sidecar = sidecar(kinto.url(), &bucket).await;
    let known = listed(&sidecar.client()).await;
    assert_eq!(known["batches"], timestamp(kinto, &format!("{bucket}/collections/batches")).await);
}

#[tokio::test]
async fn a_write_that_fails_changes_nothing() {
    let kinto = Kinto::shared();
    let bucket = format!("/buckets/{}", unique("failing"));
    let record = format!("{bucket}/collections/c/records/r");
    let sidecar = sidecar(kinto.url(), &bucket).await;
    let alice = sidecar.client().user("alice");
    alice.put(&bucket).await.expect(201);
    alice.put(&format!("{bucket}/collections/c")).await.expect(201);
    alice.put(&record).data(json!({})).await.expect(201);
    let before = listed(&alice).await;

    alice.put(&record).header("If-None-Match", "*").data(json!({})).await.expect(412);
    sidecar.client().put(&record).data(json!({})).await.expect(401);
    alice.put(&record).body("{").await.expect(400);
    alice.post(&format!("{bucket}/collections/c/records")).data(json!({"id": "r"})).await.expect(200);
    assert_eq!(listed(&alice).await, before);
}

#[tokio::test]
async fn collections_come_and_go_in_the_list_as_they_do_in_kinto() {
    let kinto = Kinto::shared();
    let bucket = format!("/buckets/{}", unique("comings"));
    let collections = format!("{bucket}/collections");
    let sidecar = sidecar(kinto.url(), &bucket).await;
    let alice = sidecar.client().user("alice");
    let names = async || listed(&alice).await.into_keys().collect::<Vec<_>>();
    alice.put(&bucket).await.expect(201);

    alice.put(&format!("{collections}/put")).await.expect(201);
    assert_eq!(names().await, ["put"]);
    alice.post(&collections).data(json!({"id": "posted"})).await.expect(201);
    assert_eq!(names().await, ["posted", "put"]);
    assert_eq!(listed(&alice).await["posted"], timestamp(kinto, &format!("{collections}/posted")).await);

    alice.delete(&format!("{collections}/put")).await.expect(200);
    assert_eq!(names().await, ["posted"]);
    alice.put(&format!("{collections}/other")).await.expect(201);
    alice.delete(&collections).await.expect(200);
    assert!(names().await.is_empty());

    alice.put(&format!("{collections}/again")).await.expect(201);
    alice.delete(&bucket).await.expect(200);
    assert!(names().await.is_empty());
}

#[tokio::test]
async fn everything_that_is_deleted_at_once_disappears() {
    let kinto = Kinto::start(KintoOptions::memory().plugin(Plugin::Flush));
    let sidecar = sidecar(kinto.url(), "/buckets/a /buckets/b").await;
    let alice = sidecar.client().user("alice");
    for (method, path) in [(http::Method::DELETE, "/buckets"), (http::Method::POST, "/__flush__")] {
        for bucket in ["a", "b"] {
            alice.put(&format!("/buckets/{bucket}")).await.expect(201);
            alice.put(&format!("/buckets/{bucket}/collections/in-{bucket}")).await.expect(201);
        }
        assert_eq!(listed(&alice).await.len(), 2);
        let answer = alice.request(method, path).await;
        assert!(answer.status < 300, "{answer}");
        assert!(listed(&alice).await.is_empty(), "{answer}");
    }
}

#[tokio::test]
async fn a_change_of_metadata_is_in_the_next_changeset() {
    let kinto = Kinto::shared();
    let bucket = format!("/buckets/{}", unique("metadata"));
    let collection = format!("{bucket}/collections/c");
    let sidecar = sidecar(kinto.url(), &bucket).await;
    let alice = sidecar.client().user("alice");
    alice.put(&bucket).await.expect(201);
    alice.put(&collection).data(json!({"title": "old"})).await.expect(201);
    let title = async || {
        let changeset = alice.get(&format!("{collection}/changeset?_expected=0")).await.expect(200);
        changeset.json()["metadata"]["title"].clone()
    };
    assert_eq!(title().await, "old");
    alice.patch(&collection).data(json!({"title": "new"})).await.expect(200);
    assert_eq!(title().await, "new");
    alice.put(&collection).data(json!({"title": "newest"})).await.expect(200);
    assert_eq!(title().await, "newest");
}

#[tokio::test]
async fn the_default_bucket_is_its_users_own() {
    let kinto = Kinto::shared();
    let (alice, bob) = (unique("alice"), unique("bob"));
    let bucket = kinto.client().user(&alice).get("/").await.expect(200).json()["user"]["bucket"].clone();
    let sidecar = sidecar(kinto.url(), &format!("/buckets/{}", bucket.as_str().unwrap())).await;
    let (alice, bob) = (sidecar.client().user(&alice), sidecar.client().user(&bob));

    bob.put("/buckets/default/collections/bobs/records/r").data(json!({})).await.expect(201);
    alice.get("/buckets/default/collections/hers/changeset?_expected=0").await;
    let written = alice.put("/buckets/default/collections/hers/records/r").data(json!({"n": 1})).await;
    let written = written.expect(201).data();
    assert_eq!(
        listed(&alice).await,
        BTreeMap::from([("hers".to_owned(), written["last_modified"].as_u64().unwrap())])
    );
    let changeset = alice.get("/buckets/default/collections/hers/changeset?_expected=0").await.expect(200);
    assert_eq!(changeset.json()["changes"], json!([written]));

    // Reading there makes a collection, too.
    alice.get("/buckets/default/collections/read/records").await.expect(200);
    assert_eq!(listed(&alice).await.into_keys().collect::<Vec<_>>(), ["hers", "read"]);
}

#[tokio::test]
async fn a_write_is_listed_though_its_client_went_away() {
    let kinto = Kinto::shared();
    let recorder = Recorder::before(kinto.url());
    let bucket = format!("/buckets/{}", unique("gone"));
    let sidecar = sidecar(recorder.url(), &bucket).await;
    let alice = sidecar.client().user("alice");
    alice.put(&bucket).await.expect(201);
    alice.put(&format!("{bucket}/collections/c")).await.expect(201);
    let before = listed(&alice).await["c"];

    recorder.hold();
    let mut raw = sidecar.connect();
    raw.send(format!(
        "PUT /v1{bucket}/collections/c/records/r HTTP/1.1\r\nHost: x\r\nAuthorization: Basic YWxpY2U6c2VjcmV0\r\n\
         Content-Type: application/json\r\nContent-Length: 11\r\n\r\n{{\"data\":{{}}}}"
    ));
    recorder.wait_for(1, |request| request.path().ends_with("/records/r")).await;
    drop(raw);
    recorder.release();
    let after = eventually("the write in the list", async || {
        Some(listed(&alice).await["c"]).filter(|timestamp| *timestamp > before)
    })
    .await;
    assert_eq!(after, timestamp(kinto, &format!("{bucket}/collections/c")).await);
}

/// What a faulty way to Kinto makes of the answer to a record's write.
#[derive(Clone, Copy)]
enum Fault {
    /// The connection is closed without an answer.
    Lost,
    /// Somebody in between gives up.
    Unavailable,
}

/// A way to Kinto that carries out every write of a record and does not say so; the next `silent` questions for a
/// collection's timestamp fail, too.
fn faulty(kinto: &Kinto, fault: Fault, silent: usize) -> stub::Stub {
    let address = kinto.address();
    let silent = std::sync::atomic::AtomicUsize::new(silent);
    let wrote = std::sync::atomic::AtomicBool::new(false);
    stub::Stub::start(move |mut upstream| {
        use std::sync::atomic::Ordering::SeqCst;
        while let Some(seen) = upstream.read() {
            let answer = relay(&address, &seen);
            let is_write = seen.line().starts_with("PUT") && seen.line().contains("/records/");
            let is_question = seen.line().starts_with("HEAD") && wrote.load(SeqCst);
            let is_silent = || silent.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok();
            if is_write || (is_question && is_silent()) {
                wrote.store(true, SeqCst);
                match fault {
                    Fault::Lost => return,
                    Fault::Unavailable => {
                        upstream.write("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n");
                    }
                }
            } else {
                upstream.write(answer);
                return;
            }
        }
    })
}

/// Asks Kinto the same, and returns the bytes of its answer, after which the connection ends.
fn relay(address: &str, seen: &stub::Seen) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(seen.head.trim_end().as_bytes()).unwrap();
    stream.write_all(b"\r\nConnection: close\r\n\r\n").unwrap();
    stream.write_all(&seen.body).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    answer
}

async fn an_unknown_outcome_is_found_out(fault: Fault, silent: usize) {
    let kinto = Kinto::shared();
    let bucket = format!("/buckets/{}", unique("unknown"));
    let collection = format!("{bucket}/collections/c");
    let direct = kinto.client().user("alice");
    direct.put(&bucket).await.expect(201);
    direct.put(&collection).await.expect(201);
    let upstream = faulty(kinto, fault, silent);
    let sidecar = sidecar(upstream.url(), &collection).await;
    let alice = sidecar.client().user("alice");
    let before = listed(&alice).await["c"];

    let answer = alice.put(&format!("{collection}/records/r")).data(json!({"n": 1})).await;
    assert!(answer.status >= 500, "{answer}");
    let now = timestamp(kinto, &collection).await;
    assert!(now > before);
    eventually("the write in the list", async || (listed(&alice).await["c"] == now).then_some(())).await;
}

#[tokio::test]
async fn a_write_whose_answer_is_lost_is_found_out() {
    an_unknown_outcome_is_found_out(Fault::Lost, 0).await;
}

#[tokio::test]
async fn a_write_that_was_answered_with_an_error_is_found_out() {
    an_unknown_outcome_is_found_out(Fault::Unavailable, 0).await;
}

#[tokio::test]
async fn the_upstream_is_asked_until_it_says_what_became_of_a_write() {
    an_unknown_outcome_is_found_out(Fault::Unavailable, 3).await;
}
