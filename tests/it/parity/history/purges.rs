//! `DELETE`: what goes, who may, and what is left.

use http::Method;
use serde_json::{Value, json};

use super::world::{BUCKET, Side, USERS, World};
use crate::parity::ask::Ask;
use crate::support::{Response, database};

fn purge(query: &str) -> Ask {
    Ask::new(Method::DELETE, &format!("{BUCKET}/history{query}"))
}

/// A deletion's answer: how many tombstones, and that its timestamp is that of the newest.
fn deleted(answer: &Response) -> usize {
    let data = answer.clone().expect(200).data();
    let tombstones = data.as_array().unwrap();
    for tombstone in tombstones {
        assert_eq!(tombstone.as_object().unwrap().len(), 3, "{answer}");
        assert_eq!(tombstone["deleted"], true, "{answer}");
    }
    if let Some(newest) = tombstones.iter().filter_map(|tombstone| tombstone["last_modified"].as_u64()).max()
    {
        assert_eq!(answer.timestamp(), newest, "{answer}");
    }
    tombstones.len()
}

/// What entries are left: the versions that they are about, oldest first.
async fn left(side: &Side) -> Vec<Value> {
    let path = format!("{BUCKET}/history?_sort=last_modified");
    let entries = side.client.user("bucket-reader").get(&path).await.expect(200).data();
    entries.as_array().unwrap().iter().map(|entry| entry["target"]["data"].clone()).collect()
}

#[tokio::test]
async fn only_writers_of_the_bucket_may_and_only_what_is_asked_right() {
    let world = World::shared().await;
    let impossible = USERS.map(|user| {
        let ask = purge("").header("If-Match", "\"1\"");
        user.map_or(ask.clone(), |user| ask.by(user))
    });
    world.assert_same(impossible).await;
    for user in USERS.into_iter().flatten().filter(|user| !matches!(*user, "owner" | "bucket-writer")) {
        world.assert_same(["", "?_limit=x", "?unknown=1"].map(|query| purge(query).by(user))).await;
    }
    let refused = [
        "_limit=x", "unknown=1", "_since=abc", "_token=abc", "_sort=unknown", "in_last_modified=1",
        "uri=a%00",
    ];
    world.assert_same(refused.map(|query| purge(&format!("?{query}")).by("owner"))).await;
    let nothing = ["uri=zzz", "_before=1", "_to=1", "_fields=unknown&uri=zzz", "_since=9&uri=zzz"];
    world.assert_same(nothing.map(|query| purge(&format!("?{query}")).by("owner"))).await;
    for (header, value) in
        [("If-None-Match", "*"), ("If-Match", "abc"), ("If-Match", "\"99999999999999999999\"")]
    {
        world.assert_same([purge("").by("owner").header(header, value)]).await;
    }
    world
        .assert_same([
            purge("?uri=zzz").by("owner").header("If-Match", "\"{last}\""),
            purge("?uri=zzz").by("owner").header("If-None-Match", "\"{last}\""),
            purge("?uri=zzz").by("owner").header("If-None-Match", "\"1\"").header("If-Match", "\"1\""),
            purge("?uri=zzz").by("owner").header("Origin", "http://x"),
        ])
        .await;
}

#[tokio::test]
async fn whether_somebody_may_is_found_without_writing() {
    let world = World::shared().await;
    let bucket = || async { world.past_the_sidecar().user("owner").get(BUCKET).await.expect(200).json() };
    let before = bucket().await;
    world.sidecar.ask(&purge("?uri=zzz").by("owner")).await.expect(200);
    world.sidecar.ask(&purge("?uri=zzz").by("stranger")).await.expect(403);
    assert_eq!(bucket().await, before);
}

#[tokio::test]
async fn deletions_leave_what_they_leave_in_the_plugin() {
    for journal in ["sqlite::memory:".to_owned(), database()] {
        delete_alike(&World::start_with(&[], &[("sidecar.journal", &journal)]).await).await;
    }
}

