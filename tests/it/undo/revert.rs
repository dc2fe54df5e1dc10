//! What was done is undone, by ordinary writes of whoever asks.

use http::Method;
use serde_json::{Value, json};

use super::{World, statuses, user_id};
use crate::history::entries;
use crate::support::{Chaos, Kinto, KintoOptions, SERVICE_ACCOUNT, Sidecar, eventually, unique};

#[tokio::test]
async fn a_revert_writes_back_what_was_before_and_says_why_in_the_history() {
    let world = World::new("revert").await;
    let (alice, bob) = (&world.alice, world.sidecar.client().user("bob"));
    for id in ["changed", "deleted", "same"] {
        alice.put(&world.record(id)).data(json!({"n": 1, "big": 1.5})).await.expect(201);
    }
    let shared = json!({"permissions": {"write": [user_id(&bob).await]}});
    alice.patch(&world.bucket).json(shared).await.expect(200);
    let (from, before) = (world.now().await, world.state().await);
    alice.put(&world.record("changed")).data(json!({"n": 2})).await.expect(200);
    alice.delete(&world.record("deleted")).await.expect(200);
    alice.put(&world.record("new")).data(json!({"n": 5})).await.expect(201);
    let after = world.state().await;
    let undone: Vec<Value> = entries(alice, &world.bucket).await.into_iter().rev().take(3).collect();

    let selection = json!({"from": from, "resource_name": "record"});
    let mut preview = selection.clone();
    preview["dry_run"] = true.into();
    let (lines, end) = world.revert(&bob, preview).await;
    assert_eq!(statuses(&lines), ["changed: planned", "deleted: planned", "new: planned"]);
    let changed = lines.iter().find(|line| line["uri"] == world.record("changed").as_str()).unwrap();
    assert_eq!((&changed["before"]["n"], &changed["after"]["n"]), (&json!(2), &json!(1)));
    assert!(
        changed["patch"].as_array().unwrap().contains(&json!({"op": "replace", "path": "/n", "value": 1}))
    );
    assert_eq!((&end["counts"]["planned"], &end["batches"]), (&json!(3), &json!(0)));
    assert_eq!(world.state().await, after, "nothing was written");

    let since = world.now().await;
    let mut asked = selection.clone();
    asked["reason"] = "a slip".into();
    let (lines, end) = world.revert(&bob, asked.clone()).await;
    assert_eq!(statuses(&lines), ["changed: done", "deleted: done", "new: done"]);
    assert_eq!(
        (&end["complete"], &end["batches"], &end["author"]),
        (&json!(true), &json!(2), &json!(user_id(&bob).await))
    );
    assert_eq!(world.state().await, before);
    let news = alice.get(&format!("{}?_since={since}&_sort=-last_modified", world.records())).await.data();
    assert_eq!(news.as_array().unwrap().len(), 3, "whoever follows sees all of it");
    let made: Vec<Value> = entries(alice, &world.bucket).await.into_iter().rev().take(3).collect();
    for entry in &made {
        assert_eq!((&entry["user_id"], &entry["reason"]), (&json!(user_id(&bob).await), &json!("a slip")));
        let reverted = undone.iter().find(|undone| undone["uri"] == entry["uri"]).unwrap();
        assert_eq!(entry["reverts"], json!([reverted["id"]]));
    }
    let by_reason = alice.get(&format!("{}?reason=a%20slip", world.history())).await.expect(200).data();
    assert_eq!(by_reason.as_array().unwrap().len(), 3);
    let (id, other) = (undone[0]["id"].as_str().unwrap(), undone[1]["id"].as_str().unwrap());
    let rows = async |query: String| alice.all(&format!("{}?{query}", world.history())).await;
    for (query, number) in [
        ("like_reason=slip".to_owned(), 3),
        ("in_reason=a%20slip,none".to_owned(), 3),
        ("has_reason=true&resource_name=record".to_owned(), 3),
        ("has_reverts=false&has_reason=true".to_owned(), 0),
        (format!("contains_reverts={id}"), 1),
        (format!("contains_any_reverts=[%22{id}%22,%22{other}%22]"), 2),
        (format!("contains_reverts={id}&not_reason=a%20slip"), 0),
        (format!("contains_reverts={id}&_fields=reason,reverts"), 1),
    ] {
        assert_eq!(rows(query.clone()).await.len(), number, "{query}");
    }
    assert_eq!(world.diff(&format!("from={since}&reason=a%20slip")).await.len(), 3);

    // Again there is nothing to do, and the revert is reverted by its entries.
    let (lines, end) = world.revert(&bob, asked).await;
    assert!(lines.iter().all(|line| line["status"] == "unchanged"), "{lines:?}");
    assert_eq!(end["batches"], 0);
    let ids: Vec<&Value> = made.iter().map(|entry| &entry["id"]).collect();
    let (lines, _) = world.revert(alice, json!({"entries": ids})).await;
    assert_eq!(statuses(&lines), ["changed: done", "deleted: done", "new: done"]);
    assert_eq!(world.state().await, after);
    let (lines, _) = world.revert(alice, json!({"entries": ids})).await;
    assert_eq!(statuses(&lines), ["changed: unchanged", "deleted: unchanged", "new: unchanged"]);
}

