//! A new process takes over from the one that runs, on the same port and the same journal, and nobody notices.
//!
//! `RESTARTS=100 READERS=1000 CLIENTS=64 cargo test --test it takeover -- --nocapture` does it more often, and prints what it
//! came to. With `OLDER=` a program of an earlier version, each time the first process is that one, on a journal of its own.

use std::collections::BTreeSet;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use sqlx::{Connection, Executor, SqliteConnection};

use crate::feeds::follower::Follower;
use crate::support::stub::{Answer, HELLO, Raw, Stub};
use crate::support::{
    Client, Fate, Kinto, PATIENCE, Recorded, Recorder, SERVICE_ACCOUNT, Sidecar, commit, eventually, unique,
};

/// A client that keeps its connection for as long as it is told to.
struct Keeping {
    address: String,
    connection: Option<Raw>,
    longest: Duration,
}

impl Keeping {
    fn new(address: &str) -> Self {
        Self { address: address.to_owned(), connection: None, longest: Duration::ZERO }
    }

    /// Fails the test where there is no answer.
    fn ask(&mut self, request: &str) -> Answer {
        let begun = Instant::now();
        let kept = self.connection.take();
        let is_kept = kept.is_some();
        let mut connection = kept.unwrap_or_else(|| Raw::connect(self.address.parse().unwrap()));
        let answer = connection.send(request).read();
        let answer = answer.unwrap_or_else(|| {
            panic!("no answer after {:?}, on a connection that was kept: {is_kept}", begun.elapsed())
        });
        assert!(answer.is_whole);
        if answer.header("connection") != ["close"] {
            self.connection = Some(connection);
        }
        self.longest = self.longest.max(begun.elapsed());
        answer
    }
}

fn number(name: &str, usual: usize) -> usize {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(usual)
}

/// Follows a feed over all its ends, until it has seen the record `end`.
async fn follow(address: String, path: String, is_there: Arc<AtomicU64>) -> BTreeSet<String> {
    let (mut seen, mut last) = (BTreeSet::new(), None::<String>);
    let mut is_new = true;
    loop {
        let headers: Vec<_> = last.as_deref().map(|last| ("last-event-id", last)).into_iter().collect();
        let mut feed = Follower::open_at(&address, &path, &headers).await;
        assert_eq!(feed.status, 200);
        while let Some(event) = feed.event().await {
            if std::mem::take(&mut is_new) {
                is_there.fetch_add(1, Relaxed);
            }
            last = event.id.or(last);
            let Some(data) = event.data.filter(|data| !data.is_empty()) else { continue };
            let row: Value = serde_json::from_str(&data).unwrap();
            let id = row["id"].as_str().unwrap();
            if id == "end" {
                return seen;
            }
            seen.insert(id.to_owned());
        }
    }
}

/// What was done while processes took over, and how long it took at most.
#[derive(Default)]
struct Done {
    asked: u64,
    written: usize,
    longest_read: Duration,
    longest_write: Duration,
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_take_over_under_load_and_nothing_is_refused_lost_or_doubled() {
    let (restarts, readers, clients) = (number("RESTARTS", 2), number("READERS", 20), number("CLIENTS", 4));
    let mut done = Done::default();
    let (mut before, mut times, mut each) = (Vec::new(), 1, restarts);
    if let Ok(older) = std::env::var("OLDER") {
        // What is started is the second argument, and another program is in its place.
        before = ["sh", "-c", "shift; exec \"$0\" \"$@\"", &older].map(str::to_owned).to_vec();
        (times, each) = (restarts, 1);
    }
    for _ in 0..times {
        let part = take_over(&before, each, readers, clients).await;
        done.asked += part.asked;
        done.written += part.written;
        done.longest_read = done.longest_read.max(part.longest_read);
        done.longest_write = done.longest_write.max(part.longest_write);
    }
    let Done { asked, written, longest_read, longest_write } = done;
    println!(
        "{restarts} take-overs at {}: {asked} requests of {clients} clients, {written} writes, {readers} readers; refused, reset, \
         lost, doubled, missed: 0; longest read {longest_read:.0?}, longest write {longest_write:.0?}",
        commit(),
    );
}

/// Processes take over from each other so many times, from a first one that is started like this.
async fn take_over(first: &[String], restarts: usize, readers: usize, clients: usize) -> Done {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).display().to_string();
    let bucket = unique("takeover");
    let collection = format!("/buckets/{bucket}/collections/c");
    let settings = [
        SERVICE_ACCOUNT,
        ("changes.resources", &*format!("/buckets/{bucket}")),
        ("sidecar.history", "journal"),
        ("sidecar.journal", &*format!("sqlite:{}", file("journal.db"))),
        ("sidecar.handover", &*file("handover.sock")),
        ("sidecar.log", "warn"),
        // All come from one address.
        ("sidecar.max_connections_per_client", "10000"),
        ("feeds.max_readers_per_client", "10000"),
    ];
    let mut sidecar = Sidecar::start_by(first.to_vec(), Kinto::shared().url(), &settings);
    let alice = sidecar.client().user("alice");
    let read = json!({"permissions": {"read": ["system.Everyone"]}});
    alice.put(&format!("/buckets/{bucket}")).json(read).await.expect(201);
    alice.put(&collection).await.expect(201);

