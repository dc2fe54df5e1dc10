//! Every parameter and its bad values, and the headers of a list.

use http::Method;
use serde_json::{Value, json};

use super::world::{BUCKET, World};
use crate::parity::ask::Ask;
use crate::parity::queries::{QUERIES, TAGS, TAGS_OF_CACHES, pages};
use crate::support::Response;

/// Queries of this list beside those of any; `{n}` stands for the timestamp of the n-th entry, `{#n}` for its id.
const OWN_QUERIES: &[&str] = &[
    "_since=0",
    "_since=-1",
    "_before=%22{5}%22",
    "_limit=2&_since={1}&_sort=-uri,last_modified&_foo=%C3%A9%20%2B~*!",
    "_sort=uri,last_modified",
    "_sort=-resource_name,uri,last_modified",
    "_sort=%2Baction,-last_modified",
    "_sort=%20action,-last_modified",
    "_sort=date",
    "_sort=-date",
    "_sort=target.data.last_modified",
    "_sort=-target.data.n,last_modified",
    "_sort=record_id,-last_modified",
    "_sort=uri.x,last_modified",
    "_fields=uri",
    "_fields=uri,target.data.n",
    "_fields=target.permissions,action.x",
    "_fields=uri,unknown",
    "_token=%00",
    "id={#3}",
    "in_id={#1},{#3}",
    "exclude_id={#1},{#3}",
    "like_id={#1}",
    "not_last_modified={5}",
    "uri=/buckets/a",
    "uri=%2Fbuckets%2Fa%2Fcollections%2Fc",
    "uri=%22/buckets/a%22",
    "uri=",
    "uri",
    "uri=1",
    "uri=null",
    "uri.x=1",
    "%20uri=/buckets/a",
    "not_uri=/buckets/a",
    "in_uri=/buckets/a,/buckets/a/groups/g",
    "in_uri=",
    "exclude_uri=/buckets/a",
    "like_uri=RECORDS",
    "like_uri=/buckets/a*",
    "like_uri=*/r",
    "like_uri=*ords*",
    "like_uri=",
    "like_uri=1",
    "like_user_id=basicauth:*",
    "user_id=nobody",
    "not_user_id=nobody",
    "user_id=null",
    "user_id=1",
    "action=create",
    "action=delete",
    "action=update",
    "action=frobnicate",
    "not_action=create",
    "in_action=update,delete",
    "exclude_action=create",
    "resource_name=record",
    "resource_name=record&action=create",
    "exclude_resource_name=record",
    "in_resource_name=bucket,group",
    "gt_resource_name=collection",
    "bucket_id=a",
    "bucket_id=1",
    "has_bucket_id=true",
    "not_bucket_id=a",
    "collection_id=c",
    "collection_id=7",
    "collection_id=%227%22",
    "exclude_collection_id=c",
    "not_collection_id=c",
    "min_collection_id=7",
    "has_collection_id=maybe",
    "group_id=g",
    "has_group_id=true",
    "record_id=2",
    "record_id=2.0",
    "record_id=02",
    "record_id=r",
    "record_id=true",
    "in_record_id=r,shared",
    "in_record_id=",
    "lt_record_id=r",
    "date=null",
    "gt_date=2020",
    "lt_date=2020",
    "like_date=*+00:00",
    "target=1",
    "has_target=true",
    "target.data.n=1",
    "target.data.n=%221%22",
    "target.data.n=null",
    "not_target.data.n=1",
    "gt_target.data.n=4",
    "in_target.data.n=1,2",
    "has_target.data.n=true",
    "has_target.data.n=false",
    "has_target.data.nested.deep=true",
    "target.data.nested.deep.er=true",
    "target.data.status=signed",
    "target.data.deleted=true",
    "target.data.id=c",
    "target.data.id=2",
    "target.data.last_modified=1600000000080",
    "gt_target.data.last_modified=1600000000080",
    "lt_target.data.last_modified=1600000000080&resource_name=record",
    "target.permissions=1",
    "contains_target.data.members=basicauth:x",
    "contains_target.data.members=[%22basicauth:x%22]",
    "contains_any_target.data.members=[%22a%22,%22basicauth:x%22]",
    "contains_uri=a",
    "collection=c",
    "data.n=1",
    "min_uri-x=1",
    "uri=a%00",
    "uri=%22a%5Cu0000%22",
    "in_uri=a%00,b",
    "uri%00=a",
    "like_uri=a%00",
    "target.data.%00=1",
    "uri=%FF",
    "action=create;resource_name=bucket",
];

fn list(query: &str) -> Ask {
    Ask::get(&format!("{BUCKET}/history?{query}"))
}

#[tokio::test]
async fn lists_answer_as_the_plugins() {
    for world in World::on_each_engine().await {
        let queries = QUERIES.iter().chain(OWN_QUERIES);
        world.assert_same(queries.map(|query| list(query).by("bucket-reader"))).await;
    }
}

#[tokio::test]
async fn lists_of_those_who_see_a_part_answer_as_the_plugins() {
    // In memory, Kinto shows with has_ what was not shared.
    let queries = || QUERIES.iter().chain(OWN_QUERIES).filter(|query| !query.starts_with("has_"));
    for world in World::on_each_engine().await {
        for user in ["collection-reader", "record-writer"] {
            world.assert_same(queries().step_by(3).map(|query| list(query).by(user))).await;
        }
    }
}

