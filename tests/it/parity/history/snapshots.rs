//! A collection as it was at a moment.

use http::Method;
use serde_json::{Value, json};

use super::world::{BUCKET, USERS, World};
use crate::parity::ask::Ask;
use crate::support::{Kinto, Response, SERVICE_ACCOUNT, Sidecar, unique};

const INCOMPLETE: &str = "snapshot-incomplete";

fn snapshot(collection: &str, moment: &str) -> Ask {
    Ask::get(&format!("{BUCKET}/snapshot/collections/{collection}@{moment}"))
}

fn records(answer: &Response) -> Vec<(String, Value)> {
    let data = answer.clone().expect(200).data();
    let name = |record: &Value| (record["id"].as_str().unwrap().to_owned(), record["n"].clone());
    data.as_array().unwrap().iter().map(name).collect()
}

#[tokio::test]
async fn moments_show_what_the_plugin_shows() {
    for world in World::on_each_engine().await {
        // All moments at which something was written, but that between a deletion and what made the record again.
        let moments = (0..20_u64).map(|n| 1_600_000_000_000 + 10 * n);
        for moment in moments.filter(|moment| *moment != 1_600_000_000_140) {
            for collection in ["c", "public", "7", "nosuch"] {
                world.assert_same([snapshot(collection, &moment.to_string()).by("bucket-reader")]).await;
            }
        }
    }
}

#[tokio::test]
async fn a_record_that_was_gone_and_was_made_again_is_not_shown_as_a_tombstone() {
    let world = World::shared().await;
    let ask = snapshot("c", "1600000000140").by("bucket-reader");
    let (plugin, sidecar) = (world.plugin.ask(&ask).await, world.sidecar.ask(&ask).await);
    let is_tombstone = |record: &Value| record["deleted"] == true;
    assert!(plugin.data().as_array().unwrap().iter().any(is_tombstone), "{plugin}");
    assert_eq!(records(&sidecar), [("r".to_owned(), json!(6)), ("shared".to_owned(), Value::Null)]);
    assert_eq!(sidecar.header(INCOMPLETE), None);
}

#[tokio::test]
async fn what_is_no_moment_is_refused_alike() {
    let world = World::shared().await;
    let moments =
        ["x", "-1", "+5", "1.5", "1_0", "01", "99999999999999999999999", "0", "abc", "5?x=1", "\"5\""];
    for user in [None, Some("bucket-reader"), Some("stranger")] {
        let asks = moments.map(|moment| {
            let ask = snapshot("c", moment);
            user.map_or(ask.clone(), |user| ask.by(user))
        });
        world.assert_same(asks).await;
    }
}

#[tokio::test]
async fn everybody_may_look_back_who_may_in_the_plugin() {
    let world = World::shared().await;
    for collection in ["c", "public", "7", "nosuch"] {
        for method in [Method::GET, Method::HEAD] {
            let asks = USERS.map(|user| {
                let path = format!("{BUCKET}/snapshot/collections/{collection}@1600000000100");
                let ask = Ask::new(method.clone(), &path);
                user.map_or(ask.clone(), |user| ask.by(user))
            });
            world.assert_same(asks).await;
        }
    }
    let elsewhere = Ask::get("/buckets/nosuch/snapshot/collections/c@5");
    world.assert_same([elsewhere.clone(), elsewhere.by("owner")]).await;
    let own = Ask::get("/buckets/default/snapshot/collections/c@5");
    world.assert_same([own.clone(), own.by("somebody")]).await;
    let tags = [("If-None-Match", "*"), ("If-None-Match", "abc"), ("If-Match", "\"1\"")];
    world.assert_same(tags.map(|(name, value)| snapshot("c", "5").by("owner").header(name, value))).await;
}

#[tokio::test]
async fn ids_that_nothing_can_have_have_no_history_and_no_snapshots() {
    let world = World::shared().await;
    let ids = ["x!y", "x%20y", "%C3%A9", "a%3Ab", "-", "_x", "x%0A", "x,y", "x@y", &"x".repeat(300)];
    let asks = ids.iter().flat_map(|id| {
        [
            (Method::GET, format!("/buckets/{id}/history")),
            (Method::GET, format!("/buckets/{id}/history?_limit=x")),
            (Method::HEAD, format!("/buckets/{id}/history")),
            (Method::DELETE, format!("/buckets/{id}/history")),
            (Method::PUT, format!("/buckets/{id}/history")),
            (Method::GET, format!("/buckets/{id}/snapshot/collections/c@5")),
            (Method::GET, format!("/buckets/{id}/snapshot/collections/{id}@5")),
            (Method::GET, format!("{BUCKET}/snapshot/collections/{id}@5")),
            (Method::GET, format!("/buckets/nosuch/snapshot/collections/{id}@5")),
            (Method::GET, format!("{BUCKET}/snapshot/collections/{id}@x")),
            (Method::HEAD, format!("{BUCKET}/snapshot/collections/{id}@5")),
        ]
    });
    let asks = asks.flat_map(|(method, path)| {
        let ask = Ask::new(method, &path);
        [ask.clone(), ask.clone().by("bucket-reader"), ask.by("stranger")]
    });
    world.assert_same(asks).await;
}

