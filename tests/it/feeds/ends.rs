//! How live feeds end: with the permission, with the collection, with the process, for want of seats, and unread.

use std::io::Read;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use futures_util::future::join_all;
use serde_json::json;
use tokio::task::JoinSet;

use super::World;
use super::follower::{Event, Follower};
use crate::support::{Kinto, KintoOptions, eventually, unique};

const ALICE: (&str, &str) = ("authorization", "Basic YWxpY2U6c2VjcmV0");

#[tokio::test]
async fn who_loses_the_permission_is_told_no_more() {
    let world = World::new(&[("sidecar.permission_ttl", "1h")]).await;
    let path = world.feed("feed=continuous&since=now&heartbeat=60000");
    let mut anonymous = Follower::open(&world.sidecar, &path, &[]).await;
    let mut alice = Follower::open(&world.sidecar, &path, &[ALICE]).await;
    for feed in [&mut anonymous, &mut alice] {
        assert_eq!(feed.line().await.unwrap(), "");
    }
    world.alice.put(&world.bucket).json(json!({"permissions": {"read": []}})).await.expect(200);
    let last = anonymous.row().await.unwrap();
    assert_eq!(last["pending"], 0, "{last}");
    assert!(anonymous.row().await.is_none());
    let seq = world.write("secret", json!({})).await;
    assert_eq!(alice.row().await.unwrap()["seq"], seq);
    assert_eq!(Follower::open(&world.sidecar, &path, &[]).await.status, 401);
}

#[tokio::test]
async fn nothing_that_is_written_after_a_permission_was_taken_reaches_who_had_it_however_many_read() {
    let world = World::new(&[("sidecar.permission_ttl", "1h")]).await;
    let path = world.feed("feed=continuous&since=now&heartbeat=60000");
    let open = async |number: u32| {
        let credentials = format!("Basic {}", BASE64_STANDARD.encode(format!("stranger{number}:x")));
        Follower::open(&world.sidecar, &path, &[("authorization", &credentials)]).await
    };
    let mut strangers = join_all((0..60).map(open)).await;
    let mut alice = Follower::open(&world.sidecar, &path, &[ALICE]).await;
    for feed in strangers.iter_mut().chain([&mut alice]) {
        assert_eq!(feed.line().await.unwrap(), "");
    }
    let withdrawn = json!({"permissions": {"read": []}});
    world.alice.put(&world.bucket).json(withdrawn).await.expect(200);
    let seq = world.write("secret", json!({})).await;
    assert_eq!(alice.row().await.unwrap()["seq"], seq);
    for mut stranger in strangers {
        let last = stranger.row().await.unwrap();
        assert_eq!(last["pending"], 0, "{last}");
        assert!(stranger.row().await.is_none());
    }
}

#[tokio::test]
async fn who_changes_groups_of_their_own_without_end_keeps_no_live_reader_waiting() {
    // Other tests have theirs for themselves.
    let kinto = Kinto::start(KintoOptions::memory());
    let world = World::before(&kinto, &[("sidecar.permission_ttl", "1h")]).await;
    let path = world.feed("feed=continuous&since=now&heartbeat=60000");
    let mut alice = Follower::open(&world.sidecar, &path, &[ALICE]).await;
    let stranger = format!("Basic {}", BASE64_STANDARD.encode("stranger:x"));
    let mut stranger = Follower::open(&world.sidecar, &path, &[("authorization", &stranger)]).await;
    for feed in [&mut alice, &mut stranger] {
        assert_eq!(feed.line().await.unwrap(), "");
    }
    let bucket = format!("/buckets/{}", unique("mallory"));
    world.sidecar.client().user("mallory").put(&bucket).await.expect(201);
    let mut writers = JoinSet::new();
    for number in 0..3 {
        let (mallory, group) = (world.sidecar.client().user("mallory"), format!("{bucket}/groups/g{number}"));
        writers.spawn(async move {
            loop {
                for members in [json!([]), json!(["basicauth:x"])] {
                    mallory.put(&group).data(json!({"members": members})).await;
                }
            }
        });
    }
    for id in ["a", "b", "c"] {
        let seq = world.write(id, json!({})).await;
        for feed in [&mut alice, &mut stranger] {
            assert_eq!(feed.row().await.unwrap()["seq"], seq);
        }
    }
    world.alice.put(&world.bucket).json(json!({"permissions": {"read": []}})).await.expect(200);
    let seq = world.write("secret", json!({})).await;
    assert_eq!(alice.row().await.unwrap()["seq"], seq);
    let last = stranger.row().await.unwrap();
    assert_eq!(last["pending"], 0, "{last}");
    assert!(stranger.row().await.is_none());
    writers.abort_all();
}

