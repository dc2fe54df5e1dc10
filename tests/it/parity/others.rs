//! What the plugin adds elsewhere: the capability in the root view, and the description of the endpoints.

use serde_json::Value;

use super::ask::Ask;
use super::world::{MONITOR, World};
use crate::support::{Client, Response};

#[tokio::test]
async fn the_root_view_shows_the_same_capability() {
    let world = World::shared().await;
    for ask in [Ask::get("/"), Ask::get("/").by("owner"), Ask::get("/").header("Origin", "http://x")] {
        let (plugin, sidecar) = (ask.send(&world.plugin).await, ask.send(&world.sidecar).await);
        assert_eq!(view(&plugin), view(&sidecar));
        assert_eq!(sidecar.header("content-length"), Some(&*sidecar.body.len().to_string()));
        let text = String::from_utf8_lossy(&sidecar.body);
        assert!(text.contains(r#""changes":{"description":"Track modifications"#), "{text}");
    }
}

/// The document, with the principals of the requester in an order.
fn view(answer: &Response) -> Value {
    let mut view = answer.json();
    if let Some(principals) = view.pointer_mut("/user/principals").and_then(Value::as_array_mut) {
        principals.sort_by_key(Value::to_string);
    }
    view
}

#[tokio::test]
async fn the_description_shows_the_same_operations() {
    let world = World::shared().await;
    let [plugin, sidecar] = world.servers();
    assert_eq!(operations(plugin).await, operations(sidecar).await);
}

/// Path, operation and parameters of each `GET`.
async fn operations(server: &Client) -> Vec<(String, Value, Value)> {
    let description = server.get("/__api__").await.expect(200).json();
    let paths = description["paths"].as_object().expect("an object").clone();
    let operation = |(path, operations): (String, Value)| {
        let get = &operations["get"];
        let parameters = get["parameters"].as_array().into_iter().flatten();
        let names = parameters.map(|parameter| parameter["name"].clone()).collect();
        (path, get["operationId"].clone(), names)
    };
    let mut operations: Vec<_> = paths.into_iter().map(operation).collect();
    operations.sort_by(|a, b| a.0.cmp(&b.0));
    operations
}

#[tokio::test]
async fn what_is_below_the_list_is_kintos_own() {
    let world = World::shared().await;
    for path in ["/records/aefb85a4-63ac-5bf3-2f6f-9576d7c16963", "", "/records/", "/changeset/"] {
        for ask in [Ask::get(&format!("{MONITOR}{path}")), Ask::get(&format!("{MONITOR}{path}")).by("owner")]
        {
            let (plugin, sidecar) = (ask.send(&world.plugin).await, ask.send(&world.sidecar).await);
            assert_eq!((plugin.status, plugin.body), (sidecar.status, sidecar.body), "{path}");
        }
    }
}
