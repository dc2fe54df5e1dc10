//! What passes behind the sidecar's back is found, once, without an author.

use serde_json::{Value, json};

use super::entries;
use crate::support::{Client, Kinto, Recorder, SERVICE_ACCOUNT, Sidecar, eventually, unique};

const QUICK: [(&str, &str); 4] = [
    SERVICE_ACCOUNT,
    ("sidecar.timestamps_ttl", "50ms"),
    ("sidecar.poll_budget", "100%"),
    ("sidecar.overlap", "1s"),
];

fn sidecar(upstream: &str, bucket: &str, more: &[(&str, &str)]) -> Sidecar {
    let settings: Vec<_> =
        QUICK.iter().copied().chain([("history.resources", bucket)]).chain(more.iter().copied()).collect();
    Sidecar::start(upstream, &settings)
}

/// Waits for this many entries, and gives what each says: action, URI, author.
async fn found(client: &Client, bucket: &str, number: usize) -> Vec<(String, String, Value)> {
    let entries = eventually("the entries", async || {
        let answer = client.get(&format!("{bucket}/history?_sort=last_modified")).await;
        let entries = answer.json()["data"].as_array().cloned().unwrap_or_default();
        (entries.len() >= number).then_some(entries)
    })
    .await;
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    entries
        .iter()
        .map(|entry| (text(&entry["action"]), text(&entry["uri"]), entry["user_id"].clone()))
        .collect()
}

#[tokio::test]
async fn changes_behind_its_back_are_found_once() {
    let kinto = Kinto::shared();
    let bucket = format!("/buckets/{}", unique("elsewhere"));
    let (collection, record) =
        (format!("{bucket}/collections/c"), format!("{bucket}/collections/c/records/r"));
    let direct = kinto.client().user("alice");
    direct.put(&bucket).await.expect(201);
    direct.put(&collection).await.expect(201);
    direct.put(&record).data(json!({"n": 0})).await.expect(201);
    let recorder = Recorder::before(kinto.url());
    let sidecar = sidecar(&recorder.url(), &bucket, &[]);
    let alice = sidecar.client().user("alice");
    // What was there first is taken as known, in a first round; a second one looks for what is new.
    let groups = format!("/v1{bucket}/groups");
    recorder.wait_for(2, |request| request.method == "HEAD" && request.path() == groups).await;
    let before = entries(&alice, &bucket).await.len();
    direct.put(&record).data(json!({"n": 1})).await.expect(200);
    direct.put(&format!("{bucket}/groups/g")).data(json!({"members": []})).await.expect(201);
    let seen = found(&alice, &bucket, before + 2).await;
    let nobody = Value::Null;
    let new: Vec<_> =
        seen[before..].iter().map(|(action, uri, user)| (action.as_str(), uri.as_str(), user)).collect();
    assert!(new.contains(&("create", &format!("{bucket}/groups/g"), &nobody)), "{new:?}");
    assert!(new.iter().any(|(_, uri, user)| *uri == record && **user == nobody), "{new:?}");
    direct.put(&format!("{bucket}/collections/d")).await.expect(201);
    direct.put(&format!("{bucket}/collections/d/records/x")).await.expect(201);
    let seen = found(&alice, &bucket, before + 4).await;
    let new: Vec<_> =
        seen[before + 2..].iter().map(|(action, uri, _)| (action.as_str(), uri.as_str())).collect();
    assert!(new.contains(&("create", &format!("{bucket}/collections/d"))), "{new:?}");
    assert!(new.contains(&("create", &format!("{bucket}/collections/d/records/x"))), "{new:?}");
    direct.delete(&record).await.expect(200);
    let seen = found(&alice, &bucket, before + 5).await;
    assert_eq!(seen[before + 4], ("delete".into(), record, Value::Null));
    assert_eq!(seen.len(), before + 5);
}

