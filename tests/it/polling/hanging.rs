//! A collection on which the upstream hangs, and those beside it.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{bucket, is_batch, kinto, listed, until_listed};
use crate::support::{Chaos, Fate, Kinto, Recorded, Recorder, SERVICE_ACCOUNT, Sidecar, eventually};

/// Counts questions of which the connection ended.
const BROKEN: &str = "kinto_sidecar_upstream_requests_total{outcome=\"broken\"}";

/// Whether a request asks for something of a collection, be it within a batch.
pub fn is_about(request: &Recorded, collection: &str) -> bool {
    request.path().starts_with(&format!("/v1{collection}/"))
        || request.sub_requests().iter().any(|path| path.contains(&format!("{collection}/")))
}

/// How long it takes until what is written elsewhere to a collection is listed.
async fn lag(sidecar: &Sidecar, bucket: &str, collection: &str, n: u32) -> Duration {
    let path = format!("{bucket}/collections/{collection}/records/r");
    let timestamp = kinto().put(&path).data(json!({"n": n})).await.expect(200).timestamp();
    let written = Instant::now();
    until_listed(&sidecar.client(), collection, timestamp).await;
    written.elapsed()
}

#[tokio::test]
async fn a_collection_that_hangs_holds_up_no_other() {
    let (bucket, made) = bucket(&kinto(), &["a", "b", "c", "d", "e", "hangs"]).await;
    let hangs = format!("{bucket}/collections/hangs");
    let recorder = Recorder::before(Kinto::shared().url());
    let settings = [
        SERVICE_ACCOUNT,
        ("changes.resources", &*bucket),
        ("sidecar.timestamps_ttl", "200ms"),
        ("sidecar.poll_budget", "50%"),
        ("sidecar.history", "journal"),
        ("sidecar.journal", "sqlite::memory:"),
    ];
    let sidecar = Sidecar::start(recorder.url(), &settings);
    let client = sidecar.client();
    assert_eq!(listed(&client).await, made);
    for collection in ["a", "hangs"] {
        // Mirrors are compared, too.
        let changeset = format!("{bucket}/collections/{collection}/changeset?_expected=0");
        client.user("alice").get(&changeset).await.expect(200);
    }
    // What slow answers there were at start is forgotten.
    recorder.clear();
    recorder.wait_for(10, is_batch).await;
    let held = hangs.clone();
    recorder.intercept(move |request| if is_about(request, &held) { Fate::Hold } else { Fate::Pass });
    recorder.clear();
    recorder.wait_for(1, |request| is_about(request, &hangs)).await;
    let mut lags = Vec::new();
    for n in 2..12 {
        for collection in ["a", "e"] {
            lags.push(lag(&sidecar, &bucket, collection, n).await);
        }
    }
    lags.sort();
    // Each who asks for several gives up the batch that hangs once, after two seconds; from then on nothing of the others waits.
    assert!(lags[lags.len() - 1] < Duration::from_secs(9), "{lags:?}");
    assert!(lags[lags.len() / 2] < Duration::from_secs(2), "{lags:?}");
    let batches = recorder.count(|request| is_batch(request) && is_about(request, &hangs));
    assert!(batches <= 2, "it is asked for alone: {batches} batches");

    let named = format!("is asked for the records of {hangs}");
    eventually("the log to name it", async || sidecar.log().contains(&named).then_some(())).await;
    recorder.release();
    let lag = lag(&sidecar, &bucket, "hangs", 2).await;
    assert!(lag < Duration::from_secs(15), "{lag:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kinto_that_is_away_for_long_is_no_fault_of_its_collections() {
    let (bucket, _) = bucket(&kinto(), &["a"]).await;
    let chaos = Chaos::before(Kinto::shared().url());
    let settings = [
        SERVICE_ACCOUNT,
        ("changes.resources", &*bucket),
        ("sidecar.timestamps_ttl", "100ms"),
        ("sidecar.poll_budget", "100%"),
        ("sidecar.admin_listen", "127.0.0.1:0"),
    ];
    let sidecar = Sidecar::start(chaos.url(), &settings);
    listed(&sidecar.client()).await;
    // As a proxy does whose server is away: connections are taken, and end without an answer.
    chaos.cut();
    for _ in 0..3 {
        let before = sidecar.metric(BROKEN).await.unwrap();
        eventually("further questions", async || (sidecar.metric(BROKEN).await? > before + 2).then_some(()))
            .await;
        assert_eq!(sidecar.metric("kinto_sidecar_failing").await, Some(0));
    }
    chaos.restore();
    let lag = lag(&sidecar, &bucket, "a", 2).await;
    assert!(lag < Duration::from_secs(15), "{lag:?}");
}
