//! Objects that are large, and what is small to ask for of them.

use std::io::Read;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{
    Dice, LONGER, ROOM, TRIES, answer, ask, at_once, bounded, connect_as, exchange, neighbours, peak, public,
    unread,
};
use crate::support::{Sidecar, eventually};

const MIB: usize = 1 << 20;

const AS_ALICE: &str = "Authorization: Basic YWxpY2U6c2VjcmV0\r\nContent-Type: application/json\r\n";

/// A bucket that everybody may read, with the history of two large collections in it, and one of their records.
async fn with_large_objects() -> (Sidecar, String) {
    let (sidecar, collection) = public(&[("sidecar.history", "journal")]).await;
    let alice = sidecar.client().user("alice");
    for number in 0..2 {
        let path = format!("{collection}{number}");
        alice.put(&path).data(json!({"numbers": vec![0; MIB], "a": number})).await.expect(201);
    }
    alice.put(&format!("{collection}/records/x")).data(json!({"numbers": vec![0; MIB]})).await.expect(201);
    (sidecar, collection)
}

/// Asks for something that is answered with `status`, alone and then several times at once: who asks for more than there is
/// room for is told to come again, the others are answered.
fn alone_and_at_once(sidecar: &Sidecar, number: usize, status: u16, request: &str, body: &[u8]) {
    assert_eq!(ask(sidecar.address(), request, body), Some(status), "{request}");
    bounded(sidecar, request, || {
        let answered = AtomicUsize::new(0);
        at_once(number, |_| {
            let (given, head) = answer(sidecar.address(), request, body).expect("an answer");
            if given == 503 {
                assert!(head.to_lowercase().contains("\r\nretry-after: "), "{request}: {head}");
            } else {
                assert_eq!(given, status, "{request}: {head}");
                answered.fetch_add(1, Ordering::Relaxed);
            }
        });
        assert!(answered.into_inner() > 0, "{request}: none of {number} is answered");
    });
}

#[tokio::test]
async fn nothing_is_made_of_what_a_filter_of_a_history_does_not_look_at() {
    let (sidecar, collection) = with_large_objects().await;
    let bucket = collection.trim_end_matches("/collections/c");
    let alice = sidecar.client().user("alice");
    for (filter, found) in [
        ("target.data.a=1", 1),
        ("in_target.data.a=0,1&_sort=target.data.a", 2),
        ("target.data.numbers.x=1", 0),
        ("contains_target.data.numbers=[0]", 3),
        ("has_target.data.numbers=true&_changed=true", 3),
    ] {
        let entries = alice.all(&format!("{bucket}/history?{filter}&_fields=uri")).await;
        assert_eq!(entries.len(), found, "{filter}");
    }
    for path in [
        "history?target.data.a=7",
        "history?_sort=target.data.a&_limit=1",
        "history/diff?from=1&target.data.a=7",
    ] {
        alone_and_at_once(&sidecar, 12, 200, &format!("GET /v1{bucket}/{path} HTTP/1.1\r\n"), b"");
    }
}

#[tokio::test]
async fn characters_of_long_texts_are_looked_at_aside_one_by_one() {
    let (sidecar, collection) = public(&[("sidecar.history", "journal")]).await;
    let bucket = collection.trim_end_matches("/collections/c");
    let alice = sidecar.client().user("alice");
    alice.put(&format!("{collection}/records/x")).data(json!({"text": "yŷ".repeat(MIB)})).await.expect(201);
    for (filter, found) in [
        ("contains_any_target.data.text=[0,%22z%22,%22%C5%B7%22]", 1),
        ("contains_target.data.text=[%22y%22,%22%C5%B7%22]", 1),
        ("contains_target.data.text=[]", 1),
        ("contains_target.data.text=[%22y%C5%B7%22]", 0),
    ] {
        let entries = alice.all(&format!("{bucket}/history?{filter}&_fields=uri")).await;
        assert_eq!(entries.len(), found, "{filter}");
    }
    for path in
        ["history?contains_any_target.data.text=[0]", "history/diff?from=1&contains_any_target.data.text=[0]"]
    {
        let request = format!("GET /v1{bucket}/{path} HTTP/1.1\r\n");
        alone_and_at_once(&sidecar, 4, 200, &request, b"");
    }
}

