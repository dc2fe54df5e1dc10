//! A journal of many entries is asked for few of them. `ENTRIES=1000000 cargo test --test it undo::many -- --nocapture` says how
//! long that takes, on both engines.

use std::io::{BufWriter, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::{World, rfc3339};
use crate::support::{Kinto, SERVICE_ACCOUNT, Sidecar, commit, database, unique};

/// Entries of a day.
const DAY: usize = 1_000;
/// Milliseconds between two of them.
const APART: usize = 86_400;
/// Entries of each record.
const EACH: usize = 10;

#[tokio::test]
async fn of_many_entries_the_newest_those_of_an_object_and_those_of_a_day_are_found() {
    let asked = std::env::var("ENTRIES").ok().and_then(|entries| entries.parse().ok());
    let entries: usize = asked.unwrap_or(3 * DAY);
    let folder = tempfile::tempdir().unwrap();
    one(&format!("sqlite:{}", folder.path().join("journal.db").display()), entries).await;
    if asked.is_some() {
        one(&database(), entries).await;
    }
}

async fn one(journal: &str, entries: usize) {
    let (mut sidecar, bucket) = stopped(journal).await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    let first = usize::try_from(now).unwrap() - (entries + 1) * APART;
    let (records, begun) = (entries / EACH, Instant::now());
    import(
        journal,
        (0..entries).map(|number| {
            let action = if number < records { "create" } else { "update" };
            entry(&bucket, &format!("r{}", number % records), number, action, first + number * APART)
        }),
    );
    println!("{entries} entries imported in {:?}, commit {}", begun.elapsed(), commit());
    sidecar.restart();
    let alice = sidecar.client().user("alice");
    let world = World { sidecar, bucket, alice };

    let day = first + (entries - DAY) * APART - 1;
    let record = format!("{}/collections/c/records/r1", world.bucket);
    for (path, rows) in [
        (format!("{}?_limit=100", world.history()), 100),
        (format!("{}?uri={record}", world.history()), EACH),
        (format!("{}/diff?from={day}&resource_name=record", world.history()), DAY.min(entries / EACH)),
        (format!("{}/diff?from={day}&collection_id=c", world.history()), DAY.min(entries / EACH)),
        (format!("{}/diff?from={day}&uri={record}", world.history()), usize::from(entries / EACH <= DAY)),
        (format!("{}/deleted?_limit=100", world.history()), 0),
    ] {
        let mut times: Vec<Duration> = Vec::new();
        for _ in 0..15 {
            let begun = Instant::now();
            let answer = world.alice.get(&path).await.expect(200);
            times.push(begun.elapsed());
            assert_eq!(answer.data().as_array().unwrap().len(), rows, "{path}");
        }
        times.sort();
        println!("{:?}, or {:?} in half of all tries, for {rows} rows of {path}", times[0], times[7]);
    }
    let preview = json!({"from": day, "resource_name": "record", "dry_run": true});
    let begun = Instant::now();
    let (lines, end) = world.revert(&world.alice, preview).await;
    println!("{:?} to the end of a preview of {} records", begun.elapsed(), lines.len());
    assert_eq!((lines.len(), &end["complete"]), (DAY.min(entries / EACH), &json!(true)));
}

#[tokio::test]
async fn a_deletion_that_took_more_along_than_can_be_held_is_told_of() {
    let folder = tempfile::tempdir().unwrap();
    let journal = format!("sqlite:{}", folder.path().join("journal.db").display());
    let (mut sidecar, bucket) = stopped(&journal).await;
    // Long names, as all that is held of a record is its name.
    let name = |number: usize| format!("r{number:06000}");
    import(&journal, (0..3000).map(|number| entry(&bucket, &name(number), number, "create", 1000 + number)));
    let mut deletion = entry(&bucket, "", 9_999, "delete", 9_999);
    deletion["resource_name"] = "collection".into();
    deletion["uri"] = format!("{bucket}/collections/c").into();
    deletion["target"]["data"] = json!({"id": "c", "last_modified": 9_999, "deleted": true});
    deletion.as_object_mut().unwrap().remove("record_id");
    import(&journal, std::iter::once(deletion.clone()));
    sidecar.restart();
    let alice = sidecar.client().user("alice");
    let request = json!({"entries": [deletion["id"]], "dry_run": true});
    let refused = alice.post(&format!("{bucket}/history/revert")).json(request).await.expect(400);
    assert!(refused.text().contains("too much at once"), "{refused}");
}

/// A sidecar that has made a bucket and was stopped: an SQLite journal is one process' own.
async fn stopped(journal: &str) -> (Sidecar, String) {
    let mut sidecar = Sidecar::start(Kinto::shared().url(), &[SERVICE_ACCOUNT, ("sidecar.journal", journal)]);
    let bucket = format!("/buckets/{}", unique("many"));
    sidecar.client().user("alice").put(&bucket).await.expect(201);
    sidecar.terminate();
    sidecar.wait(Duration::from_secs(10)).unwrap();
    (sidecar, bucket)
}

/// An entry about a record as the plugin serves it.
fn entry(bucket: &str, record: &str, number: usize, action: &str, at: usize) -> Value {
    let data =
        json!({"id": record, "last_modified": at, "n": number, "title": "to be read", "list": [1, 2, 3]});
    json!({
        "id": format!("{number:032x}"),
        "last_modified": at,
        "date": format!("{}000+00:00", rfc3339(at.try_into().unwrap())),
        "action": action,
        "resource_name": "record",
        "uri": format!("{bucket}/collections/c/records/{record}"),
        "user_id": "basicauth:somebody",
        "collection_id": "c",
        "record_id": record,
        "target": {"data": data, "permissions": {}},
    })
}

/// Imports entries.
fn import(journal: &str, entries: impl Iterator<Item = Value>) {
    let mut import = Command::new(env!("CARGO_BIN_EXE_kinto-sidecar"))
        .args(["history", "import", "--journal", journal])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufWriter::new(import.stdin.take().unwrap());
    // Where it reads no more, it says why.
    let is_read =
        entries.into_iter().all(|entry| writeln!(lines, "{entry}").is_ok()) && lines.flush().is_ok();
    drop(lines);
    let output = import.wait_with_output().unwrap();
    assert!(is_read && output.status.success(), "{output:?}");
}

#[tokio::test]
async fn records_that_find_no_room_beside_anything_else_are_undone_one_by_one() {
    let world = World::new("large").await;
    let write = async |letter: &str, status| {
        for id in ["a", "b"] {
            let data = json!({"text": letter.repeat(20 << 20)});
            world.alice.put(&world.record(id)).data(data).await.expect(status);
        }
    };
    write("x", 201).await;
    let from = world.alice.get(&format!("{}?_fields=id", world.records())).await.expect(200).timestamp();
    write("y", 200).await;
    let (lines, end) = world.revert(&world.alice, json!({"from": from})).await;
    let statuses: Vec<_> = lines.iter().map(|line| line["status"].as_str().unwrap()).collect();
    assert_eq!((&*statuses, &end["complete"]), (&["done", "done"][..], &json!(true)));
    for id in ["a", "b"] {
        let record = world.alice.get(&world.record(id)).await.expect(200).data();
        assert!(record["text"].as_str().unwrap().starts_with("xx"), "{id}");
    }
}
