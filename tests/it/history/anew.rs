//! A bucket that vanished without being deleted, and another that is made under its name by somebody else.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::entries;
use crate::support::{
    Client, Kinto, KintoOptions, Plugin, Recorder, SERVICE_ACCOUNT, Sidecar, database, eventually, unique,
};

const QUICK: [(&str, &str); 3] =
    [SERVICE_ACCOUNT, ("sidecar.timestamps_ttl", "50ms"), ("sidecar.poll_budget", "100%")];

fn flushable() -> Kinto {
    Kinto::start(KintoOptions::memory().plugin(Plugin::Flush))
}

async fn write(client: &Client, bucket: &str, secret: &str) -> u64 {
    let made = client.put(bucket).data(json!({"of": secret})).await.expect(201);
    let collection = format!("{bucket}/collections/c");
    client.put(&collection).data(json!({"of": secret})).await.expect(201);
    client.put(&format!("{collection}/records/r")).data(json!({"of": secret})).await.expect(201);
    made.data()["last_modified"].as_u64().unwrap()
}

/// All that somebody can be shown of a bucket's past.
async fn shown(client: &Client, bucket: &str, moment: u64) -> String {
    let mut shown = String::new();
    for path in [
        "/history".to_owned(),
        "/history?_since=0".to_owned(),
        "/history/_changes?include_docs=true".to_owned(),
        "/history/_changes?feed=longpoll&include_docs=true".to_owned(),
        format!("/snapshot/collections/c@{moment}"),
        "/snapshot/collections/c@99999999999999".to_owned(),
    ] {
        let answer = client.get(&format!("{bucket}{path}")).await;
        shown.push_str(&String::from_utf8_lossy(&answer.body));
    }
    shown
}

#[tokio::test]
async fn who_makes_a_bucket_anew_does_not_see_what_was_done_in_the_one_before() {
    let postgres = database();
    for journal in ["sqlite::memory:", postgres.as_str()] {
        let kinto = flushable();
        let sidecar = Sidecar::start(kinto.url(), &[SERVICE_ACCOUNT, ("sidecar.journal", journal)]);
        let (alice, mallory) = (sidecar.client().user("alice"), sidecar.client().user("mallory"));
        for way in ["put", "dated", "batch", "post", "chunked"] {
            let id = unique("anew");
            let bucket = format!("/buckets/{id}");
            let made = write(&alice, &bucket, "alice").await;
            let seq =
                entries(&alice, &bucket).await.last().unwrap()["target"]["data"]["last_modified"].clone();
            kinto.client().post("/__flush__").await.expect(202);
            match way {
                "put" => mallory.put(&bucket).await.expect(201),
                "dated" => mallory.put(&bucket).data(json!({"last_modified": made})).await.expect(201),
                "batch" => {
                    let request = json!({"method": "PUT", "path": bucket});
                    mallory.post("/batch").json(json!({"requests": [request]})).await.expect(200)
                }
                "post" => mallory.post("/buckets").data(json!({"id": id})).await.expect(201),
                _ => {
                    // So large that it is not looked at before it is sent.
                    let data = json!({"id": id, "padding": "x".repeat(100_000)});
                    mallory.post("/buckets").data(data).await.expect(201)
                }
            };
            let collection = format!("{bucket}/collections/c");
            mallory.put(&collection).await.expect(201);
            mallory.put(&format!("{collection}/records/r")).await.expect(201);
            let shown = shown(&mallory, &bucket, seq.as_u64().unwrap()).await;
            assert!(!shown.contains("alice"), "{way}: {shown}");
            let own = entries(&mallory, &bucket).await;
            let actions: Vec<&Value> = own.iter().map(|entry| &entry["action"]).collect();
            assert_eq!(actions, ["create"; 3], "{way}");
        }
    }
}