#[tokio::test]
async fn a_permission_that_was_taken_away_elsewhere_is_missed_before_long() {
    let world = World::new(&[("sidecar.permission_ttl", "200ms"), ("sidecar.poll_budget", "100%")]).await;
    let mut feed = world.follow("feed=eventsource&since=now").await;
    feed.event().await.unwrap();
    let direct = Kinto::shared().client().user("alice");
    direct.put(&world.bucket).json(json!({"permissions": {"read": []}})).await.expect(200);
    while let Some(event) = feed.event().await {
        assert_eq!(event.data.as_deref().unwrap_or_default(), "");
    }
}

#[tokio::test]
async fn a_deleted_collection_ends_its_feeds() {
    let world = World::new(&[]).await;
    world.write("a", json!({})).await;
    let mut feed = world.follow("feed=continuous&since=now&heartbeat=60000").await;
    assert_eq!(feed.line().await.unwrap(), "");
    world.alice.delete(&world.collection).await.expect(200);
    while feed.row().await.is_some() {}
    world.alice.get(&world.feed("")).await.expect(404);
}

#[tokio::test]
async fn readers_of_a_deleted_collection_get_tombstones_when_it_is_made_again() {
    let world = World::new(&[]).await;
    let seq = world.write("a", json!({})).await;
    world.changes("").await;
    world.alice.delete(&world.collection).await.expect(200);
    world.alice.get(&world.feed("")).await.expect(404);
    world.alice.put(&world.collection).await.expect(201);
    world.write("b", json!({})).await;
    let answer = world.changes(&format!("since={seq}")).await;
    let rows: Vec<_> =
        answer["results"].as_array().unwrap().iter().map(|row| (&row["id"], &row["deleted"])).collect();
    assert!(rows.contains(&(&json!("a"), &json!(true))), "{answer}");
    assert!(rows.iter().any(|(id, _)| **id == "b"), "{answer}");
}

#[tokio::test]
async fn feeds_end_cleanly_when_the_process_stops() {
    let mut world = World::new(&[]).await;
    let seq = world.write("a", json!({})).await;
    let mut lines = world.follow("feed=continuous&since=now&heartbeat=60000").await;
    let mut poll = world.follow("feed=longpoll&since=now&heartbeat=60000").await;
    let mut events = world.follow("feed=eventsource&since=now").await;
    assert_eq!(lines.line().await.unwrap(), "");
    assert_eq!(poll.line().await.unwrap(), "{\"results\":[");
    events.event().await.unwrap();
    world.sidecar.terminate();
    assert_eq!(lines.row().await.unwrap(), json!({"last_seq": seq, "pending": 0}));
    assert!(lines.row().await.is_none());
    assert_eq!(poll.rest().await.trim(), format!("],\n\"last_seq\":{seq},\"pending\":0}}"));
    // Who was told nothing goes on from there, too.
    let last = events.event().await.unwrap();
    assert_eq!(last, Event { id: Some(seq.to_string()), ..Event::default() });
    assert!(events.event().await.is_none());
    let status = world.sidecar.wait(Duration::from_secs(10)).expect("the process ends");
    assert!(status.success());
}

