//! Whoever answers in the upstream's place, and does not stop.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use super::{MIB, ROOM, ask, ask_as_other, at_once, memory, peak, unread};
use crate::support::Sidecar;
use crate::support::stub::{HELLO, Raw, Seen, Stub};

#[test]
fn pages_without_end_are_followed_as_far_as_the_question_needs() {
    for is_always_new in [false, true] {
        let number = Arc::new(AtomicUsize::new(0));
        let asked = Arc::clone(&number);
        let stub = Stub::start(move |mut upstream| {
            while let Some(seen) = upstream.read() {
                let target = seen.line().split(' ').nth(1).unwrap().to_owned();
                let (path, _) = target.split_once('?').unwrap_or((&target, ""));
                let mut next = String::new();
                let body = match path {
                    "/v1/" => "{\"capabilities\":{}}".to_owned(),
                    "/v1/batch" => {
                        "{\"responses\":[{\"status\":200,\"body\":{\"data\":{\"last_modified\":1}}},\
                                    {\"status\":404,\"body\":{\"details\":{\"resource_name\":\"record\"}}}]}"
                            .to_owned()
                    }
                    "/v1/buckets/a/collections" | "/v1/buckets/a/collections/c/records" => {
                        let page = asked.fetch_add(1, Ordering::Relaxed);
                        next = format!("Next-Page: http://{path}?_token={page}\r\n")
                            .replace("http:///", "http://h/");
                        let id = if is_always_new { page } else { 1 };
                        let filler = "x".repeat(1 << 20);
                        format!("{{\"data\":[{{\"id\":\"c{id}\",\"last_modified\":1,\"x\":\"{filler}\"}}]}}")
                    }
                    _ => "{\"data\":{\"id\":\"c\",\"last_modified\":1}}".to_owned(),
                };
                upstream.write(format!(
                    "HTTP/1.1 200 OK\r\nETag: \"1\"\r\n{next}Content-Length: {}\r\n\r\n{body}",
                    body.len()
                ));
            }
        });
        let sidecar = Sidecar::start(stub.url(), &[("changes.resources", "/buckets/a")]);
        let monitor = "GET /v1/buckets/monitor/collections/changes/changeset?_expected=1 HTTP/1.1\r\n";
        let changeset = "GET /v1/buckets/a/collections/c/changeset?_expected=1 HTTP/1.1\r\n";
        for request in [monitor, changeset].into_iter().take(if is_always_new { 1 } else { 2 }) {
            let grown = peak(&sidecar, || {
                let status = ask(sidecar.address(), request, b"");
                assert!(status.is_some_and(|status| status >= 500), "{request}: {status:?}");
            });
            assert!(grown <= ROOM, "{request}: {} MiB", grown / MIB);
        }
        let number = number.load(Ordering::Relaxed);
        assert!((2..300).contains(&number), "{number} pages");
    }
}