#[tokio::test]
async fn what_is_there_is_recorded_though_it_is_older_than_what_it_came_over() {
    // Kinto on PostgreSQL does so by itself where writes of one object wait for each other.
    let kinto = Kinto::shared();
    let bucket = format!("/buckets/{}", unique("older"));
    let records = format!("{bucket}/collections/c/records");
    let sidecar = sidecar(&kinto.url(), &bucket, &[("sidecar.overlap", "10s")]);
    let (alice, direct) = (sidecar.client().user("alice"), kinto.client().user("alice"));
    alice.put(&bucket).await.expect(201);
    alice.put(&format!("{bucket}/collections/c")).await.expect(201);
    alice.put(&format!("{records}/r")).data(json!({"n": 1})).await.expect(201);
    alice.put(&format!("{records}/gone")).await.expect(201);
    let newest = alice.put(&format!("{records}/r")).data(json!({"n": 2})).await.expect(200).timestamp();
    let deleted = alice.delete(&format!("{records}/gone")).await.expect(200).json();
    let deleted = deleted["data"]["last_modified"].as_u64().unwrap();
    let before = entries(&alice, &bucket).await.len();
    for (id, modified) in [("r", newest - 1), ("gone", deleted - 1)] {
        let data = json!({"n": 3, "last_modified": modified});
        assert!(direct.put(&format!("{records}/{id}")).data(data).await.status < 300, "{id}");
    }
    // Something moves the list.
    direct.put(&format!("{records}/other")).await.expect(201);
    let seen = found(&alice, &bucket, before + 3).await;
    let mut new: Vec<_> = seen[before..]
        .iter()
        .map(|(action, uri, _)| (action.as_str(), uri.trim_start_matches(&records)))
        .collect();
    new.sort_unstable();
    assert_eq!(new, [("create", "/gone"), ("create", "/other"), ("update", "/r")]);
}

#[tokio::test]
async fn what_is_dated_back_is_found_though_it_moves_no_timestamp() {
    let kinto = Kinto::shared();
    let bucket = format!("/buckets/{}", unique("dated"));
    let records = format!("{bucket}/collections/c/records");
    let sidecar =
        sidecar(&kinto.url(), &bucket, &[("sidecar.verify_every", "200ms"), ("sidecar.overlap", "50ms")]);
    let (alice, direct) = (sidecar.client().user("alice"), kinto.client().user("alice"));
    alice.put(&bucket).await.expect(201);
    alice.put(&format!("{bucket}/collections/c")).await.expect(201);
    let first = alice.put(&format!("{records}/first")).await.expect(201).timestamp();
    let dated = |n: u64| json!({"last_modified": first - n});
    alice.put(&format!("{records}/gone")).data(dated(100)).await.expect(201);
    for id in ["changed", "newest"] {
        alice.put(&format!("{records}/{id}")).await.expect(201);
    }
    let before = entries(&alice, &bucket).await.len();
    direct.put(&format!("{records}/created")).data(dated(30)).await.expect(201);
    direct.put(&format!("{records}/changed")).data(dated(20)).await.expect(200);
    direct.delete(&format!("{records}/gone?last_modified={}", first - 50)).await.expect(200);
    direct.put(&format!("{bucket}/groups/g")).data(json!({"members": []})).await.expect(201);
    direct
        .put(&format!("{bucket}/groups/h"))
        .data(json!({"members": [], "last_modified": first}))
        .await
        .expect(201);
    let seen = found(&alice, &bucket, before + 5).await;
    let mut new: Vec<_> = seen[before..]
        .iter()
        .map(|(action, uri, _)| (action.as_str(), uri.trim_start_matches(&bucket)))
        .collect();
    new.sort_unstable();
    let records = "/collections/c/records";
    let (created, changed, gone) =
        (format!("{records}/created"), format!("{records}/changed"), format!("{records}/gone"));
    let expected = [
        ("create", &*created),
        ("create", "/groups/g"),
        ("create", "/groups/h"),
        ("delete", &gone),
        ("update", &changed),
    ];
    assert_eq!(new, expected);
    // Nothing is found twice.
    sidecar.client().user("alice").put(&format!("{bucket}/collections/c/records/last")).await.expect(201);
    assert_eq!(entries(&alice, &bucket).await.len(), before + 6);
}

#[tokio::test]
async fn what_was_there_first_becomes_entries_where_that_is_wanted() {
    let bucket = format!("/buckets/{}", unique("backfill"));
    let direct = Kinto::shared().client().user("alice");
    for uri in ["", "/collections/c", "/groups/g", "/collections/c/records/r"] {
        direct.put(&format!("{bucket}{uri}")).data(json!({"members": []})).await.expect(201);
    }
    let sidecar = sidecar(&Kinto::shared().url(), &bucket, &[("history.backfill", "current")]);
    let seen = found(&sidecar.client().user("alice"), &bucket, 4).await;
    let mut uris: Vec<_> = seen.iter().map(|(action, uri, _)| (action.as_str(), uri.clone())).collect();
    uris.sort();
    let expected = ["", "/collections/c", "/collections/c/records/r", "/groups/g"];
    assert_eq!(uris, expected.map(|uri| ("create", format!("{bucket}{uri}"))));
}
