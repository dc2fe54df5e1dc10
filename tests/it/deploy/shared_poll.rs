//! Many who wait behind a cache: few requests come to the sidecar, and everybody is told of everything.
//!
//! `CLIENTS=1000 WRITES=60 cargo test --test it deploy::shared_poll -- --nocapture` tries more of both.

use std::sync::Arc;
use std::time::Instant;

use serde_json::json;
use tokio::sync::mpsc;

use super::{Cache, Kind, free_port, origin};
use crate::support::{Client, PATIENCE, Recorder};

/// Requests at the origin for each write: the wait that it ends, and those of who came in between.
const MOST_FOR_A_WRITE: usize = 3;

fn number(name: &str, usual: usize) -> usize {
    std::env::var(name).map_or(usual, |value| value.parse().unwrap())
}

/// Follows by long polls that others share, and tells of each record that it is told of.
async fn follow(
    client: Client,
    path: Arc<str>,
    mut since: String,
    told: mpsc::UnboundedSender<(String, Instant)>,
) {
    let mut cursor = "0".to_owned();
    loop {
        let query = format!("{path}&since={since}&cursor={cursor}");
        let answer = client.get(&query).await.expect(200);
        let body = answer.json();
        let next = (body["last_seq"].to_string(), body["cursor"].to_string());
        assert_ne!(next, (since, cursor), "the same URL again: {answer}");
        (since, cursor) = next;
        for row in body["results"].as_array().unwrap() {
            if told.send((row["id"].as_str().unwrap().to_owned(), Instant::now())).is_err() {
                return;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_costs_few_requests_however_many_wait_in_varnish() {
    let (clients, writes) = (number("CLIENTS", 100), number("WRITES", 10));
    let (sidecar, collection) = origin("system.Everyone", None).await;
    let recorder = Recorder::before(sidecar.url());
    let address = recorder.url().trim_start_matches("http://").trim_end_matches("/v1").to_owned();
    let Some(cache) = Cache::start(Kind::Varnish, free_port(), &address) else { return };
    let since = sidecar.client().get(&format!("{collection}/_changes")).await.expect(200).json()["last_seq"]
        .to_string();
    let path: Arc<str> = format!("{collection}/_changes?feed=longpoll").into();
    let (tell, mut told) = mpsc::unbounded_channel();
    let followers: Vec<_> = (0..clients)
        .map(|_| tokio::spawn(follow(cache.client(), Arc::clone(&path), since.clone(), tell.clone())))
        .collect();
    let is_poll = |request: &crate::support::Recorded| request.target.contains("feed=longpoll");
    recorder.wait_for(1, is_poll).await;
    let alice = sidecar.client().user("alice");
    let mut delays = Vec::new();
    for number in 0..writes {
        let id = format!("r{number}");
        alice.put(&format!("{collection}/records/{id}")).data(json!({"n": number})).await.expect(201);
        let written = Instant::now();
        for _ in 0..clients {
            let (name, when) =
                tokio::time::timeout(PATIENCE, told.recv()).await.expect("all are told").unwrap();
            assert_eq!(name, id, "in its turn, and once");
            delays.push(when.saturating_duration_since(written));
        }
    }
    let requests = recorder.count(is_poll);
    delays.sort_unstable();
    let at = |share: usize| delays[(delays.len() - 1) * share / 100];
    println!(
        "{clients} clients, {writes} writes: {requests} requests came to the sidecar; told after {:?} (median), {:?} (p99)",
        at(50),
        at(99)
    );
    assert!(requests <= MOST_FOR_A_WRITE * writes + 2, "{requests} requests for {writes} writes");
    followers.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn varnish_keeps_no_long_poll_with_credentials() {
    let (sidecar, collection) = origin("system.Authenticated", None).await;
    let Some(cache) = Cache::start(Kind::Varnish, free_port(), sidecar.address()) else { return };
    let path = format!("{collection}/_changes?feed=longpoll&since=0&cursor=0");
    for _ in 0..2 {
        let own = cache.client().user("alice").get(&path).await.expect(200);
        assert!(!super::is_hit(&own) && own.header("cursor").is_none(), "{own}");
        assert!(!super::is_hit(&cache.client().get(&path).await.expect(401)));
    }
}
