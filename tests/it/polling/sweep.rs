//! The first list of many collections, and what their polling costs the upstream.
//!
//! `COLLECTIONS=10000 cargo test --test it polling::sweep -- --nocapture` measures it at that number.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{MONITOR, bucket, is_batch, kinto, listed, rows};
use crate::support::{
    Client, Fate, Kinto, KintoOptions, Recorded, Recorder, SERVICE_ACCOUNT, Sidecar, eventually, unique,
};

/// How many sub-requests a batch may have.
const AT_ONCE: usize = 25;

/// How many collections there are, and whether time is measured.
fn number() -> (usize, bool) {
    let given = std::env::var("COLLECTIONS").ok();
    (given.as_deref().map_or(300, |number| number.parse().unwrap()), given.is_some())
}

/// A bucket with many collections.
async fn filled(client: &Client, number: usize) -> String {
    let bucket = format!("/buckets/{}", unique("many"));
    let everyone = json!({"permissions": {"read": ["system.Everyone"]}});
    client.put(&bucket).json(everyone).await.expect(201);
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..2 {
        let (client, bucket) = (client.clone(), bucket.clone());
        writers.spawn(async move {
            for batch in (0..number.div_ceil(AT_ONCE)).filter(|batch| batch % 2 == writer) {
                let ids = (batch * AT_ONCE..number).take(AT_ONCE);
                let requests: Vec<_> =
                    ids.map(|n| json!({"path": format!("{bucket}/collections/c{n}")})).collect();
                let made = json!({"defaults": {"method": "PUT"}, "requests": requests});
                client.post("/batch").json(made).await.expect(200);
            }
        });
    }
    while let Some(written) = writers.join_next().await {
        written.unwrap();
    }
    bucket
}

/// A sidecar for which nothing of what is monitored is due again while a test runs.
fn asked_once(upstream: &Recorder, resources: &str) -> Sidecar {
    let settings = [
        SERVICE_ACCOUNT,
        ("changes.resources", resources),
        ("sidecar.timestamps_ttl", "3600s"),
        ("sidecar.history", "off"),
    ];
    Sidecar::start(upstream.url(), &settings)
}

/// How long Kinto takes for the batches that say all timestamps.
async fn bare(client: &Client, bucket: &str, number: usize) -> Duration {
    let began = Instant::now();
    for batch in 0..number.div_ceil(AT_ONCE) {
        let ids = (batch * AT_ONCE..number).take(AT_ONCE);
        let requests: Vec<_> =
            ids.map(|n| json!({"path": format!("{bucket}/collections/c{n}/records")})).collect();
        let asked = json!({"defaults": {"method": "HEAD"}, "requests": requests});
        client.post("/batch").json(asked).await.expect(200);
    }
    began.elapsed()
}

#[tokio::test]
async fn the_first_list_costs_one_sweep_and_nobody_else_waits_for_it() {
    let (number, _) = number();
    let bucket = filled(&kinto(), number).await;
    let changeset = format!("{bucket}/collections/c7/changeset?_expected=0");
    let feed = format!("{bucket}/collections/c7/_changes");
    let recorder = Recorder::before(Kinto::shared().url());
    recorder.intercept(|request| if is_batch(request) { Fate::Hold } else { Fate::Pass });
    let sidecar = asked_once(&recorder, &bucket);
    recorder.wait_for(1, is_batch).await;
    let mut readers = tokio::task::JoinSet::new();
    for _ in 0..20 {
        readers.spawn(sidecar.client().get(MONITOR).attempt());
    }
    sidecar.client().get(&changeset).await.expect(200);
    sidecar.client().get(&feed).await.expect(200);
    let read = recorder.requests().len();
    sidecar.client().get(&changeset).await.expect(200);
    assert_eq!(recorder.count(is_batch), 1, "the sweep stands still meanwhile");
    recorder.intercept(|_| Fate::Pass);
    while let Some(list) = readers.join_next().await {
        let list = list.unwrap().unwrap();
        // A reader may have waited long enough before Kinto had answered.
        if list.status != 503 {
            assert_eq!(rows(&list.expect(200).json()).len(), number);
        }
    }
    eventually("the list", async || (sidecar.client().get(MONITOR).await.status == 200).then_some(())).await;
    for _ in 0..5 {
        sidecar.client().get(MONITOR).await.expect(200);
    }
    assert_eq!(recorder.count(is_batch), number.div_ceil(AT_ONCE), "after {read} requests");
    let lists = format!("/v1{bucket}/collections");
    assert_eq!(recorder.count(|request| request.path() == lists), number.div_ceil(10_000));
}

