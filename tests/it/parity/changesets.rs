//! Changesets, of monitor/changes and of collections: parameters, bad values, and who may see what.

use http::Method;

use super::ask::Ask;
use super::compare::assert_same;
use super::world::{MONITOR, World};

/// Queries of any changeset; `{n}` stands for the n-th timestamp of the world.
const QUERIES: &[&str] = &[
    "",
    "_expected",
    "_expected=",
    "_expected=0",
    "_expected=abc",
    "_expected=%22{4}%22",
    "_expected=9999012345678",
    "_expected=1&_expected=2",
    "_expected=%FF",
    "_expected=0&_since=",
    "_expected=0&_since={2}",
    "_expected=0&_since=%22{2}%22",
    "_expected=0&_since=%22{4}%22",
    "_expected=0&_since=%22{4}%22&_since=%22{2}%22",
    "_expected=0&_since=%22%22",
    "_expected=0&_since=%22x%22",
    "_expected=0&_since=%22-1%22",
    "_expected=0&_since=%221.5%22",
    "_expected=0&_since=%22{2}",
    "_expected=0&_since=1&_limit=x",
    "_since=abc&_limit=x",
    "_expected=0&_limit=",
    "_expected=0&_limit=0",
    "_expected=0&_limit=100",
    "_expected=0&_limit=%2B100",
    "_expected=0&_limit=1_00",
    "_expected=0&_limit=1.5",
    "_expected=0&_limit=null",
    "_expected=0&_limit=1&_limit=2",
    "_expected=0&bucket=a&bucket=b",
    "_expected=0&_sort=bucket,collection",
    "_expected=0&unknown=1",
];

/// Of monitor/changes only.
const MONITOR_QUERIES: &[&str] = &[
    "_expected=0&bucket=a",
    "_expected=0&bucket=a&collection=one",
    "_expected=0&collection=one",
    "_expected=0&bucket=",
    "_expected=0&bucket=%20a",
    "_expected=0&bucket=nowhere",
    "_expected=0&bucket=a&_since=%22{2}%22",
];

#[tokio::test]
async fn changesets_answer_as_the_plugins() {
    let world = World::shared().await;
    for collection in [MONITOR, "/buckets/a/collections/one", "/buckets/a/collections/two"] {
        let ask = |query: &&str| Ask::get(&format!("{collection}/changeset?{}", world.fill(query)));
        assert_same(world, QUERIES.iter().map(ask)).await;
    }
    let ask = |query: &&str| Ask::get(&format!("{MONITOR}/changeset?{}", world.fill(query)));
    assert_same(world, MONITOR_QUERIES.iter().map(ask)).await;
}

#[tokio::test]
async fn an_ordinary_changeset_may_begin_long_ago() {
    let world = World::shared().await;
    let queries = [
        "_expected=0&_since=%220%22",
        "_expected=0&_since=%221%22",
        "_expected=0&_since=%221%22&_limit=1",
        "_expected=0&_limit=1",
        "_expected=0&_limit=2",
    ];
    assert_same(
        world,
        queries.map(|query| Ask::get(&format!("/buckets/a/collections/one/changeset?{query}"))),
    )
    .await;
}

#[tokio::test]
async fn changesets_are_for_those_who_may_read_the_collection() {
    let world = World::shared().await;
    let collections = [
        "a/collections/one", "b/collections/one", "b/collections/hidden", "a/collections/none",
        "b/collections/none", "none/collections/none",
    ];
    for collection in collections {
        let path = format!("/buckets/{collection}/changeset?_expected=0");
        assert_same(world, ["owner", "reader", "stranger"].map(|user| Ask::get(&path).by(user))).await;
        assert_same(world, [Ask::get(&path), Ask::get(&path).header("Authorization", "")]).await;
        assert_same(
            world,
            [Ask::new(Method::HEAD, &path).by("reader"), Ask::new(Method::POST, &path).by("owner")],
        )
        .await;
    }
}

#[tokio::test]
async fn the_parameters_come_after_the_permission() {
    let world = World::shared().await;
    let path = "/buckets/b/collections/one/changeset?_since=abc";
    assert_same(world, [Ask::get(path), Ask::get(path).by("stranger"), Ask::get(path).by("reader")]).await;
}

#[tokio::test]
async fn a_changeset_holds_no_condition_but_its_own_tag() {
    let world = World::shared().await;
    for collection in [MONITOR, "/buckets/a/collections/one"] {
        let ask = Ask::get(&format!("{collection}/changeset?_expected=0"));
        for value in ["\"*\"", "\"1\"", "W/\"1\"", "abc", ""] {
            assert_same(world, [ask.clone().header("If-None-Match", value)]).await;
        }
        // RFC 9110, section 13.1.2. The plugin has no condition.
        let any = ask.clone().header("If-None-Match", "*");
        assert_eq!(any.send(&world.sidecar).await.status, 304);
        assert_same(world, ["*", ""].map(|value| ask.clone().header("If-Match", value))).await;
    }
}

#[tokio::test]
async fn ids_that_nothing_can_have_have_no_changesets() {
    let world = World::shared().await;
    let places = [
        "a/collections/x!y", "a/collections/x%20y", "a/collections/%C3%A9", "a!b/collections/one",
        "a%3Ab/collections/x!y", "b/collections/x!y", "none/collections/x!y",
    ];
    let asks = places.iter().flat_map(|place| {
        let ask = Ask::get(&format!("/buckets/{place}/changeset?_expected=0"));
        let head = Ask::new(Method::HEAD, &format!("/buckets/{place}/changeset?_expected=0"));
        [ask.clone(), ask.clone().by("owner"), ask.by("stranger"), head]
    });
    assert_same(world, asks).await;
}

#[tokio::test]
async fn the_default_bucket_has_changesets() {
    let world = World::shared().await;
    for server in world.servers() {
        let record = server.user("owner").put("/buckets/default/collections/notes/records/r1");
        record.data(world.record(2)).await.expect(201);
    }
    let path = "/buckets/default/collections/notes/changeset?_expected=0";
    let [plugin, sidecar] = world.servers().map(|server| server.user("owner"));
    let changes = plugin.get(path).await.expect(200).json()["changes"].clone();
    assert_eq!(sidecar.get(path).await.expect(200).json()["changes"], changes);
    assert_same(world, [Ask::get(path)]).await;
    let spelt = "/buckets/%64efault/collections/n%6Ftes/changeset?_expected=0";
    assert_same(world, [Ask::get(spelt)]).await;
    for server in [plugin, sidecar] {
        assert_eq!(server.get(spelt).await.expect(200).json(), server.get(path).await.expect(200).json());
    }
}
