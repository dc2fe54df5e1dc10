//! Feeds of a collection that is larger than the sidecar keeps: read from Kinto page by page.

use std::io::{Read, Write};

use serde_json::{Value, json};

use super::{World, ids};
use crate::support::{Kinto, Recorder, Response, SERVICE_ACCOUNT, Sidecar, eventually};

/// A collection of 59 records and a tombstone.
async fn world() -> World {
    let world = World::new(&[("sidecar.cache_size", "1KiB"), ("sidecar.overlap", "0s")]).await;
    let requests: Vec<Value> = (0..60)
        .map(|number| {
            let path = format!("{}/records/r{number:02}", world.collection);
            json!({"method": "PUT", "path": path, "body": {"data": {"n": number % 10, "text": "x".repeat(100)}}})
        })
        .collect();
    for requests in requests.chunks(20) {
        world.alice.post("/batch").json(json!({"requests": requests})).await.expect(200);
    }
    world.delete("r05").await;
    world
}

/// Their ids, oldest change first.
fn expected() -> Vec<String> {
    let numbers = (0..60).filter(|number| *number != 5).chain([5]);
    numbers.map(|number| format!("r{number:02}")).collect()
}

#[tokio::test]
async fn a_normal_feed_has_everything_oldest_first() {
    let world = world().await;
    let answer = world.sidecar.client().get(&world.feed("include_docs=true")).await.expect(200);
    assert!(answer.header("cache-status").unwrap().contains("bypass"));
    assert!(answer.header("content-length").is_none());
    let all = answer.json();
    assert_eq!(ids(&all), expected());
    let rows = all["results"].as_array().unwrap();
    assert!(rows.is_sorted_by_key(|row| row["seq"].as_u64()));
    assert_eq!((&all["last_seq"], &all["pending"]), (&rows[59]["seq"], &json!(0)));
    assert_eq!((&rows[59]["deleted"], &rows[59]["doc"]["_deleted"]), (&json!(true), &json!(true)));
    assert_eq!(rows[7]["doc"]["n"], 8);
    // What it has is what the same collection has where it is kept.
    let kept = Sidecar::start(Kinto::shared().url(), &[SERVICE_ACCOUNT]);
    let kept = kept.client().get(&world.feed("include_docs=true")).await.expect(200);
    // But for names: each sidecar has a journal of its own, and only one of them saw what was before a deletion.
    let nameless = |answer: &Response| {
        let text = String::from_utf8(answer.body.to_vec()).unwrap();
        let parts = text.split("rev\":\"").map(|part| part.split_once('"').map_or(part, |(_, rest)| rest));
        parts.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(nameless(&kept), nameless(&answer));
}

#[tokio::test]
async fn parameters_mean_what_they_mean_elsewhere() {
    let world = world().await;
    let (mut since, mut seen, mut pending) = (json!(0), Vec::new(), 1);
    while pending > 0 {
        let page = world.changes(&format!("limit=7&since={since}")).await;
        pending = page["pending"].as_u64().unwrap();
        seen.extend(ids(&page).into_iter().map(str::to_owned));
        // The tombstone is not counted until it is all that is left.
        assert_eq!(pending, (59 - seen.len().min(59) as u64).max(u64::from(seen.len() < 60)), "{page}");
        assert!(ids(&page).len() == 7 || pending == 0, "{page}");
        since = page["last_seq"].clone();
    }
    assert_eq!(seen, expected());
    let none = world.changes(&format!("since={since}")).await;
    assert_eq!(none, json!({"results": [], "last_seq": since, "pending": 0}));
    assert_eq!(world.changes("since=now").await, none);
    assert_eq!(world.changes("since=9999999999999").await["last_seq"], 9_999_999_999_999_u64);
    assert_eq!(world.changes("limit=0").await, json!({"results": [], "last_seq": 0, "pending": 59}));

    let newest = world.changes("descending=true").await;
    assert_eq!(ids(&newest), expected().into_iter().rev().collect::<Vec<_>>());
    let newest = world.changes("descending=true&limit=3").await;
    assert_eq!((ids(&newest), &newest["pending"]), (vec!["r05", "r59", "r58"], &json!(57)));

    let chosen = world.changes("filter=_kinto&n=3&limit=4").await;
    assert_eq!(ids(&chosen), ["r03", "r13", "r23", "r33"]);
    let chosen = world.changes(&format!("filter=_kinto&n=3&limit=4&since={}", chosen["last_seq"])).await;
    assert_eq!((ids(&chosen), &chosen["pending"]), (vec!["r43", "r53"], &json!(0)));
    assert_eq!(ids(&world.changes("doc_ids=[%22r40%22,%22r05%22]").await), ["r40", "r05"]);
    let filters = json!({"filters": {"k/nine": {"n": 9, "_id": {"$gt": "r30"}}}});
    world.alice.patch(&world.collection).data(filters).await.expect(200);
    assert_eq!(ids(&world.changes("filter=k/nine").await), ["r39", "r49", "r59"]);

    let packed =
        world.sidecar.client().get(&world.feed("")).header("accept-encoding", "gzip").await.expect(200);
    assert_eq!(packed.header("content-encoding"), None);
    let database = world.sidecar.client().get(&format!("{}/", world.collection)).await.expect(200).json();
    assert_eq!((&database["update_seq"], &database["doc_count"]), (&since, &json!(59)));
}

#[tokio::test]
async fn its_tag_holds_until_something_changes() {
    let world = world().await;
    let client = world.sidecar.client();
    let path = world.feed("limit=1");
    // Young timestamps do not name a content; the overlap is none here, but Kinto's clock is read to the second.
    let tag = eventually("the collection is old enough to be named", async || {
        client.get(&path).await.expect(200).header("etag").map(str::to_owned)
    })
    .await;
    client.get(&path).header("if-none-match", &tag).await.expect(304);
    assert_eq!(client.head(&path).await.expect(200).header("etag"), Some(&*tag));
    // A write behind the timestamp changes it, too.
    let late = json!({"data": {"last_modified": 1_000}});
    world.alice.put(&format!("{}/records/late", world.collection)).json(late).await.expect(201);
    let changed = client.get(&path).header("if-none-match", &tag).await.expect(200);
    assert_eq!(ids(&changed.json()), ["late"]);
}

#[tokio::test]
async fn a_live_feed_is_refused_with_the_name_of_the_setting() {
    let world = world().await;
    let client = world.sidecar.client();
    for feed in ["longpoll", "continuous", "eventsource"] {
        let refused = client.get(&world.feed(&format!("feed={feed}"))).await.expect(400).json();
        assert!(refused["reason"].as_str().unwrap().contains("sidecar.cache_size"), "{refused}");
        client.head(&world.feed(&format!("feed={feed}"))).await.expect(400);
    }
    let told = world.sidecar.log().lines().filter(|line| line.contains("live feeds of")).count();
    assert_eq!(told, 1, "{}", world.sidecar.log());
    // Nothing is waited for where the newest comes first.
    client.get(&world.feed("feed=continuous&descending=true&limit=1")).await.expect(200);
}

#[tokio::test]
async fn a_collection_that_becomes_too_large_ends_its_live_feeds() {
    let world = World::new(&[("sidecar.cache_size", "4KiB")]).await;
    let mut feed = world.follow("feed=continuous&since=now&heartbeat=60000").await;
    assert_eq!(feed.line().await.unwrap(), "");
    world.write("large", json!({"text": "x".repeat(10_000)})).await;
    while feed.row().await.is_some() {}
    let refused = world.sidecar.client().get(&world.feed("feed=continuous")).await.expect(400).json();
    assert!(refused["reason"].as_str().unwrap().contains("sidecar.cache_size"), "{refused}");
}

#[tokio::test]
async fn what_may_have_been_hidden_from_a_reader_comes_again() {
    let world = World::new(&[("sidecar.cache_size", "1KiB"), ("sidecar.overlap", "1h")]).await;
    for id in ["a", "b", "c"] {
        world.write(id, json!({"text": "x".repeat(1000)})).await;
    }
    let seq = world.changes("").await["last_seq"].clone();
    // Rows that may have been hidden have the reader's own seq; the one that it is the seq of was shown.
    let another = world.sidecar.client().with("user-agent", "another");
    let again = another.get(&world.feed(&format!("since={seq}"))).await.expect(200).json();
    assert_eq!((ids(&again), &again["last_seq"]), (vec!["a", "b"], &seq));
    assert!(again["results"].as_array().unwrap().iter().all(|row| row["seq"] == seq));
    let next = world.write("d", json!({})).await;
    let more = world.changes(&format!("since={seq}&limit=1")).await;
    assert_eq!((ids(&more), &more["last_seq"]), (vec!["a", "b", "d"], &json!(next)));
}

#[tokio::test]
async fn nothing_is_read_ahead_of_a_reader_who_does_not_read() {
    let recorder = Recorder::before(Kinto::shared().url());
    let world = World::before_url(recorder.url(), &[("sidecar.cache_size", "64KiB")]).await;
    let text = "x".repeat(200_000);
    for number in 0..60 {
        world.write(&format!("r{number}"), json!({"text": text})).await;
    }
    let bucket = world.bucket.trim_start_matches("/buckets/").to_owned();
    let pages = || recorder.count(|request| request.reads_records_of(&bucket, "c"));
    world.changes("limit=0").await;
    recorder.clear();
    let path = world.feed("include_docs=true");
    let mut slow = std::net::TcpStream::connect(world.sidecar.address()).unwrap();
    socket2::SockRef::from(&slow).set_recv_buffer_size(1 << 14).unwrap();
    slow.write_all(format!("GET /v1{path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).unwrap();
    slow.read_exact(&mut [0; 4096]).unwrap();
    let whole = world.sidecar.client().get(&path).await.expect(200);
    assert_eq!(ids(&whole.json()).len(), 60);
    let pages = pages();
    assert!((45..80).contains(&pages), "{pages} pages were read for one reader and the buffers of another");
}
