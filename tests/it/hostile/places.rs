//! Places with the upstream, while it hangs, is slow and breaks off, and clients go away or ask for several things at once.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use super::{Dice, ask_as_other, at_once, connect_as, inputs, unread};
use crate::support::Sidecar;
use crate::support::stub::{Stub, Upstream};

/// How long the upstream may take.
const TIMEOUT: Duration = Duration::from_secs(1);

/// How long anything may take that asks the upstream a few times, one after the other, and waits for a place each time.
const LONGEST: Duration = Duration::from_secs(15);

/// So many requests of clients may ask at once.
const PLACES: &str = "8";

/// What the upstream does with a request.
fn serve(upstream: &mut Upstream, line: &str, dice: &mut Dice) -> bool {
    let target = line.split(' ').nth(1).unwrap_or_default();
    if target.contains("/held") {
        upstream.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        // Until its reader goes away.
        while upstream.stream.get_mut().write_all(b"1\r\na\r\n").is_ok() {
            thread::sleep(Duration::from_millis(20));
        }
        return false;
    }
    let body = json!({"data": {"id": "c", "last_modified": 7}, "permissions": {}, "capabilities": {}});
    let body = if line.contains("records?") { json!({"data": []}) } else { body };
    let body = if line.contains("/batch") { batch_answer(dice) } else { body.to_string() };
    let answer = format!("HTTP/1.1 200 OK\r\nETag: \"7\"\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let (begin, end) = answer.split_at(answer.len() - 3);
    // Who somebody is comes at once, so that there is something to ask for them.
    let how = if target == "/v1/" { 9 } else { dice.roll(10) };
    match how {
        0 => {
            // It hangs.
            upstream.wait_for_close();
            return false;
        }
        1 => return false,
        2 => {
            upstream.write(begin);
            return false;
        }
        3 => {
            upstream.write(begin);
            thread::sleep(Duration::from_millis(dice.roll(300)));
            upstream.write(end);
        }
        4 => {
            thread::sleep(Duration::from_millis(dice.roll(300)));
            upstream.write(&answer);
        }
        _ => upstream.write(&answer),
    }
    true
}

fn batch_answer(dice: &mut Dice) -> String {
    let one =
        json!({"status": 200, "path": "/", "body": {"data": {"id": "c", "last_modified": 7}}, "headers": {}});
    json!({ "responses": vec![one; usize::try_from(dice.roll(4)).unwrap()] }).to_string()
}

/// A request of some kind.
fn request(dice: &mut Dice) -> String {
    let collection = format!("/v1/buckets/b/collections/c{}", dice.roll(6));
    let (method, path, body) = match dice.roll(6) {
        0 => ("GET", format!("{collection}/changeset?_expected={}", dice.roll(1_000)), String::new()),
        1 => ("GET", format!("{collection}/_changes?since={}", dice.roll(10)), String::new()),
        2 => {
            // What the sidecar answers itself, all at once.
            let part =
                |number| json!({"path": format!("/buckets/b/collections/c{number}/changeset?_expected=0")});
            let requests: Vec<_> = (0..=dice.roll(4)).map(part).collect();
            ("POST", "/v1/batch".to_owned(), json!({ "requests": requests }).to_string())
        }
        3 => ("PUT", format!("{collection}/records/r{}", dice.roll(9)), json!({"data": {}}).to_string()),
        4 => ("DELETE", format!("{collection}/records/r{}", dice.roll(9)), String::new()),
        _ => ("GET", format!("{collection}/records/r{}", dice.roll(9)), String::new()),
    };
    format!(
        "{method} {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\nAuthorization: Basic {}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        dice.pick(&["YTph", "YTpi", "YTpj"]),
        body.len()
    )
}

/// A client that asks for one thing after the other, and now and then goes away before it has it.
fn client(address: &str, last: u8, mut dice: Dice) {
    for _ in 0..12 {
        let request = request(&mut dice);
        let Some(mut stream) = connect_as(last, address) else { continue };
        stream.set_read_timeout(Some(LONGEST)).unwrap();
        let begun = Instant::now();
        let _ = stream.write_all(request.as_bytes());
        if dice.roll(4) == 0 {
            thread::sleep(Duration::from_millis(dice.roll(60)));
            let _ = stream.shutdown(Shutdown::Both);
            continue;
        }
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        assert!(read.is_ok() && begun.elapsed() < LONGEST, "{read:?} after {:?}: {request}", begun.elapsed());
        assert!(answer.starts_with(b"HTTP/1.1 "), "{request}: {}", String::from_utf8_lossy(&answer));
    }
}

/// Whether this client is given a place, for as long as it likes.
fn held(address: &str, last: u8) -> Option<TcpStream> {
    let mut stream = connect_as(last, address)?;
    stream.set_read_timeout(Some(LONGEST)).unwrap();
    stream.write_all(b"GET /v1/held HTTP/1.1\r\nHost: h\r\n\r\n").ok()?;
    let mut head = [0; 12];
    stream.read_exact(&mut head).ok()?;
    head.ends_with(b"200").then_some(stream)
}

#[test]
fn whatever_the_upstream_and_clients_do_nobody_waits_for_ever_and_no_place_is_lost() {
    let stub = Stub::start(|mut upstream| {
        let mut dice = Dice(upstream.number() as u64);
        while let Some(seen) = upstream.read() {
            if !serve(&mut upstream, seen.line(), &mut dice) {
                return;
            }
        }
    });
    let settings = [
        ("sidecar.max_upstream_requests", PLACES),
        ("sidecar.upstream_timeout", "1s"),
        ("sidecar.history", "journal"),
        ("changes.resources", "/buckets/b"),
    ];
    let sidecar = Sidecar::start(stub.url(), &settings);
    let address = sidecar.address();
    for seed in 0..inputs(1) as u64 {
        at_once(30, |index| {
            let last = 1 + u8::try_from(index % 5).unwrap();
            client(address, last, Dice(seed * 100 + index as u64));
        });
        // All places are there again, once what goes on by itself has its answer: each client has its share, and no more.
        let begun = Instant::now();
        loop {
            let all: Vec<_> =
                [1, 1, 1, 1, 1, 1, 2, 3].into_iter().map_while(|last| held(address, last)).collect();
            if all.len() == 8 {
                break;
            }
            assert!(
                begun.elapsed() < LONGEST + 4 * TIMEOUT,
                "{} places are left after seed {seed}",
                all.len()
            );
        }
        assert_eq!(ask_as_other(address, "GET /v1/__broadcasts__ HTTP/1.1\r\n"), Some(200));
    }
}

#[test]
fn a_write_that_waits_for_what_a_former_process_left_open_keeps_nobody_from_the_upstream() {
    let is_quick = |line: &str| line.starts_with("GET /v1/quick ") || line.starts_with("GET /v1/ ");
    let stub = Stub::start(move |mut upstream| {
        while let Some(seen) = upstream.read() {
            // Nothing is said of writes, nor of what became of them.
            if !is_quick(seen.line()) {
                upstream.wait_for_close();
                return;
            }
            upstream.write("HTTP/1.1 200 OK\r\nContent-Length: 19\r\n\r\n{\"capabilities\":{}}");
        }
    });
    let directory = tempfile::tempdir().unwrap();
    let journal = format!("sqlite:{}", directory.path().join("journal.db").display());
    let settings = [
        ("sidecar.history", "journal"),
        ("sidecar.journal", &*journal),
        ("sidecar.max_upstream_requests", "1"),
        ("sidecar.upstream_timeout", "1s"),
    ];
    let put = "PUT /v1/buckets/b/collections/c/records/r HTTP/1.1\r\nContent-Type: application/json\r\n";
    let mut sidecar = Sidecar::start(stub.url(), &settings);
    let open = unread(sidecar.address(), 1, put, "{\"data\":{}}");
    while !stub.next().line().starts_with("PUT ") {}
    sidecar.kill();
    drop(open);
    sidecar.restart();
    let waits = unread(sidecar.address(), 1, put, "{\"data\":{}}");
    for _ in 0..40 {
        assert_eq!(ask_as_other(sidecar.address(), "GET /v1/quick HTTP/1.1\r\n"), Some(200));
    }
    drop(waits);
}

#[test]
fn who_sends_and_who_reads_slowly_has_no_place_that_others_wait_for() {
    let stub = Stub::start(|mut upstream| {
        while let Some(seen) = upstream.read() {
            if seen.line().contains("/large") {
                upstream.write("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n");
                // Until its reader goes away.
                while upstream.stream.get_mut().write_all(&[b'x'; 1 << 14]).is_ok() {}
                return;
            }
            upstream.write("HTTP/1.1 200 OK\r\nContent-Length: 19\r\n\r\n{\"capabilities\":{}}");
        }
    });
    let settings = [("sidecar.max_upstream_requests", "16"), ("sidecar.upstream_timeout", "20s")];
    let sidecar = Sidecar::start(stub.url(), &settings);
    let address = sidecar.address();
    let upload = "POST /v1/slow HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n{";
    let download = "GET /v1/large HTTP/1.1\r\nHost: h\r\n\r\n";
    for (request, is_upload) in [(upload, true), (download, false)] {
        let clients = (0..90).map(|number| {
            let mut stream = connect_as(10 + number % 9, address).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            stream
        });
        let mut clients: Vec<TcpStream> = clients.collect();
        for _ in 0..20 {
            let begun = Instant::now();
            assert_eq!(ask_as_other(address, "GET /v1/quick HTTP/1.1\r\n"), Some(200));
            assert!(begun.elapsed() < Duration::from_secs(10), "after {:?}: {request}", begun.elapsed());
            // A byte now and again.
            for client in &mut clients {
                let _ = if is_upload { client.write(b"x") } else { client.read(&mut [0; 1]) };
            }
        }
    }
    // Where there are places, it has all the time that it needs.
    let mut slow = connect_as(1, address).unwrap();
    let (begin, end) = (upload.replace("1000", "21"), "x".repeat(20));
    slow.write_all(begin.as_bytes()).unwrap();
    for byte in end.as_bytes() {
        thread::sleep(Duration::from_millis(100));
        slow.write_all(&[*byte]).unwrap();
    }
    let mut head = [0; 12];
    slow.read_exact(&mut head).unwrap();
    assert!(head.ends_with(b"200"), "{}", String::from_utf8_lossy(&head));
}