#[tokio::test]
async fn what_somebody_else_did_since_stands_unless_it_is_to_be_overwritten() {
    let world = World::new("conflict").await;
    let (alice, bob) = (&world.alice, world.sidecar.client().user("bob"));
    let bobs = user_id(&bob).await;
    alice.patch(&world.bucket).json(json!({"permissions": {"write": [bobs]}})).await.expect(200);
    for id in ["a", "b", "c", "past"] {
        alice.put(&world.record(id)).data(json!({"n": 1, "m": 1})).await.expect(201);
    }
    let from = world.now().await;
    for id in ["a", "b", "c", "past"] {
        bob.put(&world.record(id)).data(json!({"n": 2, "m": 1})).await.expect(200);
    }
    alice.patch(&world.record("a")).data(json!({"m": 3})).await.expect(200);
    alice.delete(&world.record("b")).await.expect(200);
    // What passes elsewhere is not in the journal, and Kinto knows it.
    let elsewhere = Kinto::shared().client().user("alice");
    elsewhere.patch(&world.record("past")).data(json!({"m": 9})).await.expect(200);
    let selection = json!({"from": from, "user_id": bobs});
    let (lines, end) = world.revert(alice, selection.clone()).await;
    assert_eq!(statuses(&lines), ["a: conflict", "b: conflict", "c: done", "past: conflict"]);
    assert_eq!(end["counts"], json!({"conflict": 3, "done": 1}));
    let state = world.state().await;
    assert_eq!((&state["a"]["m"], &state["c"]["n"], &state["past"]["m"]), (&json!(3), &json!(1), &json!(9)));
    let mut fields = selection.clone();
    fields["conflicts"] = "overwrite".into();
    fields["fields"] = json!(["n"]);
    let (lines, _) = world.revert(alice, fields).await;
    assert_eq!(statuses(&lines)[..2], ["a: done", "b: refused"]);
    assert_eq!(world.state().await["a"], json!({"id": "a", "n": 1, "m": 3}), "the other field is hers");
    let mut all = selection;
    all["conflicts"] = "overwrite".into();
    world.revert(alice, all).await;
    let state = world.state().await;
    assert!(
        ["a", "b", "c", "past"].iter().all(|id| state[*id]["n"] == 1 && state[*id]["m"] == 1),
        "{state:?}"
    );
}

#[tokio::test]
async fn fields_are_named_as_filters_name_them_and_lists_are_whole() {
    let world = World::new("dotted").await;
    let alice = &world.alice;
    alice.put(&world.record("a")).data(json!({"a.b": 1, "a": {"b": 2, "c": [1]}})).await.expect(201);
    let from = world.now().await;
    alice.put(&world.record("a")).data(json!({"a.b": 3, "a": {"b": 4, "c": [5]}})).await.expect(200);
    let (lines, _) = world.revert(alice, json!({"from": from, "fields": ["a.c.0"]})).await;
    assert_eq!(statuses(&lines), ["a: refused"]);
    assert!(lines[0]["reason"].as_str().unwrap().contains("name the list"), "{lines:?}");
    let (lines, _) = world.revert(alice, json!({"from": from, "fields": ["a.b", "a.c"]})).await;
    assert_eq!(statuses(&lines), ["a: done"]);
    assert_eq!(world.state().await["a"], json!({"id": "a", "a.b": 1, "a": {"b": 4, "c": [1]}}));
}

