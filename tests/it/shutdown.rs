//! Start and stop: ready at once, whatever the upstream does, and nothing that was begun is lost.

use std::io::Read;
use std::process::Command;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustix::process::Signal;

use crate::support::stub::{HELLO, PATIENCE, Proxy, Raw, Stub};
use crate::support::{Sidecar, eventually};

#[test]
fn starting_does_not_wait_for_the_upstream() {
    // An address that nothing answers from.
    let begun = Instant::now();
    let _proxy = Proxy::start("http://192.0.2.1:9/v1", &[]);
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[test]
fn an_address_that_is_taken_is_told_at_once() {
    let stub = Stub::answering(HELLO);
    let output = Command::new(env!("CARGO_BIN_EXE_kinto-sidecar"))
        .args(["--listen", &stub.address.to_string(), "--upstream", &stub.url(), "--history", "off"])
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains(&stub.address.to_string()));
}

#[test]
fn what_is_under_way_is_finished_before_the_process_ends() {
    let (go_on, wait) = channel();
    let wait = std::sync::Mutex::new(wait);
    let stub = Stub::start(move |mut upstream| {
        upstream.read();
        wait.lock().unwrap().recv_timeout(PATIENCE).unwrap();
        upstream.write(HELLO);
    });
    for signal in ["-TERM", "-INT"] {
        let mut proxy = Proxy::before(&stub);
        let mut idle = proxy.connect();
        let mut client = proxy.connect();
        client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        stub.next();
        proxy.signal(signal);
        // The idle connection ends first: it shows that the stop has begun.
        assert!(idle.is_closed());
        go_on.send(()).unwrap();
        let answer = client.read().unwrap();
        assert_eq!(answer.text(), "hello");
        assert!(client.is_closed());
        assert_eq!(proxy.child.wait().unwrap().code(), Some(0));
    }
}

#[test]
fn a_second_signal_ends_the_process_at_once() {
    let stub = Stub::start(|mut upstream| {
        upstream.read();
        upstream.wait_for_close();
    });
    let mut proxy = Proxy::before(&stub);
    let mut idle = proxy.connect();
    let mut client = proxy.connect();
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    stub.next();
    proxy.signal("-TERM");
    assert!(idle.is_closed());
    let begun = Instant::now();
    proxy.signal("-TERM");
    proxy.child.wait().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[test]
fn what_does_not_end_by_itself_is_cut_off_when_the_grace_is_over() {
    let stub = Stub::start(|mut upstream| {
        upstream.read();
        upstream.wait_for_close();
    });
    let mut proxy = Proxy::start(&stub.url(), &["sidecar.shutdown_grace=300ms"]);
    let mut client = proxy.connect();
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    stub.next();
    proxy.signal("-TERM");
    assert_eq!(proxy.child.wait().unwrap().code(), Some(0));
    assert!(client.0.read(&mut [0]).is_ok_and(|read| read == 0));
}

#[test]
fn signals_that_mean_something_to_other_servers_end_nothing() {
    let stub = Stub::answering(HELLO);
    let sidecar = Sidecar::start(stub.url(), &[("sidecar.changes", "off"), ("sidecar.history", "off")]);
    for signal in [Signal::HUP, Signal::USR1, Signal::USR2] {
        sidecar.signal(signal);
    }
    let until = Instant::now() + PATIENCE;
    while !sidecar.log().contains("settings were read again, and are what they were") {
        assert!(Instant::now() < until, "{}", sidecar.log());
        std::thread::yield_now();
    }
    let answer = sidecar.connect().send("GET /v1/x HTTP/1.1\r\nHost: h\r\n\r\n").read().unwrap();
    assert_eq!(answer.text(), "hello");
}

const GET: &str = "GET /v1/x HTTP/1.1\r\nHost: h\r\n\r\n";

fn draining(stub: &Stub, delay: &str) -> Sidecar {
    let settings = [
        ("sidecar.changes", "off"),
        ("sidecar.history", "off"),
        ("sidecar.admin_listen", "127.0.0.1:0"),
        ("sidecar.drain_delay", delay),
    ];
    Sidecar::start(stub.url(), &settings)
}

fn is_ready(sidecar: &Sidecar) -> bool {
    let mut operator = Raw::connect(sidecar.admin().unwrap().parse().unwrap());
    let answer = operator.send("GET /health/ready HTTP/1.1\r\nHost: h\r\n\r\n").read().unwrap();
    answer.status() == 200
}

#[tokio::test]
async fn who_drains_serves_on_is_not_ready_and_ends_each_connection_with_an_answer() {
    let stub = Stub::answering(HELLO);
    let mut sidecar = draining(&stub, "1h");
    let mut idle = sidecar.connect();
    assert!(idle.send(GET).read().unwrap().header("connection").is_empty());
    let stream = tokio::net::TcpStream::connect(sidecar.address()).await.unwrap();
    let (mut http2, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let http2_connection = tokio::spawn(connection);
    let request = Request::builder().uri("http://h/v1/x").body(Empty::<Bytes>::new()).unwrap();
    let answer = http2.send_request(request).await.unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "hello");

    assert!(is_ready(&sidecar));
    sidecar.terminate();
    eventually("it is not ready", async || (!is_ready(&sidecar)).then_some(())).await;
    // HTTP/2 has a word for it, HTTP/1.1 has one with the next answer.
    http2_connection.await.unwrap().unwrap();
    for mut client in [idle, sidecar.connect()] {
        let answer = client.send(GET).read().unwrap();
        assert_eq!((answer.text(), answer.header("connection")), ("hello", vec!["close"]));
        assert!(client.is_closed());
    }
    sidecar.terminate();
    assert_eq!(sidecar.wait(PATIENCE).unwrap().code(), Some(0));
}

#[tokio::test]
async fn draining_ends_with_the_process() {
    let mut sidecar = draining(&Stub::answering(HELLO), "100ms");
    let mut idle = sidecar.connect();
    idle.send(GET).read().unwrap();
    sidecar.terminate();
    assert!(idle.is_closed());
    assert_eq!(sidecar.wait(PATIENCE).unwrap().code(), Some(0));
}