#[tokio::test]
async fn documents_that_are_large_are_written_aside() {
    let (sidecar, collection) = with_large_objects().await;
    let bucket = collection.trim_end_matches("/collections/c");
    let feeds = [
        format!("{bucket}/history/_changes?include_docs=true"),
        format!("{collection}/_changes?include_docs=true&feed=longpoll&since=0&cursor=0"),
    ];
    for feed in feeds {
        let request = format!("GET /v1{feed} HTTP/1.1\r\n");
        let is_there = async || (ask(sidecar.address(), &request, b"") == Some(200)).then_some(());
        eventually("the feed", is_there).await;
        bounded(&sidecar, &feed, || {
            at_once(4, |_| assert_eq!(ask(sidecar.address(), &request, b""), Some(200)));
        });
    }
}

/// How long writes of a client take whose objects are larger than what is looked at at once, meanwhile: half of them less.
fn writes_meanwhile(sidecar: &Sidecar, collection: &str, hostile: impl FnOnce(&AtomicBool)) -> Duration {
    let body = json!({"data": {"text": "x".repeat(100 << 10)}}).to_string();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let writes = scope.spawn(|| {
            let mut waits: Vec<Duration> = (0..15)
                .map(|number| {
                    let record = format!("PUT /v1{collection}1/records/w{number} HTTP/1.1\r\n{AS_ALICE}");
                    let begun = Instant::now();
                    let status =
                        exchange(connect_as(2, sidecar.address()).unwrap(), &record, body.as_bytes());
                    assert!(matches!(status, Some(200 | 201)), "{status:?}");
                    begun.elapsed()
                })
                .collect();
            stop.store(true, Ordering::Relaxed);
            waits.sort();
            waits[waits.len() / 2]
        });
        hostile(&stop);
        writes.join().unwrap()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_do_not_wait_for_what_strangers_read() {
    let (sidecar, collection) = with_large_objects().await;
    let feed = format!("GET /v1{collection}/_changes?include_docs=true HTTP/1.1\r\n");
    let is_there = async || (ask(sidecar.address(), &feed, b"") == Some(200)).then_some(());
    eventually("the feed", is_there).await;
    let mut waits = Vec::new();
    for _ in 0..TRIES {
        let without = writes_meanwhile(&sidecar, &collection, |_| {});
        let with = writes_meanwhile(&sidecar, &collection, |stop| {
            at_once(24, |_| {
                while !stop.load(Ordering::Relaxed) {
                    ask(sidecar.address(), &feed, b"");
                }
            });
        });
        waits.push((without, with));
        if with <= without + LONGER {
            return;
        }
    }
    panic!("writes waited: {waits:?}");
}

#[tokio::test]
async fn long_lists_of_ids_are_taken_and_let_go_of_aside() {
    let (sidecar, collection) = public(&[]).await;
    let ids: Vec<String> = (0..95_000).map(|number| format!("aaaaaaaaaaaaaaaaaaaa{number}")).collect();
    let asked: Vec<_> = ids.iter().map(|id| json!({"id": id})).take(45_000).collect();
    for (path, status, body) in [
        ("_changes?filter=_doc_ids", 200, json!({"doc_ids": ids})),
        ("_changes?filter=_kinto&x=1", 200, json!({"doc_ids": ids})),
        ("_changes?feed=none", 400, json!({"ids": ids, "selector": {}})),
        ("_bulk_get", 413, json!({"docs": asked, "x": ids.get(..1_000)})),
    ] {
        let request = format!("POST /v1{collection}/{path} HTTP/1.1\r\nContent-Type: application/json\r\n");
        alone_and_at_once(&sidecar, 8, status, &request, body.to_string().as_bytes());
    }
}

#[tokio::test]
async fn very_many_signatures_of_a_collection_are_left_as_they_are_written() {
    let (sidecar, collection) = public(&[("sidecar.compat", "remote-settings")]).await;
    let alice = sidecar.client().user("alice");
    let signatures = vec![json!({"signature": "s"}); 300_000];
    alice.patch(&collection).data(json!({"signatures": signatures})).await.expect(200);
    let changeset = format!("{collection}/changeset?_expected=0");
    let answer = sidecar.client().get(&changeset).await.expect(200).json();
    assert_eq!(answer["metadata"]["signatures"].as_array().unwrap().len(), signatures.len());
    bounded(&sidecar, "very many signatures", || {
        let patch = format!("PATCH /v1{collection} HTTP/1.1\r\n{AS_ALICE}");
        assert_eq!(ask(sidecar.address(), &patch, br#"{"data": {"n": 1}}"#), Some(200));
        assert_eq!(ask(sidecar.address(), &format!("GET /v1{changeset} HTTP/1.1\r\n"), b""), Some(200));
    });
}

#[tokio::test]
async fn nothing_is_made_of_what_a_filter_of_a_feed_does_not_look_at() {
    let (sidecar, collection) = public(&[]).await;
    let record = json!({"numbers": vec![1; 4 * MIB], "a": {"b": 1}});
    sidecar.client().user("alice").put(&format!("{collection}/records/x")).data(record).await.expect(201);
    for (selector, is_found) in [
        (json!({"a.b": 1}), true),
        (json!({"a.b": {"$gt": 1}}), false),
        (json!({"numbers.7": 1}), true),
        (json!({"$or": [{"a.b": 2}, {"numbers": {"$size": 1}}]}), false),
        (json!({"$keyMapMatch": {"$eq": "a"}}), true),
    ] {
        let path = format!("{collection}/_changes?filter=_selector");
        let body = json!({"selector": selector});
        let found = sidecar.client().post(&path).json(body.clone()).await.expect(200).json();
        assert_eq!(found["results"].as_array().unwrap().len(), usize::from(is_found), "{selector}");
        let request = format!("POST /v1{path} HTTP/1.1\r\nContent-Type: application/json\r\n");
        alone_and_at_once(&sidecar, 4, 200, &request, body.to_string().as_bytes());
    }
}

/// Some JSON of about so many bytes.
fn some(dice: &mut Dice, bytes: u64) -> Value {
    let count = |each: u64| usize::try_from(bytes / each + 1).unwrap();
    match dice.roll(7) {
        0 => json!(vec![dice.roll(10); count(2)]),
        1 => json!("\u{e9}\"\\".repeat(count(6))),
        2 => json!(vec![json!({"a": [1], "b": null}); count(19)]),
        3 => (0..count(12)).map(|number| (format!("m{number}"), json!(1))).collect(),
        4 => json!(vec![vec![vec![0; 4]; 4]; count(44)]),
        5 => {
            // As deep as is read.
            let inner = some(dice, bytes / 2);
            (0..40).fold(inner, |inner, _| json!({"x": [inner]}))
        }
        _ => json!({"x": some(dice, bytes / 2), "y": some(dice, bytes / 2)}),
    }
}

/// A history of some large objects, and what somebody asks of it.
fn some_history(sidecar: &Sidecar, collection: &str, seed: u64) {
    let mut dice = Dice(seed);
    let (bucket, _) = collection.split_once("/collections").unwrap();
    for _ in 0..2 + dice.roll(4) {
        let bytes = 1 << (16 + dice.roll(6));
        let path = match dice.roll(3) {
            0 => format!("{collection}{}", dice.roll(2)),
            _ => format!("{collection}/records/r{}", dice.roll(3)),
        };
        let body = json!({"data": {"x": some(&mut dice, bytes), "a": dice.roll(3)}}).to_string();
        let status =
            ask(sidecar.address(), &format!("PUT /v1{path} HTTP/1.1\r\n{AS_ALICE}"), body.as_bytes());
        assert!(matches!(status, Some(200 | 201)), "seed {seed}: {status:?} of {} bytes", body.len());
    }
    for _ in 0..3 {
        let deep = ["x", "a", "x.x", "x.y.x", "x.m7"];
        let how =
            dice.pick(&[("", "1"), ("has_", "true"), ("not_", "1"), ("contains_", "[0]"), ("in_", "0,1")]);
        let filter = format!("{}target.data.{}={}", how.0, dice.pick(&deep), how.1);
        let (path, body) = match dice.roll(9) {
            0 => (format!("{bucket}/history?{filter}"), String::new()),
            1 => (
                format!("{bucket}/history?{filter}&_changed=true&_limit={}", 1 + dice.roll(4)),
                String::new(),
            ),
            2 => (
                format!("{bucket}/history?_sort=target.data.{}&_fields=uri", dice.pick(&deep)),
                String::new(),
            ),
            3 => (format!("{bucket}/history/diff?from=1&_limit={}", 1 + dice.roll(4)), String::new()),
            4 => (format!("{bucket}/history/_changes?include_docs=true"), String::new()),
            5 => (
                format!("{collection}/_changes?include_docs=true&filter=_kinto&{}=1", dice.pick(&deep)),
                String::new(),
            ),
            6 => {
                let selector = json!({"selector": {dice.pick(&deep): {"$exists": true}}});
                (format!("{collection}/_changes?filter=_selector"), selector.to_string())
            }
            7 => {
                let fields: Vec<String> = (0..=dice.roll(20)).map(|_| dice.pick(&deep).to_owned()).collect();
                let body = json!({"from": 1, "to": "now", "dry_run": true, "fields": fields});
                (format!("{bucket}/history/revert"), body.to_string())
            }
            _ => {
                let number = usize::try_from(1 + dice.roll(6)).unwrap();
                (
                    format!("{collection}/_bulk_get"),
                    json!({"docs": vec![json!({"id": "r1"}); number]}).to_string(),
                )
            }
        };
        let method = if body.is_empty() { "GET" } else { "POST" };
        let request = format!("{method} /v1{path} HTTP/1.1\r\n{AS_ALICE}");
        alone_and_at_once(sidecar, 6, 200, &request, body.as_bytes());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn histories_of_large_objects_of_any_shape_hold_nobody_up() {
    let (sidecar, collection) = public(&[("sidecar.history", "journal")]).await;
    neighbours("histories of large objects", 1, |seed| some_history(&sidecar, &collection, seed));
}

#[tokio::test]
async fn large_documents_that_are_not_taken_are_counted() {
    const READERS: usize = 60;
    const RECORDS: usize = 2;
    let (sidecar, collection) = public(&[]).await;
    let alice = sidecar.client().user("alice");
    // More than the sockets take.
    let text = "y".repeat(9 * MIB);
    for number in 0..RECORDS {
        alice.put(&format!("{collection}/records/x{number}")).data(json!({ "text": text })).await.expect(201);
    }
    sidecar.client().get(&format!("{collection}/_changes")).await.expect(200);
    for feed in ["continuous&since=0&timeout=100", "longpoll&since=0", "normal"] {
        let path = format!("/v1{collection}/_changes?include_docs=true&feed={feed}");
        let request = format!("GET {path} HTTP/1.1\r\nConnection: close\r\n");
        // For so long, they take nothing.
        let slow = || {
            let readers = unread(sidecar.address(), READERS, &request, "");
            thread::sleep(Duration::from_millis(700));
            readers
        };
        bounded(&sidecar, feed, || drop(slow()));
        // Each has all of it in the end.
        let grown = peak(&sidecar, || {
            let readers = Mutex::new(slow());
            at_once(READERS, |_| {
                let mut reader = readers.lock().unwrap().pop().unwrap();
                reader.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
                let read = std::io::copy(&mut reader, &mut std::io::sink()).unwrap();
                assert!(read > (RECORDS * text.len()) as u64, "{feed}: {read} bytes");
            });
        });
        // While all of them read, connections have pieces under way beside what is counted.
        assert!(grown <= ROOM + 50 * super::MIB, "{feed}: {} MiB", grown / super::MIB);
    }
}

#[tokio::test]
async fn what_is_kept_for_live_readers_does_not_keep_contents_that_were_replaced() {
    const RECORDS: usize = 20;
    let (sidecar, collection) = public(&[]).await;
    let alice = sidecar.client().user("alice");
    let text = "y".repeat(MIB);
    for number in 0..RECORDS {
        alice.put(&format!("{collection}/records/x{number}")).data(json!({ "text": text })).await.expect(201);
    }
    let last = sidecar.client().get(&format!("{collection}/_changes")).await.expect(200).json();
    let path = format!("/v1{collection}/_changes?feed=continuous&since={}", last["last_seq"]);
    let mut reader = unread(sidecar.address(), 1, &format!("GET {path} HTTP/1.1\r\n"), "").remove(0);
    reader.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let record = format!("PUT /v1{collection}/records/small HTTP/1.1\r\n{AS_ALICE}");
    let grown = peak(&sidecar, || {
        for number in 0..12 {
            let body = json!({"data": {"n": number}}).to_string();
            assert!(matches!(ask(sidecar.address(), &record, body.as_bytes()), Some(200 | 201)));
            // The reader is told of each before the next.
            let mut told = Vec::new();
            while !String::from_utf8_lossy(&told).contains("small") {
                let mut piece = [0; 4096];
                let length = reader.read(&mut piece).unwrap();
                told.extend_from_slice(&piece[..length]);
            }
        }
    });
    // The old one, the new one, and what it was made of.
    assert!(grown < (5 * RECORDS * MIB) as u64, "{} MiB", grown / super::MIB);
}