    let is_there = Arc::new(AtomicU64::new(0));
    let feed = format!("{collection}/_changes?feed=eventsource&since=now");
    let following: Vec<_> = (0..readers)
        .map(|_| tokio::spawn(follow(sidecar.address().to_owned(), feed.clone(), Arc::clone(&is_there))))
        .collect();
    eventually("all readers are there", async || (is_there.load(Relaxed) == readers as u64).then_some(()))
        .await;

    let is_over = Arc::new(AtomicBool::new(false));
    let asked = Arc::new(AtomicU64::new(0));
    let reading: Vec<_> = (0..clients)
        .map(|_| {
            let (is_over, asked) = (Arc::clone(&is_over), Arc::clone(&asked));
            let mut client = Keeping::new(sidecar.address());
            let request = format!("GET /v1{collection}/changeset?_expected=0 HTTP/1.1\r\nHost: h\r\n\r\n");
            thread::spawn(move || {
                while !is_over.load(Relaxed) {
                    assert_eq!(client.ask(&request).status(), 200);
                    asked.fetch_add(1, Relaxed);
                }
                client.longest
            })
        })
        .collect();
    let written = Arc::new(Mutex::new(BTreeSet::new()));
    let writing: Vec<_> = (0..4)
        .map(|writer| {
            let (is_over, written) = (Arc::clone(&is_over), Arc::clone(&written));
            let mut client = Keeping::new(sidecar.address());
            let path = format!("/v1{collection}/records");
            thread::spawn(move || {
                for turn in 0.. {
                    if is_over.load(Relaxed) {
                        break;
                    }
                    let id = format!("w{writer}-{turn}");
                    let answer = client.ask(&format!(
                        "PUT {path}/{id} HTTP/1.1\r\nHost: h\r\nAuthorization: Basic YWxpY2U6c2VjcmV0\r\n\
                         Content-Type: application/json\r\nContent-Length: 11\r\n\r\n{{\"data\":{{}}}}"
                    ));
                    assert_eq!(answer.status(), 201, "{id}: {} {}", answer.head, answer.text());
                    written.lock().unwrap().insert(id);
                }
                client.longest
            })
        })
        .collect();

    for _ in 0..restarts {
        let before = (asked.load(Relaxed), written.lock().unwrap().len());
        let successor = sidecar.successor();
        let status = sidecar.wait(PATIENCE).expect("the old process ends");
        assert_eq!(status.code(), Some(0), "{}", sidecar.log());
        sidecar = successor;
        eventually("everybody goes on", async || {
            let now = (asked.load(Relaxed), written.lock().unwrap().len());
            (now.0 > before.0 && now.1 > before.1).then_some(())
        })
        .await;
    }
    is_over.store(true, Relaxed);
    let longest = |threads: Vec<thread::JoinHandle<Duration>>| {
        threads.into_iter().map(|thread| thread.join().unwrap()).max().unwrap()
    };
    let (longest_read, longest_write) = (longest(reading), longest(writing));
    let written = std::mem::take(&mut *written.lock().unwrap());

