//! Where one request ends and the next begins: bytes are a head only where the parser begins to read one.

use std::net::Shutdown;
use std::time::Duration;

use crate::support::stub::{HELLO, Proxy, Raw, Stub, status};

/// What makes room behind a body, so that the rest of it would be read as a request if it grew.
pub fn growing_body(host: &str) -> (String, usize) {
    let filler = "f".repeat(8_192);
    let growing = format!("x {}\r\n", "<".repeat(2_000));
    let hidden = format!("GET /v1/SMUGGLED HTTP/1.1\r\nHost: {host}\r\nX-I: ");
    let body = [filler, growing, hidden].concat();
    let length = body.len();
    (body, length)
}

/// Lets the server read what was sent so far on its own.
fn pause() {
    std::thread::sleep(Duration::from_millis(2));
}

fn answers(client: &mut Raw) -> Vec<u16> {
    std::iter::from_fn(|| client.read()).map(|answer| answer.status()).collect()
}

#[test]
fn an_answer_before_the_body_does_not_make_the_body_a_request() {
    let stub = Stub::answering(HELLO);
    let proxy = Proxy::start(&stub.url(), &["sidecar.changes=auto"]);
    let (body, length) = growing_body("h");
    for is_split in [false, true] {
        for _ in 0..20 {
            let mut client = proxy.connect();
            let line = "POST /v1/buckets/a/collections/b/changeset?_expected=0 HTTP/1.1";
            let head = format!("{line}\r\nHost: h\r\nContent-Length: {length}\r\nX-Pad: ");
            let (arriving, late) = body.split_at(8_192);
            client.send(format!("{head:p<4092}\r\n\r\n{arriving}"));
            if is_split {
                assert_eq!(client.read().unwrap().status(), 405);
            }
            client.send(late);
            client.send("\r\n\r\nGET /v1/NEXT HTTP/1.1\r\nHost: h\r\n\r\n");
            assert_eq!(answers(&mut client), if is_split { vec![] } else { vec![405] });
        }
    }
    while let Some(seen) = stub.seen() {
        assert!(!seen.head.contains("SMUGGLED") && !seen.head.contains("NEXT"), "{}", seen.head);
    }
}

#[test]
fn a_target_is_escaped_wherever_its_head_is_cut() {
    let (stub, proxy) = Proxy::greeted();
    let head = "GET /v1/x?_since=\"42\" HTTP/1.1\r\nHost: h\r\n\r\n";
    let mut client = proxy.connect();
    for cut in (1..head.len()).step_by(3) {
        let (first, rest) = head.split_at(cut);
        client.send(first);
        pause();
        client.send(rest);
        assert_eq!(client.read().unwrap().status(), 200, "{cut}");
        assert_eq!(stub.next().line(), "GET /v1/x?_since=%2242%22 HTTP/1.1");
    }
}

#[test]
fn targets_are_escaped_in_requests_that_come_together_also_behind_bodies() {
    let (stub, proxy) = Proxy::greeted();
    let mut client = proxy.connect();
    let get = "GET /v1/x?_since=\"1\" HTTP/1.1\r\nHost: h\r\n\r\n";
    let sized =
        "PUT /v1/y?\"2\" HTTP/1.1\r\nHost: h\r\nContent-Length: 23\r\n\r\n\"<>\r\n\r\nGET /?\" HTTP/1.1";
    let chunked = "PUT /v1/z?\"3\" HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n\"<>\"\r\n2;x=\"\r\n\r\n\r\n0\r\n\r\n";
    for _ in 0..3 {
        client.send([get, sized, get, chunked, get, get].concat());
        for (line, body) in [
            ("GET /v1/x?_since=%221%22 HTTP/1.1", ""),
            ("PUT /v1/y?%222%22 HTTP/1.1", "\"<>\r\n\r\nGET /?\" HTTP/1.1"),
            ("GET /v1/x?_since=%221%22 HTTP/1.1", ""),
            ("PUT /v1/z?%223%22 HTTP/1.1", "\"<>\"\r\n"),
            ("GET /v1/x?_since=%221%22 HTTP/1.1", ""),
            ("GET /v1/x?_since=%221%22 HTTP/1.1", ""),
        ] {
            assert_eq!(client.read().unwrap().status(), 200, "{line}");
            let seen = stub.next();
            assert_eq!((seen.line(), std::str::from_utf8(&seen.body).unwrap()), (line, body));
        }
    }
}

