//! `monitor/changes/records`: every parameter and its bad values, and the headers of a list.

use http::Method;
use serde_json::Value;

use super::ask::Ask;
use super::compare::assert_same;
use super::world::{MONITOR, World};
use crate::support::Client;

/// Queries of the list; `{n}` stands for the n-th timestamp of the world.
const QUERIES: &[&str] = &[
    "",
    "&&&",
    "_since={2}",
    "_since={2}.7",
    "_since=%22{2}%22",
    "_since={2}%0A",
    "_since=%20{2}%20",
    "_since=null",
    "_since=",
    "_since=abc",
    "_since=true",
    "_since=%22%22",
    "_since={}",
    "_since=[1]",
    "_since=1&_since={2}",
    "_since=NaN",
    "_since=1e400",
    "_since=%22{2}",
    "_since=9223372036854775808",
    "_since=9223372036854775809",
    "_since=9995245794711",
    "_before={2}",
    "_before=abc",
    "_before=null",
    "_to={2}",
    "_to=null",
    "_since={1}&_before={4}",
    "_limit=",
    "_limit=0",
    "_limit=1",
    "_limit=1.7",
    "_limit=%221%22",
    "_limit=-1",
    "_limit=null",
    "_limit=true",
    "_limit=1_000",
    "_limit=%2B2",
    "_limit=9223372036854775808",
    "_limit=9223372036854775809",
    "_limit=1&_limit=2",
    "_limit=2&_since={1}&_sort=collection&_foo=%C3%A9%20%2B~*!",
    "_sort=",
    "_sort=bucket,collection",
    "_sort=-bucket,collection",
    "_sort=%2Bbucket,-collection",
    "_sort=%20bucket,-collection",
    "_sort=unknown",
    "_sort=bucket.x",
    "_sort=[1]",
    "_sort=-",
    "_sort=a-b",
    "_sort=last_modified",
    "_sort=-last_modified",
    "_fields=",
    "_fields=bucket",
    "_fields=bucket.x,host",
    "_fields=id",
    "_fields=deleted",
    "_fields=unknown",
    "_fields=bucket,unknown",
    "_token=",
    "_token=abc",
    "_token=eyJ9",
    "_token=1",
    "_token=%22abc%22",
    "_token={}",
    "_foo=bar",
    "_expected=1",
    "id=",
    "id=1",
    "id=true",
    "id=null",
    "id={}",
    "id=a&id=b",
    "last_modified={2}",
    "last_modified=%22{2}%22",
    "last_modified={2}.5",
    "last_modified=abc",
    "last_modified=",
    "last_modified=null",
    "bucket=a",
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
    "in_last_modified={2}",
    "in_last_modified=",
    "exclude_bucket=a",
    "exclude_last_modified={2}",
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
    "has_last_modified=true",
    "has_last_modified=1",
    "contains_bucket=a",
    "contains_bucket=[]",
    "contains_bucket=[%22a%22]",
    "contains_id=a",
    "contains_last_modified=1",
    "contains_any_bucket=a",
    "contains_any_bucket=[]",
    "contains_any_id=a",
    "min_last_modified={2}",
    "max_last_modified={2}",
    "gt_last_modified={2}",
    "lt_last_modified={2}",
    "lt_last_modified=1.5",
    "gt_last_modified=9995245794711",
    "gt_bucket=a",
    "gt_bucket=1",
    "lt_bucket=true",
    "eq_bucket=a",
    "bucket=a%00",
    "bucket=%22a%5Cu0000%22",
    "in_bucket=a%00,b",
    "bucket%00=a",
    "like_bucket=a%00",
    "deleted=true",
    "not_deleted=true",
    "has_deleted=false",
    "host=www.example.org",
    "target.data=1",
    "unknown=1",
    "=1",
    "min_=1",
    "min_bucket-x=1",
    "max__x=1",
    "bucket=%FF",
    "%FF=1",
    "bucket=a;collection=one",
    "in_like_bucket=a",
];

fn asks(world: &World) -> impl Iterator<Item = Ask> {
    QUERIES.iter().map(|query| Ask::get(&format!("{MONITOR}/records?{}", world.fill(query))))
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
    let values = [
        &*etag,
        "\"1\"",
        "\"0\"",
        "*",
        "abc",
        "\"abc\"",
        "123",
        "W/\"1\"",
        "\"\"",
        "",
        "\"1\", \"2\"",
        "\"99999999999999999999\"",
    ];
    for header in ["If-None-Match", "If-Match"] {
        assert_same(world, values.map(|value| Ask::get(&path).header(header, value))).await;
    }
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
        assert_eq!(pages(plugin, query).await, pages(sidecar, query).await, "{query}");
    }
}

/// The rows of each page.
async fn pages(server: &Client, query: &str) -> Vec<Value> {
    let mut next = Some(format!("{MONITOR}/records?{query}"));
    let mut pages = Vec::new();
    while let Some(path) = next {
        let page = server.get(&path).await.expect(200);
        pages.push(page.data());
        let path = |address: &str| address.split_once("/v1").expect("an address of the API").1.to_owned();
        next = page.header("next-page").map(path);
    }
    pages
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
            [Ask::get(&path).header("Accept", "text/html"), Ask::get(&path).header("Accept", "*/*")],
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
        "",
        "?_expected=1",
        "?_expected=0",
        "?_since={2}",
        "?_expected=",
        "?_limit=1&_expected=3",
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