    // Each acknowledged write is there, in the history once, and every reader was told of it.
    let alice = sidecar.client().user("alice");
    let records = all(&alice, &format!("{collection}/records?_fields=id"), "id").await;
    assert_eq!(records, written.iter().cloned().collect::<Vec<_>>());
    let history = format!("/buckets/{bucket}/history?resource_name=record&_fields=record_id");
    assert_eq!(all(&alice, &history, "record_id").await, records);
    alice.put(&format!("{collection}/records/end")).json(json!({"data": {}})).await.expect(201);
    for reader in following {
        let seen = reader.await.unwrap();
        assert!(written.is_subset(&seen), "{:?}", written.difference(&seen).collect::<Vec<_>>());
    }
    Done { asked: asked.load(Relaxed), written: written.len(), longest_read, longest_write }
}

/// A field of all rows of a list, in order.
async fn all(client: &Client, path: &str, field: &str) -> Vec<String> {
    let rows = client.all(path).await;
    let mut found: Vec<_> = rows.iter().map(|row| row[field].as_str().unwrap().to_owned()).collect();
    found.sort();
    found
}

/// `STALL=14` has Kinto say nothing about the first one for so many seconds.
#[tokio::test]
async fn a_write_waits_for_those_that_the_process_before_still_has() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).display().to_string();
    let recorder = Recorder::before(Kinto::shared().url());
    let settings = [
        SERVICE_ACCOUNT,
        ("sidecar.history", "journal"),
        ("sidecar.journal", &*format!("sqlite:{}", file("journal.db"))),
        ("sidecar.handover", &*file("handover.sock")),
    ];
    let mut old = Sidecar::start(recorder.url(), &settings);
    let alice = old.client().user("alice");
    let bucket = format!("/buckets/{}", unique("waits"));
    alice.put(&bucket).await.expect(201);
    let is_first = |request: &Recorded| request.method == "PUT" && request.path().ends_with("/first");
    recorder.intercept(move |request| if is_first(request) { Fate::Hold } else { Fate::Pass });
    let write = |address: &str, path: String| {
        let mut connection = Raw::connect(address.parse().unwrap());
        thread::spawn(move || {
            let head = format!(
                "PUT /v1{path} HTTP/1.1\r\nHost: h\r\nAuthorization: Basic YWxpY2U6c2VjcmV0\r\nContent-Length: 0\r\n\r\n"
            );
            connection.send(&head).read().unwrap().status()
        })
    };
    let first = write(old.address(), format!("{bucket}/collections/first"));
    recorder.wait_for(1, is_first).await;

    let new = old.successor();
    eventually("the old one leaves", async || old.log().contains("has taken over").then_some(())).await;
    let second = write(new.address(), format!("{bucket}/collections/second"));
    tokio::time::sleep(Duration::from_secs(number("STALL", 0) as u64)).await;
    recorder.release();
    assert_eq!((first.join().unwrap(), second.join().unwrap()), (201, 201));
    assert_eq!(old.wait(PATIENCE).unwrap().code(), Some(0));
    let alice = new.client().user("alice");
    let history = format!("{bucket}/history?resource_name=collection&_fields=collection_id");
    assert_eq!(all(&alice, &history, "collection_id").await, ["first", "second"]);
}

/// Stands for the service manager.
struct Manager {
    socket: UnixDatagram,
    path: String,
}

impl Manager {
    fn new(folder: &tempfile::TempDir) -> Self {
        let path = folder.path().join("notify.sock").display().to_string();
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, path }
    }

    /// The next message that says this.
    fn hear(&self, word: &str) -> String {
        let mut message = [0; 4096];
        loop {
            let length = self.socket.recv(&mut message).unwrap_or_else(|error| panic!("no {word}: {error}"));
            let message = String::from_utf8(message[..length].to_vec()).unwrap();
            if message.lines().any(|line| line == word) {
                return message;
            }
        }
    }
}

const OFF: [(&str, &str); 2] = [("sidecar.changes", "off"), ("sidecar.history", "off")];

#[test]
fn the_service_manager_is_told_how_the_process_is() {
    let folder = tempfile::tempdir().unwrap();
    let manager = Manager::new(&folder);
    let variables =
        ["env".to_owned(), format!("NOTIFY_SOCKET={}", manager.path), "WATCHDOG_USEC=200000".to_owned()];
    let stub = Stub::answering(HELLO);
    let mut sidecar = Sidecar::start_by(variables.to_vec(), stub.url(), &OFF);
    let ready = manager.hear("READY=1");
    assert!(ready.contains(&format!("MAINPID={}\n", sidecar.process_id())), "{ready}");
    assert!(ready.contains(&format!("STATUS=listening on http://{}", sidecar.address())), "{ready}");
    manager.hear("WATCHDOG=1");
    sidecar.signal(Signal::HUP);
    let reloading = manager.hear("RELOADING=1");
    let moment = reloading.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")).unwrap();
    assert!(moment.parse::<u64>().unwrap() > 0);
    manager.hear("READY=1");
    sidecar.terminate();
    manager.hear("STOPPING=1");
    assert_eq!(sidecar.wait(PATIENCE).unwrap().code(), Some(0));
}

