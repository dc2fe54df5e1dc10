//! Writes of which no answer says what became of them.

use std::future::IntoFuture;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::entries;
use crate::support::{
    Client, Fate, Kinto, KintoOptions, Recorded, Recorder, SERVICE_ACCOUNT, Sidecar, eventually, unique,
};

struct World {
    recorder: Recorder,
    sidecar: Sidecar,
    alice: Client,
    bucket: String,
}

impl World {
    async fn new() -> Self {
        let recorder = Recorder::before(Kinto::shared().url());
        // Who somebody is need not be asked meanwhile.
        let settings = [SERVICE_ACCOUNT, ("sidecar.permission_ttl", "1h")];
        let sidecar = Sidecar::start(recorder.url(), &settings);
        let (alice, bucket) = (sidecar.client().user("alice"), format!("/buckets/{}", unique("doubt")));
        alice.put(&bucket).await.expect(201);
        alice.put(&format!("{bucket}/collections/c")).await.expect(201);
        Self { recorder, sidecar, alice, bucket }
    }

    fn record(&self, id: &str) -> String {
        format!("{}/collections/c/records/{id}", self.bucket)
    }

    async fn about_records(&self) -> Vec<Value> {
        let entries = entries(&self.alice, &self.bucket).await;
        entries.into_iter().filter(|entry| entry["resource_name"] == "record").collect()
    }
}

async fn id_of(user: &Client) -> Value {
    user.get("/").await.expect(200).json()["user"]["id"].clone()
}

fn writes(request: &Recorded) -> bool {
    request.method == "PUT"
}

#[tokio::test]
async fn a_write_whose_answer_is_lost_is_recorded_with_its_author() {
    let world = World::new().await;
    world.recorder.intercept(|request| if writes(request) { Fate::Lose } else { Fate::Pass });
    world.alice.put(&world.record("r")).data(json!({"n": 1})).await.expect(502);
    let about = eventually("the entry", async || {
        Some(world.about_records().await).filter(|entries| !entries.is_empty())
    });
    let about = about.await;
    assert_eq!(about.len(), 1, "{about:#?}");
    assert_eq!(about[0]["user_id"], id_of(&world.alice).await);
    assert_eq!(about[0]["action"], "create");
}

#[tokio::test]
async fn what_somebody_else_wrote_is_not_taken_for_a_write_that_failed() {
    let world = World::new().await;
    let bob = world.sidecar.client().user("bob");
    let bobs = id_of(&bob).await;
    world.alice.patch(&world.bucket).json(json!({"permissions": {"write": [bobs]}})).await.expect(200);
    let record = world.record("r");
    world.recorder.clear();
    world.recorder.intercept(|request| if writes(request) { Fate::Late } else { Fate::Pass });
    let late = tokio::spawn(bob.put(&record).data(json!({"n": 1})).into_future());
    let direct = Kinto::shared().client().user("alice");
    eventually("bob's", async || (direct.get(&record).await.status == 200).then_some(())).await;

    let bobs_write = world.recorder.requests().into_iter().find(writes).unwrap();
    let credentials = bobs_write.headers["authorization"].clone();
    let decide = move |request: &Recorded| match (writes(request), request.headers.get("authorization")) {
        (true, Some(sent)) if *sent == credentials => Fate::Late,
        (true, _) => Fate::Answer(500),
        (false, _) => Fate::Pass,
    };
    world.recorder.intercept(decide);
    world.alice.put(&record).data(json!({"n": 1})).await.expect(500);
    let path = format!("/v1{record}");
    // It is looked up, and would be written down.
    world.recorder.wait_for(1, |request| request.method == "GET" && request.path() == path).await;
    assert_eq!(world.about_records().await.len(), 0);
    world.recorder.release();
    late.await.unwrap().expect(201);
    let about = world.about_records().await;
    assert_eq!(about.len(), 1, "{about:#?}");
    assert_eq!(about[0]["user_id"], bobs);
}

