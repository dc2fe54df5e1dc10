//! What the caches in front of a sidecar only pass on: they hold nobody up, and find it again when it has moved.

use std::net::{TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use serde_json::json;

use super::{Cache, Kind, free_port, origin};
use crate::support::stub::{Raw, Stub};
use crate::support::{Client, eventually};

/// Those who wait for a lock in nginx are let through after five seconds.
const BEFORE_LOCKS_OPEN: Duration = Duration::from_secs(4);

/// An origin whose first answers come when so many requests have.
fn patient(readers: usize) -> Stub {
    let arrived = (Mutex::new(0), Condvar::new());
    Stub::start(move |mut upstream| {
        while upstream.read().is_some() {
            let (count, changed) = &arrived;
            let mut count = count.lock().unwrap();
            *count += 1;
            changed.notify_all();
            let waited =
                changed.wait_timeout_while(count, BEFORE_LOCKS_OPEN, |count| *count < readers).unwrap();
            let status = if waited.1.timed_out() { "500 Alone" } else { "200 OK" };
            drop(waited);
            upstream.write(format!(
                "HTTP/1.1 {status}\r\nCache-Control: no-cache, no-store\r\nContent-Length: 2\r\n\r\n{{}}"
            ));
        }
    })
}

#[tokio::test]
async fn nobody_waits_in_nginx_for_what_is_for_no_cache() {
    let stub = patient(8);
    let Some(cache) = Cache::start(Kind::Nginx, free_port(), &stub.address.to_string()) else { return };
    let readers: Vec<_> = (0..8)
        .map(|_| {
            let client = cache.client();
            tokio::spawn(async move {
                client.get("/buckets/a/collections/b/changeset?_expected=0").await.expect(200);
            })
        })
        .collect();
    for reader in readers {
        reader.await.unwrap();
    }
}

async fn live_feeds_are_passed_on(kind: Kind) {
    let (sidecar, collection) = origin("system.Everyone", None).await;
    let Some(cache) = Cache::start(kind, free_port(), sidecar.address()) else { return };
    // Two who want exactly the same.
    let mut readers = [(); 2].map(|()| Raw::connect(cache.address().parse().unwrap()));
    for reader in &mut readers {
        let target = format!("/v1{collection}/_changes?feed=continuous&since=now");
        reader.send(format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n"));
        let head = reader.read_head().unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    }
    let alice = Client::new(sidecar.address()).user("alice");
    alice.put(&format!("{collection}/records/told")).data(json!({})).await.expect(201);
    for reader in &mut readers {
        let mut told = String::new();
        while !told.contains("\"id\":\"told\"") {
            assert!(std::io::BufRead::read_line(&mut reader.0, &mut told).unwrap() > 0, "{told}");
        }
    }
}

#[tokio::test]
async fn readers_of_a_live_feed_are_told_through_nginx_at_once() {
    live_feeds_are_passed_on(Kind::Nginx).await;
}

#[tokio::test]
async fn readers_of_a_live_feed_are_told_through_varnish_at_once() {
    live_feeds_are_passed_on(Kind::Varnish).await;
}

/// A name server, which says that every name is at `127.0.0.N`, for the `N` that is set.
fn name_server(last: &Arc<AtomicU8>) -> String {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap().to_string();
    let last = Arc::clone(last);
    std::thread::spawn(move || {
        let mut question = [0; 512];
        while let Ok((length, client)) = socket.recv_from(&mut question) {
            let question = &question[..length];
            // The question's name ends with an empty label; its type follows.
            let end = 12 + question[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
            let is_ipv4 = question[end - 4..end - 2] == [0, 1];
            let mut answer = question[..2].to_vec();
            answer.extend([0x81, 0x80, 0, 1, 0, u8::from(is_ipv4), 0, 0, 0, 0]);
            answer.extend(&question[12..end]);
            if is_ipv4 {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
                answer.extend([127, 0, 0, last.load(Ordering::Relaxed)]);
            }
            let _ = socket.send_to(&answer, client);
        }
    });
    address
}

#[tokio::test]
async fn nginx_finds_a_sidecar_that_came_back_at_another_address() {
    let first = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = first.local_addr().unwrap().port();
    let second = TcpListener::bind(("127.0.0.2", port)).unwrap();
    let said = |name| format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{name}");
    let (_first, _second) = (Stub::answering_on(first, said('1')), Stub::answering_on(second, said('2')));

    let last = Arc::new(AtomicU8::new(1));
    let (resolver, origin) = (name_server(&last), format!("sidecar.test:{port}"));
    let change = |text: String| text.replace("127.0.0.11 valid=10s", &format!("{resolver} valid=1s"));
    let Some(cache) = Cache::start_changed(Kind::Nginx, free_port(), &origin, change) else { return };
    assert_eq!(cache.client().get("/a").await.expect(200).body, "1");
    last.store(2, Ordering::Relaxed);
    eventually("the name is looked up again", async || {
        (cache.client().get("/a").await.expect(200).body == "2").then_some(())
    })
    .await;
}
