//! Where the sidecar means to answer otherwise than the plugin, and why.

use http::Method;
use serde_json::{Value, json};

use super::ask::Ask;
use super::world::{MONITOR, World};
use crate::support::Response;

/// A request that the two answer differently; `{n}` stands for the n-th timestamp of the world.
struct Difference {
    why: &'static str,
    path: &'static str,
    plugin: fn(&Response) -> bool,
    sidecar: fn(&Response) -> bool,
}

fn names(answer: &Response) -> String {
    let document: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let rows = document
        .get("data")
        .or(document.get("changes"))
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    let name = |row: &Value| {
        format!("{}/{}", row["bucket"].as_str().unwrap_or("?"), row["collection"].as_str().unwrap_or("?"))
    };
    rows.iter().map(name).collect::<Vec<_>>().join(" ")
}

fn location(answer: &Response, end: &str) -> bool {
    answer.status == 307 && answer.header("location").is_some_and(|location| location.ends_with(end))
}

const DIFFERENCES: &[Difference] = &[
    Difference {
        why: "monitor's changeset is newest first, as every other changeset",
        path: "/changeset?_expected=0&_limit=1",
        plugin: |answer| names(answer) == "a/one",
        sidecar: |answer| names(answer) == "b/one",
    },
    Difference {
        why: "parameters are checked before an old _since is redirected",
        path: "/records?_since=1&_limit=a",
        plugin: |answer| answer.status == 307,
        sidecar: |answer| answer.status == 400,
    },
    Difference {
        why: "a negative _since is no timestamp, old or not",
        path: "/records?_since=-5",
        plugin: |answer| answer.status == 307,
        sidecar: |answer| answer.status == 400,
    },
    Difference {
        why: "a float is taken as its integer part, so it can be old, too",
        path: "/records?_since=1.5",
        plugin: |answer| answer.status == 200,
        sidecar: |answer| location(answer, "/records"),
    },
    Difference {
        why: "a redirect keeps the encoding of what it keeps",
        path: "/records?_limit=2&_since=1&a=b%20c&x=%22*",
        plugin: |answer| location(answer, "/records?_limit=2&a=b+c&x=%22%2A"),
        sidecar: |answer| location(answer, "/records?_limit=2&a=b%20c&x=%22*"),
    },
    Difference {
        why: "a line break is no part of a timestamp",
        path: "/changeset?_expected=0&_since=%22{2}%22%0A",
        plugin: |answer| answer.status == 500,
        sidecar: |answer| answer.status == 400,
    },
    Difference {
        why: "a negative _limit is refused",
        path: "/changeset?_expected=0&_limit=-1",
        plugin: |answer| answer.status == 200,
        sidecar: |answer| answer.status == 400,
    },
    Difference {
        why: "a _limit has an end",
        path: "/changeset?_expected=0&_limit=9223372036854775809",
        plugin: |answer| answer.status == 200,
        sidecar: |answer| answer.status == 400,
    },
    Difference {
        why: "in like_, only * has a meaning",
        path: "/records?like_collection=[",
        plugin: |answer| answer.status == 500,
        sidecar: |answer| answer.status == 200 && names(answer).is_empty(),
    },
    Difference {
        why: "like_ looks at numbers as texts, and at what is not there as unlike",
        path: "/records?like_deleted=a",
        plugin: |answer| answer.status == 500,
        sidecar: |answer| answer.status == 200 && names(answer).is_empty(),
    },
    Difference {
        why: "has_ does not forget the filters before it",
        path: "/records?bucket=zzz&has_host=true",
        plugin: |answer| !names(answer).is_empty(),
        sidecar: |answer| names(answer).is_empty(),
    },
    Difference {
        why: "a timestamp between quotes is a timestamp",
        path: "/records?lt_last_modified=%22{2}%22",
        plugin: |answer| names(answer).is_empty(),
        sidecar: |answer| names(answer) == "a/one",
    },
    Difference {
        why: "a filter may be repeated",
        path: "/records?not_collection=one&not_collection=two",
        plugin: |answer| names(answer) == "b/one a/three a/two a/one",
        sidecar: |answer| names(answer) == "a/three",
    },
];

