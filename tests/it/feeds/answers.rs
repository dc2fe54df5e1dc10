//! What a normal feed answers, and what every feed refuses.

use std::io::{Read, Write};

use http::Method;
use serde_json::{Value, json};

use super::{World, generations, ids};
use crate::support::Response;

#[tokio::test]
async fn rows_are_couchdbs_oldest_first_and_each_record_once() {
    let world = World::new(&[]).await;
    let first = world.write("a", json!({"n": 1})).await;
    world.write("b", json!({"n": 2})).await;
    let changed = world.write("b", json!({"n": 3})).await;
    let gone = world.delete("a").await;
    assert!(first < changed && changed < gone);
    let row = |id: &str, seq: u64| json!({"seq": seq, "id": id, "changes": [{"rev": 2}]});
    let mut tombstone = row("a", gone);
    tombstone["deleted"] = true.into();
    assert_eq!(
        generations(world.changes("").await),
        json!({"results": [row("b", changed), tombstone], "last_seq": gone, "pending": 0})
    );
    let answer = generations(world.changes("include_docs=true&limit=1").await);
    assert_eq!(
        answer["results"][0]["doc"],
        json!({"id": "b", "n": 3, "last_modified": changed, "_id": "b", "_rev": 2})
    );
}

#[tokio::test]
async fn documents_say_what_was_deleted_in_every_mode() {
    let world = World::new(&[]).await;
    let own = json!({"_id": "x", "_rev": "9-x", "_deleted": true, "kept": {"_id": 1}});
    let written = world.write("a", own).await;
    world.write("b", json!({})).await;
    let gone = world.delete("b").await;
    let record = json!({
        "id": "a", "last_modified": written, "kept": {"_id": 1}, "_id": "a", "_rev": 1
    });
    let tombstone = json!({
        "id": "b", "last_modified": gone, "deleted": true, "_id": "b", "_rev": 2, "_deleted": true
    });
    for query in ["", "feed=longpoll", "feed=continuous&timeout=0", "feed=eventsource&timeout=0"] {
        let path = world.feed(&format!("{query}&include_docs=true"));
        let answer = world.sidecar.client().get(&path).await.expect(200);
        let text = String::from_utf8(answer.body.to_vec()).unwrap();
        let documents: Vec<Value> = text
            .lines()
            .filter_map(|line| {
                serde_json::from_str(line.trim_start_matches("data: ").trim_end_matches(',')).ok()
            })
            .filter_map(|row: Value| row.get("doc").cloned().map(generations))
            .collect();
        assert_eq!(documents, [&record, &tombstone].map(Clone::clone), "{query}: {text}");
        // Each name once: readers do not agree on which of two counts.
        assert_eq!(text.matches("\"_rev\"").count(), 2, "{text}");
    }
}

#[tokio::test]
async fn the_newest_comes_first_where_that_is_asked_for_and_then_the_feed_ends() {
    let world = World::new(&[]).await;
    let first = world.write("a", json!({"n": 1})).await;
    for n in 2..300 {
        world.write(&format!("r{n}"), json!({"n": n})).await;
    }
    let client = world.sidecar.client();
    for feed in ["", "feed=longpoll&"] {
        let answer = client.get(&world.feed(&format!("{feed}descending=true"))).await.expect(200).json();
        assert_eq!((answer["results"].as_array().unwrap().len(), &answer["last_seq"]), (299, &json!(first)));
        assert!(
            answer["results"]
                .as_array()
                .unwrap()
                .is_sorted_by(|one, other| one["seq"].as_u64() > other["seq"].as_u64())
        );
        let answer = client
            .get(&world.feed(&format!("{feed}descending=true&filter=_kinto&max_n=3&limit=2")))
            .await
            .expect(200)
            .json();
        assert_eq!((ids(&answer), &answer["pending"]), (vec!["r3", "r2"], &json!(1)));
    }
    let mut feed = world.follow("feed=continuous&descending=true&limit=1&heartbeat=60000").await;
    assert_eq!(feed.row().await.unwrap()["id"], "r299");
    assert_eq!(feed.row().await.unwrap()["pending"], 298);
    assert!(feed.row().await.is_none());
    let mut feed = world.follow("feed=eventsource&descending=true&heartbeat=60000").await;
    for _ in 0..=299 {
        feed.event().await.unwrap();
    }
    assert!(feed.event().await.is_none());
}

