//! What a deleted record was before, for those who may see its history.

use serde_json::{Value, json};

use super::World;
use super::follower::Follower;
use crate::support::{Kinto, KintoOptions, Plugin, Response};

impl World {
    async fn previous(&self, query: &str) -> Response {
        self.sidecar.client().get(&self.feed(&format!("include_previous=true&{query}"))).await.expect(200)
    }
}

#[tokio::test]
async fn deletions_come_with_the_version_before_where_that_is_asked_for() {
    let world = World::new(&[]).await;
    for id in ["kept", "gone"] {
        world.write(id, json!({"n": 1})).await;
    }
    let last = world.write("gone", json!({"n": 2})).await;
    let gone = world.delete("gone").await;
    let version = json!({"id": "gone", "n": 2, "last_modified": last});
    let answer = world.previous("include_docs=true").await;
    assert!(answer.header("cache-control").unwrap().contains("no-store") && answer.header("etag").is_none());
    let rows = answer.json()["results"].clone();
    assert_eq!((rows[0].get("previous"), &rows[1]["previous"]), (None, &version), "{rows}");
    assert_eq!((&rows[1]["seq"], &rows[1]["doc"]["_deleted"]), (&json!(gone), &json!(true)));
    assert!(!world.changes("").await.to_string().contains("previous"));

    let live = "include_previous=true&since=now&heartbeat=60000&feed=";
    let mut lines = world.follow(&format!("{live}continuous")).await;
    assert_eq!(lines.line().await.unwrap(), "");
    let mut events =
        world.follow(&format!("{live}eventsource&filter=_doc_ids&doc_ids=%5B%22kept%22%5D")).await;
    events.event().await.unwrap();
    let deleted = world.delete("kept").await;
    let row = lines.row().await.unwrap();
    assert_eq!((&row["seq"], &row["previous"]["n"]), (&json!(deleted), &json!(1)));
    let row: Value = serde_json::from_str(&events.event().await.unwrap().data.unwrap()).unwrap();
    assert_eq!(row["previous"]["id"], "kept");
    let many = world.previous("descending=true&limit=1").await.json();
    assert_eq!(many["results"][0]["previous"]["n"], 1);
}

#[tokio::test]
async fn nobody_is_shown_a_version_that_they_might_not_have_read() {
    let world = World::new(&[("sidecar.permission_ttl", "100ms")]).await;
    world.alice.patch(&world.bucket).json(json!({"permissions": {"read": []}})).await.expect(200);
    for (id, data) in [("private", json!({"secret": 1})), ("public", json!({}))] {
        if id == "public" {
            let readable = json!({"permissions": {"read": ["system.Everyone"]}});
            world.alice.patch(&world.collection).json(readable).await.expect(200);
        }
        world.write(id, data).await;
    }
    for id in ["private", "public"] {
        world.delete(id).await;
    }
    let rows = world.previous("").await.json()["results"].clone();
    assert_eq!(rows.as_array().unwrap().len(), 2);
    assert!(rows[0].get("previous").is_none() && rows[1]["previous"]["id"] == "public", "{rows}");
    let path = world.feed("include_previous=true&feed=continuous&timeout=1");
    let alice = ("authorization", "Basic YWxpY2U6c2VjcmV0");
    let mut own = Follower::open(&world.sidecar, &path, &[alice]).await;
    assert_eq!(own.row().await.unwrap()["previous"]["secret"], 1);
}

#[tokio::test]
async fn without_a_history_of_the_sidecars_there_are_no_versions_before() {
    let kinto = Kinto::start(KintoOptions::memory().plugin(Plugin::History));
    let world = World::before(&kinto, &[]).await;
    world.write("a", json!({})).await;
    world.delete("a").await;
    let rows = world.previous("").await.json()["results"].clone();
    assert!(rows[0]["deleted"] == true && rows[0].get("previous").is_none(), "{rows}");
}