#[tokio::test]
async fn who_was_refused_is_no_author_of_what_others_write_where_no_answer_came() {
    let kinto = Kinto::start(KintoOptions::memory());
    let recorder = Recorder::before(kinto.url());
    let quick = [("sidecar.timestamps_ttl", "50ms"), ("sidecar.poll_budget", "100%")];
    let sidecar = Sidecar::start(recorder.url(), &[SERVICE_ACCOUNT, quick[0], quick[1]]);
    let [alice, mallory, bob] = ["alice", "mallory", "bob"].map(|name| sidecar.client().user(name));
    let (direct, bobs) = (kinto.client().user("alice"), id_of(&bob).await);
    let permissions = json!({"read": ["system.Everyone"], "write": [bobs]});
    alice.put("/buckets/b").json(json!({ "permissions": permissions })).await.expect(201);
    alice.put("/buckets/b/collections/c").await.expect(201);
    let list = "/buckets/b/collections/c/records";
    for id in ["changed", "deleted", "bobs"] {
        alice.put(&format!("{list}/{id}")).data(json!({"n": 0})).await.expect(201);
    }
    recorder.intercept(|request| if request.method == "GET" { Fate::Pass } else { Fate::Lose });
    mallory.post(list).data(json!({})).await.expect(502);
    mallory.put(&format!("{list}/changed")).data(json!({})).await.expect(502);
    mallory.put(&format!("{list}/made")).data(json!({"n": 1})).await.expect(502);
    mallory.delete(list).await.expect(502);
    bob.put(&format!("{list}/bobs")).data(json!({"n": 1})).await.expect(502);
    recorder.release();
    direct.put(&format!("{list}/changed")).data(json!({"n": 1})).await.expect(200);
    direct.put(&format!("{list}/made")).data(json!({"n": 1})).await.expect(201);
    direct.post(list).data(json!({"n": 2})).await.expect(201);
    direct.delete(&format!("{list}/deleted")).await.expect(200);
    let entries = eventually("all that was written", async || {
        let entries = alice.get("/buckets/b/history?resource_name=record&_sort=last_modified").await;
        let entries = entries.expect(200).data().as_array().unwrap().clone();
        (entries.len() == 3 + 5).then_some(entries)
    });
    for entry in &entries.await[3..] {
        let author = if entry["record_id"] == "bobs" { bobs.clone() } else { Value::Null };
        assert_eq!(entry["user_id"], author, "{entry:#}");
    }
}

#[tokio::test]
async fn what_kinto_never_says_of_one_write_keeps_nobodys_changes_out_of_the_history() {
    let kinto = Kinto::start(KintoOptions::memory());
    let quick = [("sidecar.timestamps_ttl", "50ms"), ("sidecar.poll_budget", "100%")];
    let sidecar = Sidecar::start(kinto.url(), &[SERVICE_ACCOUNT, quick[0], quick[1]]);
    let [alice, mallory] = ["alice", "mallory"].map(|name| sidecar.client().user(name));
    let direct = kinto.client().user("alice");
    for bucket in ["/buckets/a", "/buckets/b"] {
        let readable = json!({"permissions": {"read": ["system.Everyone"]}});
        alice.put(bucket).json(readable).await.expect(201);
        alice.put(&format!("{bucket}/groups/g")).data(json!({"members": []})).await.expect(201);
    }
    let put = |path: &str, data: Value| json!({"method": "PUT", "path": path, "body": {"data": data}});
    // Kinto keeps the last one, and fails on it from then on.
    let odd = json!({"last_modified": 10_u64.pow(18)});
    let requests = [
        put("/buckets/a/groups/g", json!({})),
        put("/buckets/b/groups/g", json!({})),
        put("/buckets/default/collections/c/records/r", odd),
    ];
    for _ in 0..3 {
        mallory.post("/batch").json(json!({ "requests": requests })).await.expect(500);
    }
    for bucket in ["/buckets/a", "/buckets/b"] {
        direct.put(&format!("{bucket}/groups/later")).data(json!({"members": []})).await.expect(201);
        eventually("what passed elsewhere", async || {
            let entries = alice.get(&format!("{bucket}/history?group_id=later")).await.expect(200).data();
            let entries = entries.as_array().unwrap().clone();
            (!entries.is_empty()).then(|| assert_eq!(entries[0]["user_id"], Value::Null))
        })
        .await;
    }
}

