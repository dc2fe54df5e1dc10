//! Side by side with Kinto's plugin: the same writes make the same entries, field by field, but for ids and times.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::{Value, json};

use super::entries;
use crate::support::{Client, Kinto, KintoOptions, Plugin, Request, SERVICE_ACCOUNT, Sidecar, unique};

static REFERENCE: LazyLock<Kinto> =
    LazyLock::new(|| Kinto::start(KintoOptions::postgres().plugin(Plugin::Changes).plugin(Plugin::History)));
static PLAIN: LazyLock<Kinto> = LazyLock::new(|| Kinto::start(KintoOptions::postgres()));

/// Sends the same to both and compares what their histories say.
pub(super) struct Both {
    _sidecar: Sidecar,
    pub(super) clients: [Client; 2],
    bucket: String,
}

impl Both {
    pub(super) async fn start() -> Self {
        let sidecar = Sidecar::start(PLAIN.url(), &[SERVICE_ACCOUNT]);
        let clients = [REFERENCE.client(), sidecar.client()];
        let both = Self { _sidecar: sidecar, clients, bucket: format!("/buckets/{}", unique("recorded")) };
        both.send(201, |client| client.user("alice").put(&both.bucket)).await;
        both.send(201, |client| client.user("alice").put(&both.collection())).await;
        both
    }

    fn collection(&self) -> String {
        format!("{}/collections/c", self.bucket)
    }

    fn record(&self, id: &str) -> String {
        format!("{}/collections/c/records/{id}", self.bucket)
    }

    fn records(&self) -> String {
        format!("{}/collections/c/records", self.bucket)
    }

    async fn send(&self, status: u16, request: impl Fn(&Client) -> Request) {
        for client in &self.clients {
            let mut answer = request(client).await;
            // Of two who make buckets at once, Kinto on PostgreSQL asks one to come again.
            while answer.status == 409 {
                answer = request(client).await;
            }
            answer.expect(status);
        }
    }

    /// The entries of both, of which nothing is left that cannot be the same.
    pub(super) async fn compare(&self, user: &str, bucket: &str) -> Vec<Value> {
        let [theirs, ours] = &self.clients;
        let theirs = alike(entries(&theirs.user(user), bucket).await);
        let ours = alike(entries(&ours.user(user), bucket).await);
        assert_eq!(ours, theirs, "ours: {ours:#?}\ntheirs: {theirs:#?}");
        ours
    }
}

/// Entries with what differs from run to run made alike: ids that servers make by their order, timestamps by being there.
fn alike(entries: Vec<Value>) -> Vec<Value> {
    let mut ids: HashMap<String, usize> = HashMap::new();
    let mut last = 0;
    let normalize = |mut entry: Value| {
        let modified = entry["last_modified"].as_u64().unwrap();
        assert!(modified > last, "timestamps go up");
        last = modified;
        let date = entry["date"].as_str().unwrap();
        assert!(date.ends_with("+00:00") && date.len() >= 25 && date.as_bytes()[10] == b'T', "{date}");
        let object = entry.as_object_mut().unwrap();
        for name in ["id", "last_modified", "date"] {
            assert!(object.remove(name).is_some(), "{name}");
        }
        let data = entry["target"]["data"].as_object_mut().unwrap();
        assert!(data["last_modified"].is_u64());
        data.insert("last_modified".into(), json!("a timestamp"));
        if let Some(Value::Object(permissions)) = entry["target"].get_mut("permissions") {
            for principals in permissions.values_mut() {
                principals.as_array_mut().unwrap().sort_by_key(Value::to_string);
            }
        }
        let mut text = entry.to_string();
        let id = entry["target"]["data"]["id"].as_str().unwrap();
        if id.len() >= 8 {
            let count = ids.len();
            let place = *ids.entry(id.to_owned()).or_insert(count);
            text = text.replace(id, &format!("made-{place}"));
        }
        serde_json::from_str(&text).unwrap()
    };
    let mut entries: Vec<Value> = entries.into_iter().map(normalize).collect();
    // PostgreSQL deletes the objects of a list in whatever order it finds them.
    for deletions in entries.chunk_by_mut(|one, next| one["action"] == "delete" && next["action"] == "delete")
    {
        deletions.sort_by_key(Value::to_string);
    }
    entries
}

