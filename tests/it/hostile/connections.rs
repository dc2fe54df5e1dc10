//! Connections that ask for nothing, or for what never ends.

use std::net::TcpStream;
use std::time::Duration;

use super::{ask_as_other, bounded, connect_as, public, unread, unread_as};

#[tokio::test]
async fn connections_of_one_address_keep_nobody_else_out() {
    let settings = [("sidecar.max_connections", "60"), ("sidecar.max_connections_per_client", "50")];
    let (sidecar, collection) = public(&settings).await;
    let feed = format!("GET /v1{collection}/_changes?feed=continuous&since=now&heartbeat=10000 HTTP/1.1\r\n");
    bounded(&sidecar, "idle connections", || {
        let idle: Vec<_> = (0..200).map(|_| TcpStream::connect(sidecar.address()).unwrap()).collect();
        assert_eq!(ask_as_other(sidecar.address(), "GET /v1/__broadcasts__ HTTP/1.1\r\n"), Some(200));
        drop(idle);
    });
    bounded(&sidecar, "feeds", || {
        let feeds = unread(sidecar.address(), 100, &feed, "");
        assert_eq!(ask_as_other(sidecar.address(), "GET /v1/__broadcasts__ HTTP/1.1\r\n"), Some(200));
        drop(feeds);
    });
}

#[tokio::test]
async fn connections_of_several_addresses_keep_nobody_else_out() {
    let settings = [("sidecar.max_connections", "40"), ("sidecar.max_connections_per_client", "30")];
    let (sidecar, collection) = public(&settings).await;
    let feed = format!("GET /v1{collection}/_changes?feed=continuous&since=now&heartbeat=10000 HTTP/1.1\r\n");
    bounded(&sidecar, "idle connections", || {
        let idle: Vec<_> =
            (0..51).map(|number| connect_as(3 + number % 3, sidecar.address()).unwrap()).collect();
        assert_eq!(ask_as_other(sidecar.address(), "GET /v1/__broadcasts__ HTTP/1.1\r\n"), Some(200));
        drop(idle);
    });
    bounded(&sidecar, "feeds", || {
        // One by one: each has its answer, which goes on, before the next one comes.
        let feeds: Vec<_> = (0..44)
            .flat_map(|number| unread_as(3 + number % 3, sidecar.address(), 1, &feed, ""))
            .inspect(|feed| {
                feed.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
                let _ = feed.peek(&mut [0]);
            })
            .collect();
        assert_eq!(ask_as_other(sidecar.address(), "GET /v1/__broadcasts__ HTTP/1.1\r\n"), Some(200));
        drop(feeds);
    });
}
