//! What the service account may not read, or where there is none: its readers read it with their own credentials.

use serde_json::json;

use super::follower::Follower;
use super::ids;
use crate::support::{Fate, Kinto, Recorder, SERVICE_ACCOUNT, Sidecar, unique};

#[tokio::test]
async fn a_private_collection_has_its_feed_without_a_service_account_but_for_live_ones() {
    let kinto = Kinto::shared();
    for auth in [&[][..], &[("sidecar.auth", "mallory:secret")]] {
        let sidecar = Sidecar::start(kinto.url(), auth);
        let (alice, bob) = (sidecar.client().user("alice"), sidecar.client().user("bob"));
        let bucket = format!("/buckets/{}", unique("unreadable"));
        let collection = format!("{bucket}/collections/c");
        alice.put(&bucket).await.expect(201);
        alice.put(&collection).data(json!({"filters": {"f/g": {"n": 1}}})).await.expect(201);
        let mut seq = json!(0);
        for (id, n) in [("a", 1), ("b", 2), ("c", 3)] {
            let record =
                alice.put(&format!("{collection}/records/{id}")).data(json!({"n": n})).await.expect(201);
            seq = record.data()["last_modified"].clone();
        }
        alice.delete(&format!("{collection}/records/c")).await.expect(200);
        for _ in 0..2 {
            let answer = alice.get(&format!("{collection}/_changes?include_docs=true")).await.expect(200);
            assert_eq!(ids(&answer.json()), ["a", "b", "c"]);
            assert_eq!(answer.json()["results"][1]["doc"]["n"], 2);
            assert_eq!(answer.header("cdn-cache-control"), Some("no-store"));
        }
        let filtered = alice.get(&format!("{collection}/_changes?filter=f/g")).await.expect(200).json();
        assert_eq!(ids(&filtered), ["a"]);
        let newest = alice.get(&format!("{collection}/_changes?descending=true&limit=1")).await.expect(200);
        assert_eq!(ids(&newest.json()), ["c"]);
        let later = alice.get(&format!("{collection}/_changes?since={seq}")).await.expect(200).json();
        assert!(ids(&later).contains(&"c"), "{later}");
        let database = alice.get(&format!("{collection}/")).await.expect(200).json();
        assert_eq!((&database["doc_count"], &database["update_seq"]), (&json!(2), &later["last_seq"]));
        for feed in ["longpoll", "continuous", "eventsource"] {
            let refused = alice.get(&format!("{collection}/_changes?feed={feed}")).await.expect(403);
            let message = refused.json()["message"].as_str().unwrap().to_owned();
            assert!(message.contains("\"read\"") && message.contains("/c "), "{message}");
        }
        for path in ["/_changes", "/", "/_changes?feed=longpoll"] {
            bob.get(&format!("{collection}{path}")).await.expect(403);
            sidecar.client().get(&format!("{collection}{path}")).await.expect(401);
        }
        let name = collection.replace("/buckets/", "").replace("/collections/", "/");
        let log = sidecar.log();
        let told = log.lines().filter(|line| line.contains("live feeds of")).count();
        assert_eq!(told, 1, "{log}");
        assert!(sidecar.log().contains(&name), "{}", sidecar.log());
    }
}

async fn principal(user: &str) -> serde_json::Value {
    Kinto::shared().client().user(user).get("/").await.expect(200).json()["user"]["id"].clone()
}