#[tokio::test]
async fn single_writes_of_every_kind_of_object() {
    let both = Both::start().await;
    let (record, records) = (both.record("r"), both.records());
    let alice = |client: &Client| client.user("alice");
    both.send(201, |client| alice(client).put(&record).data(json!({"n": 1.50, "é": "ü"}))).await;
    both.send(200, |client| alice(client).put(&record).data(json!({"n": 2}))).await;
    both.send(200, |client| {
        alice(client).put(&record).json(json!({"data": {"n": 3}, "permissions": {"read": ["basicauth:q"]}}))
    })
    .await;
    both.send(201, |client| alice(client).post(&records).data(json!({"made": true}))).await;
    both.send(200, |client| alice(client).post(&records).data(json!({"id": "r", "n": 9}))).await;
    both.send(200, |client| alice(client).delete(&record)).await;
    both.send(404, |client| alice(client).delete(&record)).await;
    both.send(201, |client| alice(client).put(&record).data(json!({"again": true}))).await;
    let group = format!("{}/groups/g", both.bucket);
    both.send(201, |client| alice(client).put(&group).data(json!({"members": ["basicauth:q"]}))).await;
    both.send(200, |client| alice(client).patch(&group).data(json!({"x": 1}))).await;
    let groups = format!("{}/groups", both.bucket);
    both.send(201, |client| alice(client).post(&groups).data(json!({"members": []}))).await;
    both.send(200, |client| alice(client).delete(&group)).await;
    both.send(200, |client| alice(client).patch(&both.bucket).data(json!({"title": "t"}))).await;
    both.send(200, |client| alice(client).put(&both.collection()).data(json!({"schema": {}}))).await;
    let seen = both.compare("alice", &both.bucket).await;
    assert_eq!(seen.len(), 14);
}

#[tokio::test]
async fn patches_in_their_three_formats_and_partial_answers() {
    let both = Both::start().await;
    let record = both.record("r");
    let patch = |client: &Client| client.user("alice").patch(&record);
    both.send(201, |client| client.user("alice").put(&record).data(json!({"a": 1, "l": [1], "o": {"k": 1}})))
        .await;
    both.send(200, |client| patch(client).data(json!({"b": 2}))).await;
    let merge = br#"{"data": {"o": {"k": null, "m": 2}}}"#;
    both.send(200, |client| {
        patch(client).header("content-type", "application/merge-patch+json").body(&merge[..])
    })
    .await;
    let json_patch =
        br#"[{"op": "add", "path": "/data/l/-", "value": 2}, {"op": "remove", "path": "/data/a"}]"#;
    both.send(200, |client| {
        patch(client).header("content-type", "application/json-patch+json").body(&json_patch[..])
    })
    .await;
    both.send(200, |client| patch(client).json(json!({"permissions": {"write": ["basicauth:q"]}}))).await;
    both.send(412, |client| patch(client).header("if-match", "\"1\"").data(json!({"e": 5}))).await;
    both.send(400, |client| patch(client).body("{")).await;
    assert_eq!(both.compare("alice", &both.bucket).await.len(), 7);
}

#[tokio::test]
async fn an_answer_that_shows_a_part_is_recorded_as_a_whole() {
    // With the plugin, Kinto fails on these.
    let both = Both::start().await;
    let (ours, record) = (both.clients[1].user("alice"), both.record("r"));
    ours.put(&record).data(json!({"a": 1})).await.expect(201);
    for (behavior, name) in [("light", "b"), ("diff", "c")] {
        ours.patch(&record).header("response-behavior", behavior).data(json!({name: 2})).await.expect(200);
    }
    let about = entries(&ours, &both.bucket).await;
    let last = about.last().unwrap();
    assert_eq!(last["action"], "update");
    let data = &last["target"]["data"];
    assert_eq!((&data["a"], &data["b"], &data["c"]), (&json!(1), &json!(2), &json!(2)), "{last}");
    assert!(last["target"]["permissions"]["write"].is_array(), "{last}");
    assert_eq!(about.len(), 5);
}

#[tokio::test]
async fn plural_deletions_are_one_entry_for_each_object() {
    let both = Both::start().await;
    for id in ["x", "y", "z"] {
        both.send(201, |client| client.user("alice").put(&both.record(id)).data(json!({"n": id}))).await;
    }
    both.send(200, |client| client.user("alice").delete(&format!("{}?n=y", both.records()))).await;
    both.send(200, |client| client.user("alice").delete(&both.records())).await;
    for id in ["d", "e"] {
        let collection = format!("{}/collections/{id}", both.bucket);
        both.send(201, |client| client.user("alice").put(&collection)).await;
        both.send(201, |client| client.user("alice").put(&format!("{collection}/records/r"))).await;
    }
    both.send(200, |client| client.user("alice").delete(&format!("{}/collections/d", both.bucket))).await;
    both.send(200, |client| client.user("alice").delete(&format!("{}/collections", both.bucket))).await;
    both.compare("alice", &both.bucket).await;
}