#[tokio::test]
async fn sigusr2_starts_the_program_anew_to_take_over() {
    let folder = tempfile::tempdir().unwrap();
    let manager = Manager::new(&folder);
    let variables = vec!["env".to_owned(), format!("NOTIFY_SOCKET={}", manager.path)];
    let stub = Stub::answering(HELLO);
    let handover = folder.path().join("handover.sock").display().to_string();
    let settings = [OFF[0], OFF[1], ("sidecar.handover", &handover)];
    let mut sidecar = Sidecar::start_by(variables, stub.url(), &settings);
    let process = |ready: &str| -> i32 {
        ready.lines().find_map(|line| line.strip_prefix("MAINPID=")).unwrap().parse().unwrap()
    };
    let first = process(&manager.hear("READY=1"));
    sidecar.signal(Signal::USR2);
    let second = process(&manager.hear("READY=1"));
    assert_ne!(first, second);
    assert_eq!(sidecar.wait(PATIENCE).unwrap().code(), Some(0));
    let answer = sidecar.connect().send("GET /v1/x HTTP/1.1\r\nHost: h\r\n\r\n").read().unwrap();
    assert_eq!(answer.text(), "hello");
    // The second process is nobody's child any more.
    kill_process(Pid::from_raw(second).unwrap(), Signal::TERM).unwrap();
    manager.hear("STOPPING=1");
}

/// Starts another process with the settings of one that runs, and these; gives what it says before it ends in failure.
fn successor_in_vain(sidecar: &Sidecar, settings: &[(&str, &str)]) -> String {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_kinto-sidecar"));
    command.args(["--listen", sidecar.address()]);
    for (name, value) in settings {
        command.args(["--set", &format!("{name}={value}")]);
    }
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_successor_that_cannot_start_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let handover = folder.path().join("handover.sock").display().to_string();
    let stub = Stub::answering(HELLO);
    let sidecar = Sidecar::start(stub.url(), &[OFF[0], OFF[1], ("sidecar.handover", &handover)]);
    let upstream = stub.url();
    let settings = [
        OFF[0],
        OFF[1],
        ("sidecar.upstream", &*upstream),
        ("sidecar.handover", &*handover),
        ("sidecar.tls_certificate", "/nowhere"),
        ("sidecar.tls_key", "/nowhere"),
    ];
    assert!(successor_in_vain(&sidecar, &settings).contains("/nowhere"));
    let answer = sidecar.connect().send("GET /v1/x HTTP/1.1\r\nHost: h\r\n\r\n").read().unwrap();
    assert_eq!(answer.text(), "hello");
}

#[tokio::test]
async fn a_successor_that_cannot_use_the_journal_leaves_it_to_the_one_that_can() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).display().to_string();
    let (url, handover) = (Kinto::shared().url(), file("handover.sock"));
    let (journal, text) = (format!("sqlite:{}", file("journal.db")), format!("sqlite:{}", file("text")));
    std::fs::write(file("text"), "no journal, and nobody's business").unwrap();
    let mut settings = [
        SERVICE_ACCOUNT,
        ("sidecar.history", "journal"),
        ("sidecar.handover", &handover),
        ("sidecar.upstream", &url),
        ("sidecar.journal", &journal),
    ];
    let sidecar = Sidecar::start(&url, &settings);
    let alice = sidecar.client().user("alice");
    let bucket = format!("/buckets/{}", unique("unusable"));
    alice.put(&bucket).await.expect(201);

    let mut connection = SqliteConnection::connect(&journal).await.unwrap();
    connection.execute("UPDATE sidecar_meta SET value = '99' WHERE name = 'schema'").await.unwrap();
    let said = successor_in_vain(&sidecar, &settings);
    assert!(said.contains("was written by a newer kinto-sidecar (its schema is 99"), "{said}");
    settings[4].1 = &text;
    let said = successor_in_vain(&sidecar, &settings);
    assert!(said.contains("is a file that is not a database"), "{said}");
    let missing = format!("sqlite:{}", file("no-folder/journal.db"));
    settings[4].1 = &missing;
    let said = successor_in_vain(&sidecar, &settings);
    assert!(said.contains("there is no directory"), "{said}");

    eventually("the log says it", async || {
        let log = sidecar.log();
        let lines = log.lines().filter(|line| line.contains("nobody took over, and this process goes on"));
        let lines: Vec<_> = lines.collect();
        (lines.len() == 3 && lines[0].contains("the other process ended before it was ready")).then_some(())
    })
    .await;
    // Nothing is lost: who served goes on to read and to write.
    alice.put(&format!("{bucket}/collections/c")).await.expect(201);
    let entries = alice.all(&format!("{bucket}/history")).await;
    assert_eq!(entries.len(), 2);
}

