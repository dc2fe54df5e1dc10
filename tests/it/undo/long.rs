//! A revert of many batches is told as it goes, and the same request goes on with it after the sidecar was killed in the middle.
//! `RECORDS=10000 cargo test --test it undo::long -- --nocapture` is the same with more records, on both engines.

use std::collections::BTreeMap;
use std::io::BufRead;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use serde_json::{Value, json};

use super::World;
use crate::support::stub::Raw;
use crate::support::{Fate, Kinto, KintoOptions, Recorded, Recorder, SERVICE_ACCOUNT, Sidecar, database};

/// The most requests of a batch.
const BATCH: usize = 25;

#[tokio::test]
async fn a_long_revert_is_told_as_it_goes_and_gone_on_with_after_a_kill() {
    let asked = std::env::var("RECORDS").ok().and_then(|records| records.parse().ok());
    let records = asked.unwrap_or(200);
    let folder = tempfile::tempdir().unwrap();
    one(Kinto::shared(), &format!("sqlite:{}", folder.path().join("journal.db").display()), records).await;
    if asked.is_some() {
        one(&Kinto::start(KintoOptions::postgres()), &database(), records).await;
    }
}

async fn one(kinto: &Kinto, journal: &str, records: usize) {
    let recorder = Recorder::before(kinto.url());
    let sidecar = Sidecar::start(recorder.url(), &[SERVICE_ACCOUNT, ("sidecar.journal", journal)]);
    let mut world = World::behind(sidecar, "long").await;
    write_all(&world, records, 1).await;
    let (from, before) = (world.now().await, world.state().await);
    write_all(&world, records, 2).await;

    // Half of the batches pass: all of their lines are there while the next one waits.
    let (half, passed) = (records / BATCH / 2, AtomicUsize::new(0));
    recorder.intercept(move |request| {
        let waits = writes(request) && passed.fetch_add(1, Ordering::Relaxed) >= half;
        if waits { Fate::Hold } else { Fate::Pass }
    });
    let mut reader = ask(&world, from);
    for _ in 0..half * BATCH {
        assert_eq!(next(&mut reader)["status"], "done");
    }
    let told = world.state().await.values().filter(|record| record["n"] == 1).count();
    assert_eq!(told, half * BATCH);
    world.sidecar.kill();
    recorder.release();
    world.sidecar.restart();

    recorder.clear();
    let (begun, mut reader, mut statuses) = (Instant::now(), ask(&world, from), BTreeMap::new());
    let end = loop {
        let line = next(&mut reader);
        if line["end"].is_object() {
            break line["end"].clone();
        }
        *statuses.entry(line["status"].as_str().unwrap().to_owned()).or_insert(0) += 1;
    };
    let took = begun.elapsed();
    // What is as it was already is not told of.
    assert_eq!(
        (&end["complete"], &statuses),
        (&json!(true), &BTreeMap::from([("done".to_owned(), records - half * BATCH)]))
    );
    assert_eq!(world.state().await, before);
    assert_eq!(recorder.count(writes), (records - half * BATCH).div_ceil(BATCH));
    let asked = recorder.count(|request| !writes(request));
    println!("{} in {took:?}, {} batches, {asked} other requests upstream", end["counts"], end["batches"]);
}

/// Whether it is a batch of writes.
fn writes(request: &Recorded) -> bool {
    request.method == "POST" && request.body.windows(5).any(|bytes| bytes == b"\"PUT\"")
}

/// Asks to undo what was done to records since a moment.
fn ask(world: &World, from: u64) -> Raw {
    ask_as("YWxpY2U6c2VjcmV0", world, &json!({"from": from, "resource_name": "record"}))
}

/// Asks for a revert with these credentials.
fn ask_as(credentials: &str, world: &World, body: &Value) -> Raw {
    let body = body.to_string();
    let mut raw = world.sidecar.connect();
    raw.send(format!(
        "POST /v1{}/revert HTTP/1.1\r\nHost: sidecar.test\r\nAuthorization: Basic {credentials}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        world.history(),
        body.len()
    ));
    let head = raw.read_head().unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    raw
}

/// The next line; what frames it in HTTP is passed over.
fn next(reader: &mut Raw) -> Value {
    loop {
        let mut line = String::new();
        assert!(reader.0.read_line(&mut line).unwrap() > 0, "it broke off");
        if line.starts_with('{') {
            return serde_json::from_str(&line).unwrap();
        }
    }
}

/// Writes all records, in batches.
async fn write_all(world: &World, records: usize, n: u64) {
    for numbers in (0..records).collect::<Vec<_>>().chunks(BATCH) {
        let put = |number: &usize| json!({"path": world.record(&format!("r{number}"))});
        let requests: Vec<Value> = numbers.iter().map(put).collect();
        let defaults = json!({"method": "PUT", "body": {"data": {"n": n}}});
        world
            .alice
            .post("/batch")
            .json(json!({"defaults": defaults, "requests": requests}))
            .await
            .expect(200);
    }
}

#[tokio::test]
async fn whoever_may_read_no_longer_is_told_nothing_more() {
    const NUMBER: usize = 300;
    let world = World::new("withdrawn").await;
    let bob = world.sidecar.client().user("bob");
    let readers = |ids: Value| json!({"permissions": {"read": ids}});
    world.alice.patch(&world.bucket).json(readers(json!([super::user_id(&bob).await]))).await.expect(200);
    let write = async |secret: &str| {
        let data = json!({"secret": secret, "text": "y".repeat(20_000)});
        for number in 0..NUMBER {
            let answer = world.alice.put(&world.record(&format!("r{number:03}"))).data(data.clone()).await;
            assert!(answer.status < 300, "{answer}");
        }
    };
    write("first").await;
    let from = world.now().await;
    write("second").await;
    let body = json!({"from": from, "dry_run": true, "conflicts": "overwrite"});
    let mut reader = ask_as("Ym9iOnNlY3JldA==", &world, &body);
    assert_eq!(next(&mut reader)["before"]["secret"], "second");
    world.alice.patch(&world.bucket).json(readers(json!([]))).await.expect(200);
    bob.get(&world.records()).await.expect(403);
    write("third").await;
    let mut told = 1;
    let end = loop {
        let line = next(&mut reader);
        assert_ne!(line["before"]["secret"], "third", "after {told} lines");
        if line["end"].is_object() {
            break line["end"].clone();
        }
        told += 1;
    };
    assert_eq!((told, &end["complete"]), (NUMBER, &json!(false)), "{end}");
}