#[test]
fn a_body_that_is_coded_in_more_ways_than_by_chunks_is_not_implemented() {
    let (stub, proxy) = Proxy::greeted();
    for coding in
        ["gzip, chunked", "gzip\r\nTransfer-Encoding: chunked", "chunked, chunked", "deflate,chunked"]
    {
        for path in ["/v1/x", "/v1/buckets/a/collections/b/changeset"] {
            let answer = proxy.ask(format!(
                "PUT {path} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: {coding}\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
            ));
            assert_eq!(answer.status(), 501, "{coding}");
            assert_eq!(answer.json()["code"], 501);
        }
    }
    assert!(!stub.has_next());
    let answer =
        proxy.ask("PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: Chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n");
    assert_eq!(answer.status(), 200);
    assert_eq!(stub.next().body, b"abc");
}

#[test]
fn an_answer_that_is_coded_in_more_ways_than_by_chunks_is_502() {
    let stub =
        Stub::answering("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
    assert_eq!(Proxy::before(&stub).get("/").status(), 502);
}

#[test]
fn fields_are_counted_by_their_bytes() {
    let fields = |number: usize| {
        let fields: Vec<String> = (0..number).map(|n| format!("X-{n}: {n}\r\n")).collect();
        fields.concat()
    };
    let stub = Stub::answering(format!("HTTP/1.1 200 OK\r\n{}Content-Length: 5\r\n\r\nhello", fields(1_000)));
    let proxy = Proxy::before(&stub);
    let answer = proxy.ask(format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", fields(1_000)));
    assert_eq!(answer.status(), 200);
    for number in [0, 999] {
        let (name, value) = (format!("x-{number}"), number.to_string());
        assert_eq!(answer.header(&name), [&*value]);
    }
    assert_eq!(stub.next().header("x-999"), ["999"]);
    assert_eq!(proxy.ask(format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", fields(8_000))).status(), 431);
    let proxy = Proxy::start(&stub.url(), &["sidecar.max_header=8KiB"]);
    assert_eq!(proxy.get("/").status(), 502);
}

#[test]
fn a_client_that_has_sent_its_last_request_gets_its_answers() {
    let stub = Stub::start(|mut upstream| {
        while upstream.read().is_some() {
            // Long enough for the end to be seen first.
            pause();
            upstream.write(HELLO);
        }
    });
    let proxy = Proxy::before(&stub);
    let get = "GET /v1/x HTTP/1.1\r\nHost: h\r\n\r\n";
    let put = "PUT /v1/x HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc";
    for (requests, count) in [(get.to_owned(), 1), (put.to_owned(), 1), ([get, put, get].concat(), 3)] {
        let mut client = proxy.connect();
        client.send(&requests);
        client.0.get_ref().shutdown(Shutdown::Write).unwrap();
        assert_eq!(answers(&mut client), vec![200; count], "{requests}");
    }
}

#[test]
fn a_large_answer_reaches_a_client_that_has_sent_its_last_request_and_reads_slowly() {
    const LENGTH: usize = 16 << 20;
    let mut answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n").into_bytes();
    answer.resize(answer.len() + LENGTH, b'x');
    let stub = Stub::answering(answer);
    let proxy = Proxy::before(&stub);
    let mut client = proxy.connect();
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    client.0.get_ref().shutdown(Shutdown::Write).unwrap();
    assert_eq!(status(&client.read_head().unwrap()), 200);
    let mut body = vec![0; LENGTH];
    for piece in body.chunks_mut(1 << 20) {
        std::io::Read::read_exact(&mut client.0, piece).unwrap();
        pause();
    }
    assert!(client.is_closed());
}

#[test]
fn a_request_that_breaks_off_with_its_client_is_not_answered_as_if_it_were_whole() {
    let (_stub, proxy) = Proxy::greeted();
    for part in [
        "GET / HTTP/1.1\r\nHost",
        "PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc",
        "PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ] {
        let mut client = proxy.connect();
        client.send(part);
        client.0.get_ref().shutdown(Shutdown::Write).unwrap();
        assert!(answers(&mut client).iter().all(|status| *status == 400), "{part}");
    }
}

#[test]
fn a_client_that_went_away_is_not_waited_for_as_long_as_its_answer_takes() {
    let stub = Stub::start(|mut upstream| {
        upstream.read();
        upstream.wait_for_close();
    });
    let proxy = Proxy::start(&stub.url(), &["sidecar.body_timeout=300ms", "sidecar.max_connections=1"]);
    let mut gone = proxy.connect();
    gone.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    stub.next();
    gone.close();
    // There is room for one connection only.
    proxy.connect().send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    stub.next();
}
