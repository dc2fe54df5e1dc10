//! What a client may take of time and space, and what it is told past that.

use std::time::Duration;

use crate::support::Sidecar;
use crate::support::stub::{HELLO, Proxy, Raw, Stub, status};

#[test]
fn a_body_that_says_it_is_too_large_is_413_at_once() {
    let stub = Stub::answering(HELLO);
    let proxy = Proxy::start(&stub.url(), &["sidecar.max_body=1KiB"]);
    let answer = proxy.ask("PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 1025\r\n\r\n");
    assert_eq!(answer.status(), 413);
    assert_eq!(answer.json()["errno"], 113);
    assert!(!stub.has_next());
}

#[test]
fn a_chunked_body_is_413_once_it_is_too_large() {
    let stub = Stub::answering(HELLO);
    let proxy = Proxy::start(&stub.url(), &["sidecar.max_body=1KiB"]);
    let chunk = format!("200\r\n{}\r\n", "x".repeat(512));
    let send = |chunks: usize| {
        proxy.ask(format!(
            "PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n",
            chunk.repeat(chunks)
        ))
    };
    assert_eq!(send(3).status(), 413);
    assert_eq!(send(2).status(), 200);
}

#[test]
fn a_body_that_stops_arriving_is_408() {
    let stub = Stub::answering(HELLO);
    let proxy = Proxy::start(&stub.url(), &["sidecar.body_timeout=300ms"]);
    let answer = proxy.ask("PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc");
    assert_eq!(answer.status(), 408);
    assert_eq!(answer.json()["code"], 408);
}

#[test]
fn a_head_that_does_not_arrive_closes_the_connection() {
    let stub = Stub::answering(HELLO);
    let proxy = Proxy::start(&stub.url(), &["sidecar.header_timeout=300ms"]);
    // Nothing at all, the beginning of a first head, and that of a second one.
    assert!(proxy.connect().is_closed());
    assert!(proxy.connect().send("GET / HTT").is_closed());
    assert!(proxy.connect().send("P").is_closed());
    let mut client = proxy.connect();
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n").read().unwrap();
    assert!(client.send("GET / HTTP/1.1\r\nHo").is_closed());
}

#[test]
fn a_head_that_trickles_in_closes_the_connection_too() {
    let stub = Stub::answering(HELLO);
    let proxy = Proxy::start(&stub.url(), &["sidecar.header_timeout=300ms"]);
    let mut client = proxy.connect();
    client.send("GET / HTTP/1.1\r\nX: ");
    client.0.get_ref().set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    for _ in 0..500 {
        client.send("a");
        // A read that runs into its time-out finds the connection open.
        match std::io::Read::read(&mut client.0, &mut [0]) {
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock) => {}
            _ => return,
        }
    }
    panic!("the connection is still open");
}