#[tokio::test]
async fn a_bucket_of_which_one_collection_is_monitored_has_all_in_its_feed() {
    let (bucket, made) = bucket(&kinto(), &["a", "b"]).await;
    let recorder = Recorder::before(Kinto::shared().url());
    let named = format!("{bucket}/collections/a");
    let settings = [
        SERVICE_ACCOUNT,
        ("changes.resources", &*named),
        ("sidecar.timestamps_ttl", "50ms"),
        ("sidecar.history", "off"),
    ];
    let sidecar = Sidecar::start(recorder.url(), &settings);
    assert_eq!(listed(&sidecar.client()).await, made[..1]);
    let lists = format!("/v1{bucket}/collections");
    recorder.wait_for(2, |request| request.path() == lists).await;
    let feed = sidecar.client().user("alice").get(&format!("{bucket}/_changes")).await.expect(200).json();
    let mut seen: Vec<_> = feed["results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["id"].as_str().unwrap().to_owned())
        .collect();
    seen.sort();
    assert_eq!(seen, ["a", "b"], "{feed}");
}

#[tokio::test]
async fn many_who_ask_for_one_bucket_cost_no_more_than_two_lists() {
    let (bucket, _) = bucket(&kinto(), &["a"]).await;
    let recorder = Recorder::before(Kinto::shared().url());
    let settings = [SERVICE_ACCOUNT, ("sidecar.timestamps_ttl", "3600s"), ("sidecar.history", "off")];
    let sidecar = Sidecar::start(recorder.url(), &settings);
    let alice = sidecar.client().user("alice");
    let lists = format!("/v1{bucket}/collections");
    let is_list = move |request: &Recorded| request.path() == lists;
    let held = is_list.clone();
    recorder.intercept(move |request| if held(request) { Fate::Hold } else { Fate::Pass });
    let mut readers = tokio::task::JoinSet::new();
    for number in 0..12 {
        readers.spawn(alice.get(&format!("{bucket}/_changes")).attempt());
        if number == 0 {
            recorder.wait_for(1, &is_list).await;
        }
    }
    recorder.release();
    while let Some(feed) = readers.join_next().await {
        feed.unwrap().unwrap().expect(200);
    }
    // One for the first of them, and one that began when all others were there.
    assert!(recorder.count(&is_list) <= 2, "{}", recorder.count(&is_list));
}

#[tokio::test]
async fn a_batch_has_no_more_in_it_than_the_upstream_takes() {
    let own = Kinto::start(KintoOptions::memory().setting("kinto.batch_max_requests", "4"));
    let (bucket, made) = bucket(&own.client().user("alice"), &["a", "b", "c", "d", "e", "f"]).await;
    let recorder = Recorder::before(own.url());
    let settings = [SERVICE_ACCOUNT, ("changes.resources", &*bucket), ("sidecar.history", "off")];
    let sidecar = Sidecar::start(recorder.url(), &settings);
    assert_eq!(listed(&sidecar.client()).await, made);
    let asked: Vec<_> = recorder.requests().iter().filter(|request| is_batch(request)).cloned().collect();
    assert!(!asked.is_empty() && asked.iter().all(|batch| batch.sub_requests().len() <= 4));
}

#[tokio::test]
async fn who_claims_to_know_of_more_than_there_is_does_not_exceed_the_budget() {
    let (bucket, _) = bucket(&kinto(), &["a", "b", "c"]).await;
    let recorder = Recorder::before(Kinto::shared().url());
    let sidecar = asked_once(&recorder, &bucket);
    let client = sidecar.client();
    let newest = client.get(MONITOR).await.expect(200).timestamp();
    let (began, busy) = (Instant::now(), recorder.busy());
    let mut claims = 0;
    while began.elapsed() < Duration::from_secs(2) {
        claims += 1;
        let known = newest + claims;
        client
            .get(&format!("/buckets/monitor/collections/changes/changeset?_expected={known}"))
            .await
            .expect(200);
    }
    let share = recorder.busy().saturating_sub(busy).as_secs_f64() / began.elapsed().as_secs_f64();
    assert!(share < 0.2, "{claims} claims kept the upstream busy for {share} of the time");
}

#[tokio::test]
async fn the_upstream_is_kept_busy_for_no_more_than_the_budget() {
    let (number, is_measured) = number();
    if !is_measured {
        return;
    }
    let own = Kinto::start(KintoOptions::memory());
    let client = own.client().user("alice");
    let bucket = filled(&client, number).await;
    let bare = bare(&client.user("sidecar"), &bucket, number).await;
    let recorder = Recorder::before(own.url());
    let settings = [SERVICE_ACCOUNT, ("changes.resources", &*bucket)];
    let began = Instant::now();
    let sidecar = Sidecar::start(recorder.url(), &settings);
    let mut slowest = Duration::ZERO;
    while sidecar.client().get(MONITOR).await.status != 200 {
        let asked = Instant::now();
        sidecar.client().get(&format!("{bucket}/collections/c7/changeset?_expected=0")).await.expect(200);
        slowest = slowest.max(asked.elapsed());
    }
    let first = began.elapsed();
    let (busy, watched) = (recorder.busy(), Instant::now());
    let until = watched + Duration::from_secs(60);
    while Instant::now() < until {
        sidecar.client().get(MONITOR).await.expect(200);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let share = recorder.busy().saturating_sub(busy).as_secs_f64() / watched.elapsed().as_secs_f64();
    println!(
        "{number} collections: first list after {first:.2?}, the same batches alone {bare:.2?} ({:.2} times); slowest \
         changeset meanwhile {slowest:.2?}; upstream busy {:.1} % afterwards",
        first.as_secs_f64() / bare.as_secs_f64(),
        share * 100.0
    );
    assert!(share <= 0.06, "{share}");
    if number >= 1000 {
        assert!(first <= bare.mul_f64(1.3), "{first:?} against {bare:?}");
    }
}
