//! What changed between two moments.

use http::Method;
use serde_json::{Value, json};

use super::{World, rfc3339, user_id};
use crate::support::{Client, Kinto, KintoOptions, Plugin, SERVICE_ACCOUNT, Sidecar, unique};

#[tokio::test]
async fn a_diff_tells_of_each_object_what_it_was_what_it_is_and_the_patch() {
    let world = World::new("diff").await;
    let (alice, bob) = (&world.alice, world.sidecar.client().user("bob"));
    let shared = json!({"permissions": {"write": [user_id(&bob).await]}});
    alice.patch(&world.bucket).json(shared).await.expect(200);
    for id in ["changed", "deleted", "same"] {
        alice.put(&world.record(id)).data(json!({"n": 1, "list": [1, 2]})).await.expect(201);
    }
    let from = world.now().await;
    alice.put(&world.record("changed")).data(json!({"n": 2, "list": [1, 2]})).await.expect(200);
    bob.put(&world.record("changed")).data(json!({"n": 3, "list": [1, 2, 3]})).await.expect(200);
    bob.delete(&world.record("deleted")).await.expect(200);
    alice.put(&world.record("same")).data(json!({"n": 9})).await.expect(200);
    alice.put(&world.record("same")).data(json!({"list": [1, 2], "n": 1})).await.expect(200);
    alice.put(&world.record("new")).data(json!({"n": 5})).await.expect(201);
    alice.put(&world.record("brief")).data(json!({"n": 5})).await.expect(201);
    alice.delete(&world.record("brief")).await.expect(200);
    let to = world.now().await;
    alice.put(&world.record("later")).data(json!({"n": 6})).await.expect(201);

    let rows = world.diff(&format!("from={from}&to={to}")).await;
    let told: Vec<(&str, &str)> =
        rows.iter().map(|row| (row["action"].as_str().unwrap(), last(row))).collect();
    assert_eq!(told, [("create", "new"), ("delete", "deleted"), ("update", "changed")]);
    let [new, deleted, changed] = &rows[..] else { unreachable!() };
    assert_eq!((&new["before"], &new["after"]["n"]), (&Value::Null, &json!(5)));
    assert_eq!((&deleted["before"]["n"], &deleted["after"]), (&json!(1), &Value::Null));
    assert_eq!((&changed["before"]["n"], &changed["after"]["n"]), (&json!(1), &json!(3)));
    let mut patch = changed["patch"].as_array().unwrap().clone();
    patch.sort_by_key(|step| step["path"].to_string());
    assert_eq!(
        patch,
        [
            json!({"op": "add", "path": "/list/2", "value": 3}),
            json!({"op": "replace", "path": "/n", "value": 3})
        ]
    );
    assert_eq!(changed["entries"].as_array().unwrap().len(), 2);
    assert_eq!(changed["user_ids"].as_array().unwrap().len(), 2);

    // Until now, by RFC 3339, by filters and page by page, it is the same.
    let all = world.diff(&format!("from={from}")).await;
    assert_eq!(all.len(), 4);
    assert_eq!(world.diff(&format!("from=%22{from}%22&to=now&_limit=1")).await, all);
    let by_date = world.diff(&format!("from={}Z", rfc3339(from))).await;
    assert_eq!(by_date, all);
    let one = world.diff(&format!("from={from}&uri={}", world.record("new"))).await;
    assert_eq!(one, std::slice::from_ref(new));
    let like = world.diff(&format!("from={from}&to={to}&target.data.n=3")).await;
    assert_eq!((like.len(), &like[0]["before"]["n"]), (1, &json!(2)), "only bob's entry is selected");
    let counted = alice.request(Method::HEAD, &format!("{}/diff?from={from}", world.history())).await;
    assert_eq!(counted.header("total-objects"), Some("4"));

    // What bob did to what alice had changed before is his alone; what she did since is in its way.
    let bobs = user_id(&bob).await;
    alice.put(&world.record("deleted")).data(json!({})).await.expect(201);
    let rows = world.diff(&format!("from={from}&to={to}&user_id={bobs}")).await;
    let told: Vec<_> = rows.iter().map(|row| (last(row), row["conflict"].is_string())).collect();
    assert_eq!(told, [("deleted", true), ("changed", false)]);
    assert_eq!(rows[1]["before"]["n"], 2);
}

fn last(row: &Value) -> &str {
    row["uri"].as_str().unwrap().rsplit('/').next().unwrap()
}

#[tokio::test]
async fn who_may_not_see_a_history_sees_no_diff_of_it() {
    let world = World::new("diff-rights").await;
    let readable = json!({"data": {"n": 1}, "permissions": {"read": ["system.Everyone"]}});
    world.alice.put(&world.record("open")).json(readable).await.expect(201);
    world.alice.put(&world.record("closed")).data(json!({"n": 1})).await.expect(201);
    let path = format!("{}/diff?from=0", world.history());
    let anybody = world.sidecar.client();
    let rows = anybody.get(&path).await.expect(200).data();
    assert_eq!(rows.as_array().unwrap().len(), 1);
    assert_eq!(last(&rows[0]), "open");
    world.alice.patch(&world.record("open")).json(json!({"permissions": {"read": []}})).await.expect(200);
    let other = World::new("diff-none").await;
    let path = format!("{}/diff?from=nonsense", other.history());
    other.sidecar.client().get(&path).await.expect(401);
    other.sidecar.client().user("mallory").get(&path).await.expect(403);
    let refused = other.alice.get(&path).await.expect(400).json();
    assert_eq!((&refused["errno"], &refused["details"][0]["name"]), (&json!(107), &json!("from")));
}