#[test]
fn an_idle_connection_outlives_the_time_for_a_head_but_not_its_own() {
    let stub = Stub::answering(HELLO);
    let proxy = Proxy::start(&stub.url(), &["sidecar.header_timeout=200ms", "sidecar.idle_timeout=1500ms"]);
    let mut client = proxy.connect();
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n").read().unwrap();
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!(client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n").read().unwrap().status(), 200);
    assert!(client.is_closed());
}

#[test]
fn a_slow_answer_is_not_taken_for_an_idle_connection() {
    let stub = Stub::start(|mut upstream| {
        upstream.read();
        std::thread::sleep(Duration::from_millis(800));
        upstream.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n");
        std::thread::sleep(Duration::from_millis(800));
        upstream.write("1\r\nb\r\n0\r\n\r\n");
    });
    let proxy = Proxy::start(&stub.url(), &["sidecar.header_timeout=200ms", "sidecar.idle_timeout=200ms"]);
    assert_eq!(proxy.get("/").text(), "ab");
}

#[test]
fn a_client_that_does_not_read_its_answer_is_let_go() {
    let stub = Stub::start(|mut upstream| {
        upstream.read();
        upstream.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        let chunk = [b"10000\r\n".to_vec(), vec![b'x'; 0x10000], b"\r\n".to_vec()].concat();
        // Ends when the sidecar gives up.
        while std::io::Write::write_all(upstream.stream.get_mut(), &chunk).is_ok() {}
    });
    let proxy = Proxy::start(&stub.url(), &["sidecar.body_timeout=500ms"]);
    let mut client = proxy.connect();
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(status(&client.read_head().unwrap()), 200);
    std::thread::sleep(Duration::from_secs(2));
    // What was on its way still arrives, and then it ends without being whole.
    let mut rest = Vec::new();
    let _ = std::io::Read::read_to_end(&mut client.0, &mut rest);
    assert!(!rest.ends_with(b"0\r\n\r\n"));
}

#[test]
fn more_connections_than_allowed_take_the_place_of_the_one_that_is_idle_for_longest() {
    let stub = Stub::answering(HELLO);
    let proxy = Proxy::start(&stub.url(), &["sidecar.max_connections=2"]);
    let ask = |client: &mut Raw| {
        client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        client.read().unwrap().status()
    };
    let (mut one, mut two) = (proxy.connect(), proxy.connect());
    assert_eq!((ask(&mut one), ask(&mut two)), (200, 200));
    let mut three = proxy.connect();
    assert_eq!(ask(&mut three), 200);
    // Both had done as much when it was looked.
    assert!(one.is_closed());
    assert_eq!((ask(&mut two), ask(&mut three)), (200, 200));
}

#[test]
fn where_few_files_may_be_opened_idle_clients_keep_nobody_out() {
    let stub = Stub::answering(HELLO);
    let starter = ["sh", "-c", "ulimit -n 200; exec \"$@\"", "sh"].map(str::to_owned).to_vec();
    let settings = [("sidecar.history", "off"), ("sidecar.admin_listen", "127.0.0.1:0")];
    let sidecar = Sidecar::start_by(starter, stub.url(), &settings);
    assert!(sidecar.log().contains("the process may open 200 files"), "{}", sidecar.log());
    let client = |_| {
        let mut client = sidecar.connect();
        client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        assert_eq!(client.read().unwrap().status(), 200);
        client
    };
    let clients: Vec<Raw> = (0..300).map(client).collect();
    let mut operator = Raw::connect(sidecar.admin().unwrap().parse().unwrap());
    operator.send("GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n");
    let metrics = operator.read().unwrap();
    assert!(metrics.text().contains("kinto_sidecar_connections_limit 75"), "{}", metrics.text());
    assert!(!sidecar.log().contains("cannot accept a connection"), "{}", sidecar.log());
    drop(clients);
}

#[test]
fn connections_with_a_request_under_way_are_waited_for() {
    let stub = Stub::start(|mut upstream| {
        while let Some(seen) = upstream.read() {
            if seen.line().contains("/slow") {
                std::thread::sleep(Duration::from_millis(500));
            }
            upstream.write(HELLO);
        }
    });
    let proxy = Proxy::start(&stub.url(), &["sidecar.max_connections=2"]);
    let (mut one, mut two) = (proxy.connect(), proxy.connect());
    one.send("GET /slow HTTP/1.1\r\nHost: h\r\n\r\n");
    two.send("GET /slow HTTP/1.1\r\nHost: h\r\n\r\n");
    stub.next();
    stub.next();
    let mut three = proxy.connect();
    three.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(three.read().unwrap().status(), 200);
    // The answers were not cut.
    assert_eq!((one.read().unwrap().text(), two.read().unwrap().text()), ("hello", "hello"));
}

#[test]
fn one_client_has_no_more_connections_than_its_share() {
    let stub = Stub::answering(HELLO);
    let settings = ["sidecar.max_connections_per_client=2"];
    let proxy = Proxy::start(&stub.url(), &settings);
    let mut clients: Vec<Raw> = Vec::new();
    for _ in 0..3 {
        let mut client = proxy.connect();
        client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        assert_eq!(client.read().unwrap().status(), 200);
        clients.push(client);
    }
    // Of two that had done as much when it was looked, the first goes.
    assert!(clients[0].is_closed());
    for client in &mut clients[1..] {
        client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        assert_eq!(client.read().unwrap().status(), 200);
    }
    // A proxy that is trusted has those of many.
    let proxy = Proxy::start(&stub.url(), &[settings[0], "sidecar.trusted_proxies=127.0.0.1"]);
    let mut clients: Vec<Raw> = (0..5).map(|_| proxy.connect()).collect();
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        assert_eq!(client.read().unwrap().status(), 200);
    }
}