#[tokio::test]
async fn what_a_batch_writes_is_recorded_however_much_it_reads_beside_it() {
    let settings = [SERVICE_ACCOUNT, ("sidecar.max_body", "1MiB")];
    let sidecar = Sidecar::start(Kinto::shared().url(), &settings);
    let [alice, bob] = ["alice", "bob"].map(|name| sidecar.client().user(name));
    let (bucket, bobs) = (format!("/buckets/{}", unique("much")), id_of(&bob).await);
    alice.put(&bucket).json(json!({"permissions": {"write": [bobs]}})).await.expect(201);
    let collection = format!("{bucket}/collections/c");
    alice.put(&collection).await.expect(201);
    let text = "x".repeat(300_000);
    let (record, large) = (format!("{collection}/records/r"), format!("{collection}/records/large"));
    alice.put(&record).data(json!({"n": 0})).await.expect(201);
    alice.put(&large).data(json!({"t": text})).await.expect(201);
    let write = |method: &str, path: &str, body: Value| json!({"method": method, "path": path, "body": body});
    let mut requests = vec![
        write("PATCH", &collection, json!({"permissions": {"read": ["system.Everyone"]}})),
        write("DELETE", &record, json!({})),
        write("PUT", &record, json!({"data": {"n": 0}})),
        write("PATCH", &large, json!({"data": {"n": 1}})),
    ];
    requests.extend((0..6).map(|_| json!({"method": "GET", "path": large})));
    bob.post("/batch").json(json!({ "requests": requests })).await.expect(502);
    let entries = entries(&alice, &bucket).await;
    let said =
        |entry: &Value| (entry["resource_name"].clone(), entry["action"].clone(), entry["user_id"].clone());
    let of_bob = |name: &str, action: &str| (json!(name), json!(action), bobs.clone());
    let expected =
        [("collection", "update"), ("record", "delete"), ("record", "create"), ("record", "update")];
    let last: Vec<_> = entries[entries.len() - 4..].iter().map(said).collect();
    assert_eq!(last, expected.map(|(name, action)| of_bob(name, action)), "{entries:#?}");
}

#[tokio::test]
async fn of_a_batch_with_a_conflict_in_it_only_what_is_there_is_recorded() {
    let world = World::new().await;
    let requests = ["1", "2", "3"].map(|id| json!({"path": world.record(id)}));
    let batch = json!({"defaults": {"method": "PUT", "body": {"data": {"n": 1}}}, "requests": requests});
    let is_theirs = |request: &Recorded| {
        request.method == "POST" && request.body.windows(5).any(|bytes| bytes == b"\"PUT\"")
    };
    world.recorder.clear();
    world.recorder.intercept(move |request| if is_theirs(request) { Fate::Hold } else { Fate::Pass });
    let asked = tokio::spawn(world.alice.post("/batch").json(batch).into_future());
    world.recorder.wait_for(1, is_theirs).await;
    // What came before the conflict was rolled back, and what came after it was not.
    let direct = Kinto::shared().client().user("alice");
    let written = direct.put(&world.record("3")).data(json!({"n": 1})).await.expect(201).data();
    world.recorder.intercept(move |request| {
        let said = r#"{"responses": [
            {"status": 201, "path": "/1", "headers": {}, "body": {"data": {"id": "1", "last_modified": 2000}}},
            {"status": 409, "path": "/2", "headers": {}, "body": {"errno": 122}},
            {"status": 201, "path": "/3", "headers": {}, "body": {"data": {"id": "3", "last_modified": 3000}}}
        ]}"#;
        if is_theirs(request) { Fate::Say(said) } else { Fate::Pass }
    });
    asked.await.unwrap().expect(200);
    let about = world.about_records().await;
    assert_eq!(about.len(), 1, "{about:#?}");
    assert_eq!(about[0]["target"]["data"], written);
    assert_eq!(about[0]["user_id"], id_of(&world.alice).await);
}

