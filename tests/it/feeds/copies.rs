//! Programs that copy a collection: by hand, as `CouchDB`'s replicator asks, and `PouchDB` and `RxDB` themselves; from
//! journals of both engines.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use http::Method;
use serde_json::{Value, json};

use super::World;
use crate::mirror_equals_upstream::random::Random;
use crate::support::{
    Chaos, Client, Environment, Kinto, KintoOptions, SERVICE_ACCOUNT, Sidecar, database, environment,
    eventually, undertaker,
};

/// A world for each engine that keeps journals.
async fn worlds() -> [World; 2] {
    [World::new(&[]).await, World::new(&[("sidecar.journal", &database())]).await]
}

/// The rows of a feed: id and revision.
async fn revisions(world: &World) -> Vec<(String, String)> {
    let answer = world.changes("style=all_docs&limit=100").await;
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let rows = answer["results"].as_array().unwrap().iter();
    rows.map(|row| (text(&row["id"]), text(&row["changes"][0]["rev"]))).collect()
}

#[tokio::test]
async fn documents_have_the_names_of_the_versions_before_them() {
    for world in worlds().await {
        documents_have_names(&world).await;
    }
}

async fn documents_have_names(world: &World) {
    let first = world.write("a", json!({"n": 1, "_own": 1})).await;
    let begun = revisions(world).await[0].1.clone();
    let second = world.write("a", json!({"n": 2, "_own": 1})).await;
    world.write("b", json!({})).await;
    let gone = world.delete("b").await;
    assert!(first < second);
    let rows = revisions(world).await;
    let (a, b) = (&rows[0].1, &rows[1].1);
    assert!(a.starts_with("2-") && b.starts_with("2-"), "{rows:?}");
    let digest = |rev: &str| rev.split_once('-').unwrap().1.to_owned();
    let ask = async |docs: Value, query: &str| {
        let path = format!("{}/_bulk_get?{query}", world.collection);
        let answer = world.sidecar.client().post(&path).json(json!({"docs": docs})).await.expect(200);
        answer.json()["results"].clone()
    };
    let document = json!({
        "id": "a", "n": 2, "last_modified": second, "_id": "a", "_rev": a,
        "_revisions": {"start": 2, "ids": [digest(a), digest(&begun)]}
    });
    let unknown = "1-00000000000000000000000000000000";
    let docs = json!([
        {"id": "a", "rev": a}, {"id": "a", "rev": begun}, {"id": "b", "rev": b}, {"id": "a", "rev": unknown}, {"id": "x"}
    ]);
    let results = ask(docs.clone(), "revs=true&latest=true").await;
    assert_eq!(results[0], json!({"id": "a", "docs": [{"ok": document}]}));
    assert_eq!(results[1], results[0], "the latest");
    let tombstone = &results[2]["docs"][0]["ok"];
    assert_eq!((&tombstone["_deleted"], &tombstone["last_modified"]), (&json!(true), &json!(gone)));
    assert_eq!(tombstone["_revisions"]["start"], 2);
    assert_eq!(results[3]["docs"][0]["error"]["reason"], "missing");
    assert_eq!(results[4]["docs"][0]["error"]["reason"], "missing");
    let results = ask(docs, "").await;
    assert_eq!(results[0]["docs"][0]["ok"]["_revisions"], Value::Null);
    assert_eq!(results[1]["docs"][0]["error"]["reason"], "missing", "its data is not kept");

    let path = format!("{}/a?revs=true&latest=true&open_revs=%5B%22{begun}%22%5D", world.collection);
    let answer = world.sidecar.client().get(&path).await.expect(200);
    assert_eq!(answer.json(), json!([{"ok": document}]));
    let answer = world.sidecar.client().get(&path).header("accept", "multipart/mixed").await.expect(200);
    let boundary = answer.header("content-type").unwrap().split('"').nth(1).unwrap().to_owned();
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    let part = text.strip_prefix(&format!("--{boundary}\r\nContent-Type: application/json\r\n\r\n")).unwrap();
    let part = part.strip_suffix(&format!("\r\n--{boundary}--")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(part).unwrap(), document);
    // Without CouchDB's parameter, the path is Kinto's.
    world.sidecar.client().get(&format!("{}/a", world.collection)).await.expect(404);
    let answer = world.sidecar.client().get(&format!("{}//_changes", world.collection)).await.expect(200);
    assert_eq!(answer.json()["results"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn what_comes_back_as_it_was_has_another_name_than_before() {
    let quick = [
        ("sidecar.timestamps_ttl", "50ms"),
        ("sidecar.poll_budget", "100%"),
        ("sidecar.verify_every", "200ms"),
    ];
    for journal in [None, Some(database())] {
        let kinto = Kinto::start(KintoOptions::memory());
        let journal = journal.as_deref().map(|url| ("sidecar.journal", url));
        let settings: Vec<_> = quick.into_iter().chain(journal).collect();
        let world = World::before(&kinto, &settings).await;
        let direct = kinto.client().user("alice");
        let records = format!("{}/records", world.collection);
        let first = world.write("a", json!({"n": 1})).await;
        revisions(&world).await;
        let gone = world.delete("a").await;
        assert!(revisions(&world).await[0].1.starts_with("2-"));
        // As a dump that is loaded has it.
        let before = json!({"n": 1, "last_modified": first});
        direct.put(&format!("{records}/a")).data(before).await.expect(201);
        let back = eventually("the record", async || {
            let row = world.changes("").await["results"][0].clone();
            (row["deleted"] != true).then(|| row["changes"][0]["rev"].as_str().unwrap().to_owned())
        });
        let back = back.await;
        assert!(back.starts_with("3-") && first < gone, "{back}");
        let path = format!("{}/_bulk_get?latest=true", world.collection);
        let asked = json!({"docs": [{"id": "a", "rev": back}]});
        let answer = world.sidecar.client().post(&path).json(asked).await.expect(200).json();
        let document = &answer["results"][0]["docs"][0]["ok"];
        assert_eq!((&document["_rev"], &document["n"]), (&json!(back), &json!(1)), "{answer}");
    }
}

#[tokio::test]
async fn checkpoints_are_kept_for_those_who_are_logged_in() {
    for world in worlds().await {
        checkpoints_are_kept(&world).await;
    }
}

async fn checkpoints_are_kept(world: &World) {
    let path = format!("{}/_local/x%3D%3D", world.collection);
    let nobody = world.sidecar.client();
    let refusal = nobody.put(&path).json(json!({"last_seq": 1})).await.expect(403);
    assert!(refusal.json()["reason"].as_str().unwrap().contains("use_checkpoints"), "{refusal}");
    nobody.get(&path).await.expect(404);
    world.alice.get(&path).await.expect(404);
    let kept = world.alice.put(&path).json(json!({"_id": "_local/x==", "last_seq": 1})).await.expect(201);
    assert_eq!(kept.json(), json!({"ok": true, "id": "_local/x==", "rev": "0-1"}));
    world.alice.put(&path).json(json!({"_rev": "0-1", "last_seq": 2})).await.expect(201);
    let kept = world.alice.get(&path).await.expect(200);
    assert_eq!(kept.json(), json!({"_id": "_local/x==", "_rev": "0-2", "last_seq": 2}));
    nobody.user("bob").get(&path).await.expect(404);
    world.alice.put(&path).json(json!({"text": "x".repeat(40_000)})).await.expect(413);
    world.alice.delete(&path).await.expect(200);
    world.alice.get(&path).await.expect(404);
    world.alice.put(&path).json(json!({"last_seq": 3, "_deleted": false})).await.expect(201);
    let removed = world.alice.put(&path).json(json!({"_deleted": true})).await.expect(200);
    assert_eq!(removed.json(), json!({"ok": true, "id": "_local/x==", "rev": "0-0"}));
    world.alice.get(&path).await.expect(404);
}

#[tokio::test]
async fn nothing_is_replicated_into_a_collection_nor_without_a_journal() {
    let world = World::new(&[]).await;
    let without = Sidecar::start(Kinto::shared().url(), &[SERVICE_ACCOUNT, ("sidecar.history", "off")]);
    let post = async |sidecar: &Sidecar, name: &str| {
        let path = format!("{}/{name}", world.collection);
        sidecar.client().user("alice").request(Method::POST, &path).json(json!({"docs": []})).await
    };
    for name in ["_revs_diff", "_bulk_docs"] {
        let refusal = post(&world.sidecar, name).await.expect(403);
        assert!(refusal.json()["reason"].as_str().unwrap().contains("its own API"), "{refusal}");
    }
    let began = post(&world.sidecar, "_ensure_full_commit").await.expect(201).json();
    let database = format!("{}/", world.collection);
    let described = world.sidecar.client().get(&database).await.expect(200).json();
    assert_eq!(began, json!({"ok": true, "instance_start_time": described["instance_start_time"]}));
    assert!(described["instance_start_time"].as_str().unwrap().len() > 10);
    for name in ["_bulk_get", "_ensure_full_commit"] {
        let refusal = post(&without, name).await.expect(403);
        assert!(refusal.json()["reason"].as_str().unwrap().contains("no journal"), "{refusal}");
    }
    let described = without.client().get(&database).await.expect(200).json();
    assert_eq!(described["instance_start_time"], "0");
}

#[tokio::test]
async fn a_journal_that_was_lost_is_another_instance() {
    let directory = tempfile::tempdir().unwrap();
    let journal = format!("sqlite:{}", directory.path().join("journal.db").display());
    let mut world = World::new(&[("sidecar.journal", &journal)]).await;
    world.write("a", json!({})).await;
    let began = async |world: &World| {
        let database = format!("{}/", world.collection);
        world.sidecar.client().get(&database).await.expect(200).json()["instance_start_time"].clone()
    };
    let first = began(&world).await;
    world.sidecar.kill();
    world.sidecar.restart();
    assert_eq!(began(&world).await, first);
    world.sidecar.kill();
    for file in std::fs::read_dir(directory.path()).unwrap() {
        std::fs::remove_file(file.unwrap().path()).unwrap();
    }
    world.sidecar.restart();
    assert_ne!(began(&world).await, first);
}

#[tokio::test]
async fn what_went_with_a_collection_is_told_of_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let file = format!("sqlite:{}", directory.path().join("journal.db").display());
    for journal in [file, database()] {
        let settings = [("sidecar.journal", journal.as_str()), ("sidecar.state_dir", "none")];
        let mut world = World::new(&settings).await;
        for id in ["a", "b", "c"] {
            world.write(id, json!({"n": 1})).await;
        }
        world.delete("c").await;
        let seen = world.changes("").await["last_seq"].clone();
        world.alice.delete(&world.collection).await.expect(200);
        for _ in 0..2 {
            world.sidecar.kill();
            world.sidecar.restart();
            world.alice = world.sidecar.client().user("alice");
            world.alice.put(&world.collection).await;
            world.write("b", json!({"n": 2})).await;
            let feed = world.changes(&format!("since={seen}&include_docs=true")).await;
            let rows = feed["results"].as_array().unwrap().iter();
            let mut rows: Vec<_> =
                rows.map(|row| (row["id"].as_str().unwrap(), row["deleted"] == true)).collect();
            rows.sort_unstable();
            // What has the reader's own seq may be told of again.
            rows.retain(|(id, _)| *id != "c");
            assert_eq!(rows, [("a", true), ("b", false)], "{feed}");
        }
    }
}

#[tokio::test]
async fn browsers_send_their_credentials_from_pages_that_are_named() {
    let world = World::new(&[("cors_origins", "https://page.example.org")]).await;
    for path in ["_changes", ""] {
        let path = format!("{}/{path}", world.collection);
        let answer = world.sidecar.client().get(&path).header("origin", "https://page.example.org").await;
        let answer = answer.expect(200);
        assert_eq!(answer.header("access-control-allow-origin"), Some("https://page.example.org"));
        assert_eq!(answer.header("access-control-allow-credentials"), Some("true"));
    }
    let anywhere = World::new(&[]).await;
    let path = format!("{}/_changes", anywhere.collection);
    let answer = anywhere.sidecar.client().get(&path).header("origin", "https://page.example.org").await;
    assert_eq!(answer.header("access-control-allow-credentials"), None);
}

/// Some writes: creations, changes, deletions and creations anew, through the sidecar and past it.
async fn write(random: &mut Random, clients: &[Client], collection: &str) {
    let client = &clients[usize::try_from(random.below(clients.len() as u64)).unwrap()];
    let path = format!("{collection}/records/r{}", random.below(30));
    // What fails because connections are cut may have been written.
    if random.below(3) == 0 {
        client.delete(&path).await;
    } else {
        client.put(&path).data(json!({"n": random.below(1 << 40), "_own": 1})).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pouchdb_has_what_kinto_has_whatever_is_cut_or_killed() {
    copied_by("pouchdb_replicate.mjs").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rxdb_has_what_kinto_has_whatever_is_cut_or_killed() {
    copied_by("rxdb_copies.mjs").await;
}

async fn copied_by(name: &str) {
    let seed = Random::seed();
    println!("KINTO_SIDECAR_SEED={seed} replays this plan");
    let mut random = Random::new(seed);
    let operations = std::env::var("OPERATIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(120_u64);
    let kinto = Kinto::start(KintoOptions::memory());
    let directory = tempfile::tempdir().unwrap();
    let journal = match random.below(2) {
        0 => database(),
        _ => format!("sqlite:{}", directory.path().join("journal.db").display()),
    };
    let settings =
        [SERVICE_ACCOUNT, ("sidecar.journal", journal.as_str()), ("sidecar.timestamps_ttl", "100ms")];
    let mut sidecar = Sidecar::start(kinto.url(), &settings);
    let chaos = Chaos::before(sidecar.url());
    let direct = kinto.client().user("alice");
    let collection = "/buckets/b/collections/c";
    direct.put("/buckets/b").await.expect(201);
    direct.put(collection).await.expect(201);
    let node = environment(Environment::Node);
    let script = node.script(name);
    let clients =
        |sidecar: &Sidecar| [sidecar.client().user("alice"), sidecar.client().user("alice"), direct.clone()];
    for _ in 0..operations / 4 {
        write(&mut random, &clients(&sidecar), collection).await;
    }
    let mut process = Command::new(node.node())
        .arg(&script)
        .args([&chaos.url(), collection])
        .current_dir(node.node_folder())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    undertaker::watch(&process);
    let mut told = BufReader::new(process.stdout.take().unwrap());
    let mut line = String::new();
    told.read_line(&mut line).unwrap();
    let number = operations * 3 / 4;
    for place in 0..number {
        write(&mut random, &clients(&sidecar), collection).await;
        if random.below(number / 6 + 1) == 0 {
            chaos.cut();
        } else if random.below(8) == 0 {
            chaos.restore();
        }
        if place == number / 3 || place == number * 2 / 3 {
            sidecar.kill();
            sidecar.restart();
        }
    }
    chaos.restore();
    // Where it has ended already, its output says why.
    let _ = writeln!(process.stdin.take().unwrap(), "{}", kinto.url());
    let output = process.wait_with_output().unwrap();
    line.clear();
    told.read_line(&mut line).unwrap();
    println!("{line}");
    assert!(output.status.success(), "{line}{}", String::from_utf8_lossy(&output.stderr));
}
