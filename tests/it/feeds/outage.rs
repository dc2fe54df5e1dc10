//! While Kinto is down, feeds answer what changesets answer, and nobody who reads is sent away.

use std::time::{Duration, Instant};

use super::follower::Follower;
use crate::health;
use crate::support::{Chaos, Client, Kinto, SERVICE_ACCOUNT, Sidecar, eventually, unique};

const ALICE: (&str, &str) = ("authorization", "Basic YWxpY2U6c2VjcmV0");

#[tokio::test]
async fn who_comes_back_while_kinto_is_down_is_kept() {
    let kinto = Kinto::shared();
    let chaos = Chaos::before(kinto.url());
    let direct = kinto.client().user("alice");
    let bucket = health::bucket("outage").await;
    let collection = format!("{bucket}/collections/c");
    // Nothing that was asked before the outage is young enough to be believed without asking.
    let settings = [
        SERVICE_ACCOUNT,
        ("sidecar.permission_ttl", "0s"),
        ("sidecar.timestamps_ttl", "100ms"),
        ("sidecar.poll_budget", "100%"),
    ];
    let sidecar = Sidecar::start(chaos.url(), &settings);
    let (client, alice) = (sidecar.client(), sidecar.client().user("alice"));
    let paths = [
        format!("{collection}/changeset?_expected=0"),
        format!("{collection}/_changes"),
        format!("{collection}/_changes?feed=longpoll&since=0"),
        format!("{collection}/"),
        format!("{bucket}/_changes"),
    ];
    let ask = async |client: &Client| {
        let mut answers = Vec::new();
        for path in &paths {
            answers.push(client.get(path).await);
        }
        answers
    };
    let before = ask(&client).await;
    for answer in ask(&alice).await {
        answer.expect(200);
    }

    chaos.cut();
    for (before, after) in before.iter().zip(ask(&client).await) {
        let after = after.expect(200);
        assert_eq!(after.json(), before.json());
        let is_live = after.header("x-accel-buffering").is_some();
        assert!(is_live || after.header("cache-status").unwrap().contains("upstream-failed"), "{after}");
    }
    for answer in ask(&alice).await {
        answer.expect(503);
    }
    let path = format!("{collection}/_changes?feed=eventsource&since=now");
    let mut events = Follower::open(&sidecar, &path, &[]).await;
    assert_eq!(events.status, 200);
    events.event().await.unwrap();
    assert_eq!(Follower::open(&sidecar, &path, &[ALICE]).await.status, 503);

    chaos.restore();
    let written = direct.put(&format!("{collection}/records/b")).await.expect(201);
    loop {
        let event = events.event().await.unwrap();
        if event.id == Some(written.data()["last_modified"].to_string()) {
            break;
        }
    }
}

#[tokio::test]
async fn a_feed_that_is_open_when_kinto_goes_down_stays_open() {
    let kinto = Kinto::shared();
    let chaos = Chaos::before(kinto.url());
    let sidecar = Sidecar::start(
        chaos.url(),
        &[SERVICE_ACCOUNT, ("sidecar.permission_ttl", "10ms"), ("sidecar.poll_budget", "100%")],
    );
    let bucket = format!("/buckets/{}", unique("outage"));
    let collection = format!("{bucket}/collections/c");
    let alice = sidecar.client().user("alice");
    alice.put(&bucket).await.expect(201);
    alice.put(&collection).await.expect(201);
    let path = format!("{collection}/_changes?feed=continuous&since=now&heartbeat=1000");
    let mut feed = Follower::open(&sidecar, &path, &[ALICE]).await;
    chaos.cut();
    // Permissions are asked for again each second.
    for _ in 0..2 {
        assert_eq!(feed.line().await.unwrap(), "");
    }
    chaos.restore();
    let written = kinto.client().user("alice").put(&format!("{collection}/records/b")).await.expect(201);
    assert_eq!(feed.row().await.unwrap()["seq"], written.data()["last_modified"]);
}

#[tokio::test]
async fn who_can_be_answered_does_not_wait_for_a_kinto_that_hangs() {
    let kinto = Kinto::shared();
    let chaos = Chaos::before(kinto.url());
    let direct = kinto.client().user("alice");
    let bucket = health::bucket("hanging").await;
    let collection = format!("{bucket}/collections/c");
    let newest = direct.get(&format!("{collection}/records/r")).await.expect(200).timestamp();
    let settings = [
        SERVICE_ACCOUNT,
        ("changes.resources", bucket.as_str()),
        ("sidecar.permission_ttl", "0s"),
        ("sidecar.timestamps_ttl", "100ms"),
        ("sidecar.poll_budget", "100%"),
        ("sidecar.upstream_connect_timeout", "300ms"),
    ];
    let sidecar = Sidecar::start(chaos.url(), &settings);
    let client = sidecar.client();
    let newer = newest + 1000;
    let paths = [
        format!("{collection}/changeset?_expected={newest}"),
        format!("{collection}/changeset?_expected={newer}"),
        format!("{collection}/_changes"),
        format!("{collection}/_changes?since={newer}"),
        format!("{collection}/"),
        format!("{bucket}/_changes"),
        format!("{bucket}/_changes?since={newer}"),
        format!("/buckets/monitor/collections/changes/changeset?_expected={newer}"),
    ];
    let ask = async || {
        let mut answers = Vec::new();
        for path in &paths {
            answers.push(client.get(path).await.expect(200));
        }
        answers
    };
    // Who was shown something once is not shown it again.
    ask().await;
    let before = ask().await;
    chaos.stall();
    let began = Instant::now();
    for _ in 0..2 {
        for (before, after) in before.iter().zip(ask().await) {
            assert_eq!(after.json(), before.json());
            let status = after.header("cache-status").unwrap_or_default();
            assert!(status.contains("upstream-failed"), "{after}");
        }
    }
    // `sidecar.upstream_timeout` is a minute.
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    chaos.restore();
    let written = direct.put(&format!("{collection}/records/b")).await.expect(201).timestamp();
    eventually("what was written", async || {
        let answer = client.get(&paths[0]).await.expect(200).json();
        (answer["timestamp"] == written).then_some(())
    })
    .await;
}
