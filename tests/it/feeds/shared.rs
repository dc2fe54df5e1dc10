//! Long polls that a cache in front can share: nothing before the outcome, and no URL asked twice.

use std::time::Duration;

use serde_json::json;

use super::follower::Follower;
use super::{World, ids};
use crate::support::{Kinto, Response};

fn is_for_all(answer: &Response) -> bool {
    let is_kept = answer.header("cache-control") == Some("public, max-age=1");
    assert_eq!(is_kept, answer.header("cursor").is_some(), "{answer}");
    for header in ["cdn-cache-control", "surrogate-key", "etag", "vary"] {
        assert!(!is_kept || answer.header(header).is_none(), "{header}: {answer}");
    }
    is_kept
}

#[tokio::test]
async fn all_who_wait_at_one_seq_ask_for_the_same_next() {
    let world = World::new(&[]).await;
    let seq = world.write("a", json!({})).await;
    let client = world.sidecar.client();
    let poll = async |query: &str| {
        let answer = client.get(&world.feed(&format!("feed=longpoll&{query}"))).await.expect(200);
        assert!(is_for_all(&answer), "{answer}");
        let body = answer.json();
        assert_eq!(answer.header("last-seq"), Some(&*body["last_seq"].to_string()));
        assert_eq!(answer.header("cursor"), Some(&*body["cursor"].to_string()));
        assert!(answer.header("content-length").is_some() && !answer.text().starts_with('\n'), "{answer}");
        body
    };
    let told = poll("since=0&cursor=0&include_docs=true").await;
    assert_eq!((ids(&told), &told["last_seq"]), (vec!["a"], &json!(seq)));
    let cursor = told["cursor"].as_u64().unwrap();
    assert!(cursor > 89_000_000, "{told}");
    // In vain, and after that with another cursor, also where it is ahead of time.
    let mut last = cursor;
    for asked in [cursor + 5, cursor + 6] {
        let told = poll(&format!("since={seq}&cursor={asked}&timeout=50&heartbeat=10")).await;
        assert_eq!(
            (ids(&told).len(), &told["last_seq"], &told["cursor"]),
            (0, &json!(seq), &json!(asked + 1))
        );
        last = asked + 1;
    }
    let waiting = format!("feed=longpoll&since={seq}&cursor={last}");
    let (address, path) = (world.sidecar.address().to_owned(), world.feed(&waiting));
    let mut head = tokio::spawn(async move { Follower::open_at(&address, &path, &[]).await });
    assert!(
        tokio::time::timeout(Duration::from_millis(300), &mut head).await.is_err(),
        "a head before the outcome"
    );
    let later = world.write("b", json!({})).await;
    let answer = head.await.unwrap();
    assert_eq!(answer.headers["last-seq"], later.to_string());
    assert!(answer.rest().await.contains("\"id\":\"b\""));
}

#[tokio::test]
async fn what_is_not_for_everybody_is_kept_by_nobody() {
    let world = World::new(&[]).await;
    let seq = world.write("a", json!({})).await;
    let (anybody, alice) = (world.sidecar.client(), &world.alice);
    for query in ["since=0", "since=now&cursor=1&timeout=1", "since=0&cursor=1&descending=true"] {
        let answer = anybody.get(&world.feed(&format!("feed=longpoll&{query}"))).await.expect(200);
        assert!(
            !is_for_all(&answer) && answer.header("cache-control").unwrap().contains("no-store"),
            "{answer}"
        );
    }
    let path = world.feed("feed=longpoll&since=0&cursor=1");
    for request in [alice.get(&path), anybody.head(&path), anybody.post(&path)] {
        assert!(!is_for_all(&request.await.expect(200)));
    }
    assert!(is_for_all(&anybody.get(&path).await.expect(200)));
    let refused = anybody.get(&world.feed("feed=longpoll&cursor=x")).await.expect(400);
    assert!(!is_for_all(&refused), "{refused}");
    world.alice.put(&world.bucket).json(json!({"permissions": {"read": []}})).await.expect(200);
    let path = world.feed(&format!("feed=longpoll&since={seq}&cursor=1"));
    assert!(!is_for_all(&anybody.get(&path).await.expect(401)));
}

#[tokio::test]
async fn what_is_much_comes_in_several_answers() {
    let world = World::new(&[]).await;
    let large = "x".repeat(400_000);
    for number in 0..5 {
        world.write(&format!("r{number}"), json!({"large": large})).await;
    }
    let (mut since, mut seen, mut answers) = (json!(0), Vec::new(), 0);
    while seen.len() < 5 {
        let query = format!("feed=longpoll&include_docs=true&since={since}&cursor=1");
        let answer = world.changes(&query).await;
        seen.extend(ids(&answer).into_iter().map(str::to_owned));
        assert_eq!(answer["pending"], 5 - seen.len());
        since = answer["last_seq"].clone();
        answers += 1;
    }
    assert_eq!(seen, ["r0", "r1", "r2", "r3", "r4"]);
    assert!((2..5).contains(&answers), "{answers}");
}

#[tokio::test]
async fn what_was_told_to_somebody_is_told_to_all() {
    let world = World::new(&[]).await;
    // What this sidecar did not see being written, it may have shown to nobody.
    let direct = Kinto::shared().client().user("alice");
    let mut newest = 0;
    for id in ["a", "b", "c"] {
        newest = direct.put(&format!("{}/records/{id}", world.collection)).await.expect(201).timestamp();
    }
    let query = format!("feed=longpoll&since={newest}&cursor=1");
    let told = world.changes(&query).await;
    assert_eq!(ids(&told), ["a", "b"]);
    let again = world.changes(&query).await;
    assert_eq!((ids(&again), &again["last_seq"]), (vec!["a", "b"], &told["last_seq"]));
    let next = world.changes(&format!("feed=longpoll&since={}&cursor=1&timeout=50", told["last_seq"])).await;
    assert_eq!((ids(&next).len(), &next["last_seq"]), (0, &told["last_seq"]));
}
