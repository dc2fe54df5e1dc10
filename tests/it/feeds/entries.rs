//! Feeds of histories: each entry once, in the order in which it was recorded, for those who may see it.

use serde_json::{Value, json};

use super::follower::Follower;
use super::{World, ids};
use crate::support::{Client, Kinto, KintoOptions, Plugin, SERVICE_ACCOUNT, Sidecar, database, eventually};

const ALICE: &[(&str, &str)] = &[("authorization", "Basic YWxpY2U6c2VjcmV0")];
const BOB: &[(&str, &str)] = &[("authorization", "Basic Ym9iOnNlY3JldA==")];
const ANYBODY: &[(&str, &str)] = &[];

impl World {
    /// Follows the history from now on; nothing was said yet.
    async fn follow_history(&self, credentials: &[(&str, &str)]) -> Follower {
        let path = self.history("feed=continuous&since=now&heartbeat=60000&include_docs=true");
        let mut feed = Follower::open(&self.sidecar, &path, credentials).await;
        assert_eq!(feed.line().await.unwrap(), "");
        feed
    }

    fn history(&self, query: &str) -> String {
        format!("{}/history/_changes?{query}", self.bucket)
    }

    async fn entries(&self, client: &Client, query: &str) -> Value {
        client.get(&self.history(query)).await.expect(200).json()
    }
}

#[tokio::test]
async fn a_history_is_followed_like_a_collection() {
    let world = World::new(&[]).await;
    world.write("r", json!({"n": 1})).await;
    let all = world.entries(&world.alice, "include_docs=true").await;
    let actions: Vec<_> = all["results"].as_array().unwrap().iter().map(|row| &row["doc"]["uri"]).collect();
    let uris = [world.bucket.clone(), world.collection.clone(), format!("{}/records/r", world.collection)];
    assert_eq!(actions, uris.each_ref());
    let listed = world.alice.get(&format!("{}/history?_sort=last_modified", world.bucket)).await.expect(200);
    for (row, entry) in all["results"].as_array().unwrap().iter().zip(listed.data().as_array().unwrap()) {
        assert_eq!((&row["seq"], &row["id"]), (&entry["last_modified"], &entry["id"]));
        assert_eq!(row["changes"][0]["rev"], format!("1-{}", row["seq"]));
        assert_eq!(row["doc"]["target"], entry["target"]);
        assert_eq!(row["doc"]["_id"], entry["id"]);
    }

    let mut feed = world.follow_history(ALICE).await;
    for n in 2..5 {
        world.write("r", json!({ "n": n })).await;
        let row = feed.row().await.unwrap();
        assert_eq!(
            (&row["doc"]["target"]["data"]["n"], &row["doc"]["action"]),
            (&json!(n), &json!("update"))
        );
    }
}

#[tokio::test]
async fn pages_of_a_history_follow_one_another() {
    let world = World::new(&[]).await;
    for n in 0..6 {
        world.write(&format!("r{n}"), json!({})).await;
    }
    let all = world.entries(&world.alice, "").await;
    assert_eq!((ids(&all).len(), &all["pending"]), (8, &json!(0)));
    let (mut since, mut seen) = (json!(0), Vec::new());
    for pending in [5, 2, 0] {
        let page = world.entries(&world.alice, &format!("limit=3&since={since}")).await;
        assert_eq!(page["pending"], pending);
        since = page["last_seq"].clone();
        seen.extend(ids(&page).into_iter().map(str::to_owned));
    }
    assert_eq!(seen, ids(&all));
    let newest = world.entries(&world.alice, "descending=true&limit=2").await;
    assert_eq!(ids(&newest), [ids(&all)[7], ids(&all)[6]]);
    assert_eq!(newest["pending"], 6);
    let oldest = world.entries(&world.alice, "descending=true").await;
    assert_eq!(ids(&oldest), ids(&all).into_iter().rev().collect::<Vec<_>>());
    assert_eq!((&oldest["last_seq"], &oldest["pending"]), (&all["results"][0]["seq"], &json!(0)));
    assert_eq!(world.entries(&world.alice, "descending=true&limit=0").await["pending"], 8);
    let none = world.entries(&world.alice, "limit=0").await;
    assert_eq!((&none["last_seq"], &none["pending"]), (&json!(0), &json!(8)));
    let records = world.entries(&world.alice, "filter=_kinto&resource_name=record&record_id=r3").await;
    assert_eq!(ids(&records).len(), 1);
}

