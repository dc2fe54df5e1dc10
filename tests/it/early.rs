//! Answers that come before their request is whole: the client gets them, whoever gives them, and however much it still sends.

use std::io::Write;

use crate::support::stub::{Answer, HELLO, Proxy, Stub};

const LARGE: usize = 4 << 20;

/// Sends a head and a large body, all of it, and only then looks for the answer.
fn send_all(proxy: &Proxy, head: &str) -> Answer {
    let mut client = proxy.connect();
    client.send(format!("{head}\r\nHost: h\r\nContent-Length: {LARGE}\r\n\r\n"));
    let piece = vec![b'<'; 1 << 16];
    for _ in 0..LARGE / piece.len() {
        client.0.get_mut().write_all(&piece).expect("the connection is open until the answer is taken");
    }
    client.read().unwrap_or_else(|| panic!("no answer to {head}"))
}

#[test]
fn what_the_sidecar_says_early_reaches_a_client_that_is_still_sending() {
    let stub = Stub::answering(HELLO);
    let limited = Proxy::start(&stub.url(), &["sidecar.max_body=1KiB"]);
    let own = Proxy::start(&stub.url(), &["sidecar.changes=auto"]);
    let unreachable = Proxy::start("http://127.0.0.1:1/v1", &[]);
    for _ in 0..3 {
        for (proxy, head, status) in [
            (&limited, "PUT /v1/x HTTP/1.1", 413),
            (&own, "POST /v1/buckets/a/collections/b/changeset HTTP/1.1", 405),
            (&unreachable, "PUT /v1/x HTTP/1.1", 503),
            (&own, "CONNECT /v1/x HTTP/1.1", 405),
            (&own, "PUT /v1/x HTTP/1.1\r\nUpgrade: websocket\r\nHost: h", 400),
            (&own, "PUT /v1/<x", 400),
        ] {
            let answer = send_all(proxy, head);
            assert_eq!(answer.status(), status, "{head}");
            assert_eq!(answer.header("connection"), ["close"], "{head}");
        }
    }
}

#[test]
fn a_body_that_turns_out_too_large_is_413_for_a_client_that_is_still_sending() {
    let stub = Stub::answering(HELLO);
    let proxy = Proxy::start(&stub.url(), &["sidecar.max_body=1MiB"]);
    let chunk = [b"10000\r\n".to_vec(), vec![b'"'; 0x10000], b"\r\n".to_vec()].concat();
    for _ in 0..5 {
        let mut client = proxy.connect();
        client.send("PUT /v1/x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n");
        for _ in 0..64 {
            client.0.get_mut().write_all(&chunk).unwrap();
        }
        assert_eq!(client.read().unwrap().status(), 413);
    }
}

/// An upstream that answers each head at once and closes, with the body unread.
fn hasty(status: &'static str) -> Stub {
    Stub::start(move |mut upstream| {
        if upstream.read_head().is_some() {
            upstream.write(format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno"));
        }
    })
}

#[test]
fn what_the_upstream_says_early_is_handed_on() {
    let stub = hasty("413 Request Entity Too Large");
    let proxy = Proxy::before(&stub);
    for method in ["PUT", "POST", "GET"] {
        for _ in 0..10 {
            let answer = send_all(&proxy, &format!("{method} /v1/x HTTP/1.1"));
            assert_eq!((answer.status(), answer.text()), (413, "no"));
        }
    }
}

#[test]
fn what_the_upstream_says_early_to_a_body_that_was_read_before_is_handed_on() {
    let stub = hasty("404 Not Found");
    let proxy = Proxy::start(&stub.url(), &["sidecar.history=journal", "sidecar.journal=sqlite::memory:"]);
    let body = "x".repeat(60 << 10);
    let head = "PUT /v1/buckets/a/collections/b/records/c HTTP/1.1\r\nHost: h";
    for _ in 0..30 {
        let answer = proxy.ask(format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
        assert_eq!(answer.status(), 404);
    }
}

#[test]
fn an_upstream_that_closes_without_an_answer_is_still_502() {
    let stub = Stub::start(|mut upstream| {
        upstream.read_head();
    });
    let proxy = Proxy::before(&stub);
    for _ in 0..5 {
        assert_eq!(send_all(&proxy, "PUT /v1/x HTTP/1.1").status(), 502);
    }
}

#[test]
fn an_answer_ends_the_request_upstream_that_nobody_wants_any_more() {
    let stub = Stub::start(|mut upstream| {
        upstream.read_head();
        upstream.write("HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno");
        upstream.wait_for_close();
        upstream.tell("closed");
    });
    let proxy = Proxy::before(&stub);
    let mut client = proxy.connect();
    client.send("PUT /v1/x HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\nabc");
    assert_eq!(client.read().unwrap().status(), 404);
    // The client still has its connection.
    assert_eq!(stub.next().line(), "PUT /v1/x HTTP/1.1");
    assert_eq!(stub.next().line(), "closed");
}

#[test]
fn a_head_whose_body_is_broken_from_the_beginning_is_502() {
    for body in ["zz\r\nhello\r\n0\r\n\r\n", "\r\n", "5;\nhello"] {
        let stub = Stub::answering(format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}"));
        let proxy = Proxy::before(&stub);
        for _ in 0..10 {
            assert_eq!(proxy.get("/").status(), 502, "{body:?}");
        }
    }
}

#[test]
fn a_connection_is_kept_where_an_early_answer_leaves_nothing_of_the_request() {
    let stub = Stub::answering(HELLO);
    let proxy = Proxy::start(&stub.url(), &["sidecar.changes=auto"]);
    let mut client = proxy.connect();
    for framing in ["Content-Length: 3\r\n\r\n\"<>", "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"] {
        client.send(format!("POST /v1/buckets/a/collections/b/changeset HTTP/1.1\r\nHost: h\r\n{framing}"));
        assert_eq!(client.read().unwrap().status(), 405, "{framing}");
        client.send("GET /v1/x?\"1\" HTTP/1.1\r\nHost: h\r\n\r\n");
        assert_eq!(client.read().unwrap().status(), 200, "{framing}");
    }
}
