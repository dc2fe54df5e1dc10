//! What the upstream does to a revert: conflicts in the middle of a batch, and all the ways to refuse.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{World, statuses};
use crate::history::entries;
use crate::support::{
    Chaos, Fate, Kinto, KintoOptions, Recorded, Recorder, SERVICE_ACCOUNT, Sidecar, database, eventually,
};

/// Whether it is a batch of writes.
fn writes(request: &Recorded) -> bool {
    request.method == "POST" && request.body.windows(5).any(|bytes| bytes == b"\"PUT\"")
}

#[tokio::test]
async fn of_a_batch_with_a_conflict_nothing_is_believed_and_the_rest_is_done() {
    let recorder = Recorder::before(Kinto::shared().url());
    let world = World::behind(Sidecar::start(recorder.url(), &[SERVICE_ACCOUNT]), "contended").await;
    let alice = &world.alice;
    let closed = json!({"data": {"n": 1}, "permissions": {"read": []}});
    for id in ["a", "b", "c", "d"] {
        alice.put(&world.record(id)).json(closed.clone()).await.expect(201);
    }
    let (from, before) = (world.now().await, world.state().await);
    // Of the first, only what others may do with it is changed.
    alice
        .patch(&world.record("a"))
        .json(json!({"permissions": {"read": ["system.Everyone"]}}))
        .await
        .expect(200);
    for id in ["b", "c", "d"] {
        alice.put(&world.record(id)).data(json!({"n": 2})).await.expect(200);
    }
    let made_before = entries(alice, &world.bucket).await.len();
    recorder.clear();
    recorder.intercept(|request| if writes(request) { Fate::Hold } else { Fate::Pass });
    let revert = world.revert(alice, json!({"from": from, "permissions": true}));
    let meanwhile = async {
        recorder.wait_for(1, writes).await;
        // Kinto: what came before the conflict was rolled back, and what came after it was written.
        let direct = Kinto::shared().client().user("alice");
        direct.put(&world.record("d")).json(closed.clone()).await.expect(200);
        let answered = |id: &str| json!({"status": 200, "path": id, "headers": {}, "body": {"data": {"id": id, "last_modified": 5}}});
        let conflict = json!({"status": 409, "path": "c", "headers": {}, "body": {"errno": 122}});
        let said = json!({"responses": [answered("a"), answered("b"), conflict, answered("d")]}).to_string();
        let (said, first) = (&*said.leak(), std::sync::atomic::AtomicBool::new(true));
        recorder.intercept(move |request| {
            let is_first = writes(request) && first.swap(false, std::sync::atomic::Ordering::Relaxed);
            if is_first { Fate::Say(said) } else { Fate::Pass }
        });
    };
    let ((lines, end), ()) = tokio::join!(revert, meanwhile);
    assert_eq!(statuses(&lines), ["a: done", "b: done", "c: done", "d: done"]);
    assert_eq!((&end["complete"], &end["batches"]), (&json!(true), &json!(2)));
    assert_eq!(world.state().await, before);
    world.sidecar.client().get(&world.record("a")).await.expect(401);
    let again = recorder.requests().into_iter().filter(writes).last().unwrap();
    assert_eq!(again.sub_requests().len(), 3, "what was written is not written again");
    let made: Vec<Value> = entries(alice, &world.bucket).await.split_off(made_before);
    let mut about: Vec<&Value> = made.iter().map(|entry| &entry["record_id"]).collect();
    about.sort_by_key(ToString::to_string);
    assert_eq!(about, ["a", "b", "c", "d"], "each is written once");
}

#[tokio::test]
async fn an_answer_that_was_lost_is_read_again() {
    let recorder = Recorder::before(Kinto::shared().url());
    let world = World::behind(Sidecar::start(recorder.url(), &[SERVICE_ACCOUNT]), "lost-answer").await;
    let alice = &world.alice;
    for id in ["a", "b"] {
        alice.put(&world.record(id)).data(json!({"n": 1})).await.expect(201);
    }
    let (from, before) = (world.now().await, world.state().await);
    for id in ["a", "b"] {
        alice.put(&world.record(id)).data(json!({"n": 2})).await.expect(200);
    }
    recorder.intercept(|request| if writes(request) { Fate::Lose } else { Fate::Pass });
    let (lines, end) = world.revert(alice, json!({"from": from})).await;
    assert_eq!(statuses(&lines), ["a: done", "b: done"]);
    assert_eq!((&end["complete"], world.state().await), (&json!(true), before));
}

