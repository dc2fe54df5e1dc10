//! Connections that ask for nothing, or for what never ends.

use std::net::TcpStream;

use super::{ask_as_other, bounded, public, unread};

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