#[tokio::test]
async fn the_layout_is_couchdbs_to_the_line() {
    let world = World::new(&[]).await;
    for id in ["a", "b"] {
        world.write(id, json!({})).await;
    }
    let answer = world.sidecar.client().get(&world.feed("")).await.expect(200);
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    let lines: Vec<&str> = text.split('\n').collect();
    assert_eq!(lines[0], "{\"results\":[");
    assert!(lines[1].starts_with("{\"seq\":") && lines[1].ends_with("},\r"), "{text}");
    assert!(lines[2].starts_with("{\"seq\":") && lines[2].ends_with('}'), "{text}");
    assert_eq!(lines[3], "],");
    assert!(lines[4].starts_with("\"last_seq\":") && lines[4].ends_with(",\"pending\":0}"), "{text}");
    assert_eq!(lines.len(), 6, "{text}");
}

#[tokio::test]
async fn pages_follow_each_other_without_a_gap_or_a_repeat() {
    let world = World::new(&[]).await;
    for number in 0..25 {
        world.write(&format!("r{number:02}"), json!({})).await;
    }
    let (mut since, mut seen, mut pending) = (json!(0), Vec::new(), 25);
    while pending > 0 {
        let page = world.changes(&format!("limit=4&since={since}")).await;
        seen.extend(ids(&page).into_iter().map(str::to_owned));
        assert_eq!(page["last_seq"], page["results"].as_array().unwrap().last().unwrap()["seq"]);
        since = page["last_seq"].clone();
        pending = page["pending"].as_u64().unwrap();
        assert_eq!(pending, 25 - seen.len() as u64);
    }
    let expected: Vec<_> = (0..25).map(|number| format!("r{number:02}")).collect();
    assert_eq!(seen, expected);
    assert_eq!(world.changes(&format!("since={since}")).await["results"], json!([]));
}

#[tokio::test]
async fn limits_and_beginnings_are_couchdbs() {
    let world = World::new(&[]).await;
    let mut seqs = Vec::new();
    for id in ["a", "b", "c"] {
        seqs.push(world.write(id, json!({})).await);
    }
    let empty =
        |last_seq: u64, pending: u64| json!({"results": [], "last_seq": last_seq, "pending": pending});
    assert_eq!(world.changes("limit=0").await, empty(0, 3));
    assert_eq!(world.changes(&format!("limit=0&since={}", seqs[0])).await, empty(seqs[0], 2));
    assert_eq!(world.changes("since=now").await, empty(seqs[2], 0));
    let future = seqs[2] + 100_000;
    assert_eq!(world.changes(&format!("since={future}")).await, empty(future, 0));
    let answer = world.changes(&format!("since=%22{}%22", seqs[1])).await;
    assert_eq!(ids(&answer), ["c"]);
    let answer = world.changes(&format!("descending=true&since={}", seqs[1])).await;
    assert_eq!(ids(&answer), ["c", "b", "a"]);
    let answer = world.changes("descending=true&limit=2").await;
    assert_eq!((ids(&answer), &answer["last_seq"]), (vec!["c", "b"], &json!(seqs[1])));
    // That is a browser's word for an eventsource; what a cache may keep does not depend on it.
    let answer =
        world.sidecar.client().get(&world.feed("since=0")).header("last-event-id", &seqs[1].to_string());
    assert_eq!(ids(&answer.await.expect(200).json()), ["a", "b", "c"]);
}

#[tokio::test]
async fn what_couchdb_refuses_is_refused_in_its_words() {
    let world = World::new(&[]).await;
    for (query, reason) in [
        ("feed=foo", "Supported `feed` types: normal, continuous, live, longpoll, eventsource"),
        ("heartbeat=0", "The heartbeat value should be a positive integer (in milliseconds)."),
        ("heartbeat=x", "Invalid heartbeat value. Expecting a positive integer value (in milliseconds)."),
        ("since=x", "Malformed sequence supplied in 'since' parameter."),
        ("limit=-1", "The limit value should be a non-negative integer"),
        ("limit=x", "The limit parameter should be a non-negative integer"),
        ("timeout=-1", "The timeout value should be a non-negative integer"),
        ("timeout=1.5", "The timeout parameter should be a non-negative integer"),
        ("filter=_doc_ids", "`doc_ids` filter parameter is not a list of doc ids."),
        ("filter=_doc_ids&doc_ids=[1]", "`doc_ids` filter parameter is not a list of doc ids."),
        ("filter=_selector", "`selector` must be a JSON object."),
    ] {
        let answer = world.sidecar.client().get(&world.feed(query)).await.expect(400).json();
        assert_eq!((&answer["reason"], &answer["errno"]), (&json!(reason), &json!(107)), "{query}");
    }
    for method in [Method::PUT, Method::PATCH, Method::DELETE] {
        let answer = world.alice.request(method, &world.feed("")).await.expect(405);
        assert_eq!(answer.header("allow"), Some("GET, HEAD, POST, OPTIONS"));
    }
}

