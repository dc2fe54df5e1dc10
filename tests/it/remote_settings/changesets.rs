//! What both changesets of `/v2` show, to whom, and for how long caches may keep them.

use std::io::Read as _;

use http::Method;
use serde_json::{Value, json};

use super::{changeset_of, public_bucket, sidecar_of, v2};
use crate::support::{Client, Kinto, Recorder, SERVICE_ACCOUNT, Sidecar, eventually, unique};

const LIST: &str = "/buckets/monitor/collections/changes/changeset";

async fn listed(client: &Client, query: &str) -> Vec<String> {
    let list = v2(client, &format!("{LIST}?{query}")).await.expect(200).json();
    let rows = list["changes"].as_array().unwrap().iter();
    let mut names: Vec<String> = rows
        .map(|row| format!("{}/{}", row["bucket"].as_str().unwrap(), row["collection"].as_str().unwrap()))
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn what_anybody_may_read_of_what_is_monitored_is_shown_to_everybody_alike() {
    let owner = Kinto::shared().client().user("owner");
    let (open, closed, other) = (unique("open"), unique("closed"), unique("other"));
    public_bucket(&owner, &open, &["a"]).await;
    public_bucket(&owner, &other, &["unmonitored"]).await;
    owner.put(&format!("/buckets/{closed}")).await.expect(201);
    for (collection, readers) in [
        ("hidden", json!([])),
        ("shown", json!(["system.Everyone"])),
        ("ours", json!(["system.Authenticated"])),
    ] {
        let uri = format!("/buckets/{closed}/collections/{collection}");
        owner.put(&uri).json(json!({"permissions": {"read": readers}})).await.expect(201);
        owner.put(&format!("{uri}/records/r")).await.expect(201);
    }
    let sidecar = sidecar_of(&[&open, &closed], &[("sidecar.permission_ttl", "1s")]);
    let shown = vec![format!("{closed}/shown"), format!("{open}/a")];
    let shown = {
        let mut shown = shown;
        shown.sort();
        shown
    };
    for client in [sidecar.client(), sidecar.client().user("owner")] {
        assert_eq!(listed(&client, "_expected=0").await, shown);
        for (bucket, collection, status) in [
            (&open, "a", 200),
            (&closed, "shown", 200),
            (&closed, "hidden", 404),
            (&closed, "ours", 404),
            (&other, "unmonitored", 404),
            (&open, "none", 404),
        ] {
            let answer = v2(&client, &format!("{}?_expected=0", changeset_of(bucket, collection)))
                .await
                .expect(status);
            if status == 404 {
                assert_eq!(answer.json()["detail"], format!("{bucket}/{collection} not found"));
                assert_eq!(answer.header("cache-control"), Some("max-age=60"));
            }
        }
    }
    // What becomes public by a write that passes is there with the next answer, and the other way round.
    let hidden = format!("/buckets/{closed}/collections/hidden");
    let client = sidecar.client();
    for (readers, count) in [(json!(["system.Everyone"]), 3), (json!([]), 2)] {
        let permissions = json!({"permissions": {"read": readers}});
        sidecar.client().user("owner").patch(&hidden).json(permissions).await.expect(200);
        assert_eq!(listed(&client, "_expected=0").await.len(), count);
    }
    // What passes elsewhere is there within the time for which permissions are remembered.
    owner.patch(&format!("/buckets/{open}")).json(json!({"permissions": {"read": []}})).await.expect(200);
    eventually("the bucket to be hidden", async || {
        (listed(&client, "_expected=0").await == [format!("{closed}/shown")]).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_list_is_filtered_exactly_and_has_the_newest_timestamp_of_all() {
    let (one, two) = (unique("filter-one"), unique("filter-two"));
    let owner = Kinto::shared().client().user("owner");
    public_bucket(&owner, &one, &["a", "b"]).await;
    public_bucket(&owner, &two, &["a"]).await;
    // With an overlap, those come again that passed elsewhere just before.
    let sidecar = sidecar_of(&[&one, &two], &[("sidecar.overlap", "0s")]);
    let client = sidecar.client();
    let list = v2(&client, &format!("{LIST}?_expected=0")).await.expect(200).json();
    let newest = list["timestamp"].as_u64().unwrap();
    let oldest = list["changes"][2]["last_modified"].as_u64().unwrap();
    let all = [format!("{one}/a"), format!("{one}/b"), format!("{two}/a")];
    let none: &[String] = &[];
    for (filter, expected) in [
        (String::new(), &all[..]),
        (format!("&bucket={one}"), &all[..2]),
        (format!("&bucket={two}&bucket={one}"), &all[..2]),
        (format!("&bucket={one}&collection=b"), &all[1..2]),
        (format!("&bucket={}", one.get(..one.len() - 1).unwrap()), none),
        ("&bucket=".to_owned(), none),
        ("&collection=".to_owned(), none),
        ("&collection=A".to_owned(), none),
        (format!("&_since={}", oldest - 1), &all[..]),
        (format!("&_since={oldest}"), &all[1..]),
        (format!("&_since={newest}"), none),
        (format!("&bucket={one}&_since={oldest}"), &all[1..2]),
        ("&other=x&_limit=1".to_owned(), &all[..]),
    ] {
        let query = format!("_expected=0{filter}");
        assert_eq!(listed(&client, &query).await, expected, "{query}");
        let answer = v2(&client, &format!("{LIST}?{query}")).await.expect(200).json();
        assert_eq!(
            (&answer["timestamp"], &answer["metadata"]),
            (&json!(newest), &list["metadata"]),
            "{query}"
        );
    }
}

#[tokio::test]
async fn a_changeset_of_v2_is_the_one_of_v1_from_the_same_memory() {
    let bucket = unique("same");
    let owner = Kinto::shared().client().user("owner");
    public_bucket(&owner, &bucket, &["c"]).await;
    let recorder = Recorder::before(Kinto::shared().url());
    let resources = format!("/buckets/{bucket}");
    let settings = [
        SERVICE_ACCOUNT,
        ("sidecar.compat", "remote-settings"),
        ("changes.resources", &resources),
        ("sidecar.timestamps_ttl", "3600s"),
        ("sidecar.permission_ttl", "3600s"),
        ("sidecar.history", "off"),
    ];
    let sidecar = Sidecar::start(recorder.url(), &settings);
    let client = sidecar.client();
    let path = changeset_of(&bucket, "c");
    for path in [&*path, LIST] {
        let old = client.get(&format!("{path}?_expected=0")).await.expect(200);
        recorder.clear();
        let new = v2(&client, &format!("{path}?_expected=0")).await.expect(200);
        assert_eq!(new.body, old.body);
        assert_eq!(new.header("etag"), old.header("etag"));
        assert_eq!(new.header("surrogate-key"), old.header("surrogate-key"));
        assert_eq!(new.header("cache-status"), Some("kinto-sidecar; hit"));
        assert_eq!(recorder.count(|request| request.reads_records_of(&bucket, "c")), 0);

        let known = v2(&client, &format!("{path}?_expected=0"))
            .header("if-none-match", new.header("etag").unwrap())
            .await;
        assert_eq!((known.status, known.body.len()), (304, 0));
        let head = client.request_target(Method::HEAD, &format!("/v2{path}?_expected=0")).await.expect(200);
        assert_eq!((head.header("content-length"), head.body.len()), (new.header("content-length"), 0));
        let coded =
            v2(&client, &format!("{path}?_expected=0")).header("accept-encoding", "gzip").await.expect(200);
        if coded.header("content-encoding") == Some("gzip") {
            let mut text = Vec::new();
            flate2::read::GzDecoder::new(&*coded.body).read_to_end(&mut text).unwrap();
            assert_eq!(text, new.body);
        }
        assert_eq!(coded.header("vary"), Some("Accept-Encoding"));
    }
}

#[tokio::test]
async fn since_takes_any_number_and_brings_tombstones_with_their_timestamps() {
    let bucket = unique("since");
    let direct = Kinto::shared().client().user("owner");
    public_bucket(&direct, &bucket, &["c"]).await;
    let sidecar = sidecar_of(&[&bucket], &[]);
    let (client, owner) = (sidecar.client(), sidecar.client().user("owner"));
    let records = format!("/buckets/{bucket}/collections/c/records");
    let path = changeset_of(&bucket, "c");
    let whole = v2(&client, &format!("{path}?_expected=0")).await.expect(200).json();
    let before = whole["timestamp"].as_u64().unwrap();
    owner.delete(&format!("{records}/one")).await.expect(200);
    owner.put(&format!("{records}/three")).await.expect(201);
    owner.delete(&format!("{records}/two")).await.expect(200);
    owner.put(&format!("{records}/two")).await.expect(201);
    let changes = async |query: &str| -> (u64, Vec<(String, bool, u64)>) {
        let changeset = v2(&client, &format!("{path}?{query}")).await.expect(200).json();
        let rows = changeset["changes"].as_array().unwrap().iter();
        let row = |row: &Value| {
            let deleted = row.get("deleted").is_some_and(|deleted| deleted == &json!(true));
            (row["id"].as_str().unwrap().to_owned(), deleted, row["last_modified"].as_u64().unwrap())
        };
        (changeset["timestamp"].as_u64().unwrap(), rows.map(row).collect())
    };
    let names = |rows: &[(String, bool, u64)]| {
        rows.iter()
            .map(|(id, deleted, _)| format!("{id}{}", if *deleted { "!" } else { "" }))
            .collect::<Vec<_>>()
            .join(" ")
    };
    let (timestamp, rows) = changes("_expected=0").await;
    assert_eq!(names(&rows), "two three", "no tombstones without a _since");
    let list = v2(&client, &format!("{LIST}?_expected=0")).await.expect(200).json();
    assert_eq!(list["changes"][0]["last_modified"], timestamp);
    assert_eq!(names(&changes(&format!("_expected=0&_since={before}")).await.1), "two three one!");
    assert_eq!(names(&changes("_expected=0&_since=0").await.1), "two three one!");
    let all = changes("_expected=0&_since=0").await.1;
    assert!(all.is_sorted_by(|newer, older| newer.2 > older.2), "newest first: {all:?}");
    for since in [timestamp, timestamp + 1, u64::MAX] {
        assert_eq!(changes(&format!("_expected=0&_since={since}")).await, (timestamp, Vec::new()), "{since}");
    }
    let between = all[1].2;
    assert_eq!(names(&changes(&format!("_expected=0&_since={between}")).await.1), "two");
    let huge = "9".repeat(4300);
    assert_eq!(changes(&format!("_expected=0&_since={huge}")).await, (timestamp, Vec::new()));
}

#[tokio::test]
async fn caches_are_told_by_the_table_of_git_reader_or_by_settings() {
    let bucket = unique("caching");
    let preview = format!("{bucket}-preview");
    let owner = Kinto::shared().client().user("owner");
    public_bucket(&owner, &bucket, &["c", "x-preview"]).await;
    public_bucket(&owner, &preview, &["c"]).await;
    for (more, long, short) in [
        (&[][..], "max-age=3600", "max-age=60"),
        (
            &[("sidecar.v2_max_age", "1d"), ("sidecar.v2_short_max_age", "5s")][..],
            "max-age=86400",
            "max-age=5",
        ),
    ] {
        let sidecar = sidecar_of(&[&bucket, &preview], more);
        let client = sidecar.client();
        let newest = v2(&client, &format!("{LIST}?_expected=0")).await.expect(200).json()["timestamp"]
            .as_u64()
            .unwrap();
        for (path, status, expected) in [
            ("/".to_owned(), 200, long),
            (format!("{LIST}?_expected={newest}"), 200, long),
            (format!("{LIST}?_expected=1.0"), 200, long),
            (format!("{LIST}?_expected=0"), 200, short),
            (format!("{LIST}?_expected=-0.0"), 200, short),
            (format!("{LIST}?_expected=09999"), 200, short),
            (format!("{LIST}?_expected={}", newest + 1000), 200, short),
            (format!("{}?_expected=0", changeset_of(&bucket, "c")), 200, long),
            (format!("{}?_expected=9999", changeset_of(&bucket, "c")), 200, long),
            (format!("{}?_expected={}", changeset_of(&bucket, "c"), newest + 1000), 200, short),
            (format!("{}?_expected=0", changeset_of(&bucket, "x-preview")), 200, short),
            (format!("{}?_expected=0", changeset_of(&preview, "c")), 200, short),
            (format!("{}?_expected=0", changeset_of(&bucket, "none")), 404, short),
            (format!("{}?_expected=x", changeset_of(&preview, "c")), 422, long),
            (format!("{}?_expected=1&_since=2", changeset_of(&preview, "c")), 400, long),
            ("/nothing".to_owned(), 404, short),
            ("/__broadcasts__".to_owned(), 200, short),
            ("/__broadcasts__/".to_owned(), 307, long),
            (String::new(), 307, long),
        ] {
            let answer = v2(&client, &path).await.expect(status);
            assert_eq!(answer.header("cache-control"), Some(expected), "{path}");
            assert!(!answer.header("vary").unwrap_or_default().contains("Authorization"), "{path}");
        }
        // What one request's headers decide is for nobody else.
        for path in [
            "/".to_owned(),
            format!("{LIST}?_expected=0"),
            format!("{}?_expected=0", changeset_of(&bucket, "c")),
        ] {
            let answer = v2(&client, &path).header("if-match", "\"1\"").await.expect(412);
            assert_eq!(answer.header("cache-control"), Some("no-store"), "{path}");
        }
    }
}
