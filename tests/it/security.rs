//! What attackers try on the way through a gateway, over raw sockets.

use crate::support::stub::{HELLO, Proxy, Stub};

/// Every answer that comes on one connection until the server closes it.
fn statuses(proxy: &Proxy, bytes: impl AsRef<[u8]>) -> Vec<u16> {
    let mut client = proxy.connect();
    client.send(bytes);
    let mut statuses = Vec::new();
    while let Some(answer) = client.read() {
        statuses.push(answer.status());
    }
    statuses
}

#[test]
fn a_length_beside_chunks_cannot_smuggle_a_request() {
    let (stub, proxy) = Proxy::greeted();
    for framing in
        ["Content-Length: 5\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked\r\nContent-Length: 5"]
    {
        let answers = statuses(
            &proxy,
            format!(
                "POST /v1/x HTTP/1.1\r\nHost: h\r\n{framing}\r\n\r\n0\r\n\r\nGET /v1/secret HTTP/1.1\r\nHost: h\r\n\r\n"
            ),
        );
        // RFC 9112 §6.3: the chunks count, and the connection is not used again.
        assert_eq!(answers.len(), 1, "{framing}");
        let seen = stub.next();
        assert!(seen.header("content-length").is_empty() || seen.header("transfer-encoding").is_empty());
        assert!(seen.body.is_empty());
        assert!(!stub.has_next(), "{framing}");
    }
}

#[test]
fn malformed_framing_is_refused_and_the_connection_closed() {
    let (stub, proxy) = Proxy::greeted();
    for framing in [
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5, 6",
        "Content-Length: +5",
        "Content-Length: -1",
        "Content-Length: 0x5",
        "Content-Length : 5",
        "Content-Length: 99999999999999999999",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding : chunked",
        " Transfer-Encoding: chunked",
        "Transfer-Encoding:\r\n chunked",
        "X: a\r\n b",
        "X: a\0b",
        "X\u{b}: a",
    ] {
        let request =
            format!("POST / HTTP/1.1\r\nHost: h\r\n{framing}\r\n\r\nhelloGET / HTTP/1.1\r\nHost: h\r\n\r\n");
        let answers = statuses(&proxy, request);
        assert!(answers.is_empty() || answers == [400], "{framing}: {answers:?}");
        assert!(!stub.has_next(), "{framing}");
    }
}

#[test]
fn a_malformed_chunk_never_reaches_the_upstream_as_a_whole_body() {
    let stub = Stub::start(|mut upstream| {
        while let Some(seen) = upstream.read() {
            upstream.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", seen.body.len()));
        }
    });
    let proxy = Proxy::before(&stub);
    for chunks in [
        "zz\r\nabc\r\n0\r\n\r\n", "3\r\nabcd\r\n0\r\n\r\n", "-3\r\nabc\r\n0\r\n\r\n", "3 x\nabc\r\n0\r\n\r\n",
    ] {
        let request = format!("PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}");
        assert!(statuses(&proxy, request).iter().all(|status| *status != 200), "{chunks:?}");
    }
}

#[test]
fn more_than_one_host_is_refused() {
    let (stub, proxy) = Proxy::greeted();
    for hosts in [
        "Host: a\r\nHost: b", "Host: a\r\nHost: a", "X: y", "Host: a, b", "Host: a/b", "Host: u@a",
        "Host: a b",
    ] {
        let answer = proxy.ask(format!("GET / HTTP/1.1\r\n{hosts}\r\n\r\n"));
        assert_eq!(answer.status(), 400, "{hosts}");
        assert_eq!(answer.json()["code"], 400);
    }
    assert!(!stub.has_next());
}

#[test]
fn connection_cannot_name_away_what_a_request_means() {
    let (stub, proxy) = Proxy::greeted();
    proxy.ask(
        "PUT / HTTP/1.1\r\nHost: h\r\nAuthorization: Basic x\r\nIf-None-Match: *\r\nCookie: a\r\nContent-Length: 2\r\nContent-Type: application/json\r\nConnection: authorization, if-none-match, cookie, content-length, content-type, host, x-forwarded-for, forwarded, bad name, ,\r\n\r\n{}",
    );
    let seen = stub.next();
    for name in [
        "authorization", "if-none-match", "cookie", "content-length", "content-type", "host",
        "x-forwarded-for", "forwarded",
    ] {
        assert_eq!(seen.header(name).len(), 1, "{name} in {}", seen.head);
    }
    assert_eq!(seen.body, b"{}");
}

#[test]
fn what_a_client_says_of_itself_is_not_believed() {
    let (stub, proxy) = Proxy::greeted();
    proxy.ask(
        "GET / HTTP/1.1\r\nHost: h\r\nForwarded: for=1.1.1.1\r\nX-Forwarded-For: 1.1.1.1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\nX-Forwarded-Port: 1\r\nX-Forwarded-Prefix: /e\r\nX-Real-Ip: 1.1.1.1\r\n\r\n",
    );
    let seen = stub.next();
    assert_eq!(seen.header("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(seen.header("x-forwarded-proto"), ["http"]);
    assert_eq!(seen.header("x-forwarded-host"), ["h"]);
    assert_eq!(seen.header("forwarded"), ["for=127.0.0.1;host=\"h\";proto=http"]);
    for name in ["x-forwarded-port", "x-forwarded-prefix", "x-real-ip"] {
        assert!(seen.header(name).is_empty(), "{name}");
    }
}

#[test]
fn what_a_trusted_proxy_says_is_kept_and_added_to() {
    let stub = Stub::answering(HELLO);
    let proxy = Proxy::start(&stub.url(), &["sidecar.trusted_proxies=127.0.0.0/8"]);
    proxy.ask(
        "GET / HTTP/1.1\r\nHost: h\r\nForwarded: for=1.1.1.1\r\nX-Forwarded-For: 1.1.1.1\r\nX-Forwarded-For: 2.2.2.2\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: public.test\r\n\r\n",
    );
    let seen = stub.next();
    assert_eq!(seen.header("x-forwarded-for"), ["1.1.1.1, 2.2.2.2, 127.0.0.1"]);
    assert_eq!(seen.header("x-forwarded-proto"), ["https"]);
    assert_eq!(seen.header("x-forwarded-host"), ["public.test"]);
    assert_eq!(seen.header("forwarded"), ["for=1.1.1.1, for=127.0.0.1;host=\"h\";proto=http"]);
}

#[test]
fn header_bombs_are_refused() {
    let (stub, proxy) = Proxy::greeted();
    let large = format!("GET / HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n", "a".repeat(100 << 10));
    let many = format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", "X: a\r\n".repeat(10_000));
    let endless = format!("GET / HTTP/1.1\r\nHost: h\r\nX: {}", "a".repeat(1 << 20));
    for bomb in [large, many, endless] {
        let answers = statuses(&proxy, bomb);
        assert!(answers.is_empty() || answers == [431], "{answers:?}");
    }
    assert!(!stub.has_next());
    assert_eq!(proxy.get("/").status(), 200);
}

#[test]
fn a_length_beside_chunks_in_an_answer_is_not_passed_on() {
    let stub = Stub::answering(
        "HTTP/1.1 200 OK\r\nContent-Length: 50\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    );
    let answer = Proxy::before(&stub).get("/");
    assert!(answer.header("content-length").is_empty(), "{}", answer.head);
    assert_eq!(answer.text(), "hello");
}
