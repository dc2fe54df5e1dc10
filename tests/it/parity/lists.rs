//! `monitor/changes/records`: every parameter and its bad values, and the headers of a list.

use super::ask::Ask;
use super::compare::assert_same;
use super::queries::{QUERIES, TAGS, TAGS_OF_CACHES, pages};
use super::world::{MONITOR, World};
use crate::support::Response;
use http::Method;

/// Queries of this list beside those of any; `{n}` stands for the n-th timestamp of the world.
const OWN_QUERIES: &[&str] = &[
    "_since={3}",
    "_since={2}e0",
    "_since={2}&_before={3}",
    "_sort=+bucket,-collection",
    "id=aefb85a4-63ac-5bf3-2f6f-9576d7c16963",
    "exclude_id=aefb85a4-63ac-5bf3-2f6f-9576d7c16963,b",
    "like_id=a",
    "like_collection=t*h*e",
    "eq_last_modified={2}",
    "host=www.example.org&bucket=b",
    "_limit=2&_since={1}&_sort=collection&_foo=%C3%A9%20%2B~*!",
    "_sort=bucket,collection",
    "_sort=-bucket,collection",
    "_sort=%2Bbucket,-collection",
    "_sort=%20bucket,-collection",
    "_sort=bucket.x",
    "_fields=bucket",
    "_fields=bucket.x,host",
    "_fields=bucket,unknown",
    "bucket=%22a%22",
    "bucket=1",
    "bucket=null",
    "bucket=",
    "bucket",
    "bucket.x=1",
    "%20bucket=a",
    "not_bucket=a",
    "in_bucket=a,b",
    "in_bucket=",
    "in_bucket=1,2",
    "in_id=1,2",
    "in_id=a",
    "in_last_modified=",
    "exclude_bucket=a",
    "like_bucket=A",
    "like_collection=o",
    "like_collection=o*",
    "like_collection=*o",
    "like_collection=*o*",
    "like_collection=",
    "like_collection=1",
    "like_last_modified=1",
    "has_bucket=true",
    "has_bucket=false",
    "has_bucket=0",
    "has_bucket=maybe",
    "has_bucket.x=false",
    "has_last_modified=1",
    "contains_bucket=a",
    "contains_bucket=[]",
    "contains_bucket=[%22a%22]",
    "contains_any_bucket=a",
    "contains_any_bucket=[]",
    "lt_last_modified=1.5",
    "gt_bucket=a",
    "gt_bucket=1",
    "lt_bucket=true",
    "eq_bucket=a",
    "bucket=a%00",
    "bucket=%22a%5Cu0000%22",
    "in_bucket=a%00,b",
    "bucket%00=a",
    "like_bucket=a%00",
    "host=www.example.org",
    "target.data=1",
    "min_bucket-x=1",
    "bucket=%FF",
    "bucket=a;collection=one",
    "in_like_bucket=a",
];

fn asks(world: &World) -> impl Iterator<Item = Ask> {
    QUERIES
        .iter()
        .chain(OWN_QUERIES)
        .map(|query| Ask::get(&format!("{MONITOR}/records?{}", world.fill(query))))
}

#[tokio::test]
async fn lists_answer_as_the_plugins() {
    let world = World::shared().await;
    assert_same(world, asks(world)).await;
}

#[tokio::test]
async fn lists_are_the_same_for_everybody() {
    let world = World::shared().await;
    let path = format!("{MONITOR}/records?_limit=2");
    let asks = ["owner", "reader", "stranger"].map(|user| Ask::get(&path).by(user));
    assert_same(world, asks).await;
    assert_same(
        world,
        [Ask::get(&path).header("Authorization", ""), Ask::get(&path).header("Authorization", "Basic x")],
    )
    .await;
}