#[tokio::test]
async fn what_kinto_refuses_is_told_with_its_reason_and_the_rest_is_done() {
    let world = World::new("refused").await;
    let (alice, bob) = (&world.alice, world.sidecar.client().user("bob"));
    let bobs = user_id(&bob).await;
    alice.patch(&world.bucket).json(json!({"permissions": {"read": [bobs]}})).await.expect(200);
    let writable = json!({"data": {"n": 1}, "permissions": {"write": [bobs]}});
    alice.put(&world.record("bobs")).json(writable).await.expect(201);
    alice.put(&world.record("hers")).data(json!({"n": 1})).await.expect(201);
    let from = world.now().await;
    for id in ["bobs", "hers"] {
        alice.put(&world.record(id)).data(json!({"n": 7})).await.expect(200);
    }
    let (lines, end) = world.revert(&bob, json!({"from": from})).await;
    assert_eq!(statuses(&lines), ["bobs: done", "hers: refused"]);
    let refused = lines.iter().find(|line| line["status"] == "refused").unwrap();
    assert_eq!((&refused["code"], &refused["error"]["errno"]), (&json!(403), &json!(121)));
    assert_eq!((&end["complete"], &end["counts"]), (&json!(true), &json!({"done": 1, "refused": 1})));
    let state = world.state().await;
    assert_eq!((&state["bobs"]["n"], &state["hers"]["n"]), (&json!(1), &json!(7)));
}

#[tokio::test]
async fn a_deleted_collection_comes_back_with_its_records_and_their_permissions() {
    let world = World::new("lost").await;
    let (alice, collection) = (&world.alice, format!("{}/collections/c", world.bucket));
    alice.patch(&collection).data(json!({"title": "t"})).await.expect(200);
    let shared = json!({"data": {"n": 1}, "permissions": {"read": ["system.Everyone"]}});
    alice.put(&world.record("shared")).json(shared).await.expect(201);
    for n in 0..30 {
        alice.put(&world.record(&format!("r{n}"))).data(json!({"n": n})).await.expect(201);
    }
    let before = world.state().await;
    alice.delete(&collection).await.expect(200);
    let deletion = entries(alice, &world.bucket).await.pop().unwrap();
    let bin = alice.all(&format!("{}/deleted?collection_id=c", world.history())).await;
    assert_eq!((bin.len(), &bin[0]["entry"], &bin[0]["data"]["title"]), (1, &deletion["id"], &json!("t")));
    let (lines, end) = world.revert(alice, json!({"entries": [deletion["id"]]})).await;
    assert_eq!((lines.len(), &end["counts"], &end["complete"]), (32, &json!({"done": 32}), &json!(true)));
    assert_eq!(world.state().await, before);
    world.sidecar.client().get(&world.record("shared")).await.expect(200);
    world.sidecar.client().get(&world.record("r1")).await.expect(401);
    assert_eq!(alice.get(&collection).await.data()["title"], "t");
    assert!(alice.all(&format!("{}/deleted", world.history())).await.is_empty());
    // Making it is undone with all that it holds, and with nothing else.
    let from = world.now().await;
    alice.put(&format!("{}/collections/d", world.bucket)).await.expect(201);
    let created = entries(alice, &world.bucket).await.pop().unwrap();
    alice.put(&format!("{}/collections/d/records/r", world.bucket)).await.expect(201);
    let (lines, _) = world.revert(alice, json!({"entries": [created["id"]]})).await;
    assert_eq!(statuses(&lines), ["d: conflict"]);
    let (lines, _) = world.revert(alice, json!({"from": from})).await;
    assert_eq!(statuses(&lines), ["d: done", "r: done"]);
    alice.get(&format!("{}/collections/d", world.bucket)).await.expect(404);
}

#[tokio::test]
async fn permissions_are_given_back_where_that_is_wanted() {
    let world = World::new("permissions").await;
    let alice = &world.alice;
    let shared = json!({"data": {"n": 1}, "permissions": {"read": ["system.Everyone"]}});
    alice.put(&world.record("a")).json(shared.clone()).await.expect(201);
    let from = world.now().await;
    alice.patch(&world.record("a")).json(json!({"permissions": {"read": []}})).await.expect(200);
    let (lines, _) = world.revert(alice, json!({"from": from})).await;
    assert_eq!(statuses(&lines), ["a: unchanged"]);
    let (lines, _) = world.revert(alice, json!({"from": from, "permissions": true})).await;
    assert_eq!(statuses(&lines), ["a: done"]);
    assert_eq!(lines[0]["permissions"]["read"], json!(["system.Everyone"]));
    let (lines, _) = world.revert(alice, json!({"from": from, "permissions": true})).await;
    assert!(lines.is_empty(), "{lines:?}");
}