#[tokio::test]
async fn batches_with_partial_failure() {
    let both = Both::start().await;
    let batch = json!({
        "defaults": {"method": "PUT", "headers": {"content-type": "application/json"}},
        "requests": [
            {"path": both.record("a"), "body": {"data": {"n": 1}}},
            {"path": both.record("b"), "body": {"data": {"n": 2}}, "headers": {"If-Match": "\"1\""}},
            {"path": format!("/v1{}", both.record("c")), "body": {"data": {"n": 3}}},
            {"method": "GET", "path": both.record("a")},
            {"method": "POST", "path": both.records(), "body": {"data": {"posted": true}}},
            {"method": "PATCH", "path": both.record("c"), "body": {"data": {"m": 1}}},
            {"method": "PUT", "path": both.record("d"), "body": {"data": {"n": 4}}},
            {"method": "PATCH", "path": both.record("d"), "body": {"permissions": {"read": ["basicauth:q"]}}},
            {"method": "DELETE", "path": both.record("a")},
            {"method": "PUT", "path": format!("{}/groups/g", both.bucket), "body": {"data": {"members": []}}},
        ],
    });
    both.send(200, |client| client.user("alice").post("/batch").json(batch.clone())).await;
    assert_eq!(both.compare("alice", &both.bucket).await.len(), 10);
}

#[tokio::test]
async fn the_default_bucket_and_what_it_makes_by_itself() {
    let both = Both::start().await;
    let user = unique("owner");
    both.send(200, |client| client.user(&user).get("/buckets/default/collections/read")).await;
    both.send(201, |client| {
        client.user(&user).put("/buckets/default/collections/written/records/r").data(json!({"n": 1}))
    })
    .await;
    both.send(200, |client| {
        client.user(&user).post("/batch").json(json!({"requests": [
            {"method": "POST", "path": "/buckets/default/collections/posted/records", "body": {"data": {"n": 2}}},
        ]}))
    })
    .await;
    assert_eq!(both.compare(&user, "/buckets/default").await.len(), 6);
}

#[tokio::test]
async fn batches_that_do_several_things_to_one_object_keep_their_order() {
    let both = Both::start().await;
    let ours = both.clients[1].user("alice");
    let record = both.record("r");
    ours.put(&record).data(json!({"n": 0})).await.expect(201);
    let put = |n: u64| json!({"method": "PUT", "path": record, "body": {"data": {"n": n}}});
    let gone = json!({"method": "DELETE", "path": record});
    let batch = json!({"requests": [put(1), gone, put(3), put(4), gone, put(6)]});
    ours.post("/batch").json(batch).await.expect(200);
    let about = entries(&ours, &both.bucket).await;
    let about: Vec<&Value> = about.iter().filter(|entry| entry["record_id"] == "r").collect();
    let versions: Vec<_> =
        about.iter().map(|entry| entry["target"]["data"]["last_modified"].as_u64()).collect();
    assert!(versions.len() == 7 && versions.is_sorted(), "{about:#?}");
}

#[tokio::test]
async fn an_answer_that_shows_a_part_is_not_taken_for_somebody_elses_version() {
    let both = Both::start().await;
    let (alice, record) = (both.clients[1].user("alice"), both.record("r"));
    let open = json!({"data": {"n": 0}, "permissions": {"write": ["system.Authenticated"]}});
    alice.put(&record).json(open).await.expect(201);
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let others = (0..3).map(|other| {
        let (stop, record) = (stop.clone(), record.clone());
        let client = PLAIN.client().user(&format!("other{other}"));
        tokio::spawn(async move {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                client.patch(&record).data(json!({"other": other})).await;
            }
        })
    });
    let others: Vec<_> = others.collect();
    let mut made = Vec::new();
    for n in 1..30 {
        let patch = alice.patch(&record).header("response-behavior", "light").data(json!({"n": n})).await;
        if patch.status == 200 {
            made.push((n, patch.timestamp()));
        }
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    for other in others {
        other.await.unwrap();
    }
    let about = entries(&alice, &both.bucket).await;
    assert!(made.len() > 5);
    for (n, version) in made {
        let entry = about.iter().find(|entry| entry["target"]["data"]["last_modified"] == version);
        let entry = entry.unwrap_or_else(|| panic!("{version} is not recorded"));
        assert!(entry["user_id"].is_string() && entry["target"]["data"]["n"] == n, "{n}: {about:#?}");
    }
}

