//! Uploads that are given up before their bodies have come: nothing of them was written, and nothing is theirs.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::entries;
use crate::support::stub::Raw;
use crate::support::{Kinto, Recorded, Recorder, SERVICE_ACCOUNT, Sidecar, eventually, unique};

/// Begins to send a body that is too large to be kept, as mallory, and has some of it sent on.
fn begin(sidecar: &Sidecar, method: &str, path: &str) -> Raw {
    let mut client = sidecar.connect();
    let credentials = BASE64_STANDARD.encode("mallory:secret");
    client.send(format!(
        "{method} /v1{path} HTTP/1.1\r\nHost: h\r\nAuthorization: Basic {credentials}\r\n\
         Content-Type: application/json\r\nContent-Length: 300000\r\nExpect: 100-continue\r\n\r\n"
    ));
    // It is asked for when the intent is written down.
    assert!(client.read_head().is_some_and(|head| head.starts_with("HTTP/1.1 100")));
    client.send("{");
    client
}

#[tokio::test]
async fn who_gives_up_an_upload_is_no_author_of_what_others_write_and_nobody_is_asked_about_it() {
    let kinto = Kinto::shared();
    let recorder = Recorder::before(kinto.url());
    let mallory = kinto.client().user("mallory").get("/").await.expect(200).json();
    let mallory = mallory["user"]["id"].as_str().unwrap();
    let bucket = format!("/buckets/{}", unique("given-up"));
    let settings = [
        SERVICE_ACCOUNT,
        ("sidecar.timestamps_ttl", "100ms"),
        ("sidecar.poll_budget", "100%"),
        ("history.resources", &bucket),
        // What they write themselves has no entry.
        ("history.exclude_user_ids", mallory),
    ];
    let sidecar = Sidecar::start(recorder.url(), &settings);
    let (alice, direct) = (sidecar.client().user("alice"), kinto.client().user("alice"));
    let records = format!("{bucket}/collections/c/records");
    alice.put(&bucket).await.expect(201);
    alice.put(&format!("{bucket}/collections/c")).await.expect(201);
    alice.put(&format!("{records}/r")).data(json!({"n": 0})).await.expect(201);
    let about =
        [("POST", records.clone()), ("PUT", format!("{records}/r")), ("PATCH", format!("{records}/r"))];
    let begun = about.map(|(method, path)| begin(&sidecar, method, &path));
    let credentials = format!("Basic {}", BASE64_STANDARD.encode("mallory:secret"));
    let is_mallorys = |request: &Recorded| {
        request.method == "GET"
            && request.headers.get("authorization").is_some_and(|sent| *sent == *credentials)
    };
    let asked = recorder.count(is_mallorys);
    drop(begun);
    for number in 0..10 {
        direct.put(&format!("{records}/r{number}")).data(json!({"n": number})).await.expect(201);
    }
    direct.put(&format!("{records}/r")).data(json!({"n": 1})).await.expect(200);
    let found = eventually("what was written elsewhere", async || {
        let entries = entries(&alice, &bucket).await;
        (entries.len() == 3 + 11).then_some(entries)
    })
    .await;
    let authors: Vec<&Value> = found.iter().skip(3).map(|entry| &entry["user_id"]).collect();
    assert!(authors.iter().all(|author| author.is_null()), "{authors:?}");
    assert_eq!(recorder.count(is_mallorys), asked, "nobody asks what became of them");
    alice.delete(&bucket).await.expect(200);
}
