//! What is given out while Kinto is down says so, on every endpoint, from the first answer on.

use crate::health;
use crate::support::{Chaos, Kinto, Response, SERVICE_ACCOUNT, Sidecar, eventually, unique};

pub const MONITOR: &str = "/buckets/monitor/collections/changes";

pub fn is_marked(answer: &Response) -> bool {
    answer.header("cache-status").is_some_and(|status| status.contains("detail=upstream-failed"))
}

#[tokio::test]
async fn every_endpoint_says_that_its_answer_is_stale() {
    let kinto = Kinto::shared();
    let chaos = Chaos::before(kinto.url());
    let bucket = health::bucket("stale").await;
    let collection = format!("{bucket}/collections/c");
    let record = kinto.client().get(&format!("{collection}/records/r")).await.expect(200);
    // What was asked for before the outage is young enough to be believed for all of this test.
    let settings = [
        SERVICE_ACCOUNT,
        ("changes.resources", bucket.as_str()),
        ("sidecar.permission_ttl", "1h"),
        ("sidecar.timestamps_ttl", "1h"),
    ];
    let sidecar = Sidecar::start(chaos.url(), &settings);
    let client = sidecar.client();
    let moment = record.data()["last_modified"].clone();
    let paths = [
        format!("{MONITOR}/records"),
        format!("{MONITOR}/changeset?_expected=0"),
        "/__broadcasts__".to_owned(),
        "/_changes".to_owned(),
        format!("{bucket}/_changes"),
        format!("{collection}/changeset?_expected=0"),
        format!("{collection}/_changes"),
        format!("{collection}/"),
        format!("{bucket}/snapshot/collections/c@{moment}"),
    ];
    let mut before = Vec::new();
    for path in &paths {
        let answer = client.get(path).await.expect(200);
        assert!(!is_marked(&answer), "{path}: {answer}");
        before.push(answer);
    }

    chaos.cut();
    // Somebody is told: from here on the sidecar knows.
    let refused = client.get("/buckets").await.status;
    assert!(refused >= 500, "{refused}");
    for (path, before) in paths.iter().zip(&before) {
        let answer = client.get(path).await.expect(200);
        assert_eq!(answer.json(), before.json(), "{path}");
        assert!(is_marked(&answer) && answer.header("age").is_some(), "{path}: {answer}");
    }

    chaos.restore();
    eventually("Kinto", async || (client.get("/buckets").await.status < 500).then_some(())).await;
    for path in &paths {
        let answer = client.get(path).await.expect(200);
        assert!(!is_marked(&answer), "{path}: {answer}");
    }
}

#[tokio::test]
async fn an_upstream_that_answers_with_errors_is_down_too() {
    let kinto = Kinto::shared();
    let recorder = crate::support::Recorder::before(kinto.url());
    let bucket = format!("/buckets/{}", unique("failing"));
    let direct = kinto.client().user("alice");
    direct.put(&bucket).await.expect(201);
    direct.put(&format!("{bucket}/collections/c")).await.expect(201);
    let settings =
        [SERVICE_ACCOUNT, ("changes.resources", bucket.as_str()), ("sidecar.timestamps_ttl", "50ms")];
    let sidecar = Sidecar::start(recorder.url(), &settings);
    let list = format!("{MONITOR}/records");
    let answer = sidecar.client().get(&list).await.expect(200);
    assert!(!is_marked(&answer), "{answer}");
    recorder.intercept(|_| crate::support::Fate::Answer(503));
    eventually("a mark", async || is_marked(&sidecar.client().get(&list).await.expect(200)).then_some(()))
        .await;
    recorder.release();
    eventually("no mark", async || {
        (!is_marked(&sidecar.client().get(&list).await.expect(200))).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_snapshot_of_what_is_no_longer_known_says_so_and_nothing_is_restored_by_it() {
    let kinto = Kinto::shared();
    let recorder = crate::support::Recorder::before(kinto.url());
    let sidecar = Sidecar::start(recorder.url(), &[SERVICE_ACCOUNT]);
    let bucket = format!("/buckets/{}", unique("incomplete"));
    let records = format!("{bucket}/collections/c/records");
    let alice = sidecar.client().user("alice");
    alice.put(&bucket).await.expect(201);
    alice.put(&format!("{bucket}/collections/c")).await.expect(201);
    let then = alice.put(&format!("{records}/a")).await.expect(201).timestamp();
    let snapshot = |moment: u64| format!("{bucket}/snapshot/collections/c@{moment}");
    let answer = alice.get(&snapshot(then)).await.expect(200);
    assert!(!is_marked(&answer) && answer.header("snapshot-incomplete").is_none(), "{answer}");
    let name = bucket.trim_start_matches("/buckets/").to_owned();
    recorder.intercept(move |request| {
        let is_refused = request.reads_records_of(&name, "c");
        if is_refused { crate::support::Fate::Answer(503) } else { crate::support::Fate::Pass }
    });
    let now = alice.put(&format!("{records}/b")).await.expect(201).timestamp();
    let answer = alice.get(&snapshot(now)).await.expect(200);
    assert!(is_marked(&answer), "{answer}");
    assert_eq!(answer.header("snapshot-incomplete"), Some("true"));
    let answer = alice.get(&snapshot(then)).await.expect(200);
    assert!(is_marked(&answer) && answer.header("snapshot-incomplete").is_none(), "{answer}");
    alice.post(&format!("{}/restore", snapshot(then))).await.expect(503);
    recorder.release();
    let answer = alice.get(&snapshot(now)).await.expect(200);
    assert!(!is_marked(&answer) && answer.header("snapshot-incomplete").is_none(), "{answer}");
    assert_eq!(answer.json()["data"].as_array().unwrap().len(), 2);
}