#[tokio::test]
async fn a_private_bucket_has_its_feed_without_a_service_account_but_for_live_ones() {
    let kinto = Kinto::shared();
    let direct = kinto.client().user("alice");
    let mallory = [("sidecar.auth", "mallory:secret")];
    // There is none, it may read nothing, and it may read one of two collections.
    for (auth, readers) in
        [(&[][..], json!([])), (&mallory[..], json!([])), (&mallory[..], json!([principal("mallory").await]))]
    {
        let sidecar = Sidecar::start(kinto.url(), auth);
        let (alice, bob) = (sidecar.client().user("alice"), sidecar.client().user("bob"));
        let bucket = format!("/buckets/{}", unique("unreadable"));
        direct.put(&bucket).await.expect(201);
        let mut seqs = Vec::new();
        for (id, readers) in [("a", readers), ("b", json!([]))] {
            let collection = format!("{bucket}/collections/{id}");
            direct.put(&collection).json(json!({"permissions": {"read": readers}})).await.expect(201);
            let record = direct.put(&format!("{collection}/records/r")).data(json!({})).await.expect(201);
            seqs.push(record.data()["last_modified"].clone());
        }
        for _ in 0..2 {
            let answer = alice.get(&format!("{bucket}/_changes?include_docs=true")).await.expect(200);
            assert_eq!(ids(&answer.json()), ["a", "b"]);
            assert_eq!(answer.json()["results"][1]["seq"], seqs[1]);
            assert_eq!(answer.header("cdn-cache-control"), Some("no-store"));
        }
        let written =
            alice.put(&format!("{bucket}/collections/a/records/s")).data(json!({})).await.expect(201);
        let later = alice.get(&format!("{bucket}/_changes?since={}", seqs[1])).await.expect(200).json();
        assert_eq!(later["last_seq"], written.data()["last_modified"]);
        assert!(ids(&later).contains(&"a"), "{later}");
        for feed in ["longpoll", "continuous", "eventsource"] {
            let refused = alice.get(&format!("{bucket}/_changes?feed={feed}")).await.expect(403);
            let message = refused.json()["message"].as_str().unwrap().to_owned();
            assert!(message.contains("\"read\" on the bucket"), "{message}");
        }
        for path in ["/_changes", "/_changes?feed=longpoll"] {
            bob.get(&format!("{bucket}{path}")).await.expect(403);
            sidecar.client().get(&format!("{bucket}{path}")).await.expect(401);
        }
        let log = sidecar.log();
        assert_eq!(log.lines().filter(|line| line.contains("live feeds of")).count(), 1, "{log}");
        assert!(log.contains(&format!("the collections of {bucket} cannot be listed")), "{log}");
    }
}

#[tokio::test]
async fn a_bucket_with_a_collection_whose_records_are_refused_is_not_taken_for_complete() {
    let recorder = Recorder::before(Kinto::shared().url());
    let sidecar = Sidecar::start(recorder.url(), &[SERVICE_ACCOUNT]);
    let direct = Kinto::shared().client().user("alice");
    let bucket = format!("/buckets/{}", unique("unreadable"));
    direct.put(&bucket).await.expect(201);
    for id in ["a", "b"] {
        direct.put(&format!("{bucket}/collections/{id}")).await.expect(201);
        direct.put(&format!("{bucket}/collections/{id}/records/r")).data(json!({})).await.expect(201);
    }
    let refused = format!("/v1{bucket}/collections/b/records");
    recorder.intercept(move |request| {
        let is_own =
            request.headers.get("authorization").is_some_and(|is| is == "Basic c2lkZWNhcjpzZWNyZXQ=");
        match request.path() {
            "/v1/batch" => Fate::Answer(405),
            path if path == refused && is_own => Fate::Answer(403),
            _ => Fate::Pass,
        }
    });
    let alice = sidecar.client().user("alice");
    let answer = alice.get(&format!("{bucket}/_changes")).await.expect(200).json();
    assert_eq!(ids(&answer), ["a", "b"]);
    alice.get(&format!("{bucket}/_changes?feed=longpoll&since=now&timeout=1")).await.expect(403);
}

#[tokio::test]
async fn a_live_feed_ends_when_the_service_account_may_read_no_more() {
    let kinto = Kinto::shared();
    let settings = [
        ("sidecar.auth", "mallory:secret"),
        ("sidecar.timestamps_ttl", "50ms"),
        ("sidecar.poll_budget", "100%"),
    ];
    let sidecar = Sidecar::start(kinto.url(), &settings);
    let alice = sidecar.client().user("alice");
    let bucket = format!("/buckets/{}", unique("unreadable"));
    let collection = format!("{bucket}/collections/c");
    let readers = |readers| json!({"permissions": {"read": readers}});
    alice.put(&bucket).json(readers(json!([principal("mallory").await]))).await.expect(201);
    alice.put(&collection).await.expect(201);
    let authorization = [("authorization", "Basic YWxpY2U6c2VjcmV0")];
    let mut feeds = Vec::new();
    for uri in [&bucket, &collection] {
        let path = format!("{uri}/_changes?feed=continuous&since=0&heartbeat=60000");
        let feed = Follower::open(&sidecar, &path, &authorization).await;
        assert_eq!(feed.status, 200);
        feeds.push((path, feed));
    }
    alice.patch(&bucket).json(readers(json!([]))).await.expect(200);
    alice.put(&format!("{collection}/records/r")).data(json!({})).await.expect(201);
    for (path, mut feed) in feeds {
        while feed.line().await.is_some() {}
        alice.get(&path).await.expect(403);
    }
}
