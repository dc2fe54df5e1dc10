//! Rows that nobody expects, and that Kinto takes: each is one odd row, and stops nothing else.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::support::{Client, Kinto, KintoOptions, Response, SERVICE_ACCOUNT, Sidecar, eventually};

const DAY: u64 = 24 * 3_600_000;
const BUCKET: &str = "/buckets/b";
const COLLECTION: &str = "/buckets/b/collections/c";

/// Depths that Kinto still takes, and `serde_json` does not by itself.
const DEPTH: usize = 250;

struct World {
    sidecar: Sidecar,
    direct: Client,
    alice: Client,
    is_memory: bool,
    /// Stopped after the sidecar.
    _kinto: Kinto,
}

impl World {
    async fn new(options: KintoOptions, is_memory: bool) -> Self {
        let kinto = Kinto::start(options);
        let settings = [
            SERVICE_ACCOUNT,
            ("changes.resources", BUCKET),
            ("sidecar.timestamps_ttl", "50ms"),
            ("sidecar.poll_budget", "100%"),
            ("sidecar.overlap", "500ms"),
        ];
        let direct = kinto.client().user("alice");
        let readable = json!({"permissions": {"read": ["system.Everyone"]}});
        direct.put(BUCKET).json(readable).await.expect(201);
        direct.put(COLLECTION).await.expect(201);
        direct.put(&record("first")).await.expect(201);
        let sidecar = Sidecar::start(kinto.url(), &settings);
        let alice = sidecar.client().user("alice");
        // What is there when the history first looks is known and has no entry.
        eventually("the first entry", async || {
            direct.put(&record("first")).data(json!({"n": now()})).await.expect(200);
            let answer = alice.get(&format!("{BUCKET}/history?resource_name=record")).await;
            (answer.status == 200 && answer.data() != json!([])).then_some(())
        })
        .await;
        Self { sidecar, direct, alice, is_memory, _kinto: kinto }
    }

    async fn both() -> [Self; 2] {
        [Self::new(KintoOptions::memory(), true).await, Self::new(KintoOptions::postgres(), false).await]
    }

    /// Waits until changeset, feed and history have exactly the records that Kinto lists.
    async fn has_what_kinto_has(&self) {
        let anyone = self.sidecar.client();
        eventually("everything that Kinto lists", async || {
            let truth = by_id(&self.direct.get(&format!("{COLLECTION}/records")).await.expect(200).data());
            let changeset = anyone.get(&format!("{COLLECTION}/changeset?_expected=0")).await.expect(200);
            let changes = by_id(&changeset.json()["changes"]);
            let feed =
                anyone.get(&format!("{COLLECTION}/_changes?include_docs=true")).await.expect(200).json();
            let told: BTreeMap<String, bool> = feed["results"]
                .as_array()
                .unwrap()
                .iter()
                .map(|row| (row["id"].as_str().unwrap().to_owned(), row["deleted"] != true))
                .filter(|(_, is_alive)| *is_alive)
                .collect();
            let is_told = truth.keys().eq(told.keys());
            let newer = anyone.get(&format!("{COLLECTION}/changeset?_expected=0&_since=%221%22")).await;
            let newer = by_id(&newer.expect(200).json()["changes"]);
            let has_newer = truth.iter().all(|(id, row)| !is_ordinary(row) || newer.get(id) == Some(row));
            (changes == truth && is_told && has_newer).then_some(())
        })
        .await;
    }

    /// Waits until the history has entries of these records, and none of them as deleted.
    async fn has_entries(&self, ids: &[String]) {
        eventually("an entry of each", async || {
            let path = format!("{BUCKET}/history?resource_name=record&_limit=1000");
            let entries = self.alice.get(&path).await.expect(200).data();
            let entries = entries.as_array().unwrap();
            let deleted: Vec<_> = entries.iter().filter(|entry| entry["action"] == "delete").collect();
            assert!(deleted.is_empty(), "{deleted:#?}");
            let has = |id: &&String| entries.iter().any(|entry| entry["record_id"] == ***id);
            let missing: Vec<_> = ids.iter().filter(|id| !has(id)).collect();
            println!("no entry of {missing:?}");
            missing.is_empty().then_some(())
        })
        .await;
    }
}

fn record(id: &str) -> String {
    format!("{COLLECTION}/records/{id}")
}

fn by_id(rows: &Value) -> BTreeMap<String, Value> {
    rows.as_array().unwrap().iter().map(|row| (row["id"].as_str().unwrap().to_owned(), row.clone())).collect()
}

