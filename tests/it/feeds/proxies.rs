//! Feeds on their way: over HTTP/2, and through the nginx and Varnish of `deploy/`, which keep nothing back.

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::World;
use super::follower::Follower;
use crate::deploy::{Cache, Kind, free_port};

async fn nothing_is_kept_back(kind: Kind) {
    let world = World::new(&[]).await;
    let Some(cache) = Cache::start(kind, free_port(), world.sidecar.address()) else { return };
    let first = world.write("first", json!({})).await;
    // The same address twice: nobody waits for the answer of another to end.
    let path = world.feed("feed=continuous&since=0&heartbeat=1000");
    let mut feeds = [
        Follower::open_at(&cache.address(), &path, &[("accept-encoding", "gzip, br, zstd")]).await,
        Follower::open_at(&cache.address(), &path, &[("accept-encoding", "gzip, br, zstd")]).await,
    ];
    let path = world.feed("feed=eventsource&since=now&heartbeat=1000");
    let mut events = Follower::open_at(&cache.address(), &path, &[]).await;
    let path = world.feed("feed=longpoll&since=now&heartbeat=1000");
    let mut poll = Follower::open_at(&cache.address(), &path, &[]).await;
    assert_eq!(poll.line().await.unwrap(), "{\"results\":[");
    for feed in &mut feeds {
        assert_eq!(feed.status, 200);
        assert!(!feed.headers.contains_key("content-encoding"));
        assert_eq!(feed.row().await.unwrap()["seq"], first);
        for _ in 0..2 {
            assert_eq!(feed.line().await.unwrap(), "");
        }
    }
    events.event().await.unwrap();
    assert_eq!(events.event().await.unwrap().name.as_deref(), Some("heartbeat"));
    let second = world.write("second", json!({})).await;
    for feed in &mut feeds {
        assert_eq!(feed.row().await.unwrap()["seq"], second);
    }
    let id = loop {
        let event = events.event().await.unwrap();
        if event.name.is_none() {
            break event.id;
        }
    };
    assert_eq!(id, Some(second.to_string()));
    let row = poll.row().await.unwrap();
    assert_eq!(row["seq"], second);
}

#[tokio::test]
async fn nginx_keeps_nothing_back() {
    nothing_is_kept_back(Kind::Nginx).await;
}

#[tokio::test]
async fn varnish_keeps_nothing_back() {
    nothing_is_kept_back(Kind::Varnish).await;
}

#[tokio::test]
async fn one_http2_connection_carries_many_feeds() {
    let world = World::new(&[]).await;
    let stream = TcpStream::connect(world.sidecar.address()).await.unwrap();
    let (sender, connection) = hyper::client::conn::http2::handshake::<_, _, Full<Bytes>>(
        TokioExecutor::new(),
        TokioIo::new(stream),
    )
    .await
    .unwrap();
    tokio::spawn(connection);
    let mut feeds = Vec::new();
    for number in 0..20 {
        let mode = if number % 2 == 0 { "continuous" } else { "eventsource" };
        let path = world.feed(&format!("feed={mode}&since=now&heartbeat=60000"));
        let request = Request::get(format!("http://{}/v1{path}", world.sidecar.address()));
        let answer = sender.clone().send_request(request.body(Full::default()).unwrap()).await.unwrap();
        assert_eq!(answer.status(), 200);
        feeds.push(answer.into_body());
    }
    let seq = world.write("r", json!({})).await;
    for feed in &mut feeds {
        let mut text = String::new();
        while !text.contains(&seq.to_string()) {
            let frame = feed.frame().await.expect("the feed goes on").unwrap();
            text.push_str(std::str::from_utf8(&frame.into_data().unwrap_or_default()).unwrap());
        }
        let row = text.lines().find_map(|line| line.trim_start_matches("data: ").strip_prefix('{')).unwrap();
        let row: Value = serde_json::from_str(&format!("{{{row}")).unwrap();
        assert_eq!(row["seq"], seq);
    }
}
