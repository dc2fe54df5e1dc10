//! Feeds of collections: of a bucket, and of all that are monitored.

use serde_json::{Value, json};

use super::follower::Follower;
use super::{World, ids};
use crate::support::{Kinto, SERVICE_ACCOUNT, Sidecar, eventually, unique};

async fn bucket_changes(world: &World, query: &str) -> Value {
    world.alice.get(&format!("{}/_changes?{query}", world.bucket)).await.expect(200).json()
}

#[tokio::test]
async fn a_buckets_feed_has_its_collections() {
    let world = World::new(&[]).await;
    let other = format!("{}/collections/other", world.bucket);
    world.alice.put(&other).await.expect(201);
    let first = world.write("a", json!({})).await;
    let written = world.alice.put(&format!("{other}/records/r")).await.expect(201);
    let second = written.data()["last_modified"].as_u64().unwrap();
    let answer = bucket_changes(&world, "include_docs=true").await;
    let row = |id: &str, seq: u64| {
        let bucket = world.bucket.trim_start_matches("/buckets/");
        let rev = format!("1-{seq}");
        json!({"seq": seq, "id": id, "changes": [{"rev": rev}], "doc": {
            "id": id, "last_modified": seq, "bucket": bucket, "collection": id, "_id": id, "_rev": rev
        }})
    };
    let rows = json!([row("c", first), row("other", second)]);
    assert_eq!(answer, json!({"results": rows, "last_seq": second, "pending": 0}));
    assert_eq!(ids(&bucket_changes(&world, &format!("since={first}&limit=5")).await), ["other"]);
}

#[tokio::test]
async fn a_buckets_feed_tells_of_new_and_deleted_collections_at_once() {
    let world = World::new(&[]).await;
    world.write("a", json!({})).await;
    let path = format!("{}/_changes?feed=continuous&since=now&heartbeat=60000", world.bucket);
    let mut feed = Follower::open(&world.sidecar, &path, &[]).await;
    assert_eq!(feed.line().await.unwrap(), "");
    let seq = world.write("b", json!({})).await;
    let row = feed.row().await.unwrap();
    assert_eq!((&row["id"], &row["seq"]), (&json!("c"), &json!(seq)));
    let other = format!("{}/collections/other", world.bucket);
    world.alice.put(&other).await.expect(201);
    let written = world.alice.put(&format!("{other}/records/r")).await.expect(201);
    eventually("the new collection is told of", async || {
        let row = feed.row().await.unwrap();
        assert_eq!(row["id"], "other");
        (row["seq"] == written.data()["last_modified"]).then_some(())
    })
    .await;
    world.alice.delete(&other).await.expect(200);
    let row = feed.row().await.unwrap();
    assert_eq!((&row["id"], &row["deleted"]), (&json!("other"), &json!(true)));
}

#[tokio::test]
async fn a_bucket_that_nobody_wrote_to_here_is_read_from_the_upstream() {
    let bucket = format!("/buckets/{}", unique("elsewhere"));
    let direct = Kinto::shared().client().user("alice");
    direct.put(&bucket).await.expect(201);
    for number in 0..30 {
        direct.put(&format!("{bucket}/collections/c{number:02}")).await.expect(201);
        direct.put(&format!("{bucket}/collections/c{number:02}/records/r")).await.expect(201);
    }
    let sidecar = Sidecar::start(
        Kinto::shared().url(),
        &[SERVICE_ACCOUNT, ("sidecar.timestamps_ttl", "100ms"), ("sidecar.poll_budget", "100%")],
    );
    let alice = sidecar.client().user("alice");
    let answer = alice.get(&format!("{bucket}/_changes")).await.expect(200).json();
    let expected: Vec<_> = (0..30).map(|number| format!("c{number:02}")).collect();
    assert_eq!(ids(&answer), expected);
    let (mut since, mut seen) = (json!(0), Vec::new());
    loop {
        let path = format!("{bucket}/_changes?limit=7&since={since}");
        let page = alice.get(&path).await.expect(200).json();
        seen.extend(ids(&page).into_iter().map(str::to_owned));
        since = page["last_seq"].clone();
        if page["pending"] == 0 {
            break;
        }
    }
    assert_eq!(seen, expected);
    let authorization = [("authorization", "Basic YWxpY2U6c2VjcmV0")];
    let path = format!("{bucket}/_changes?feed=continuous&heartbeat=60000&since={since}");
    let mut feed = Follower::open(&sidecar, &path, &authorization).await;
    let written = direct.put(&format!("{bucket}/collections/c05/records/late")).await.expect(201);
    loop {
        let row = feed.row().await.unwrap();
        if row["seq"] == written.data()["last_modified"] {
            assert_eq!(row["id"], "c05");
            break;
        }
    }
}

#[tokio::test]
async fn collections_that_share_a_timestamp_come_together() {
    let bucket = unique("shared");
    let resource = format!("/buckets/{bucket}");
    let direct = Kinto::shared().client().user("alice");
    direct.put(&resource).await.expect(201);
    // All records get the same timestamp, as a batch gives it to several collections.
    for id in ["a", "b", "c"] {
        let collection = format!("{resource}/collections/{id}");
        direct.put(&collection).await.expect(201);
        let record = json!({"last_modified": 4_000_000_000_000_u64});
        direct.put(&format!("{collection}/records/r")).data(record).await.expect(201);
    }
    let sidecar = Sidecar::start(Kinto::shared().url(), &[SERVICE_ACCOUNT, ("changes.resources", &resource)]);
    let alice = sidecar.client().user("alice");
    for path in [format!("{resource}/_changes?limit=1"), "/_changes?limit=1".to_owned()] {
        let page = alice.get(&path).await.expect(200).json();
        assert_eq!((page["results"].as_array().unwrap().len(), &page["pending"]), (3, &json!(0)), "{page}");
    }
}

#[tokio::test]
async fn the_feed_of_monitored_collections_has_the_entries_of_monitor_changes() {
    let bucket = unique("monitored");
    let resource = format!("/buckets/{bucket}");
    let sidecar = Sidecar::start(Kinto::shared().url(), &[SERVICE_ACCOUNT, ("changes.resources", &resource)]);
    let alice = sidecar.client().user("alice");
    alice.put(&resource).await.expect(201);
    let mut feed =
        Follower::open(&sidecar, "/_changes?feed=eventsource&since=now&include_docs=true", &[]).await;
    feed.event().await.unwrap();
    alice.put(&format!("{resource}/collections/c")).await.expect(201);
    let written = alice.put(&format!("{resource}/collections/c/records/r")).await.expect(201);
    let seq = written.data()["last_modified"].clone();
    let row = loop {
        let event = feed.event().await.unwrap();
        let row: Value = serde_json::from_str(&event.data.unwrap()).unwrap();
        assert_eq!(event.id, Some(row["seq"].to_string()));
        if row["seq"] == seq {
            break row;
        }
    };
    let listed = sidecar.client().get("/buckets/monitor/collections/changes/records").await.expect(200);
    let mut entry = listed.data()[0].clone();
    assert_eq!(entry["id"], row["id"]);
    entry["_id"] = row["id"].clone();
    entry["_rev"] = format!("1-{seq}").into();
    assert_eq!(row["doc"], entry);
}
