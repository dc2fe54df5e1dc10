//! What the upstream does wrong becomes Kinto's error body within a bounded time, and never looks like an answer.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use crate::support::stub::{Answer, HELLO, Proxy, Stub};

/// What every error of the sidecar's own has in common with Kinto's.
fn assert_is_kintos(answer: &Answer, status: u16) {
    assert_eq!(answer.status(), status, "{}", answer.head);
    let body = answer.json();
    assert_eq!(body["code"], status);
    assert_eq!(body["errno"], 201);
    assert!(body["error"].is_string() && body["message"].is_string(), "{body}");
    assert_eq!(answer.header("content-type"), ["application/json"]);
    assert_eq!(answer.header("retry-after").len(), 1, "{}", answer.head);
    assert_eq!(answer.header("access-control-allow-origin"), ["*"]);
    assert!(answer.header("access-control-expose-headers")[0].contains("Retry-After"));
}

fn ask(proxy: &Proxy) -> Answer {
    proxy.ask("GET /v1/x HTTP/1.1\r\nHost: h\r\nOrigin: http://page.test\r\n\r\n")
}

#[test]
fn an_upstream_that_is_not_there_is_503_until_it_is() {
    // The port is taken, so that nobody else listens there, but not listened on until later.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let proxy = Proxy::start(&format!("http://127.0.0.1:{port}/v1"), &[]);
    assert_is_kintos(&ask(&proxy), 503);
}

#[test]
fn an_upstream_that_hangs_up_is_502() {
    let stub = Stub::start(|mut upstream| {
        upstream.read();
    });
    assert_is_kintos(&ask(&Proxy::before(&stub)), 502);
}

#[test]
fn an_upstream_that_talks_garbage_is_502() {
    for garbage in [
        "SSH-2.0-OpenSSH_9.6\r\n",
        "HTTP/1.1 abc\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\nbad header\r\n\r\n",
        "\0\0\0",
    ] {
        let stub = Stub::start(move |mut upstream| {
            upstream.read();
            upstream.write(garbage);
        });
        assert_is_kintos(&ask(&Proxy::before(&stub)), 502);
    }
}

#[test]
fn an_upstream_that_never_answers_is_504_in_time() {
    let stub = Stub::start(|mut upstream| {
        upstream.read();
        upstream.wait_for_close();
    });
    let proxy = Proxy::start(&stub.url(), &["sidecar.upstream_timeout=300ms"]);
    let begun = Instant::now();
    assert_is_kintos(&ask(&proxy), 504);
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_slow_upload_is_not_taken_for_a_slow_upstream() {
    let stub = Stub::answering(HELLO);
    let proxy = Proxy::start(&stub.url(), &["sidecar.upstream_timeout=300ms"]);
    let mut client = proxy.connect();
    client.send("PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 6\r\n\r\n");
    for piece in ["ab", "cd", "ef"] {
        // Longer than the upstream may take: what is waited for is the client.
        std::thread::sleep(Duration::from_millis(400));
        client.send(piece);
    }
    assert_eq!(client.read().unwrap().status(), 200);
}

#[test]
fn an_answer_that_breaks_off_breaks_off_for_the_client_too() {
    for begun in [
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"data\":",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n{\"data\":\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n{\"data\":\r\nzz\r\n",
    ] {
        let stub = Stub::start(move |mut upstream| {
            upstream.read();
            upstream.write(begun);
        });
        let answer = ask(&Proxy::before(&stub));
        assert!(!answer.is_whole, "{begun}");
    }
}

#[test]
fn an_answer_that_stops_in_the_middle_is_broken_off_in_time() {
    let stub = Stub::start(|mut upstream| {
        upstream.read();
        upstream.write("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nab");
        upstream.wait_for_close();
    });
    let proxy = Proxy::start(&stub.url(), &["sidecar.upstream_timeout=300ms"]);
    assert!(!ask(&proxy).is_whole);
}

#[test]
fn what_broke_off_is_never_used_again() {
    let stub = Stub::start(|mut upstream| {
        upstream.read();
        match upstream.number() {
            0 => upstream.write("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\n"),
            _ => upstream.write(HELLO),
        }
        upstream.read();
        upstream.write("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong");
    });
    let proxy = Proxy::before(&stub);
    for _ in 0..3 {
        assert_ne!(ask(&proxy).text(), "wrong");
        if stub.next().connection > 0 {
            return;
        }
    }
    panic!("a connection with bytes that belong to no answer was used again");
}

#[test]
fn a_sidecar_recovers_with_its_upstream() {
    let stub = Stub::start(|mut upstream| {
        upstream.read();
        if upstream.number() > 1 {
            upstream.write(HELLO);
        }
    });
    let proxy = Proxy::before(&stub);
    assert_is_kintos(&ask(&proxy), 502);
    assert_is_kintos(&ask(&proxy), 502);
    assert_eq!(ask(&proxy).text(), "hello");
}