/// What strangers have begun to send and do not go on with: nobody waits for the rest.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_what_has_not_come_when_a_process_takes_over() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).display().to_string();
    let settings = [
        SERVICE_ACCOUNT,
        ("sidecar.history", "journal"),
        ("sidecar.journal", &*format!("sqlite:{}", file("journal.db"))),
        ("sidecar.handover", &*file("handover.sock")),
    ];
    let mut old = Sidecar::start(Kinto::shared().url(), &settings);
    let alice = old.client().user("alice");
    let bucket = format!("/buckets/{}", unique("slow"));
    let collection = format!("{bucket}/collections/c");
    alice.put(&bucket).await.expect(201);
    alice.put(&collection).await.expect(201);
    let head = "Host: h\r\nAuthorization: Basic YWxpY2U6c2VjcmV0\r\nContent-Type: application/json\r\n";
    // Once it is told so, its body is wanted.
    let slow = |line: String, framing: &str| {
        let mut connection = old.connect();
        connection.send(format!("{line} HTTP/1.1\r\n{head}{framing}Expect: 100-continue\r\n\r\n"));
        let told = connection.read_head().unwrap();
        assert!(told.contains("100 Continue"), "{told}");
        connection.send("1\r\n{\r\n");
        connection
    };
    let chunked = "Transfer-Encoding: chunked\r\n";
    let late = [
        slow(format!("PUT /v1{collection}/records/late"), chunked),
        slow(format!("DELETE /v1{collection}/records/none"), chunked),
        slow("POST /v1/batch".to_owned(), chunked),
    ];
    let mut in_time = slow(format!("PUT /v1{collection}/records/in_time"), chunked);
    let mut heads = [old.connect(), old.connect()];
    heads[0].send("PUT /v1/buckets/b HT");
    heads[1].send("P");

    let new = old.successor();
    eventually("the old one leaves", async || old.log().contains("has taken over").then_some(())).await;
    let begun = Instant::now();
    let next = tokio::spawn({
        let (alice, record) = (new.client().user("alice"), format!("{collection}/records/next"));
        async move { (alice.put(&record).await.status, begun.elapsed()) }
    });
    in_time.send("1\r\n}\r\n0\r\n\r\n");
    assert_eq!(in_time.read().unwrap().status(), 201);
    let (status, waited) = next.await.unwrap();
    assert_eq!(status, 201);
    // One of them alone had it wait for 17 s.
    assert!(waited < Duration::from_secs(8), "{waited:?}");
    println!("a write waited for {waited:.1?}");
    let [mut put, others @ ..] = late;
    assert_eq!(put.read().unwrap().status(), 503, "and nothing of it is written");
    for mut connection in others {
        let status = connection.send("1\r\n}\r\n0\r\n\r\n").read().unwrap().status();
        assert!(matches!(status, 400 | 404 | 503), "{status}");
    }
    drop((put, in_time, heads));
    assert_eq!(old.wait(PATIENCE).unwrap().code(), Some(0));
    let alice = new.client().user("alice");
    let records = all(&alice, &format!("{collection}/records?_fields=id"), "id").await;
    assert_eq!(records, ["in_time", "next"]);
    let history = format!("{bucket}/history?resource_name=record&_fields=record_id");
    assert_eq!(all(&alice, &history, "record_id").await, records);
}
