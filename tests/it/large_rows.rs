//! Rows of a list that are together more than the sidecar holds of an answer: whoever may write them keeps nobody from the rest.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::feeds::follower::Follower;
use crate::support::{
    Client, Fate, Kinto, KintoOptions, PATIENCE, Recorded, Recorder, SERVICE_ACCOUNT, Sidecar, unique,
};

/// Two of them do not fit into one answer.
fn large() -> Value {
    json!({"x": "y".repeat(14 << 20)})
}

/// Waits until the history of the bucket `b` has what was done to an object. A list on which a machine that has much to do was
/// slow is left alone for up to a minute.
async fn until_entered(client: &Client, action: &str, uri: &str) {
    let until = Instant::now() + 3 * PATIENCE;
    loop {
        let entries = client.all("/buckets/b/history?_fields=action,uri").await;
        if entries.iter().any(|entry| entry["action"] == action && entry["uri"] == uri) {
            return;
        }
        assert!(Instant::now() < until, "waited in vain: {action} of {uri}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_collection_with_large_records_is_told_of_as_any_other() {
    let kinto = Kinto::shared();
    let recorder = Recorder::before(kinto.url());
    let sidecar = Sidecar::start(recorder.url(), &[SERVICE_ACCOUNT]);
    let bucket = format!("/buckets/{}", unique("large"));
    let collection = format!("{bucket}/collections/c");
    let record = |id: &str| format!("{collection}/records/{id}");
    let alice = sidecar.client().user("alice");
    alice.put(&bucket).json(json!({"permissions": {"read": ["system.Everyone"]}})).await.expect(201);
    let open = json!({"permissions": {"record:create": ["system.Authenticated"]}});
    alice.put(&collection).json(open).await.expect(201);
    alice.put(&record("r0")).data(json!({"n": 0})).await.expect(201);
    let changeset = format!("{collection}/changeset?_expected=0");
    sidecar.client().get(&changeset).await.expect(200);
    let feed = format!("{collection}/_changes?feed=continuous&since=now");
    let mut feed = Follower::open(&sidecar, &feed, &[]).await;
    for id in ["big0", "big1"] {
        sidecar.client().user("mallory").put(&record(id)).data(large()).await.expect(201);
    }
    alice.put(&record("r0")).data(json!({"n": 1})).await.expect(200);
    let (mut seen, mut known) = (Vec::new(), Vec::new());
    while seen.last().is_none_or(|id| id != "r0") {
        seen.push(feed.row().await.unwrap()["id"].as_str().unwrap().to_owned());
    }
    assert!(seen.contains(&"big0".to_owned()) && seen.contains(&"big1".to_owned()), "{seen:?}");
    let fresh = Sidecar::start(kinto.url(), &[SERVICE_ACCOUNT]);
    for sidecar in [&sidecar, &fresh] {
        let answer = sidecar.client().get(&changeset).await.expect(200);
        assert!(!crate::stale::is_marked(&answer));
        let changes = answer.json()["changes"].take();
        let ids: Vec<_> = changes.as_array().unwrap().iter().map(|change| change["id"].clone()).collect();
        assert_eq!((&changes[0]["n"], ids), (&json!(1), vec![json!("r0"), json!("big1"), json!("big0")]));
        known.push(answer.body);
    }
    assert!(known[0] == known[1]);
    // How small the pages have to be is found out once.
    recorder.clear();
    alice.put(&record("r0")).data(json!({"n": 2})).await.expect(200);
    while feed.row().await.unwrap()["id"] != "r0" {}
    let name = bucket.trim_start_matches("/buckets/");
    let is_whole =
        recorder.count(|request| request.reads_records_of(name, "c") && !request.target.contains("_limit="));
    assert_eq!(is_whole, 0, "pages that were too large before");
    alice.delete(&bucket).await.expect(200);
}

#[tokio::test]
async fn buckets_with_large_attributes_hide_nothing_that_passes_elsewhere() {
    let kinto = Kinto::start(KintoOptions::memory());
    let settings = [SERVICE_ACCOUNT, ("sidecar.timestamps_ttl", "50ms"), ("sidecar.poll_budget", "100%")];
    let sidecar = Sidecar::start(kinto.url(), &settings);
    let (alice, direct) = (sidecar.client().user("alice"), kinto.client().user("alice"));
    let found = async |action: &str, uri: &str| until_entered(&alice, action, uri).await;
    alice.put("/buckets/b").await.expect(201);
    direct.put("/buckets/b/collections/first").await.expect(201);
    found("create", "/buckets/b/collections/first").await;
    for id in ["evil0", "evil1"] {
        sidecar.client().user("mallory").put(&format!("/buckets/{id}")).data(large()).await.expect(201);
    }
    direct.patch("/buckets/b").data(json!({"n": 1})).await.expect(200);
    direct.put("/buckets/b/collections/new").await.expect(201);
    found("update", "/buckets/b").await;
    found("create", "/buckets/b/collections/new").await;
}

#[tokio::test]
async fn a_record_that_is_too_large_to_be_held_is_passed_on_with_the_others() {
    let sidecar = Sidecar::start(Kinto::shared().url(), &[SERVICE_ACCOUNT]);
    let bucket = format!("/buckets/{}", unique("larger"));
    let collection = format!("{bucket}/collections/c");
    let alice = sidecar.client().user("alice");
    alice.put(&bucket).json(json!({"permissions": {"read": ["system.Everyone"]}})).await.expect(201);
    alice.put(&collection).await.expect(201);
    let mut told = Vec::new();
    for (id, length) in [("a", 1), ("b", 25 << 20), ("c", 1), ("d", 25 << 20)] {
        let data = json!({"x": "y".repeat(length)});
        let answer = alice.put(&format!("{collection}/records/{id}")).data(data).await.expect(201);
        told.insert(0, answer.data());
        for (query, most) in [("", 4), ("&_since=%221%22", 4), ("&_limit=2", 2)] {
            let path = format!("{collection}/changeset?_expected=0{query}");
            let changes = sidecar.client().get(&path).await.expect(200).json()["changes"].take();
            assert!(changes == json!(told[..told.len().min(most)]), "{query} with {id}");
        }
    }
    alice.delete(&bucket).await.expect(200);
}

#[tokio::test]
async fn what_is_too_large_to_be_read_hides_nothing_else_that_passes_elsewhere() {
    let kinto = Kinto::start(KintoOptions::memory());
    let settings = [SERVICE_ACCOUNT, ("sidecar.timestamps_ttl", "50ms"), ("sidecar.poll_budget", "100%")];
    let sidecar = Sidecar::start(kinto.url(), &settings);
    let (alice, direct) = (sidecar.client().user("alice"), kinto.client().user("alice"));
    let found = async |action: &str, uri: &str| until_entered(&alice, action, uri).await;
    let larger = || json!({"x": "y".repeat(25 << 20)});
    alice.put("/buckets/b").await.expect(201);
    direct.put("/buckets/b/collections/c").await.expect(201);
    let record = |id: &str| format!("/buckets/b/collections/c/records/{id}");
    direct.put(&record("first")).await.expect(201);
    found("create", &record("first")).await;
    direct.put(&record("larger")).data(larger()).await.expect(201);
    direct.put("/buckets/evil").data(larger()).await.expect(201);
    direct.put(&record("second")).await.expect(201);
    direct.patch("/buckets/b").data(json!({"n": 1})).await.expect(200);
    direct.put("/buckets/b/collections/new").await.expect(201);
    found("create", &record("second")).await;
    found("update", "/buckets/b").await;
    found("create", "/buckets/b/collections/new").await;
    assert!(sidecar.log().contains("records/larger is too large to be read"));
    // Who deletes it is told of.
    direct.delete(&record("larger")).await.expect(200);
    found("delete", &record("larger")).await;
}

#[tokio::test]
async fn what_comes_before_a_row_that_is_too_large_while_its_name_is_asked_for_has_its_entry() {
    let kinto = Kinto::start(KintoOptions::memory());
    let recorder = Recorder::before(kinto.url());
    let settings = [SERVICE_ACCOUNT, ("sidecar.timestamps_ttl", "50ms"), ("sidecar.poll_budget", "100%")];
    let sidecar = Sidecar::start(recorder.url(), &settings);
    let (alice, direct) = (sidecar.client().user("alice"), kinto.client().user("alice"));
    let collection = |id: &str| format!("/buckets/b/collections/{id}");
    alice.put("/buckets/b").await.expect(201);
    for id in ["c", "gone"] {
        alice.put(&collection(id)).await.expect(201);
    }
    direct.put(&collection("first")).await.expect(201);
    until_entered(&alice, "create", &collection("first")).await;
    let is_named = |request: &Recorded| {
        request.path() == "/v1/buckets/b/collections"
            && request.target.ends_with("&_limit=1&_fields=id,last_modified,deleted")
    };
    let hold = || recorder.intercept(move |request| if is_named(request) { Fate::Hold } else { Fate::Pass });
    hold();
    direct.put(&collection("evil")).data(json!({"x": "y".repeat(25 << 20)})).await.expect(201);
    recorder.wait_for(1, is_named).await;
    direct.patch(&collection("c")).data(json!({"n": 1})).await.expect(200);
    recorder.release();
    until_entered(&alice, "update", &collection("c")).await;
    // So has a deletion.
    recorder.clear();
    hold();
    direct.patch(&collection("evil")).data(json!({"n": 1})).await.expect(200);
    recorder.wait_for(1, is_named).await;
    direct.delete(&collection("gone")).await.expect(200);
    recorder.release();
    until_entered(&alice, "delete", &collection("gone")).await;
}