#[tokio::test]
async fn who_makes_a_bucket_anew_elsewhere_does_not_either() {
    let kinto = flushable();
    let sidecar = Sidecar::start(kinto.url(), &QUICK);
    let (alice, mallory) = (sidecar.client().user("alice"), sidecar.client().user("mallory"));
    let direct = kinto.client().user("mallory");
    for _ in 0..3 {
        let bucket = format!("/buckets/{}", unique("anew"));
        write(&alice, &bucket, "alice").await;
        let seq = entries(&alice, &bucket).await.last().unwrap()["target"]["data"]["last_modified"].clone();
        kinto.client().post("/__flush__").await.expect(202);
        // At once, and with the same names.
        write(&direct, &bucket, "mallory").await;
        let shown = shown(&mallory, &bucket, seq.as_u64().unwrap()).await;
        assert!(!shown.contains("alice"), "{shown}");
        eventually("what was made elsewhere", async || {
            (entries(&mallory, &bucket).await.len() == 3).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_bucket_that_is_updated_elsewhere_keeps_its_history() {
    let kinto = Kinto::shared();
    let recorder = Recorder::before(kinto.url());
    let bucket = format!("/buckets/{}", unique("same"));
    let mut settings = QUICK.to_vec();
    settings.push(("history.resources", &bucket));
    let sidecar = Sidecar::start(recorder.url(), &settings);
    let (alice, direct) = (sidecar.client().user("alice"), kinto.client().user("alice"));
    write(&alice, &bucket, "alice").await;
    // What was there first is taken as known.
    let groups = format!("/v1{bucket}/groups");
    recorder.wait_for(2, |request| request.method == "HEAD" && request.path() == groups).await;
    direct.patch(&bucket).data(json!({"n": 1})).await.expect(200);
    direct.patch(&format!("{bucket}/collections/c")).data(json!({"n": 1})).await.expect(200);
    assert!(entries(&alice, &bucket).await.len() >= 3);
    eventually("what was done elsewhere", async || (entries(&alice, &bucket).await.len() == 5).then_some(()))
        .await;
}

fn exported(journal: &Path) -> String {
    let place = format!("sqlite:{}", journal.display());
    let output = Command::new(env!("CARGO_BIN_EXE_kinto-sidecar"))
        .args(["history", "export", "--journal", &place])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn what_is_hidden_is_kept_until_a_deletion_is_acknowledged() {
    let kinto = flushable();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("journal.db");
    let journal = format!("sqlite:{}", file.display());
    let start = || Sidecar::start(kinto.url(), &[SERVICE_ACCOUNT, ("sidecar.journal", &journal)]);
    let bucket = format!("/buckets/{}", unique("anew"));
    let sidecar = start();
    write(&sidecar.client().user("alice"), &bucket, "alice").await;
    kinto.client().post("/__flush__").await.expect(202);
    let mallory = sidecar.client().user("mallory");
    mallory.put(&bucket).await.expect(201);
    mallory.delete(&format!("{bucket}/history")).await.expect(200);
    drop(sidecar);
    assert_eq!(exported(&file).matches("\"of\":\"alice\"").count(), 3);

    let sidecar = start();
    sidecar.client().user("mallory").delete(&bucket).await.expect(200);
    drop(sidecar);
    assert_eq!(exported(&file).matches("\"of\":\"alice\"").count(), 0);

    // A flush that passes is the deletion of everything, of what is hidden, too.
    let sidecar = start();
    write(&sidecar.client().user("alice"), &bucket, "alice").await;
    kinto.client().post("/__flush__").await.expect(202);
    let mallory = sidecar.client().user("mallory");
    mallory.put(&bucket).await.expect(201);
    mallory.post("/__flush__").await.expect(202);
    mallory.put(&bucket).await.expect(201);
    assert_eq!(entries(&mallory, &bucket).await.len(), 1);
    drop(sidecar);
    assert_eq!(exported(&file).matches("\"of\":\"alice\"").count(), 0);
}
