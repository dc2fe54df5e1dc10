//! A collection becomes what it was at a moment, also one that is gone.

use serde_json::json;

use super::{World, statuses};
use crate::support::{Kinto, KintoOptions, eventually};

#[tokio::test]
async fn a_collection_is_restored_to_a_moment_also_once_it_is_gone() {
    let world = World::new("restore").await;
    let (alice, collection) = (&world.alice, format!("{}/collections/c", world.bucket));
    for id in ["a", "b", "c"] {
        alice.put(&world.record(id)).data(json!({"n": 1})).await.expect(201);
    }
    let (moment, before) = (world.now().await, world.state().await);
    alice.patch(&collection).data(json!({"title": "later"})).await.expect(200);
    alice.put(&world.record("a")).data(json!({"n": 2})).await.expect(200);
    alice.delete(&world.record("b")).await.expect(200);
    alice.put(&world.record("d")).data(json!({"n": 4})).await.expect(201);
    let restore = format!("{}/snapshot/collections/c@{moment}/restore", world.bucket);
    let (lines, _) = world.lines(alice.post(&restore).json(json!({"dry_run": true}))).await;
    assert_eq!(statuses(&lines), ["a: planned", "b: planned", "d: planned"]);
    let (lines, end) = world.lines(alice.post(&restore).json(json!({"reason": "back"}))).await;
    assert_eq!(statuses(&lines), ["a: done", "b: done", "d: done"]);
    assert_eq!((world.state().await, &end["complete"]), (before.clone(), &json!(true)));
    assert_eq!(alice.get(&collection).await.data()["title"], "later", "only its records are restored");
    let (lines, _) = world.lines(alice.post(&restore)).await;
    assert!(lines.is_empty(), "{lines:?}");

    alice.put(&world.record("a")).data(json!({"n": 3})).await.expect(200);
    alice.delete(&collection).await.expect(200);
    let (lines, end) = world.lines(alice.post(&restore)).await;
    assert_eq!(statuses(&lines), ["a: done", "b: done", "c: done", "c: done"]);
    assert_eq!((world.state().await, &end["complete"]), (before, &json!(true)));
    alice.get(&restore).await.expect(405);
    alice.post(&restore).json(json!({"from": 1})).await.expect(400);
    alice.post(&format!("{restore}?dry_run=true")).await.expect(400);
    alice.post(&restore.replace(&moment.to_string(), "soon")).await.expect(400);
    world.sidecar.client().post(&restore).await.expect(401);
}

#[tokio::test]
async fn a_collection_that_was_made_anew_is_restored_to_its_first_life_and_to_none() {
    let world = World::new("restore-anew").await;
    let (alice, collection) = (&world.alice, format!("{}/collections/c", world.bucket));
    let restore =
        |moment: u64| alice.post(&format!("{}/snapshot/collections/c@{moment}/restore", world.bucket));
    for id in ["a", "b"] {
        alice.put(&world.record(id)).data(json!({"n": 1})).await.expect(201);
    }
    let (first, before) = (world.now().await, world.state().await);
    let gone = alice.delete(&collection).await.expect(200).data()["last_modified"].as_u64().unwrap();
    alice.put(&collection).data(json!({"title": "second"})).await.expect(201);
    alice.put(&world.record("a")).data(json!({"n": 5})).await.expect(201);
    alice.put(&world.record("z")).data(json!({"n": 6})).await.expect(201);
    let (lines, _) = world.lines(restore(first)).await;
    assert_eq!(statuses(&lines), ["a: done", "b: done", "z: done"]);
    assert_eq!(world.state().await, before);
    assert_eq!(alice.get(&collection).await.data()["title"], "second");
    let (lines, _) = world.lines(restore(first)).await;
    assert!(lines.is_empty(), "{lines:?}");
    let (lines, _) = world.lines(restore(gone)).await;
    assert_eq!(statuses(&lines)[..2], ["a: done", "b: done"]);
    assert!(world.state().await.is_empty());
}

#[tokio::test]
async fn what_passed_elsewhere_is_told_of_until_the_history_has_it() {
    // Whatever others write into a Kinto that is shared would be looked at first.
    let kinto = Kinto::start(KintoOptions::memory());
    let quick = [("sidecar.timestamps_ttl", "50ms"), ("sidecar.poll_budget", "100%")];
    let world = World::before(&kinto, "restore-late", &quick).await;
    world.alice.put(&world.record("a")).data(json!({"n": 1})).await.expect(201);
    let (moment, before) = (world.now().await, world.state().await);
    let elsewhere = kinto.client().user("alice");
    elsewhere.put(&world.record("a")).data(json!({"n": 2})).await.expect(200);
    let restore = format!("{}/snapshot/collections/c@{moment}/restore", world.bucket);
    eventually("the record is restored", async || {
        let (lines, end) = world.lines(world.alice.post(&restore)).await;
        let is_told = lines.iter().all(|line| line["status"] == "not_tried" || line["status"] == "done");
        assert!(is_told, "{lines:?}");
        (end["complete"] == true && world.state().await == before).then_some(())
    })
    .await;
}