fn is_ordinary(row: &Value) -> bool {
    row["last_modified"].as_u64().is_some_and(|timestamp| timestamp > 1)
}

fn now() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

fn text(answer: &Response) -> String {
    String::from_utf8(answer.body.to_vec()).unwrap()
}

/// A list within a list within a list.
fn deep() -> String {
    format!("{}{}", "[".repeat(DEPTH), "]".repeat(DEPTH))
}

/// Data that is odd, and whether PostgreSQL takes it.
fn oddities() -> Vec<(&'static str, Value, bool)> {
    vec![
        ("true", json!({"last_modified": true}), false),
        ("false", json!({"last_modified": false, "x": 1}), false),
        ("zero", json!({"last_modified": 0}), true),
        ("negative", json!({"last_modified": -5}), true),
        ("old", json!({"last_modified": 9}), true),
        ("float", json!({"last_modified": 1.5}), true),
        ("text", json!({"last_modified": "7", "deleted": "true"}), true),
        ("null", json!({"last_modified": null, "deleted": null}), true),
        ("deleted", json!({"deleted": true}), true),
        ("deleted-more", json!({"deleted": true, "x": 1}), true),
        ("deleted-old", json!({"deleted": true, "last_modified": 1000}), true),
        ("ahead", json!({"last_modified": now() + 3 * DAY}), true),
        ("after", json!({"x": 2}), true),
    ]
}

#[tokio::test]
async fn odd_rows_are_rows_wherever_they_are_written() {
    for world in World::both().await {
        // What is dated back behind the sidecar is found only in a collection that is read.
        world.has_what_kinto_has().await;
        let mut ids = vec!["first".to_owned()];
        for (name, data, on_postgresql) in oddities() {
            if !world.is_memory && !on_postgresql {
                continue;
            }
            for (way, client) in [("through", &world.alice), ("behind", &world.direct)] {
                let id = format!("{name}-{way}");
                let mut data = data.clone();
                // PostgreSQL takes no timestamp twice.
                if let (Some(timestamp), "behind") = (data["last_modified"].as_i64(), way) {
                    data["last_modified"] = json!(timestamp - 7);
                }
                client.put(&record(&id)).data(data).await.expect(201);
                ids.push(id);
            }
        }
        world.has_what_kinto_has().await;
        ids.retain(|id| id != "first");
        world.has_entries(&ids).await;
        // One of them changes without another date, and one that only looked like a tombstone becomes one.
        world.alice.patch(&record("zero-through")).data(json!({"y": 1})).await.expect(200);
        world.direct.patch(&record("negative-behind")).data(json!({"y": 1})).await.expect(200);
        world.alice.delete(&record("deleted-through")).await.expect(200);
        world.direct.delete(&record("deleted-behind")).await.expect(200);
        world.has_what_kinto_has().await;
        let list =
            world.sidecar.client().get("/buckets/monitor/collections/changes/records").await.expect(200);
        assert_eq!(list.data().as_array().unwrap().len(), 1);
    }
}

#[tokio::test]
async fn a_sidecar_that_starts_finds_odd_rows_as_they_are() {
    for mut world in World::both().await {
        for (name, data, on_postgresql) in oddities() {
            if world.is_memory || on_postgresql {
                world.direct.put(&record(name)).data(data).await.expect(201);
            }
        }
        for number in 0..60 {
            let path = record(&format!("gone{number}"));
            world.direct.put(&path).await.expect(201);
            world.direct.delete(&path).await.expect(200);
        }
        world.sidecar.kill();
        world.sidecar.restart();
        world.has_what_kinto_has().await;
    }
}