#[tokio::test]
async fn after_a_cut_the_same_request_does_what_was_left() {
    let chaos = Chaos::before(Kinto::shared().url());
    let sidecar = Sidecar::start(chaos.url(), &[SERVICE_ACCOUNT, ("sidecar.upstream_timeout", "2s")]);
    let world = World::behind(sidecar, "cut").await;
    let from = world.now().await;
    for chunk in 0..4 {
        let put = |n: u64| json!({"path": world.record(&format!("r{n}")), "body": {"data": {"n": n}}});
        let requests: Vec<Value> = (chunk * 25..chunk * 25 + 25).map(put).collect();
        let batch = json!({"defaults": {"method": "PUT"}, "requests": requests});
        world.alice.post("/batch").json(batch).await.expect(200);
    }
    chaos.cut();
    let (lines, end) = world.revert(&world.alice, json!({"from": from})).await;
    assert_eq!((lines.len(), &end["complete"]), (100, &json!(false)));
    assert!(lines.iter().all(|line| line["status"] == "not_tried"), "{lines:?}");
    chaos.restore();
    let (lines, end) = world.revert(&world.alice, json!({"from": from})).await;
    assert_eq!((lines.len(), &end["complete"], &end["batches"]), (100, &json!(true), &json!(4)), "{end}");
    assert!(world.state().await.is_empty());
}

#[tokio::test]
async fn what_was_done_to_ones_own_bucket_is_undone_under_its_other_name() {
    let world = World::new("own").await;
    let someone = world.sidecar.client().user(&unique("someone"));
    let records = "/buckets/default/collections/mine/records";
    someone.put(&format!("{records}/a")).data(json!({"n": 1})).await.expect(201);
    let from = someone.get(records).await.expect(200).timestamp();
    someone.put(&format!("{records}/a")).data(json!({"n": 2})).await.expect(200);
    let (lines, end) =
        world.lines(someone.post("/buckets/default/history/revert").json(json!({"from": from}))).await;
    assert_eq!((statuses(&lines), &end["complete"]), (vec!["a: done".to_owned()], &json!(true)));
    assert_eq!(someone.get(&format!("{records}/a")).await.data()["n"], 1);
    someone.delete("/buckets/default/collections/mine").await.expect(200);
    let bin = someone.all("/buckets/default/history/deleted").await;
    let bring_back =
        someone.post("/buckets/default/history/revert").json(json!({"entries": [bin[0]["entry"]]}));
    let (lines, _) = world.lines(bring_back).await;
    assert_eq!(statuses(&lines), ["a: done", "mine: done"]);
    assert_eq!(someone.get(&format!("{records}/a")).await.data()["n"], 1);
}

#[tokio::test]
async fn what_comes_back_without_the_permissions_that_it_had_says_so() {
    let kinto = Kinto::start(KintoOptions::memory());
    let quick = [("sidecar.timestamps_ttl", "50ms"), ("sidecar.poll_budget", "100%")];
    let world = World::before(&kinto, "bare", &quick).await;
    let (direct, reason) =
        (kinto.client().user("alice"), "its permissions are not known, and are not given back");
    let public = json!({"data": {"n": 1}, "permissions": {"read": ["system.Everyone"]}});
    world.alice.put(&world.record("known")).json(public.clone()).await.expect(201);
    direct.put(&world.record("elsewhere")).json(public).await.expect(201);
    eventually("the entry of what was written elsewhere", async || {
        let entries = entries(&world.alice, &world.bucket).await;
        entries.iter().any(|entry| entry["uri"] == json!(world.record("elsewhere"))).then_some(())
    })
    .await;
    let from = world.now().await;
    for id in ["known", "elsewhere"] {
        world.alice.delete(&world.record(id)).await.expect(200);
    }
    for (body, told) in [
        (json!({"from": from, "dry_run": true}), [json!(reason), Value::Null]),
        (json!({"from": from, "permissions": false, "dry_run": true}), [Value::Null, Value::Null]),
        (json!({"from": from}), [json!(reason), Value::Null]),
    ] {
        let (lines, _) = world.revert(&world.alice, body.clone()).await;
        let reasons: Vec<_> = lines.iter().map(|line| line["reason"].clone()).collect();
        assert_eq!(reasons, told, "{body}: {lines:?}");
    }
    world.sidecar.client().get(&world.record("known")).await.expect(200);
    world.sidecar.client().get(&world.record("elsewhere")).await.expect(401);
}