#[tokio::test]
async fn snapshots_are_taken_at_dates_too() {
    let world = World::new("dates").await;
    world.alice.put(&world.record("a")).data(json!({"n": 1})).await.expect(201);
    let snapshot =
        |moment: &str| world.alice.get(&format!("{}/snapshot/collections/c@{moment}", world.bucket));
    assert_eq!(snapshot("2100-01-01T00:00:00Z").await.expect(200).data().as_array().unwrap().len(), 1);
    assert!(snapshot("2001-01-01T00:00:00%2B01:00").await.expect(200).data().as_array().unwrap().is_empty());
    snapshot("2001-01-01").await.expect(400);
}

#[tokio::test]
async fn who_may_read_one_record_of_a_bucket_is_told_nothing_of_another_collection() {
    let world = World::new("restore-private").await;
    let (alice, anybody) = (&world.alice, world.sidecar.client());
    let shared = format!("{}/collections/shared", world.bucket);
    alice.put(&shared).await.expect(201);
    let readable = json!({"permissions": {"read": ["system.Everyone"]}});
    alice.put(&format!("{shared}/records/r")).json(readable).await.expect(201);
    alice.put(&world.record("secret")).data(json!({"n": 1})).await.expect(201);
    for collection in ["c", "shared", "missing"] {
        let restore = format!("{}/snapshot/collections/{collection}@1000/restore", world.bucket);
        for client in [&anybody, &anybody.user("bob")] {
            let list = client.get(&format!("{}/collections/{collection}", world.bucket)).await;
            let answer = client.post(&restore).json(json!({"dry_run": true})).await;
            assert_eq!((answer.status, answer.text()), (list.status, list.text()), "{collection}");
        }
    }
}

#[tokio::test]
async fn who_makes_a_collection_anew_is_shown_nothing_of_the_one_before() {
    let world = World::new("snapshot-anew").await;
    let (alice, bob) = (&world.alice, world.sidecar.client().user("bob"));
    let others = json!({"permissions": {"collection:create": ["system.Authenticated"]}});
    alice.patch(&world.bucket).json(others).await.expect(200);
    let secret = alice.put(&world.record("r")).data(json!({"of": "alice"})).await.expect(201).timestamp();
    let collection = format!("{}/collections/c", world.bucket);
    alice.delete(&collection).await.expect(200);
    let anew = bob.put(&collection).await.expect(201).timestamp();
    let snapshot = |moment: u64| format!("{}/snapshot/collections/c@{moment}", world.bucket);
    for moment in [secret, anew] {
        assert_eq!(bob.get(&snapshot(moment)).await.expect(200).json()["data"], json!([]), "{moment}");
    }
    let own = bob.put(&world.record("r")).data(json!({"of": "bob"})).await.expect(201).timestamp();
    bob.put(&world.record("r")).data(json!({"of": "bob", "n": 2})).await.expect(200);
    let then = bob.get(&snapshot(own)).await.expect(200).json();
    assert_eq!((&then["data"][0]["of"], then["data"].as_array().unwrap().len()), (&json!("bob"), 1));
    assert_eq!(bob.get(&snapshot(anew)).await.expect(200).json()["data"], json!([]));
    let of_alice = alice.get(&snapshot(secret)).await.expect(200).json();
    assert_eq!(of_alice["data"][0]["of"], "alice");
}

#[tokio::test]
async fn a_form_of_another_page_undoes_nothing() {
    let world = World::new("forged").await;
    let alice = &world.alice;
    alice.put(&world.record("r")).data(json!({"n": 1})).await.expect(201);
    let restore = format!("{}/snapshot/collections/c@1000/restore", world.bucket);
    let revert = format!("{}/revert?from=0", world.history());
    for path in [&restore, &revert] {
        for (name, value) in [("origin", "https://page.test"), ("sec-fetch-site", "cross-site")] {
            for (media_type, body) in
                [("text/plain", "{}"), ("application/x-www-form-urlencoded", ""), ("text/plain", "")]
            {
                let forged = alice.post(path).header(name, value).header("content-type", media_type);
                forged.body(body).await.expect(415);
            }
            alice.post(path).header(name, value).await.expect(415);
        }
    }
    alice.get(&world.record("r")).await.expect(200);
    let (lines, _) =
        world.lines(alice.post(&restore).header("origin", "https://page.test").json(json!({}))).await;
    assert_eq!(statuses(&lines), ["r: done"]);
}
