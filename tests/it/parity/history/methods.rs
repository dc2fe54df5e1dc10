//! Methods, media types and browsers.

use http::Method;

use super::world::{BUCKET, World};
use crate::parity::ask::Ask;

fn paths() -> [String; 3] {
    [
        format!("{BUCKET}/history"),
        "/buckets/nosuch/history".to_owned(),
        format!("{BUCKET}/snapshot/collections/c@1600000000100"),
    ]
}

#[tokio::test]
async fn other_methods_are_refused_alike() {
    let world = World::shared().await;
    for path in paths() {
        for user in ["owner", "stranger"] {
            let methods = [Method::POST, Method::PUT, Method::PATCH];
            world.assert_same(methods.map(|method| Ask::new(method, &path).by(user))).await;
        }
        world
            .assert_same([
                Ask::new(Method::POST, &path),
                Ask::new(Method::POST, &path).header("Accept", "text/html"),
                Ask::new(Method::POST, &path).header("Origin", "http://x"),
            ])
            .await;
    }
    world.assert_same([Ask::new(Method::DELETE, &paths()[2]).by("owner")]).await;
}

#[tokio::test]
async fn media_types_are_refused_alike() {
    let world = World::shared().await;
    for path in paths() {
        for user in ["bucket-reader", "stranger"] {
            let asks = ["text/html", "*/*", "application/json", "*/json", "*", "json", "text/plain, *;q=0.1"]
                .map(|accept| Ask::get(&path).by(user).header("Accept", accept));
            world.assert_same(asks).await;
        }
    }
    let purge = Ask::new(Method::DELETE, &paths()[0]).by("owner");
    world.assert_same([purge.header("Accept", "text/html")]).await;
}

#[tokio::test]
async fn browsers_are_let_through_alike() {
    let world = World::shared().await;
    for path in paths().into_iter().chain(["/buckets/default/history".to_owned()]) {
        let preflight = || Ask::new(Method::OPTIONS, &path).header("Origin", "http://x");
        let asked = |method| preflight().header("Access-Control-Request-Method", method);
        world
            .assert_same([
                asked("GET"),
                asked("DELETE"),
                asked("POST"),
                asked("GET").header("Access-Control-Request-Headers", "If-Match, authorization"),
                preflight(),
                Ask::new(Method::OPTIONS, &path),
            ])
            .await;
    }
    for path in paths() {
        world
            .assert_same([
                Ask::get(&path).by("bucket-reader").header("Origin", "http://x"),
                Ask::get(&path).header("Origin", "http://x"),
                Ask::get(&format!("{path}?_limit=x")).by("bucket-reader").header("Origin", "http://x"),
            ])
            .await;
    }
}

#[tokio::test]
async fn paths_beside_are_kintos_own() {
    let world = World::shared().await;
    for path in
        ["/history/", "/history/x", "/snapshot/collections/c", "/snapshot/collections/@5", "/snapshot"]
    {
        for ask in [Ask::get(&format!("{BUCKET}{path}")), Ask::get(&format!("{BUCKET}{path}")).by("owner")] {
            let (plugin, sidecar) = (world.plugin.ask(&ask).await, world.sidecar.ask(&ask).await);
            assert_eq!((plugin.status, plugin.body), (sidecar.status, sidecar.body), "{path}");
        }
    }
}