#[tokio::test]
async fn what_the_schema_takes_no_more_is_refused_and_so_is_what_has_no_parent() {
    let validating = ("kinto.experimental_collection_schema_validation", "true");
    let kinto = Kinto::start(KintoOptions::memory().setting(validating.0, validating.1));
    let world = World::before(&kinto, "schema", &[]).await;
    let (alice, collection) = (&world.alice, format!("{}/collections/c", world.bucket));
    for id in ["a", "b"] {
        alice.put(&world.record(id)).data(json!({"n": 1})).await.expect(201);
    }
    let from = world.now().await;
    for id in ["a", "b"] {
        alice.put(&world.record(id)).data(json!({"n": 1, "title": "t"})).await.expect(200);
    }
    let schema = json!({"type": "object", "required": ["title"]});
    alice.patch(&collection).data(json!({"schema": schema})).await.expect(200);
    alice.put(&world.record("new")).data(json!({"title": "new"})).await.expect(201);
    let (lines, end) = world.revert(alice, json!({"from": from, "resource_name": "record"})).await;
    assert_eq!(statuses(&lines), ["a: refused", "b: refused", "new: done"]);
    assert_eq!((&lines[0]["code"], &lines[0]["error"]["errno"]), (&json!(400), &json!(107)), "{lines:?}");
    assert_eq!(end["complete"], true);
    // With the schema undone, too, it is met: the collection comes first.
    let (lines, _) = world.revert(alice, json!({"from": from})).await;
    assert_eq!(statuses(&lines), ["a: done", "b: done", "c: done"]);

    let from = world.now().await;
    alice.delete(&world.record("a")).await.expect(200);
    kinto.client().user("alice").delete(&collection).await.expect(200);
    let (lines, _) = world.revert(alice, json!({"from": from, "resource_name": "record"})).await;
    assert!(["a: refused", "a: conflict"].contains(&&*statuses(&lines)[0]), "{lines:?}");
}

#[tokio::test]
async fn a_kinto_that_is_read_only_refuses_each_and_is_asked_once_for_a_batch() {
    let storage = database().replacen("postgres:", "postgresql:", 1);
    let options = || {
        KintoOptions::postgres()
            .setting("kinto.storage_url", &storage)
            .setting("kinto.permission_url", &storage)
    };
    let (kinto, read_only) =
        (Kinto::start(options()), Kinto::start(options().setting("kinto.readonly", "true")));
    let recorders = [Recorder::before(kinto.url()), Recorder::before(read_only.url())];
    let chaos = Chaos::before(recorders[0].url());
    let world = World::behind(Sidecar::start(chaos.url(), &[SERVICE_ACCOUNT]), "read-only").await;
    for id in ["a", "b", "c"] {
        world.alice.put(&world.record(id)).data(json!({"n": 1})).await.expect(201);
    }
    let from = world.now().await;
    for id in ["a", "b", "c"] {
        world.alice.put(&world.record(id)).data(json!({"n": 2})).await.expect(200);
    }
    chaos.lead_to(recorders[1].url());
    chaos.cut();
    let status = world.alice.get(&world.records()).await.status;
    // Refused, or hung up on.
    assert!(matches!(status, 502 | 503), "{status}");
    chaos.restore();
    eventually("the other Kinto answers", async || {
        (world.alice.put(&world.record("a")).await.status == 405).then_some(())
    })
    .await;
    let (lines, end) = world.revert(&world.alice, json!({"from": from})).await;
    assert_eq!(statuses(&lines), ["a: refused", "b: refused", "c: refused"]);
    assert_eq!((&lines[0]["code"], &end["batches"]), (&json!(405), &json!(1)), "{lines:?}");
    assert_eq!(recorders[1].count(writes), 1);
}

#[tokio::test]
async fn each_write_is_of_the_version_that_is_undone_and_what_comes_in_between_stands() {
    let recorder = Recorder::before(Kinto::shared().url());
    let world = World::behind(Sidecar::start(recorder.url(), &[SERVICE_ACCOUNT]), "between").await;
    let alice = &world.alice;
    for id in ["changed", "deleted", "late"] {
        alice.put(&world.record(id)).data(json!({"n": 1})).await.expect(201);
    }
    let from = world.now().await;
    let mut expected = BTreeMap::from([("deleted".to_owned(), json!(["PUT", {"If-None-Match": "*"}]))]);
    for (id, method) in [("changed", "PUT"), ("late", "PUT"), ("new", "DELETE")] {
        let version = alice.put(&world.record(id)).data(json!({"n": 2})).await.timestamp();
        expected.insert(id.to_owned(), json!([method, {"If-Match": format!("\"{version}\"")}]));
    }
    alice.delete(&world.record("deleted")).await.expect(200);
    recorder.clear();
    recorder.intercept(|request| if writes(request) { Fate::Hold } else { Fate::Pass });
    let revert = world.revert(alice, json!({"from": from}));
    let meanwhile = async {
        recorder.wait_for(1, writes).await;
        let direct = Kinto::shared().client().user("alice");
        direct.put(&world.record("late")).data(json!({"n": 9})).await.expect(200);
        recorder.release();
    };
    let ((lines, _), ()) = tokio::join!(revert, meanwhile);
    assert_eq!(statuses(&lines), ["changed: done", "deleted: done", "late: conflict", "new: done"]);
    let state = world.state().await;
    let n = |id: &str| state.get(id).map(|record| record["n"].clone());
    assert_eq!(
        [n("changed"), n("deleted"), n("late"), n("new")],
        [Some(json!(1)), Some(json!(1)), Some(json!(9)), None]
    );

    let bodies = recorder.requests().into_iter().filter(|request| request.path() == "/v1/batch");
    let parts = bodies.flat_map(|request| {
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        body["requests"].as_array().cloned().unwrap_or_default()
    });
    let written: Vec<Value> =
        parts.filter(|part| part["method"] == "PUT" || part["method"] == "DELETE").collect();
    let id = |part: &Value| part["path"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
    let sent: BTreeMap<String, Value> =
        written.iter().map(|part| (id(part), json!([part["method"], part["headers"]]))).collect();
    assert_eq!((&sent, written.len()), (&expected, 4), "{written:?}");
    assert!(written.iter().all(|part| part["body"]["data"]["last_modified"].is_null()), "{written:?}");
}