#[test]
fn a_list_that_leads_elsewhere_is_not_taken_for_all_there_is() {
    let stub = Stub::start(|mut upstream| {
        while let Some(seen) = upstream.read() {
            let (next, body) = if seen.line().contains("/buckets/a/collections?") {
                ("Next-Page: http://h/elsewhere?_token=1\r\n", r#"{"data":[{"id":"c","last_modified":1}]}"#)
            } else {
                ("", r#"{"capabilities":{},"data":{"id":"c","last_modified":1}}"#)
            };
            upstream.write(format!(
                "HTTP/1.1 200 OK\r\nETag: \"1\"\r\n{next}Content-Length: {}\r\n\r\n{body}",
                body.len()
            ));
        }
    });
    let sidecar = Sidecar::start(stub.url(), &[("changes.resources", "/buckets/a")]);
    let monitor = "GET /v1/buckets/monitor/collections/changes/changeset?_expected=1 HTTP/1.1\r\n";
    let status = ask(sidecar.address(), monitor, b"");
    assert!(status.is_some_and(|status| status >= 500), "{status:?}");
}

#[test]
fn an_answer_without_end_is_read_as_far_as_the_question_needs() {
    let is_endless = Arc::new(AtomicBool::new(false));
    let is_begun = Arc::clone(&is_endless);
    let stub = Stub::start(move |mut upstream| {
        if upstream.read().is_none() {
            return;
        }
        if !is_begun.load(Ordering::Relaxed) {
            upstream.write("HTTP/1.1 503 Not Yet\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            return;
        }
        upstream.write("HTTP/1.1 200 OK\r\nETag: \"1\"\r\nTransfer-Encoding: chunked\r\n\r\n");
        let piece = [b"100000\r\n".to_vec(), vec![b' '; 1 << 20], b"\r\n".to_vec()].concat();
        let mut written = 0;
        // Without end, as far as this machine bears it where it is read.
        while written < 400 && upstream.stream.get_mut().write_all(&piece).is_ok() {
            written += 1;
        }
    });
    let sidecar = Sidecar::start(stub.url(), &[("changes.resources", "/buckets/a")]);
    // The sidecar has questions of its own, too, from the beginning on.
    assert_eq!(ask(sidecar.address(), "GET /v1/ HTTP/1.1\r\n", b""), Some(503));
    let idle = memory(&sidecar, "VmRSS");
    is_endless.store(true, Ordering::Relaxed);
    for (number, request) in [
        (8, "GET /v1/buckets/monitor/collections/changes/changeset?_expected=1 HTTP/1.1\r\n"),
        (1, "GET /v1/buckets/a/collections/c/changeset?_expected=1 HTTP/1.1\r\n"),
        (
            8,
            "GET /v1/buckets/default/collections/c/changeset?_expected=1 HTTP/1.1\r\nAuthorization: Basic YTpi\r\n",
        ),
        (8, "GET /v1/ HTTP/1.1\r\n"),
        (8, "PUT /v1/buckets/a/collections/c/records/r HTTP/1.1\r\nContent-Type: application/json\r\n"),
    ] {
        _ = peak(&sidecar, || {
            at_once(number, |_| {
                let status = ask(sidecar.address(), request, b"");
                assert!(status.is_some_and(|status| status >= 500), "{request}: {status:?}");
            });
        });
        let grown = memory(&sidecar, "VmHWM").saturating_sub(idle);
        assert!(grown <= ROOM, "{request}: {} MiB", grown / MIB);
    }
}

#[test]
fn one_client_has_its_share_of_the_upstream_and_waits_for_more() {
    let stub = Stub::start(|mut upstream| {
        while let Some(seen) = upstream.read() {
            if !seen.line().contains("/long") {
                upstream.write(HELLO);
                continue;
            }
            upstream.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            // Until its reader goes away.
            while upstream.stream.get_mut().write_all(b"1\r\na\r\n").is_ok() {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    });
    let settings = [("sidecar.max_upstream_requests", "4"), ("sidecar.upstream_timeout", "1s")];
    let sidecar = Sidecar::start(stub.url(), &settings);
    let connect = || Raw::connect(sidecar.address().parse().unwrap());
    let mut long: Vec<Raw> = (0..3).map(|_| connect()).collect();
    for client in &mut long {
        let head = client.send("GET /v1/long HTTP/1.1\r\nHost: h\r\n\r\n").read_head().unwrap();
        assert!(head.contains(" 200 "), "{head}");
    }
    let quick = "GET /v1/quick HTTP/1.1\r\nHost: h\r\n\r\n";
    let refused = connect().send(quick).read().unwrap();
    assert_eq!((refused.status(), refused.header("retry-after")), (503, vec!["3"]));
    assert_eq!(refused.json()["errno"], 201);
    assert_eq!(ask_as_other(sidecar.address(), "GET /v1/quick HTTP/1.1\r\n"), Some(200));
    let mut waits = connect();
    waits.send(quick);
    drop(long);
    assert_eq!(waits.read().unwrap().status(), 200);
}

#[test]
fn what_the_sidecar_asks_for_a_client_counts_as_the_clients() {
    // Who may read it is asked in a batch.
    let is_long = |seen: &Seen| String::from_utf8_lossy(&seen.body).contains("/collections/long");
    let stub = Stub::start(move |mut upstream| {
        while let Some(seen) = upstream.read() {
            if !is_long(&seen) {
                upstream.write("HTTP/1.1 200 OK\r\nContent-Length: 19\r\n\r\n{\"capabilities\":{}}");
            }
        }
    });
    let sidecar = Sidecar::start(stub.url(), &[("sidecar.max_upstream_requests", "4")]);
    let changesets: Vec<_> = (0..12)
        .flat_map(|number| {
            let path = format!("/v1/buckets/b{number}/collections/long/changeset?_expected=0");
            unread(sidecar.address(), 1, &format!("GET {path} HTTP/1.1\r\n"), "")
        })
        .collect();
    let mut number = 0;
    while number < 3 {
        number += usize::from(is_long(&stub.next()));
    }
    assert_eq!(ask_as_other(sidecar.address(), "GET /v1/quick HTTP/1.1\r\n"), Some(200));
    while let Some(seen) = stub.seen() {
        assert!(!is_long(&seen), "{}", seen.line());
    }
    drop(changesets);
}
