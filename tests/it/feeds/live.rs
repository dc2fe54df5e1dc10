//! Feeds that wait: a change reaches them at once, and silence is filled as they were asked to.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::follower::{Event, Follower};
use super::{World, generations};
use crate::support::{Kinto, Recorder};

#[tokio::test]
async fn a_long_poll_ends_with_the_first_change() {
    let world = World::new(&[]).await;
    world.write("old", json!({})).await;
    let mut feed = world.follow("feed=longpoll&since=now&include_docs=true").await;
    assert_eq!(feed.line().await.unwrap(), "{\"results\":[");
    let seq = world.write("new", json!({"n": 1})).await;
    let row: Value = serde_json::from_str(&feed.line().await.unwrap()).unwrap();
    assert_eq!((&row["seq"], &row["doc"]["n"]), (&json!(seq), &json!(1)));
    assert_eq!(feed.rest().await, format!("],\n\"last_seq\":{seq},\"pending\":0}}"));
}

#[tokio::test]
async fn a_long_poll_behind_the_newest_ends_at_once() {
    let world = World::new(&[]).await;
    let seq = world.write("a", json!({})).await;
    let answer = world.changes("feed=longpoll&since=0").await;
    assert_eq!(answer["last_seq"], seq);
    let next = world.changes(&format!("feed=longpoll&timeout=50&since={seq}")).await;
    assert_eq!(next, json!({"results": [], "last_seq": seq, "pending": 0}));
}

#[tokio::test]
async fn now_is_when_the_request_arrived() {
    let world = World::new(&[]).await;
    let before = world.write("before", json!({})).await;
    for round in 0..20 {
        let mut feed = world.follow("feed=longpoll&since=now").await;
        assert_eq!(feed.line().await.unwrap(), "{\"results\":[");
        let seq = world.write(&format!("r{round}"), json!({})).await;
        assert!(seq > before);
        let row: Value = serde_json::from_str(&feed.line().await.unwrap()).unwrap();
        assert_eq!(row["seq"], seq);
    }
}

#[tokio::test]
async fn who_was_cut_off_while_they_were_told_again_is_told_again() {
    let world = World::new(&[]).await;
    // What this sidecar did not see being written, it may have shown to nobody.
    let direct = Kinto::shared().client().user("alice");
    let mut newest = 0;
    for id in ["a", "b", "c"] {
        let path = format!("{}/records/{id}", world.collection);
        newest = direct.put(&path).await.expect(201).timestamp();
    }
    let query = format!("feed=continuous&since={newest}");
    let mut cut = world.follow(&query).await;
    assert_eq!(cut.row().await.unwrap()["seq"], newest);
    drop(cut);
    let mut feed = world.follow(&query).await;
    let mut told = Vec::new();
    for _ in 0..2 {
        told.push(feed.row().await.unwrap()["id"].clone());
    }
    assert_eq!(told, ["a", "b"]);
}

#[tokio::test]
async fn a_continuous_feed_goes_on_until_it_has_waited_in_vain() {
    let world = World::new(&[]).await;
    let first = world.write("a", json!({})).await;
    let mut feed = world.follow("feed=live&timeout=400").await;
    assert_eq!(feed.headers["x-accel-buffering"], "no");
    assert_eq!(feed.headers["transfer-encoding"], "chunked");
    assert!(feed.headers["cache-control"].to_str().unwrap().contains("no-cache"));
    assert_eq!(feed.row().await.unwrap()["seq"], first);
    for id in ["b", "c"] {
        let seq = world.write(id, json!({})).await;
        let row = feed.row().await.unwrap();
        assert_eq!((row["id"].as_str().unwrap(), row["seq"].as_u64().unwrap()), (id, seq));
    }
    let gone = world.delete("a").await;
    assert_eq!(
        generations(feed.row().await.unwrap()),
        json!({"seq": gone, "id": "a", "changes": [{"rev": 2}], "deleted": true})
    );
    assert_eq!(feed.row().await.unwrap(), json!({"last_seq": gone, "pending": 0}));
    assert!(feed.row().await.is_none());
}

#[tokio::test]
async fn limits_end_live_feeds() {
    let world = World::new(&[]).await;
    let first = world.write("a", json!({})).await;
    let mut feed = world.follow("feed=continuous&limit=2&heartbeat=1000").await;
    assert_eq!(feed.row().await.unwrap()["seq"], first);
    let second = world.write("b", json!({})).await;
    assert_eq!(feed.row().await.unwrap()["seq"], second);
    assert_eq!(feed.row().await.unwrap(), json!({"last_seq": second, "pending": 0}));
    assert!(feed.row().await.is_none());
    let mut feed = world.follow("feed=continuous&limit=0&heartbeat=1000").await;
    assert_eq!(feed.row().await.unwrap(), json!({"last_seq": 0, "pending": 2}));
    assert!(feed.row().await.is_none());
}

