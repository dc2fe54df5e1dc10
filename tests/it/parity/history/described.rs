//! What the plugin adds elsewhere: the capability in the root view, and the description of the endpoints.

use serde_json::Value;

use super::world::World;
use crate::parity::ask::Ask;
use crate::support::{Client, Kinto, KintoOptions, Plugin, SERVICE_ACCOUNT, Sidecar};

async fn capability(server: &Client) -> Value {
    server.get("/").await.expect(200).json()["capabilities"]["history"].clone()
}

#[tokio::test]
async fn the_root_view_shows_the_same_capability() {
    let world = World::shared().await;
    assert_eq!(capability(&world.sidecar.client).await, capability(&world.plugin.client).await);
    let left_out = World::start(&[
        ("history.auto_trim_max_count", "50"),
        ("history.auto_trim_user_ids", "plugin:one plugin:two"),
        (
            "history.exclude_resources",
            "/buckets/x /buckets/y/collections/c /buckets/y/groups/g /buckets/z/collections/c/records/r",
        ),
    ])
    .await;
    let ours = capability(&left_out.sidecar.client).await;
    assert_eq!(ours, capability(&left_out.plugin.client).await);
    assert_eq!(ours["auto_trim_max_count"], 50);
}

#[tokio::test]
async fn the_description_shows_the_same_operations() {
    let world = World::shared().await;
    assert_eq!(operations(&world.sidecar.client).await, operations(&world.plugin.client).await);
}

/// Path, method, operation and parameters of each operation on histories.
async fn operations(server: &Client) -> Vec<(String, String, Value, Vec<Value>)> {
    let description = server.get("/__api__").await.expect(200).json();
    let mut operations = Vec::new();
    for (path, methods) in description["paths"].as_object().unwrap() {
        for (method, operation) in
            methods.as_object().unwrap().iter().filter(|(name, _)| *name != "parameters")
        {
            if path.ends_with("/history") || path.contains("/snapshot/") {
                let parameters = operation["parameters"].as_array().into_iter().flatten();
                let names = parameters.map(|parameter| parameter["name"].clone()).collect();
                operations.push((path.clone(), method.clone(), operation["operationId"].clone(), names));
            }
        }
    }
    operations.sort_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
    assert_eq!(operations.len(), 3);
    operations
}

#[tokio::test]
async fn the_upstreams_own_history_comes_through() {
    let kinto = Kinto::start(KintoOptions::memory().plugin(Plugin::History));
    for mode in ["auto", "upstream"] {
        let sidecar = Sidecar::start(kinto.url(), &[SERVICE_ACCOUNT, ("sidecar.history", mode)]);
        let (direct, through) = (kinto.client().user("alice"), sidecar.client().user("alice"));
        let bucket = format!("/buckets/{mode}");
        through.put(&bucket).await.expect(201);
        for path in ["/history", "/history?_limit=x", "/snapshot/collections/c@5"] {
            let ask = Ask::get(&format!("{bucket}{path}"));
            let (theirs, ours) = (ask.send(&direct).await, ask.send(&through).await);
            assert_eq!((theirs.status, theirs.body), (ours.status, ours.body), "{mode} {path}");
        }
        assert_eq!(capability(&direct).await, capability(&through).await);
        let batch = serde_json::json!({"requests": [{"path": format!("{bucket}/history")}]});
        let answer = through.post("/batch").json(batch).await.expect(200).json();
        assert_eq!(answer["responses"][0]["body"]["data"].as_array().unwrap().len(), 1);
        through.delete(&format!("{bucket}/history")).await.expect(200);
        assert_eq!(
            direct.get(&format!("{bucket}/history")).await.expect(200).data(),
            Value::Array(Vec::new())
        );
    }
}

#[tokio::test]
async fn a_history_that_is_switched_off_is_whatever_the_upstream_makes_of_it() {
    let sidecar = Sidecar::start(Kinto::shared().url(), &[SERVICE_ACCOUNT, ("sidecar.history", "off")]);
    assert_eq!(capability(&sidecar.client()).await, Value::Null);
    sidecar.client().user("alice").get("/buckets/a/history").await.expect(404);
}
