//! Feeds of some records only.

use serde_json::{Value, json};

use super::{World, ids};
use crate::support::unique;

async fn world() -> World {
    let world = World::new(&[]).await;
    for (id, kind, age) in [("a", "odd", 1), ("b", "even", 2), ("c", "odd", 3)] {
        world.write(id, json!({"kind": kind, "age": age})).await;
    }
    world
}

async fn posted(world: &World, query: &str, body: Value) -> Vec<String> {
    let answer = world.sidecar.client().post(&world.feed(query)).json(body).await.expect(200).json();
    ids(&answer).into_iter().map(str::to_owned).collect()
}

#[tokio::test]
async fn records_are_chosen_by_id() {
    let world = world().await;
    let query = "doc_ids=%5B%22c%22%2C%22a%22%2C%22x%22%5D";
    assert_eq!(ids(&world.changes(&format!("filter=_doc_ids&{query}")).await), ["a", "c"]);
    assert_eq!(ids(&world.changes(query).await), ["a", "c"]);
    assert_eq!(posted(&world, "filter=_doc_ids", json!({"doc_ids": ["b"]})).await, ["b"]);
}

#[tokio::test]
async fn records_are_chosen_by_mango() {
    let world = world().await;
    let selector = json!({"selector": {"kind": "odd", "age": {"$gt": 1}}});
    assert_eq!(posted(&world, "filter=_selector", selector).await, ["c"]);
    let selector = json!({"selector": {"_id": {"$in": ["b", "c"]}}});
    assert_eq!(posted(&world, "filter=_selector", selector).await, ["b", "c"]);
    world.delete("b").await;
    // What a record says of itself in these names does not count.
    world.write("x", json!({"_deleted": true, "_id": "b"})).await;
    let selector = json!({"selector": {"_deleted": true}});
    assert_eq!(posted(&world, "filter=_selector", selector).await, ["b"]);
    let refused = json!({"selector": {"$foo": 1}});
    let answer = world.sidecar.client().post(&world.feed("filter=_selector")).json(refused).await;
    assert_eq!(answer.expect(400).json()["reason"], "Invalid operator: $foo");
}

#[tokio::test]
async fn records_are_chosen_by_kintos_list_language() {
    let world = world().await;
    let changes = async |query: &str| world.changes(&format!("filter=_kinto&{query}")).await;
    assert_eq!(ids(&changes("kind=odd").await), ["a", "c"]);
    assert_eq!(ids(&changes("min_age=2&kind=even&_unknown=1").await), ["b"]);
    assert_eq!(ids(&changes("in_id=a,b&limit=1").await), ["a"]);
    assert_eq!(ids(&changes("").await), ["a", "b", "c"]);
    assert_eq!(changes("kind=none").await["results"], json!([]));
    world.write("d", json!({"_kind": "odd"})).await;
    for parameter in ["_since=0", "_limit=1", "_sort=age", "_fields=age", "_token=x"] {
        let answer = world.sidecar.client().get(&world.feed(&format!("filter=_kinto&{parameter}"))).await;
        let name = parameter.split_once('=').unwrap().0;
        let reason = answer.expect(400).json()["reason"].clone();
        assert!(reason.as_str().unwrap().starts_with(&format!("`{name}` is no filter")), "{reason}");
    }
    let refused = world.sidecar.client().get(&world.feed("filter=_kinto&last_modified=x")).await;
    assert_eq!(refused.expect(400).json()["errno"], 107);
}

#[tokio::test]
async fn what_nobody_meant_as_a_filter_empties_no_feed() {
    let world = world().await;
    for query in
        ["kind=even&access_token=x&batch_size=10", "title=none", "filter=_doc_ids&doc_ids=[%22a%22]&x=1"]
    {
        let all = if query.contains("doc_ids") { vec!["a"] } else { vec!["a", "b", "c"] };
        assert_eq!(ids(&world.changes(query).await), all, "{query}");
    }
    world.changes("style=all_docs&_cachebuster=1&seq_interval=5&Last-Event-ID=0").await;
    let told: Vec<_> = world
        .sidecar
        .log()
        .lines()
        .filter(|line| line.contains("filter=_kinto"))
        .map(str::to_owned)
        .collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0].contains("kind") && told[0].contains(world.collection.split('/').nth(2).unwrap()),
        "{told:?}"
    );
}

