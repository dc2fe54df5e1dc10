//! Snapshots that are large: they are written while they are read, from wherever the records are.

use std::io::Read;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::{MIB, ROOM, at_once, bounded, peak, public, unread};

const RECORDS: usize = 12;
const READERS: usize = 16;

/// Large records, most of which say something else by now; the moment at which they were all there, and what they were.
async fn with_a_past(settings: &[(&str, &str)]) -> (super::Sidecar, String, Vec<Value>) {
    let settings = [&[("sidecar.history", "journal"), ("sidecar.max_buffered", "16MiB")], settings].concat();
    let (sidecar, collection) = public(&settings).await;
    let alice = sidecar.client().user("alice");
    let record = |number: usize| format!("{collection}/records/r{number}");
    let mut then = Vec::new();
    for number in 0..RECORDS {
        let answer = alice.put(&record(number)).data(json!({"x": "y".repeat(1 << 20)})).await.expect(201);
        then.insert(0, answer.data());
    }
    for number in 2..RECORDS {
        alice.put(&record(number)).data(json!({"x": number})).await.expect(200);
    }
    alice.delete(&record(1)).await.expect(200);
    alice.put(&record(RECORDS)).data(json!({"x": "new"})).await.expect(201);
    let moment = &then[0]["last_modified"];
    let path = collection.replace("/collections/", "/snapshot/collections/") + &format!("@{moment}");
    (sidecar, path, then)
}

#[tokio::test]
async fn a_large_snapshot_is_written_while_it_is_read() {
    let kept = [("sidecar.cache_size", "64MiB")];
    let not_kept = [("sidecar.cache_size", "4MiB")];
    for settings in [kept, not_kept] {
        let (sidecar, path, then) = with_a_past(&settings).await;
        let answer = sidecar.client().get(&path).await.expect(200);
        assert_eq!(answer.header("snapshot-incomplete"), None);
        assert!(answer.json()["data"] == json!(then), "{settings:?}");
        let request = format!("GET /v1{path} HTTP/1.1\r\nConnection: close\r\n");
        let slow = || {
            let readers = unread(sidecar.address(), READERS, &request, "");
            thread::sleep(Duration::from_millis(700));
            readers
        };
        bounded(&sidecar, &path, || drop(slow()));
        if settings != kept {
            continue;
        }
        let answered = AtomicUsize::new(0);
        let grown = peak(&sidecar, || {
            let readers = Mutex::new(slow());
            at_once(READERS, |_| {
                let mut reader = readers.lock().unwrap().pop().unwrap();
                reader.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
                let mut head = [0; 12];
                reader.read_exact(&mut head).unwrap();
                let read = std::io::copy(&mut reader, &mut std::io::sink()).unwrap();
                if head.ends_with(b"200") {
                    assert!(read > (RECORDS << 20) as u64, "{read} bytes");
                    answered.fetch_add(1, Ordering::Relaxed);
                } else {
                    assert!(head.ends_with(b"503"), "{}", String::from_utf8_lossy(&head));
                }
            });
        });
        assert!(answered.into_inner() > 0 && grown <= ROOM, "{} MiB", grown / MIB);
    }
}

#[tokio::test]
async fn a_record_that_is_too_large_to_be_held_is_in_the_snapshot() {
    let (sidecar, collection) = public(&[("sidecar.history", "journal")]).await;
    let alice = sidecar.client().user("alice");
    let mut then = Vec::new();
    for (id, length) in [("a", 1), ("b", 25 << 20), ("c", 1), ("d", 1)] {
        let data = json!({"x": "y".repeat(length)});
        let answer = alice.put(&format!("{collection}/records/{id}")).data(data).await.expect(201);
        then.insert(0, answer.data());
    }
    let path = collection.replace("/collections/", "/snapshot/collections/");
    let past = format!("{path}@{}", then[0]["last_modified"]);
    for id in ["a", "c"] {
        alice.put(&format!("{collection}/records/{id}")).data(json!({"x": "z"})).await.expect(200);
    }
    let answer = alice.get(&past).await.expect(200);
    assert!(answer.json()["data"] == json!(then), "as it was");
    let now = alice.get(&format!("{path}@9999999999999")).await.expect(200).json();
    let ids: Vec<&Value> = now["data"].as_array().unwrap().iter().map(|row| &row["id"]).collect();
    assert_eq!(ids, ["c", "a", "d", "b"]);
    let restore = format!("{past}/restore");
    let answer = alice.post(&restore).json(json!({"dry_run": true})).await.expect(200);
    assert!(answer.text().contains("records/a") && !answer.text().contains("records/b"));
    alice.delete(collection.trim_end_matches("/collections/c")).await.expect(200);
}
