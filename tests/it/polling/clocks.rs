//! Only collections that there are are asked for.

use std::collections::BTreeSet;

use serde_json::json;

use super::{bucket, is_batch, is_head, kinto, listed, until_listed};
use crate::support::{Kinto, Recorded, Recorder, SERVICE_ACCOUNT, Sidecar, eventually};

const QUICK: [(&str, &str); 5] = [
    SERVICE_ACCOUNT,
    ("sidecar.timestamps_ttl", "50ms"),
    ("sidecar.poll_budget", "100%"),
    ("sidecar.admin_listen", "127.0.0.1:0"),
    ("sidecar.journal", "sqlite::memory:"),
];

fn sidecar(upstream: &str, resources: &str) -> Sidecar {
    let settings: Vec<_> = QUICK
        .into_iter()
        .chain([("changes.resources", resources), ("history.resources", resources)])
        .collect();
    Sidecar::start(upstream, &settings)
}

/// How many places clocks take.
async fn clocks(sidecar: &Sidecar) -> u64 {
    sidecar.metric("kinto_sidecar_clocks").await.unwrap()
}

/// The collections that are asked for in what follows.
async fn asked(recorder: &Recorder) -> BTreeSet<String> {
    recorder.clear();
    let is_poll = |request: &Recorded| is_batch(request) || is_head(request);
    recorder.wait_for(4, is_poll).await;
    let requests = recorder.requests();
    let paths = requests.iter().filter(|request| is_poll(request)).flat_map(|request| {
        if is_batch(request) { request.sub_requests() } else { vec![request.path().to_owned()] }
    });
    paths.map(|path| path.rsplit('/').nth(1).unwrap().to_owned()).collect()
}

fn names(ids: &[&str]) -> BTreeSet<String> {
    ids.iter().map(|id| (*id).to_owned()).collect()
}

#[tokio::test]
async fn collections_that_stand_in_refused_requests_alone_cost_nothing() {
    let (bucket, made) = bucket(&kinto(), &["a", "b", "c"]).await;
    let recorder = Recorder::before(Kinto::shared().url());
    let sidecar = sidecar(&recorder.url(), &bucket);
    assert_eq!(listed(&sidecar.client()).await, made);
    let before = clocks(&sidecar).await;
    let number: usize = if std::env::var_os("MINUTES").is_some() { 10_000 } else { 300 };
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..4 {
        let (client, bucket) = (sidecar.client(), bucket.clone());
        writers.spawn(async move {
            for n in (writer..number).step_by(4) {
                let record = format!("{bucket}/collections/random-{n}/records/r");
                let refused = client.put(&record).data(json!({"n": n})).await;
                assert!((400..500).contains(&refused.status), "{refused}");
            }
        });
    }
    while let Some(written) = writers.join_next().await {
        written.unwrap();
    }
    let after = clocks(&sidecar).await;
    assert!(after <= before + 140, "{before} clocks, and then {after}");
    assert_eq!(asked(&recorder).await, names(&["a", "b", "c"]));
    let moved = kinto().put(&format!("{bucket}/collections/c/records/r")).data(json!({"n": 2})).await;
    until_listed(&sidecar.client(), "c", moved.timestamp()).await;
}

#[tokio::test]
async fn a_collection_that_goes_leaves_the_poll_and_one_that_comes_joins_it() {
    let ids: Vec<String> = (0..30).map(|n| format!("c{n}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let (bucket, made) = bucket(&kinto(), &ids).await;
    let recorder = Recorder::before(Kinto::shared().url());
    let sidecar = sidecar(&recorder.url(), &bucket);
    assert_eq!(listed(&sidecar.client()).await, made);
    // Half of them here, half behind its back.
    let alice = sidecar.client().user("alice");
    for (n, id) in ids.iter().enumerate().skip(3) {
        let client = if n % 2 == 0 { alice.clone() } else { kinto() };
        client.delete(&format!("{bucket}/collections/{id}")).await.expect(200);
    }
    eventually("the three that are left", async || {
        (listed(&sidecar.client()).await.len() == 3).then_some(())
    })
    .await;
    eventually("the end of questions for the others", async || {
        (asked(&recorder).await == names(&["c0", "c1", "c2"])).then_some(())
    })
    .await;
    kinto().put(&format!("{bucket}/collections/c9")).await.expect(201);
    let moved = kinto().put(&format!("{bucket}/collections/c9/records/r")).data(json!({"n": 2})).await;
    until_listed(&sidecar.client(), "c9", moved.timestamp()).await;
    assert_eq!(asked(&recorder).await, names(&["c0", "c1", "c2", "c9"]));
}

#[tokio::test]
async fn a_collection_that_the_settings_name_is_found_when_it_comes() {
    let (bucket, _) = bucket(&kinto(), &[]).await;
    let recorder = Recorder::before(Kinto::shared().url());
    let sidecar = sidecar(&recorder.url(), &format!("{bucket}/collections/named"));
    assert!(listed(&sidecar.client()).await.is_empty());
    kinto().put(&format!("{bucket}/collections/named")).await.expect(201);
    kinto().put(&format!("{bucket}/collections/other")).await.expect(201);
    let made = kinto().put(&format!("{bucket}/collections/named/records/r")).data(json!({"n": 1})).await;
    until_listed(&sidecar.client(), "named", made.timestamp()).await;
}