#[tokio::test]
async fn purged_entries_are_told_of_as_deleted() {
    let world = World::new(&[]).await;
    let seq = world.entries(&world.alice, "").await["last_seq"].clone();
    world.write("r", json!({})).await;
    let before = world.entries(&world.alice, &format!("since={seq}")).await;
    world.alice.delete(&format!("{}/history?resource_name=record", world.bucket)).await.expect(200);
    let after = world.entries(&world.alice, &format!("since={}", before["last_seq"])).await;
    assert_eq!(ids(&after), ids(&before));
    assert_eq!(after["results"][0]["deleted"], true);
    let purged =
        world.entries(&world.alice, &format!("since={}&include_docs=true", before["last_seq"])).await;
    assert_eq!(purged["results"][0]["doc"]["_deleted"], true);
}

#[tokio::test]
async fn nobody_is_told_more_than_they_may_see() {
    let world = World::new(&[("sidecar.permission_ttl", "100ms")]).await;
    let private = format!("{}/collections/private", world.bucket);
    let readable = json!({"permissions": {"read": ["system.Everyone"]}});
    world.alice.patch(&world.collection).json(readable).await.expect(200);
    world.alice.patch(&world.bucket).json(json!({"permissions": {"read": []}})).await.expect(200);
    world.alice.put(&private).await.expect(201);
    let (anybody, bob) = (world.sidecar.client(), world.sidecar.client().user("bob"));
    // Everybody may read one of the two collections, and was a reader of the bucket when that was made.
    let of_anybody = world.entries(&anybody, "include_docs=true").await;
    let text = of_anybody.to_string();
    assert!(text.contains(&world.collection) && !text.contains("private"), "{text}");

    let mut feed = world.follow_history(ANYBODY).await;
    world.alice.put(&format!("{private}/records/hidden")).await.expect(201);
    world.write("shown", json!({})).await;
    assert_eq!(feed.row().await.unwrap()["doc"]["record_id"], "shown");

    // Who sees the whole now does not go on seeing it.
    let user = bob.get("/").await.json()["user"]["id"].clone();
    world.alice.patch(&world.bucket).json(json!({"permissions": {"read": [user]}})).await.expect(200);
    let mut feed = world.follow_history(BOB).await;
    world.alice.patch(&world.bucket).json(json!({"permissions": {"read": []}})).await.expect(200);
    while let Some(row) = feed.row().await {
        assert!(row.get("id").is_some() || row.get("last_seq").is_some(), "{row}");
    }

    let other = World::new(&[]).await;
    other.alice.patch(&other.bucket).json(json!({"permissions": {"read": []}})).await.expect(200);
    other.alice.delete(&format!("{}/history", other.bucket)).await.expect(200);
    other.sidecar.client().get(&other.history("")).await.expect(401);
    other.sidecar.client().user("bob").get(&other.history("")).await.expect(403);
}

#[tokio::test]
async fn what_another_sidecar_records_is_told_at_once() {
    let journal = database();
    let settings = [
        ("sidecar.journal", journal.as_str()),
        ("sidecar.poll_budget", "0.1%"),
        ("sidecar.timestamps_ttl", "60s"),
    ];
    let world = World::before(Kinto::shared(), &settings).await;
    let mut all = vec![SERVICE_ACCOUNT];
    all.extend(settings);
    let other = Sidecar::start(Kinto::shared().url(), &all);
    let mut feed = world.follow_history(ALICE).await;
    let elsewhere = other.client().user("alice");
    for n in 0..5 {
        elsewhere.put(&format!("{}/records/r{n}", world.collection)).await.expect(201);
        assert_eq!(feed.row().await.unwrap()["doc"]["record_id"], format!("r{n}"));
    }
}

#[tokio::test]
async fn what_is_dated_back_through_another_sidecar_is_in_the_changeset() {
    let journal = database();
    let world = World::before(Kinto::shared(), &[("sidecar.journal", &journal)]).await;
    let changeset = format!("{}/changeset?_expected=0", world.collection);
    let records = async || world.alice.get(&changeset).await.expect(200).json()["changes"].clone();
    let other = Sidecar::start(Kinto::shared().url(), &[SERVICE_ACCOUNT, ("sidecar.journal", &journal)]);
    let elsewhere = other.client().user("alice");
    elsewhere.put(&format!("{}/records/now", world.collection)).await.expect(201);
    eventually("the record of now", async || (records().await[0]["id"] == "now").then_some(())).await;
    let long_ago = json!({"last_modified": 1_700_000_000_000_u64});
    elsewhere.put(&format!("{}/records/then", world.collection)).data(long_ago).await.expect(201);
    eventually("the record of then", async || (records().await[1]["id"] == "then").then_some(())).await;
}

#[tokio::test]
async fn a_history_of_the_upstreams_has_no_feed() {
    let kinto = Kinto::start(KintoOptions::memory().plugin(Plugin::History));
    let world = World::before(&kinto, &[]).await;
    world.alice.get(&world.history("")).await.expect(404);
}