async fn delete_alike(world: &World) {
    // With a limit and no filter, Kinto forgets who may see what is left.
    for query in [
        "?record_id=shared",
        "?_limit=2&_sort=last_modified&resource_name=record",
        "?_before={7}&user_id=nobody",
        "?target.data.n=5",
        "?_since={13}",
        "?resource_name=group&_fields=unknown",
    ] {
        let purge = purge(query).by("owner");
        let (plugin, sidecar) = (world.plugin.ask(&purge).await, world.sidecar.ask(&purge).await);
        assert_eq!(deleted(&sidecar), deleted(&plugin), "{query}");
        assert_eq!(sidecar.header("next-page").is_some(), plugin.header("next-page").is_some(), "{query}");
        assert_eq!(left(&world.sidecar).await, left(&world.plugin).await, "{query}");
    }
    // Tombstones are shown to those who ask for what is new, and who see everything.
    for user in ["bucket-reader", "collection-reader"] {
        let count = |answer: Response| {
            let data = answer.expect(200).data();
            let is_deleted = |entry: &&Value| entry["deleted"] == true;
            (data.as_array().unwrap().len(), data.as_array().unwrap().iter().filter(is_deleted).count())
        };
        let ask = Ask::get(&format!("{BUCKET}/history?_since=0")).by(user);
        let (plugin, sidecar) = (world.plugin.ask(&ask).await, world.sidecar.ask(&ask).await);
        assert_eq!(count(sidecar), count(plugin), "{user}");
    }
    let purge = purge("").by("owner");
    let (plugin, sidecar) = (world.plugin.ask(&purge).await, world.sidecar.ask(&purge).await);
    assert_eq!(deleted(&sidecar), deleted(&plugin));
    for side in [&world.plugin, &world.sidecar] {
        assert_eq!(left(side).await, Vec::<Value>::new());
    }
    let (plugin, sidecar) = (world.plugin.ask(&purge).await, world.sidecar.ask(&purge).await);
    assert_eq!((deleted(&sidecar), deleted(&plugin)), (0, 0));
    let emptied = USERS.map(|user| {
        let ask = Ask::get(&format!("{BUCKET}/history"));
        user.map_or(ask.clone(), |user| ask.by(user))
    });
    for ask in emptied {
        let (plugin, sidecar) = (world.plugin.ask(&ask).await, world.sidecar.ask(&ask).await);
        assert_eq!((sidecar.status, sidecar.body), (plugin.status, plugin.body), "{ask}");
    }
}

#[tokio::test]
async fn a_page_is_deleted_once_as_with_the_plugin() {
    for journal in ["sqlite::memory:".to_owned(), database()] {
        let world = World::start_with(&[], &[("sidecar.journal", &journal)]).await;
        let (plugin, sidecar) = (walk(&world.plugin).await, walk(&world.sidecar).await);
        assert_eq!(sidecar, plugin);
        assert!(sidecar.iter().any(|(_, status, ..)| *status == 400), "{sidecar:?}");
    }
}

/// What pages of a deletion and of a list answer to each other's tokens.
async fn walk(side: &Side) -> Vec<(&'static str, u16, usize, Value)> {
    let mut seen = Vec::new();
    let mut ask = async |what: &'static str, method: Method, query: &str| {
        let answer = side.ask(&Ask::new(method, &format!("{BUCKET}/history?{query}")).by("owner")).await;
        let body = answer.json();
        let rows = body["data"].as_array().map_or(0, Vec::len);
        seen.push((what, answer.status, rows, body["message"].clone()));
        let next = answer.header("next-page").unwrap_or_default();
        next.split_once('?').map(|(_, query)| query.to_owned()).unwrap_or_default()
    };
    // Without a filter, Kinto forgets who may see what is left.
    let first = "_limit=2&resource_name=record";
    let read = ask("read", Method::GET, first).await;
    ask("a token of what was read", Method::DELETE, &read).await;
    let second = ask("deleted", Method::DELETE, first).await;
    ask("a token of what was deleted", Method::GET, &second).await;
    let third = ask("its first use", Method::DELETE, &second).await;
    ask("its second use", Method::DELETE, &second).await;
    ask("its third use", Method::DELETE, &second).await;
    ask("a token that is none", Method::DELETE, "_limit=2&_token=abc").await;
    ask("the next", Method::DELETE, &third).await;
    ask("what is left", Method::GET, "resource_name=record").await;
    seen
}

#[tokio::test]
async fn batches_read_and_delete_alike() {
    let world = World::start(&[]).await;
    let path = format!("{BUCKET}/history");
    let batch = json!({"requests": [
        {"path": format!("{path}?resource_name=group&_fields=uri")},
        {"path": format!("{path}?resource_name=group"), "method": "DELETE"},
        {"path": format!("{path}?resource_name=group")},
        {"path": path, "method": "POST", "body": {}},
        {"path": format!("{path}?unknown=1")},
        {"path": format!("{BUCKET}/snapshot/collections/c@5")},
        {"path": BUCKET, "method": "HEAD"},
    ]});
    let mut answers = Vec::new();
    for side in [&world.plugin, &world.sidecar] {
        let answer = side.client.user("owner").post("/batch").json(batch.clone()).await.expect(200).json();
        let responses = answer["responses"].as_array().unwrap().iter().map(|response| {
            let count = response["body"]["data"].as_array().map(Vec::len);
            (response["path"].clone(), response["status"].clone(), count)
        });
        answers.push(responses.collect::<Vec<_>>());
    }
    assert_eq!(answers[1], answers[0]);
}