#[tokio::test]
async fn the_sidecar_differs_where_it_means_to() {
    let world = World::shared().await;
    let mut report = String::new();
    for difference in DIFFERENCES {
        let ask = Ask::get(&format!("{MONITOR}{}", world.fill(difference.path)));
        for (name, server, holds) in
            [("plugin", &world.plugin, difference.plugin), ("sidecar", &world.sidecar, difference.sidecar)]
        {
            let answer = ask.send(server).await;
            if !holds(&answer) {
                report.push_str(&format!("{} ({name})\n{answer}\n", difference.why));
            }
        }
    }
    assert!(report.is_empty(), "not as it is said:\n{report}");
}

#[tokio::test]
async fn head_tells_how_many_rows_there_are() {
    let world = World::shared().await;
    for (query, total) in [("", "4"), ("_since={3}", "1"), ("bucket=a&_limit=1", "3")] {
        let ask = Ask::new(Method::HEAD, &format!("{MONITOR}/records?{}", world.fill(query)));
        let (plugin, sidecar) = (ask.send(&world.plugin).await, ask.send(&world.sidecar).await);
        assert_eq!((plugin.header("total-objects"), sidecar.header("total-objects")), (None, Some(total)));
        assert_eq!(sidecar.header("total-records"), Some(total));
        assert_eq!((plugin.status, plugin.header("etag")), (sidecar.status, sidecar.header("etag")));
    }
}

#[tokio::test]
async fn an_asterisk_with_something_behind_it_is_no_tag() {
    let world = World::shared().await;
    let ask = Ask::get(&format!("{MONITOR}/records")).header("If-None-Match", "*x");
    ask.send(&world.plugin).await.expect(500);
    ask.send(&world.sidecar).await.expect(400);
}

#[tokio::test]
async fn the_tags_of_caches_are_taken_for_what_they_are() {
    let world = World::shared().await;
    let path = format!("{MONITOR}/records");
    for (tags, status) in [("W/{tag}", 304), ("\"1\", W/{tag}", 304), ("W/\"1\", \"2\"", 200)] {
        for (server, status) in [(&world.plugin, 400), (&world.sidecar, status)] {
            let tag = server.get(&path).await.header("etag").expect("an ETag").to_owned();
            let ask = Ask::get(&path).header("If-None-Match", &tags.replace("{tag}", &tag));
            ask.send(server).await.expect(status);
        }
    }
}

#[tokio::test]
async fn changesets_can_be_revalidated() {
    let world = World::shared().await;
    for collection in [MONITOR, "/buckets/a/collections/one"] {
        let path = format!("{collection}/changeset?_expected=0");
        let first = world.sidecar.get(&path).await.expect(200);
        let again = Ask::get(&path).header("If-None-Match", first.header("etag").expect("an ETag"));
        again.send(&world.plugin).await.expect(200);
        again.send(&world.sidecar).await.expect(304);
    }
}

#[tokio::test]
async fn a_resource_names_one_collection_for_as_long_as_it_exists() {
    let world = World::start(&[]).await;
    let path = format!("{MONITOR}/records?bucket=b");
    for server in world.servers() {
        let owner = server.user("owner");
        owner.put("/buckets/b/collections/ones").await.expect(201);
        owner.put("/buckets/b/collections/ones/records/r1").data(json!({})).await.expect(201);
        assert_eq!(names(&server.get(&path).await), "b/one");
        owner.delete("/buckets/b/collections/one").await.expect(200);
    }
    assert_eq!(names(&world.plugin.get(&path).await), "b/one");
    assert_eq!(names(&world.sidecar.get(&path).await), "", "what is deleted disappears");
}