#[tokio::test]
async fn a_diff_says_nothing_of_what_its_reader_may_not_see() {
    let world = World::new("diff-former").await;
    let bob = world.sidecar.client().user("bob");
    let shared = json!({"data": {"n": 1}, "permissions": {"read": [user_id(&bob).await]}});
    world.alice.put(&world.record("x")).json(shared).await.expect(201);
    let seen = async || {
        let diff = bob.get(&format!("{}/diff?from=0", world.history())).await.expect(200).data();
        let preview =
            bob.post(&format!("{}/revert", world.history())).json(json!({"from": 0, "dry_run": true}));
        (diff, world.lines(preview).await)
    };
    let before = seen().await;
    assert_eq!((before.0.as_array().unwrap().len(), before.0[0].get("conflict")), (1, None));
    world.alice.patch(&world.record("x")).json(json!({"permissions": {"read": []}})).await.expect(200);
    assert_eq!(seen().await, before);
    world.alice.patch(&world.record("x")).data(json!({"n": 2})).await.expect(200);
    assert_eq!(seen().await, before);
    world.alice.delete(&world.record("x")).await.expect(200);
    assert_eq!(seen().await, before);
    world.alice.delete(&format!("{}/collections/c", world.bucket)).await.expect(200);
    assert_eq!(seen().await, before);
    // Whoever sees all of it is told.
    let told = world.diff("from=0&action=create&record_id=x").await;
    assert_eq!(told[0]["conflict"], "its collection was deleted since");
}

#[tokio::test]
async fn a_diff_has_kintos_manners() {
    let world = World::new("diff-manners").await;
    let path = format!("{}/diff", world.history());
    let get = |query: &str| world.alice.get(&format!("{path}?{query}"));
    for query in
        ["", "from=0&_sort=uri", "from=0&_fields=uri", "from=1&from=2", "from=0&x=1", "from=0&_token=x"]
    {
        get(query).await.expect(400);
    }
    world.alice.post(&format!("{path}?from=0")).await.expect(405);
    get("from=0").header("accept", "text/html").await.expect(406);
    let answer = get("from=0").await.expect(200);
    let tag = answer.header("etag").unwrap().to_owned();
    get("from=0").header("if-none-match", &tag).await.expect(304);
    get("from=0").header("if-match", "\"1\"").await.expect(412);
    let answer = get("from=0").header("origin", "http://page.example").await.expect(200);
    assert!(answer.header("access-control-expose-headers").unwrap().contains("Next-Page"), "{answer}");
    let preflight = world.alice.request(Method::OPTIONS, &path).header("origin", "http://page.example");
    let preflight = preflight.header("access-control-request-method", "GET").await;
    assert!(
        preflight.status < 300 && preflight.header("access-control-allow-methods").is_some(),
        "{preflight}"
    );
}

#[tokio::test]
async fn where_the_upstream_keeps_the_history_its_answer_comes_back() {
    let kinto = Kinto::start(KintoOptions::memory().plugin(Plugin::History));
    let sidecar = Sidecar::start(kinto.url(), &[SERVICE_ACCOUNT]);
    let bucket = format!("/buckets/{}", unique("theirs"));
    let alice = sidecar.client().user("alice");
    alice.put(&bucket).await.expect(201);
    let direct = kinto.client().user("alice");
    for (method, path) in [
        (Method::GET, "history/diff?from=0"),
        (Method::GET, "history/deleted"),
        (Method::POST, "history/revert"),
        (Method::POST, "snapshot/collections/c@5/restore"),
    ] {
        let ask = |client: &Client| {
            client.request(method.clone(), &format!("{bucket}/{path}")).json(json!({"from": 0}))
        };
        let (theirs, ours) = (ask(&direct).await, ask(&alice).await);
        assert_eq!((theirs.status, &theirs.body), (404, &ours.body), "{method} {path}");
    }
}

#[tokio::test]
async fn a_collection_that_is_deleted_takes_its_records_with_it() {
    let world = World::new("diff-lost").await;
    let (alice, collection) = (&world.alice, format!("{}/collections/c", world.bucket));
    for id in ["a", "b"] {
        alice.put(&world.record(id)).data(json!({"n": 1})).await.expect(201);
    }
    let from = world.now().await;
    alice.put(&world.record("b")).data(json!({"n": 2})).await.expect(200);
    alice.delete(&collection).await.expect(200);
    alice.put(&collection).await.expect(201);
    let to = world.now().await;
    alice.put(&world.record("b")).data(json!({"n": 3})).await.expect(201);
    let rows = world.diff(&format!("from={from}&resource_name=record")).await;
    assert_eq!(rows.len(), 1, "only entries of records are selected: {rows:?}");
    let rows = world.diff(&format!("from={from}")).await;
    let told: Vec<(&str, i64, Option<i64>)> = rows
        .iter()
        .filter(|row| row["resource_name"] == "record")
        .map(|row| (last(row), row["before"]["n"].as_i64().unwrap(), row["after"]["n"].as_i64()))
        .collect();
    assert_eq!(told, [("b", 1, Some(3)), ("a", 1, None)]);
    let rows = world.diff(&format!("from={from}&to={to}")).await;
    let gone: Vec<_> = rows.iter().filter(|row| row["after"].is_null()).map(last).collect();
    assert_eq!(gone, ["a", "b"]);
    // Of its second life, the first says nothing.
    let rows = world.diff(&format!("from={to}")).await;
    assert_eq!((rows.len(), &rows[0]["action"], &rows[0]["before"]), (1, &json!("create"), &Value::Null));
}