#[tokio::test]
async fn filters_have_names_in_the_metadata() {
    let world = world().await;
    let filters = json!({"filters": {"k/odd": {"kind": "odd"}, "k/old": "min_age=3", "k/bad": 1, "k/list": "_limit=1"}});
    world.alice.patch(&world.collection).data(filters).await.expect(200);
    let filters = json!({"filters": {"k/odd": {"kind": "even"}, "b/even": {"kind": "even"}}});
    world.alice.patch(&world.bucket).data(filters).await.expect(200);
    assert_eq!(ids(&world.changes("filter=k/odd").await), ["a", "c"]);
    assert_eq!(ids(&world.changes("filter=k%2Fold").await), ["c"]);
    assert_eq!(ids(&world.changes("filter=b/even").await), ["b"]);
    assert_eq!(world.changes("filter=_design").await["results"], json!([]));
    let client = world.sidecar.client();
    client.get(&world.feed("filter=k/bad")).await.expect(400);
    client.get(&world.feed("filter=k/list")).await.expect(400);
    for unknown in ["app/important", "_view"] {
        let answer = client.get(&world.feed(&format!("filter={unknown}"))).await.expect(404).json();
        assert!(answer["reason"].as_str().unwrap().contains("JavaScript"), "{answer}");
    }
}

#[tokio::test]
async fn filtered_pages_are_filled_as_long_as_there_is_more() {
    let world = World::new(&[]).await;
    for number in 0..60 {
        world.write(&format!("r{number:02}"), json!({"n": number % 10})).await;
    }
    let page = world.changes("filter=_kinto&n=3&limit=4").await;
    assert_eq!(ids(&page), ["r03", "r13", "r23", "r33"]);
    let page = world.changes(&format!("filter=_kinto&n=3&limit=4&since={}", page["last_seq"])).await;
    assert_eq!((ids(&page), &page["pending"]), (vec!["r43", "r53"], &json!(0)));
}

#[tokio::test]
async fn live_readers_are_only_told_of_what_they_want() {
    let world = world().await;
    let mut odd = world.follow("feed=continuous&since=now&heartbeat=60000&filter=_kinto&kind=odd").await;
    let mut first = world.follow("feed=longpoll&since=now&heartbeat=60000&filter=_kinto&kind=odd").await;
    assert_eq!(odd.line().await.unwrap(), "");
    world.write("d", json!({"kind": "even"})).await;
    let seq = world.write("e", json!({"kind": "odd"})).await;
    assert_eq!(odd.row().await.unwrap()["seq"], seq);
    assert_eq!(first.line().await.unwrap(), "{\"results\":[");
    let row: Value = serde_json::from_str(first.line().await.unwrap().trim()).unwrap();
    assert_eq!(row["id"], "e");
}

#[tokio::test]
async fn filters_of_a_bucket_are_for_those_who_may_see_it() {
    let world = World::new(&[]).await;
    let private = format!("/buckets/{}", unique("filters"));
    let filters =
        json!({"data": {"filters": {"k/secret": {"n": 1}}}, "permissions": {"read": ["basicauth:x"]}});
    world.alice.put(&private).json(filters).await.expect(201);
    let readable = json!({"permissions": {"read": ["system.Everyone"]}});
    world.alice.put(&format!("{private}/collections/c")).json(readable).await.expect(201);
    let feed = format!("{private}/collections/c/_changes?filter=k/secret");
    world.alice.get(&feed).await.expect(200);
    let anybody = world.sidecar.client();
    anybody.get(&private).await.expect(401);
    anybody.get(&feed).await.expect(404);
    anybody.get(&feed.replace("secret", "missing")).await.expect(404);
}