#[tokio::test]
async fn odd_collections_and_their_neighbours_are_served() {
    for world in World::both().await {
        let mut collections = Vec::new();
        for (name, data, on_postgresql) in oddities() {
            if !world.is_memory && !on_postgresql {
                continue;
            }
            let path = format!("{BUCKET}/collections/{name}");
            world.direct.put(&path).data(data.clone()).await.expect(201);
            world.direct.put(&format!("{path}/records/r")).await.expect(201);
            world.direct.put(&format!("{BUCKET}/groups/{name}")).data(with_members(data)).await.expect(201);
            collections.push(name);
        }
        let anyone = world.sidecar.client();
        for name in &collections {
            let path = format!("{BUCKET}/collections/{name}");
            let changeset = eventually("a changeset", async || {
                let answer = anyone.get(&format!("{path}/changeset?_expected=0")).await;
                (answer.status == 200).then(|| answer.json())
            })
            .await;
            let truth = world.direct.get(&path).await.expect(200).data();
            assert_eq!(changeset["metadata"], truth, "{name}");
            assert_eq!(changeset["changes"][0]["id"], "r", "{name}");
        }
        eventually("an entry of each collection and group, of none as deleted", async || {
            let entries = world.alice.get(&format!("{BUCKET}/history?_limit=1000")).await.expect(200).data();
            let entries = entries.as_array().unwrap().clone();
            let deleted: Vec<_> = entries.iter().filter(|entry| entry["action"] == "delete").collect();
            assert!(deleted.is_empty(), "{deleted:#?}");
            let has = |name: &&str| {
                let is_above_zero = !["zero", "negative", "false"].contains(name);
                let of = |kind: &str| entries.iter().any(|entry| entry[kind] == **name);
                // What is dated so early in a list that is not mirrored nobody is told of.
                !is_above_zero || (of("collection_id") && of("group_id"))
            };
            collections.iter().filter(|name| !name.contains("old")).all(has).then_some(())
        })
        .await;
        let path = "/buckets/monitor/collections/changes/records";
        eventually("all collections in the list", async || {
            let list = anyone.get(path).await.expect(200).data();
            (list.as_array().unwrap().len() == collections.len() + 1).then_some(())
        })
        .await;
    }
}

fn with_members(mut data: Value) -> Value {
    data["members"] = json!([]);
    data
}

#[tokio::test]
async fn depth_does_not_matter() {
    let world = World::new(KintoOptions::memory(), true).await;
    let anyone = world.sidecar.client();
    let deep = deep();
    for (id, member) in [("data", "x"), ("mark", "deleted")] {
        let body = format!(r#"{{"data":{{"{member}":{deep},"title":"deep"}}}}"#);
        let put =
            |path: &str| world.alice.put(path).header("content-type", "application/json").body(body.clone());
        put(&record(id)).await.expect(201);
        put(&format!("{BUCKET}/collections/{id}")).await.expect(201);
        let metadata = anyone.get(&format!("{BUCKET}/collections/{id}/changeset?_expected=0")).await;
        assert!(text(&metadata.expect(200)).contains(&deep));
    }
    let changeset = anyone.get(&format!("{COLLECTION}/changeset?_expected=0")).await.expect(200);
    assert_eq!(text(&changeset).matches(&deep).count(), 2);
    let feed = anyone.get(&format!("{COLLECTION}/_changes")).await.expect(200).json();
    assert_eq!(feed["results"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn a_record_dated_ahead_leaves_everything_else_as_it_was() {
    for world in World::both().await {
        let anyone = world.sidecar.client();
        let feed = format!("{COLLECTION}/_changes?feed=longpoll&timeout=20000&since=now");
        anyone.get(&format!("{COLLECTION}/changeset?_expected=0")).await.expect(200);
        let ahead = world.direct.put(&record("ahead")).data(json!({"last_modified": now() + 3 * DAY}));
        let ahead = ahead.await.expect(201).data()["last_modified"].as_u64().unwrap();
        for round in 0..2 {
            world.has_what_kinto_has().await;
            let waiting = tokio::spawn({
                let (anyone, feed) = (anyone.clone(), feed.clone());
                async move { anyone.get(&feed).await.expect(200).json() }
            });
            let id = format!("after{round}");
            // Whoever waits may have begun after the write: then the next one wakes them.
            let told = eventually("news", async || {
                world.direct.put(&record(&id)).data(json!({"n": now()})).await;
                waiting.is_finished().then_some(())
            });
            told.await;
            let row = &waiting.await.unwrap()["results"][0];
            assert_eq!(row["id"], id.as_str());
            assert!(row["seq"].as_u64().unwrap() > ahead, "{row}");
        }
        world.has_entries(&["ahead".to_owned(), "after0".to_owned(), "after1".to_owned()]).await;
    }
}

#[tokio::test]
async fn a_reader_may_know_of_the_day_after_tomorrow() {
    let world = World::new(KintoOptions::memory(), true).await;
    let anyone = world.sidecar.client();
    let later = now() + 3 * DAY;
    for since in [later.to_string(), "99999999999999999999".to_owned()] {
        let changeset = anyone.get(&format!("{COLLECTION}/changeset?_expected=0&_since=%22{since}%22")).await;
        assert_eq!(changeset.expect(200).json()["changes"], json!([]));
    }
    let list = format!("/buckets/monitor/collections/changes/records?_since={later}");
    anyone.get(&list).await.expect(400);
}