#[tokio::test]
async fn the_upstream_says_who_may_follow() {
    let world = World::new(&[]).await;
    let private = format!("/buckets/{}", crate::support::unique("private"));
    world.alice.put(&private).await.expect(201);
    world.alice.put(&format!("{private}/collections/c")).await.expect(201);
    for path in [format!("{private}/collections/c/_changes"), format!("{private}/_changes")] {
        world.alice.get(&path).await.expect(200);
        world.sidecar.client().get(&path).await.expect(401);
        world.sidecar.client().user("bob").get(&path).await.expect(403);
        world.sidecar.client().user("bob").get(&format!("{path}?feed=eventsource")).await.expect(403);
    }
    world.alice.get(&format!("{}/collections/missing/_changes", world.bucket)).await.expect(404);
    world.alice.get(&format!("{}/collections/missing/", world.bucket)).await.expect(404);
}

#[tokio::test]
async fn normal_feeds_are_kept_by_caches_until_something_changes() {
    let world = World::new(&[]).await;
    for number in 0..20 {
        world.write(&format!("r{number}"), json!({})).await;
    }
    let client = world.sidecar.client();
    let path = world.feed("");
    let plain = client.get(&path).await.expect(200);
    let etag = plain.header("etag").unwrap().to_owned();
    client.get(&path).header("if-none-match", &etag).await.expect(304);
    for (encoding, inflate) in [("gzip", gunzip as fn(&Response) -> Vec<u8>), ("zstd", unzstd)] {
        for _ in 0..2 {
            let packed = client.get(&path).header("accept-encoding", encoding).await.expect(200);
            assert_eq!(packed.header("content-encoding"), Some(encoding));
            assert_eq!(inflate(&packed), plain.body);
            let etag = packed.header("etag").unwrap();
            client.get(&path).header("if-none-match", etag).await.expect(304);
        }
    }
    let head = client.head(&path).await.expect(200);
    assert!(head.body.is_empty());
    assert_eq!(head.header("etag"), Some(etag.as_str()));
    world.write("another", json!({})).await;
    let changed = client.get(&path).header("if-none-match", &etag).await.expect(200);
    assert_ne!(changed.header("etag"), Some(etag.as_str()));
}

fn gunzip(answer: &Response) -> Vec<u8> {
    let mut text = Vec::new();
    flate2::read::GzDecoder::new(&answer.body[..]).read_to_end(&mut text).unwrap();
    text
}

fn unzstd(answer: &Response) -> Vec<u8> {
    zstd::decode_all(&answer.body[..]).unwrap()
}

#[tokio::test]
async fn pages_of_other_origins_may_follow() {
    let world = World::new(&[]).await;
    let client = world.sidecar.client().with("origin", "http://elsewhere.example");
    let path = world.feed("");
    let answer = client.get(&path).await.expect(200);
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    let preflight = client
        .request(Method::OPTIONS, &path)
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "content-type, authorization")
        .await
        .expect(200);
    let allowed = preflight.header("access-control-allow-headers").unwrap().to_ascii_lowercase();
    assert!(allowed.contains("content-type") && allowed.contains("authorization"), "{allowed}");
    assert!(preflight.header("access-control-allow-methods").unwrap().contains("POST"));
}

#[tokio::test]
async fn bodies_may_be_compressed_and_must_be_json() {
    let world = World::new(&[]).await;
    world.write("a", json!({})).await;
    world.write("b", json!({})).await;
    let client = world.sidecar.client();
    let path = world.feed("filter=_doc_ids");
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    gzip.write_all(br#"{"doc_ids":["b"]}"#).unwrap();
    let answer = client
        .post(&path)
        .header("content-type", "application/json")
        .header("content-encoding", "gzip")
        .body(gzip.finish().unwrap())
        .await
        .expect(200);
    assert_eq!(ids(&answer.json()), ["b"]);
    client.post(&path).body("doc_ids=b").await.expect(415);
    client.post(&path).header("content-type", "application/json").body("[").await.expect(400);
    assert_eq!(ids(&client.post(&world.feed("")).await.expect(200).json()), ["a", "b"]);
}

#[tokio::test]
async fn the_collection_describes_itself_as_a_database() {
    let world = World::new(&[]).await;
    world.write("a", json!({})).await;
    world.write("b", json!({})).await;
    let seq = world.delete("a").await;
    let client = world.sidecar.client();
    let database = client.get(&format!("{}/", world.collection)).await.expect(200).json();
    assert_eq!(database["db_name"], "c");
    assert_eq!(
        (&database["update_seq"], &database["doc_count"], &database["doc_del_count"]),
        (&json!(seq), &json!(1), &json!(1))
    );
    client.head(&format!("{}/", world.collection)).await.expect(200);
    // Writes to that URL remain Kinto's.
    world.alice.put(&format!("{}/", world.collection)).await.expect(307);
}