#[tokio::test]
async fn a_patch_that_cannot_be_looked_at_is_not_said_to_be_kept() {
    let world = World::new().await;
    let record = world.record("r");
    world.alice.put(&record).data(json!({"n": 1})).await.expect(201);
    let path = format!("/v1{record}");
    let is_look = move |request: &Recorded| request.method == "GET" && request.path() == path;
    world.recorder.intercept(move |request| if is_look(request) { Fate::Answer(503) } else { Fate::Pass });
    let patch = || world.alice.patch(&record).header("response-behavior", "light").data(json!({"m": 2}));
    // Somebody may write over it before it can be looked at.
    patch().await.expect(503);
    world.recorder.release();
    let about = eventually("the entry", async || {
        Some(world.about_records().await).filter(|entries| entries.len() == 2)
    });
    assert_eq!(about.await[1]["target"]["data"]["m"], 2);
    patch().await.expect(200);
    assert_eq!(world.about_records().await.len(), 3);
}

#[tokio::test]
async fn an_entry_names_who_wrote_also_where_their_account_was_made_a_moment_ago() {
    let kinto = Kinto::start(KintoOptions::memory().accounts());
    let make = async |name: &str| {
        let account = json!({"data": {"password": "secret"}});
        kinto.client().put(&format!("/accounts/{name}")).json(account).await.expect(201);
    };
    make("service").await;
    make("owner").await;
    let sidecar =
        Sidecar::start(kinto.url(), &[("sidecar.auth", "service:secret"), ("sidecar.permission_ttl", "1h")]);
    let (owner, eve) = (sidecar.client().user("owner"), sidecar.client().user("eve"));
    let bucket = format!("/buckets/{}", unique("authors"));
    let writable = json!({"permissions": {"write": ["system.Everyone"]}});
    owner.put(&bucket).json(writable).await.expect(201);
    let collection = format!("{bucket}/collections/c");
    owner.put(&collection).await.expect(201);
    eve.put(&format!("{collection}/records/nobodys")).await.expect(201);
    make("eve").await;
    eve.patch(&format!("{collection}/records/nobodys")).data(json!({"n": 1})).await.expect(200);
    let author = async |id: &str| {
        let entries = owner.get(&format!("{bucket}/history?record_id={id}")).await.expect(200).json();
        entries["data"].as_array().unwrap().iter().map(|entry| entry["user_id"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(author("nobodys").await, [json!("account:eve"), json!(null)]);
    // Whoever has the name now is somebody else for Kinto, not yet for what is remembered.
    kinto.client().user("eve").delete("/accounts/eve").await.expect(200);
    eve.put(&format!("{collection}/records/again")).await.expect(201);
    assert_eq!(author("again").await, [json!(null)]);
}

#[tokio::test]
async fn nobody_waits_for_a_write_whose_body_does_not_come() {
    let world = World::new().await;
    let list = format!("/v1{}/collections/c/records", world.bucket);
    let head = "Host: h\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n";
    let strangers = [format!("POST {list}"), format!("DELETE {list}"), format!("PUT {list}/r")].map(|line| {
        let mut socket = world.sidecar.connect();
        // Once its body is wanted, it is under way: whoever comes now comes later.
        let told = socket.send(format!("{line} HTTP/1.1\r\n{head}")).read_head().unwrap();
        assert!(told.contains("100 Continue"), "{told}");
        socket.send("1\r\n{\r\n");
        socket
    });
    let begun = Instant::now();
    for number in 0..4 {
        let status = world.alice.put(&world.record("r")).data(json!({"n": number})).await.status;
        assert!(matches!(status, 200 | 201), "{status}");
    }
    // Each would wait for 5 s.
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_eq!(world.about_records().await.len(), 4);
    for socket in strangers {
        socket.close();
    }
}