#[tokio::test]
async fn lists_hold_the_same_preconditions() {
    let world = World::shared().await;
    let path = format!("{MONITOR}/records");
    let etag = world.fill("\"{4}\"");
    for header in ["If-None-Match", "If-Match"] {
        let values = TAGS.into_iter().chain([&*etag]);
        assert_same(world, values.map(|value| Ask::get(&path).header(header, value))).await;
    }
    assert_same(world, TAGS_OF_CACHES.map(|value| Ask::get(&path).header("If-Match", value))).await;
    assert_same(
        world,
        [
            Ask::get(&path).header("If-Match", &etag).header("If-None-Match", &etag),
            Ask::get(&format!("{path}?foo=1")).header("If-None-Match", &etag),
            Ask::get(&format!("{path}?_limit=a")).header("If-None-Match", &etag),
            Ask::get(&format!("{path}?_limit=a")).header("If-Match", "x"),
            Ask::get(&path).header("If-Modified-Since", "Sat, 21 Nov 2026 07:23:15 GMT"),
        ],
    )
    .await;
}

#[tokio::test]
async fn next_pages_lead_through_the_same_rows() {
    let world = World::shared().await;
    for query in [
        "_limit=1",
        "_limit=2&_sort=bucket",
        "_limit=1&_sort=-collection&_fields=bucket",
        "_limit=3&bucket=a",
    ] {
        let [plugin, sidecar] = world.servers();
        let list = format!("{MONITOR}/records?{query}");
        let rows = async |server| pages(server, &list, Response::data).await;
        assert_eq!(rows(plugin).await, rows(sidecar).await, "{query}");
    }
}

#[tokio::test]
async fn both_endpoints_are_read_only() {
    let world = World::shared().await;
    for leaf in ["records", "changeset?_expected=0"] {
        let path = format!("{MONITOR}/{leaf}");
        let methods = [Method::POST, Method::PUT, Method::PATCH, Method::DELETE]
            .map(|method| Ask::new(method, &path).by("owner"));
        assert_same(world, methods).await;
        assert_same(world, [Ask::new(Method::POST, &path).header("Origin", "http://x")]).await;
        assert_same(
            world,
            [
                "text/html", "*/*", "*/json", "*", "json", "*;q=0.2, text/html", "text/plain, *;q=0.1",
                "text/html;q=5",
            ]
            .map(|accept| Ask::get(&path).header("Accept", accept)),
        )
        .await;
    }
}

#[tokio::test]
async fn browsers_are_let_through_alike() {
    let world = World::shared().await;
    for leaf in [
        "monitor/collections/changes/records",
        "monitor/collections/changes/changeset",
        "a/collections/one/changeset",
    ] {
        let path = format!("/buckets/{leaf}");
        let preflight = || Ask::new(Method::OPTIONS, &path).header("Origin", "http://x");
        assert_same(
            world,
            [
                preflight().header("Access-Control-Request-Method", "GET"),
                preflight()
                    .header("Access-Control-Request-Method", "GET")
                    .header("Access-Control-Request-Headers", "If-Match"),
                preflight().header("Access-Control-Request-Method", "POST"),
                preflight(),
                Ask::new(Method::OPTIONS, &path),
                Ask::get(&format!("{path}?_expected=0")).header("Origin", "http://x"),
                Ask::get(&format!("{path}?_limit=x")).header("Origin", "http://x"),
            ],
        )
        .await;
    }
}
#[tokio::test]
async fn expiries_are_given_alike() {
    let world = &World::start(&[
        ("monitor.changes.record_cache_expires_seconds", "60"),
        ("monitor.changes.record_cache_maximum_expires_seconds", "3600"),
        ("a.one.record_cache_expires_seconds", "30"),
        ("b.one.record_cache_maximum_expires_seconds", "90"),
    ])
    .await;
    let lists = [
        "", "?_expected=1", "?_expected=0", "?_since={2}", "?_expected=", "?_limit=1&_expected=3",
        "?_limit=x",
    ];
    assert_same(world, lists.map(|query| Ask::get(&world.fill(&format!("{MONITOR}/records{query}"))))).await;
    assert_same(world, [Ask::get(&format!("{MONITOR}/changeset?_expected=0"))]).await;
    for collection in ["one", "two", "three"] {
        let path = format!("/buckets/a/collections/{collection}/changeset");
        assert_same(
            world,
            ["?_expected=0", "?_expected=1", "?_expected"].map(|query| Ask::get(&format!("{path}{query}"))),
        )
        .await;
    }
    assert_same(world, [Ask::get("/buckets/b/collections/one/changeset?_expected=0").by("reader")]).await;
}