#[tokio::test]
async fn what_was_deleted_again_and_again_is_brought_back_as_it_last_was() {
    let world = World::new("again").await;
    for number in 1..=3 {
        for id in ["a", "b"] {
            world.alice.put(&world.record(id)).data(json!({"n": number})).await.expect(201);
            world.alice.delete(&world.record(id)).await.expect(200);
        }
    }
    let deleted = format!("{}/deleted", world.history());
    for pages in ["", "?_limit=1", "?_limit=2", "?_limit=4"] {
        let bin = world.alice.all(&format!("{deleted}{pages}")).await;
        let told: Vec<_> = bin.iter().map(|row| (row["uri"].clone(), row["data"]["n"].clone())).collect();
        let expected = ["b", "a"].map(|id| (json!(world.record(id)), json!(3)));
        assert_eq!(told, expected, "{pages}: {bin:?}");
        let head = world.alice.head(&format!("{deleted}{pages}")).await.expect(200);
        assert_eq!(head.header("total-objects"), Some("2"));
    }
    let entry = &world.alice.all(&deleted).await[1]["entry"];
    let (lines, _) = world.revert(&world.alice, json!({"entries": [entry]})).await;
    assert_eq!(statuses(&lines), ["a: done"]);
    assert_eq!(world.alice.get(&world.record("a")).await.data()["n"], 3);
}

#[tokio::test]
async fn pages_lead_to_the_end_of_every_list_of_a_history() {
    let world = World::new("pages").await;
    for id in ["a", "b", "c", "d", "e"] {
        world.alice.put(&world.record(id)).data(json!({"n": 1})).await.expect(201);
    }
    for id in ["a", "b", "c", "d"] {
        world.alice.delete(&world.record(id)).await.expect(200);
    }
    let history = world.history();
    let deleted = format!("{history}/deleted?");
    let lists = [format!("{history}?"), format!("{history}/diff?from=0&"), deleted.clone()];
    for (list, filter) in lists.iter().flat_map(|list| [(list, ""), (list, "resource_name=record&")]) {
        let whole = world.alice.all(&format!("{list}{filter}")).await;
        assert!(whole.len() >= if *list == deleted { 4 } else { 1 }, "{list}{filter}: {whole:?}");
        for limit in [1, 2, 3] {
            let pages = world.alice.all(&format!("{list}{filter}_limit={limit}")).await;
            assert_eq!(pages, whole, "{list}{filter} in pages of {limit}");
        }
    }
}

#[tokio::test]
async fn a_revert_has_kintos_manners() {
    let world = World::new("revert-manners").await;
    let path = format!("{}/revert", world.history());
    let alice = &world.alice;
    alice.get(&path).await.expect(405);
    world.sidecar.client().post(&path).json(json!({"from": 0})).await.expect(401);
    for body in [
        json!({}),
        json!({"from": 0, "conflicts": "maybe"}),
        json!({"from": 0, "dry_run": "yes"}),
        json!({"from": 0, "unknown": 1}),
        json!({"from": 0, "_limit": 1}),
        json!({"from": 0, "reason": "x".repeat(1001)}),
        json!({"entries": "x"}),
        json!({"entries": ["nothing"]}),
        json!({"entries": [], "from": 0}),
    ] {
        alice.post(&path).json(body.clone()).await.expect(400);
    }
    alice.post(&path).body("{\"from\":0}").header("content-type", "text/plain").await.expect(415);
    let request = json!({"requests": [{"method": "POST", "path": path, "body": {"from": 0}}]});
    let answer = alice.post("/batch").json(request).await.expect(200).json();
    assert_eq!(answer["responses"][0]["status"], 404);
    let preflight = alice.request(Method::OPTIONS, &path).header("origin", "http://page.example");
    let preflight = preflight.header("access-control-request-method", "POST").await;
    assert!(preflight.header("access-control-allow-methods").unwrap().contains("POST"), "{preflight}");
    alice
        .post(&path)
        .header("origin", "http://page.example")
        .json(json!({"from": 0, "dry_run": true}))
        .await
        .expect(200);
}