#[tokio::test]
async fn writes_by_others_and_by_nobody() {
    let both = Both::start().await;
    let open = json!({"permissions": {"record:create": ["system.Everyone"], "write": ["basicauth:q"]}});
    both.send(200, |client| client.user("alice").patch(&both.collection()).json(open.clone())).await;
    both.send(201, |client| client.post(&both.records()).data(json!({"anonymous": true}))).await;
    both.send(201, |client| client.user("bob").post(&both.records()).data(json!({"of": "bob"}))).await;
    both.send(403, |client| client.user("bob").put(&both.bucket)).await;
    let seen = both.compare("alice", &both.bucket).await;
    assert!(seen.iter().any(|entry| entry["user_id"] == Value::Null));
}

#[tokio::test]
async fn a_deleted_bucket_takes_its_history_along() {
    let both = Both::start().await;
    both.send(201, |client| client.user("alice").put(&both.record("r"))).await;
    both.send(200, |client| client.user("alice").delete(&both.bucket)).await;
    both.send(403, |client| client.user("alice").get(&format!("{}/history", both.bucket))).await;
    both.send(201, |client| client.user("alice").put(&both.bucket)).await;
    assert_eq!(both.compare("alice", &both.bucket).await.len(), 1);
}

#[tokio::test]
async fn writes_of_equal_data_are_entries_too() {
    let both = Both::start().await;
    let alice = |client: &Client| client.user("alice");
    let group = format!("{}/groups/g", both.bucket);
    let data = json!({"n": 1, "members": []});
    for uri in [&both.record("r"), &group, &both.collection(), &both.bucket] {
        let kept = json!({"data": data, "permissions": {"read": ["basicauth:q"]}});
        for client in &both.clients {
            let answer = alice(client).put(uri).json(kept.clone()).await;
            assert!(answer.status < 300, "{answer}");
        }
        both.send(200, |client| alice(client).put(uri).json(kept.clone())).await;
        both.send(200, |client| alice(client).put(uri).data(data.clone())).await;
        both.send(200, |client| alice(client).patch(uri).data(json!({}))).await;
        both.send(200, |client| alice(client).patch(uri).json(json!({"permissions": {}}))).await;
        both.send(200, |client| {
            alice(client).patch(uri).json(json!({"permissions": {"read": ["basicauth:q"]}}))
        })
        .await;
    }
    let record = json!({"path": both.record("r"), "body": {"data": data}});
    let batch = json!({"defaults": {"method": "PUT"}, "requests": [record, record, record]});
    both.send(200, |client| alice(client).post("/batch").json(batch.clone())).await;
    assert_eq!(both.compare("alice", &both.bucket).await.len(), 2 + 4 * 6 + 3);
}

#[tokio::test]
async fn a_record_made_again_with_the_timestamp_of_its_last_life_is_recorded() {
    let both = Both::start().await;
    let alice = |client: &Client| client.user("alice");
    let record = both.record("r");
    for end in [&record, &both.collection()] {
        for text in ["seen", "unseen"] {
            let data = json!({"text": text, "last_modified": 1_500_000_000_000_u64});
            both.send(201, |client| alice(client).put(&record).data(data.clone())).await;
            both.send(200, |client| alice(client).delete(end)).await;
            if *end == both.collection() {
                both.send(201, |client| alice(client).put(end)).await;
            }
        }
    }
    both.compare("alice", &both.bucket).await;
}

#[tokio::test]
async fn the_value_before_is_recorded_again_after_a_change_elsewhere() {
    let both = Both::start().await;
    let record = both.record("r");
    let ours = both.clients[1].user("alice");
    ours.put(&record).data(json!({"x": 1})).await.expect(201);
    PLAIN.client().user("alice").put(&record).data(json!({"x": 2})).await.expect(200);
    let last = ours.put(&record).data(json!({"x": 1})).await.expect(200).json();
    let about = entries(&ours, &both.bucket).await;
    let entry = about.iter().find(|entry| entry["target"]["data"] == last["data"]);
    assert!(entry.is_some_and(|entry| entry["user_id"].is_string()), "{about:#?}");
}