#[tokio::test]
async fn every_spelling_of_the_default_bucket_is_the_requesters_own() {
    let world = World::shared().await;
    for below in ["history", "history?_limit=x", "snapshot/collections/c@5", "snapshot/collections/%63@5"] {
        let path = |default: &str| format!("/buckets/{default}/{below}");
        for default in ["%64efault", "defaul%74", "%64%65%66%61%75%6C%74"] {
            world.assert_same([Ask::get(&path(default))]).await;
            for side in [&world.plugin, &world.sidecar] {
                // What is asked for first is made by that.
                let own = side.client.user("spelt");
                own.get("/buckets/default").await.expect(200);
                let (plain, spelt) = (own.get(&path("default")).await, own.get(&path(default)).await);
                assert_eq!((plain.status, &plain.body), (spelt.status, &spelt.body), "{plain}\n{spelt}");
            }
        }
    }
}

#[tokio::test]
async fn missing_history_is_said_to_be_missing() {
    let world = World::start(&[]).await;
    let ask = || snapshot("c", "1600000000085").by("bucket-reader");
    assert_eq!(world.sidecar.ask(&ask()).await.header(INCOMPLETE), None);
    let purge = Ask::new(Method::DELETE, &format!("{BUCKET}/history?record_id=r")).by("owner");
    world.sidecar.ask(&purge).await.expect(200);
    let answer = world.sidecar.ask(&ask()).await;
    assert_eq!(answer.header(INCOMPLETE), Some("true"), "{answer}");
}

#[tokio::test]
async fn what_was_never_recorded_is_said_to_be_missing() {
    let records = format!("{BUCKET}/collections/c/records");
    let excluded = format!("{records}/r");
    let world = World::start_with(&[], &[("history.exclude_resources", &excluded)]).await;
    let answer = world.sidecar.ask(&snapshot("c", "1600000000085").by("bucket-reader")).await;
    assert_eq!(answer.header(INCOMPLETE), Some("true"), "{answer}");
    let answer = world.sidecar.ask(&snapshot("public", "1600000000085").by("bucket-reader")).await;
    assert_eq!(answer.header(INCOMPLETE), None, "{answer}");
}

#[tokio::test]
async fn collections_that_the_service_account_may_not_read_have_snapshots() {
    let world = World::start_with(&[], &[("sidecar.auth", "nobody:secret")]).await;
    for moment in ["1600000000080", "1600000000110", "1600000000150"] {
        world.assert_same([snapshot("c", moment).by("bucket-reader")]).await;
    }
}

#[tokio::test]
async fn a_history_that_began_later_says_so() {
    let kinto = Kinto::shared();
    let bucket = format!("/buckets/{}", unique("began-later"));
    let record = |id: &str| format!("{bucket}/collections/c/records/{id}");
    let direct = kinto.client().user("alice");
    direct.put(&bucket).await.expect(201);
    direct.put(&format!("{bucket}/collections/c")).await.expect(201);
    let before = direct.put(&record("r")).data(json!({"n": 1})).await.expect(201).timestamp();
    let sidecar = Sidecar::start(kinto.url(), &[SERVICE_ACCOUNT]);
    let alice = sidecar.client().user("alice");
    let look = async |moment: u64| {
        let path = format!("{bucket}/snapshot/collections/c@{moment}");
        let answer = alice.get(&path).await.expect(200);
        (records(&answer), answer.header(INCOMPLETE).is_some())
    };
    let known = || vec![("r".to_owned(), json!(1))];
    assert_eq!(look(before).await, (known(), false));
    let made = alice.put(&record("new")).data(json!({"n": 2})).await.expect(201).timestamp();
    assert_eq!(look(before).await, (known(), false), "what was made since is known to have been made since");
    alice.delete(&record("r")).await.expect(200);
    assert_eq!(look(before).await, (Vec::new(), true), "its version of that moment was never seen");
    let again = alice.put(&record("r")).data(json!({"n": 3})).await.expect(201).timestamp();
    assert_eq!(look(before).await, (Vec::new(), true), "that it was made again does not make it new");
    assert_eq!(look(made).await.0, [("new".to_owned(), json!(2))]);
    let now = vec![("r".to_owned(), json!(3)), ("new".to_owned(), json!(2))];
    assert_eq!(look(again).await, (now, false));
}