#[tokio::test]
async fn readers_are_limited_altogether_and_for_each_client() {
    for (limit, value) in [("feeds.max_readers", "2"), ("feeds.max_readers_per_client", "2")] {
        let world = World::new(&[(limit, value)]).await;
        // That a reader went away is seen when it is written to.
        let path = world.feed("feed=continuous&heartbeat=1000");
        let first = Follower::open(&world.sidecar, &path, &[]).await;
        let _second = Follower::open(&world.sidecar, &path, &[]).await;
        let refused = world.sidecar.client().get(&path).await.expect(503);
        assert!(refused.header("retry-after").unwrap().parse::<u64>().unwrap() > 0);
        // A browser would never come back from a 503.
        let mut events = world.follow("feed=eventsource").await;
        assert_eq!(
            (events.status, &events.headers["content-type"]),
            (200, &"text/event-stream".parse().unwrap())
        );
        assert_eq!(events.event().await.unwrap(), Event { retry: Some("30000".into()), ..Event::default() });
        assert!(events.event().await.is_none());
        world.sidecar.client().get(&world.feed("")).await.expect(200);
        world.sidecar.client().get(&world.feed("feed=continuous&descending=true")).await.expect(200);
        drop(first);
        eventually("the seat is free again", async || {
            (Follower::open(&world.sidecar, &path, &[]).await.status == 200).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn behind_a_trusted_proxy_each_of_its_clients_has_a_limit() {
    let world =
        World::new(&[("feeds.max_readers_per_client", "1"), ("sidecar.trusted_proxies", "127.0.0.0/8")])
            .await;
    let path = world.feed("feed=longpoll&since=now");
    let of = |address: &'static str| [("x-forwarded-for", address)];
    let _one = Follower::open(&world.sidecar, &path, &of("192.0.2.1")).await;
    assert_eq!(Follower::open(&world.sidecar, &path, &of("192.0.2.1")).await.status, 503);
    assert_eq!(Follower::open(&world.sidecar, &path, &of("192.0.2.2")).await.status, 200);
}

#[tokio::test]
async fn a_slow_reader_gets_the_newest_version_of_what_it_missed() {
    let world = World::new(&[]).await;
    let mut slow = std::net::TcpStream::connect(world.sidecar.address()).unwrap();
    socket2::SockRef::from(&slow).set_recv_buffer_size(1 << 16).unwrap();
    let path = world.feed("feed=continuous&since=now&include_docs=true&heartbeat=60000");
    std::io::Write::write_all(
        &mut slow,
        format!("GET /v1{path} HTTP/1.1\r\nHost: {}\r\n\r\n", world.sidecar.address()).as_bytes(),
    )
    .unwrap();
    let mut head = [0; 1];
    slow.read_exact(&mut head).unwrap();
    // Far more than buffers hold on the way.
    let text = "x".repeat(200_000);
    let mut last = 0;
    for number in 0..120 {
        last = world.write(&format!("r{}", number % 2), json!({"number": number, "text": text})).await;
    }
    let (sender, receiver) = std::sync::mpsc::channel();
    let marker = format!("\"last_modified\":{last}");
    std::thread::spawn(move || {
        let (mut read, mut tail) = (0_usize, String::new());
        let mut buffer = vec![0; 1 << 16];
        loop {
            let length = slow.read(&mut buffer).unwrap();
            assert!(length > 0, "the feed ended");
            read += length;
            tail.push_str(&String::from_utf8_lossy(&buffer[..length]));
            if tail.contains(&marker) {
                sender.send(read).unwrap();
                return;
            }
            let keep = tail.len().saturating_sub(400);
            tail = tail.split_off(keep);
        }
    });
    let read = receiver.recv_timeout(crate::support::PATIENCE).expect("the newest version comes");
    assert!(read < 60 * 200_000, "{read} bytes: nearly everything was kept for the slow reader");
}