#[tokio::test]
async fn an_eventsource_goes_on_where_it_was_cut_off() {
    let world = World::new(&[]).await;
    let mut seqs = Vec::new();
    for id in ["a", "b"] {
        seqs.push(world.write(id, json!({})).await);
    }
    let mut feed = world.follow("feed=eventsource&since=0").await;
    assert_eq!(feed.headers["content-type"], "text/event-stream");
    assert_eq!(feed.event().await.unwrap(), Event { retry: Some("3000".into()), ..Event::default() });
    for seq in &seqs {
        let event = feed.event().await.unwrap();
        assert_eq!(event.id, Some(seq.to_string()));
        let row: Value = serde_json::from_str(&event.data.unwrap()).unwrap();
        assert_eq!(row["seq"], *seq);
    }
    drop(feed);
    let missed = world.write("c", json!({})).await;
    let last = seqs[1].to_string();
    for id in [last.clone(), format!("\"{last}\"")] {
        let path = world.feed("feed=eventsource&since=0");
        let mut feed = Follower::open(&world.sidecar, &path, &[("last-event-id", &id)]).await;
        feed.event().await.unwrap();
        assert_eq!(feed.event().await.unwrap().id, Some(missed.to_string()));
    }
}

#[tokio::test]
async fn silence_is_filled_with_heartbeats() {
    let world = World::new(&[]).await;
    let seq = world.write("a", json!({})).await;
    let began = Instant::now();
    let mut lines = world.follow("feed=continuous&since=now&heartbeat=1000&timeout=1").await;
    let mut events = world.follow("feed=eventsource&since=now&heartbeat=1000").await;
    events.event().await.unwrap();
    for _ in 0..2 {
        assert_eq!(lines.line().await.unwrap(), "");
        let heartbeat = events.event().await.unwrap();
        assert_eq!((heartbeat.name.as_deref(), heartbeat.id), (Some("heartbeat"), Some(seq.to_string())));
    }
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
    // A filter that lets nothing pass does not keep the feed silent.
    let mut filtered =
        world.follow("feed=continuous&since=now&heartbeat=1000&filter=_kinto&title=none").await;
    world.write("b", json!({})).await;
    for _ in 0..2 {
        assert_eq!(filtered.line().await.unwrap(), "");
    }
}

#[tokio::test]
async fn heartbeats_say_up_to_where_nothing_was_wanted() {
    let world = World::new(&[]).await;
    let seq = world.write("a", json!({})).await;
    let query = "since=now&heartbeat=1000&filter=_kinto&title=none";
    let mut events = world.follow(&format!("feed=eventsource&{query}")).await;
    // Whoever is cut off before anything was wanted goes on from there, too, and not from another `now`.
    assert_eq!(events.event().await.unwrap().id, Some(seq.to_string()));
    let mut lines = world.follow(&format!("feed=continuous&heartbeat_seq=true&{query}")).await;
    let sign = |seq: u64| json!({"seq": seq, "id": null, "changes": []});
    assert_eq!(lines.row().await.unwrap(), sign(seq));
    let later = world.write("b", json!({})).await;
    while events.event().await.unwrap().id != Some(later.to_string()) {}
    while lines.row().await.unwrap() != sign(later) {}
    let path = world.feed("feed=eventsource&since=now&timeout=1");
    let mut resumed = Follower::open(&world.sidecar, &path, &[("last-event-id", &seq.to_string())]).await;
    resumed.event().await.unwrap();
    assert_eq!(resumed.event().await.unwrap().id, Some(later.to_string()));
}

#[tokio::test]
async fn changes_behind_the_sidecars_back_are_found() {
    let world = World::new(&[("sidecar.timestamps_ttl", "100ms"), ("sidecar.poll_budget", "100%")]).await;
    let mut feed = world.follow("feed=continuous&since=now&heartbeat=60000").await;
    let direct = Kinto::shared().client().user("alice");
    for number in 0..3 {
        let path = format!("{}/records/r{number}", world.collection);
        let seq = direct.put(&path).await.expect(201).data()["last_modified"].clone();
        assert_eq!(feed.row().await.unwrap()["seq"], seq);
    }
}

#[tokio::test]
async fn one_write_costs_one_delta_however_many_read() {
    let recorder = Recorder::before(Kinto::shared().url());
    let bucket = format!("/buckets/{}", crate::support::unique("shared"));
    let sidecar = crate::support::Sidecar::start(
        recorder.url(),
        &[crate::support::SERVICE_ACCOUNT, ("sidecar.exclusive", "true")],
    );
    let alice = sidecar.client().user("alice");
    let readable = json!({"permissions": {"read": ["system.Everyone"]}});
    alice.put(&bucket).json(readable).await.expect(201);
    alice.put(&format!("{bucket}/collections/c")).await.expect(201);
    let path = format!("{bucket}/collections/c/_changes?feed=continuous&since=now&heartbeat=60000");
    let mut feeds = Vec::new();
    for _ in 0..50 {
        let mut feed = Follower::open(&sidecar, &path, &[]).await;
        assert_eq!(feed.line().await.unwrap(), "");
        feeds.push(feed);
    }
    recorder.clear();
    let written = alice.put(&format!("{bucket}/collections/c/records/r")).await.expect(201);
    for feed in &mut feeds {
        assert_eq!(feed.row().await.unwrap()["seq"], written.data()["last_modified"]);
    }
    let bucket = bucket.trim_start_matches("/buckets/");
    assert_eq!(recorder.count(|request| request.reads_records_of(bucket, "c")), 1);
}