#[tokio::test]
async fn lists_hold_the_same_preconditions() {
    let world = World::shared().await;
    let tag = "\"{last}\"";
    for header in ["If-None-Match", "If-Match"] {
        for method in [Method::GET, Method::HEAD] {
            let ask = |value| {
                Ask::new(method.clone(), &format!("{BUCKET}/history"))
                    .by("bucket-reader")
                    .header(header, value)
            };
            world.assert_same(TAGS.into_iter().chain([tag]).map(ask)).await;
        }
    }
    let wanted = |value| list("").by("bucket-reader").header("If-Match", value);
    world.assert_same(TAGS_OF_CACHES.map(wanted)).await;
    world
        .assert_same([
            list("").by("bucket-reader").header("If-Match", tag).header("If-None-Match", tag),
            list("unknown=1").by("bucket-reader").header("If-None-Match", tag),
            list("_limit=a").by("bucket-reader").header("If-None-Match", tag),
            list("_limit=a").by("bucket-reader").header("If-Match", "x"),
            list("").by("bucket-reader").header("If-Modified-Since", "Sat, 21 Nov 2026 07:23:15 GMT"),
            list("").by("stranger").header("If-None-Match", tag),
            list("").by("collection-reader").header("If-None-Match", tag),
            list("").by("collection-reader").header("If-Match", "\"1\""),
        ])
        .await;
}

#[tokio::test]
async fn next_pages_lead_through_the_same_entries() {
    for query in [
        "_limit=1",
        "_limit=2&_sort=last_modified",
        "_limit=3&_sort=uri,last_modified",
        "_limit=4&_sort=-resource_name,last_modified&_fields=uri",
        "_limit=2&resource_name=record",
    ] {
        for world in World::on_each_engine().await {
            for user in ["bucket-reader", "collection-reader"] {
                let [plugin, sidecar] = [&world.plugin, &world.sidecar].map(|side| side.client.user(user));
                let list = format!("{BUCKET}/history?{query}");
                let entries = async |server| pages(server, &list, about).await;
                assert_eq!(entries(&plugin).await, entries(&sidecar).await, "{query} by {user}");
            }
        }
    }
}

/// What the entries of a page are about.
fn about(page: &Response) -> Value {
    let about = |entry: &Value| json!([entry["uri"], entry["target"]["data"]["last_modified"]]);
    page.data().as_array().unwrap().iter().map(about).collect()
}

#[tokio::test]
async fn pages_are_as_large_as_the_operator_lets_them_be() {
    for settings in [[("paginate_by", "3")], [("storage_max_fetch_size", "4")]] {
        let world = World::start_with(&settings, &settings).await;
        let queries = ["", "_limit=2", "_limit=100", "_limit=0", "_since=0", "_sort=last_modified"];
        world.assert_same(queries.map(|query| list(query).by("bucket-reader"))).await;
    }
}

#[tokio::test]
async fn head_tells_how_many_entries_there_are() {
    let world = World::shared().await;
    let ask = Ask::new(Method::HEAD, &format!("{BUCKET}/history?resource_name=record&_limit=1"))
        .by("bucket-reader");
    let (plugin, sidecar) = (world.plugin.ask(&ask).await, world.sidecar.ask(&ask).await);
    let all = world.sidecar.ask(&list("resource_name=record&_limit=1000").by("bucket-reader")).await;
    let count = all.data().as_array().unwrap().len().to_string();
    assert_eq!((plugin.header("total-objects"), sidecar.header("total-objects")), (None, Some(&*count)));
    assert_eq!(sidecar.header("total-records"), Some(&*count));
    assert_eq!((plugin.status, plugin.header("etag")), (sidecar.status, sidecar.header("etag")));
}

#[tokio::test]
async fn the_sidecar_finds_more_where_it_means_to() {
    let world = World::shared().await;
    for (why, query, plugin, sidecar) in [
        ("ids of groups are texts", "group_id=0", 0, 1),
        ("ids are texts in lists, too", "in_collection_id=7,c", 9, 10),
        ("ids are texts in lists, too", "exclude_collection_id=c,7", 7, 6),
        ("a list of patterns is an operator", "in_like_uri=*/groups/*,*/records/r", 400, 5),
        ("a filter may be repeated", "not_resource_name=record&not_resource_name=collection", 16, 4),
        ("has_ does not forget the filters before it", "resource_name=zzz&has_uri=true", 16, 0),
        ("has_ can be denied", "has_bucket_id=false", 2, 14),
        ("has_ can be denied", "has_collection_id=0", 12, 4),
        ("what is not there is unlike", "like_record_id=mad", 500, 1),
    ] {
        let ask = list(query).by("bucket-reader");
        for (name, side, expected) in
            [("plugin", &world.plugin, plugin), ("sidecar", &world.sidecar, sidecar)]
        {
            let answer = side.ask(&ask).await;
            let found = if answer.status == 200 {
                answer.data().as_array().unwrap().len()
            } else {
                usize::from(answer.status)
            };
            assert_eq!(found, expected, "{why} ({name}): {answer}");
        }
    }
}
