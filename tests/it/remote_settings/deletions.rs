//! What was deleted, for clients that come after Kinto has forgotten it.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{changeset_of, public_bucket, sidecar_before, v2};
use crate::check::examined;
use crate::support::{Client, Kinto, KintoOptions, Plugin, SERVICE_ACCOUNT, eventually, unique};

const BUCKET: &str = "away";

/// The ids that are given as deleted since then, with their timestamps.
fn deleted(answer: &Value) -> BTreeSet<(String, u64)> {
    let changes = answer["changes"].as_array().unwrap().iter();
    let deleted = changes.filter(|row| row["deleted"] == true);
    deleted
        .map(|row| (row["id"].as_str().unwrap().to_owned(), row["last_modified"].as_u64().unwrap()))
        .collect()
}

async fn since(client: &Client, since: u64) -> Value {
    let path = format!("{}?_expected=0&_since={since}", changeset_of(BUCKET, "c"));
    v2(client, &path).await.expect(200).json()
}

/// What `check` says of deletions.
fn said(kinto: &Kinto, journal: &str) -> String {
    let settings = [
        SERVICE_ACCOUNT,
        ("sidecar.compat", "remote-settings"),
        ("changes.resources", "/buckets/away"),
        ("sidecar.history", "journal"),
        ("sidecar.journal", journal),
    ];
    examined(&kinto.url(), &settings).0["facts"]["deletions"].as_str().unwrap().to_owned()
}

async fn are_known_after_a_purge(options: KintoOptions) {
    let kinto = Kinto::start(options.plugin(Plugin::Purge));
    let direct = kinto.client().user("owner");
    public_bucket(&direct, BUCKET, &["c"]).await;
    let uri = format!("/buckets/{BUCKET}/collections/c");
    let record = |id: &str| format!("{uri}/records/{id}");
    for id in ["early", "passing", "elsewhere", "again", "silent", "down"] {
        direct.put(&record(id)).await.expect(201);
    }
    let list = direct.get(&format!("{uri}/records")).await.expect(200);
    let began = list.timestamp();
    // Before the sidecar is there; the list's last event is another one.
    direct.delete(&record("early")).await.expect(200);
    direct.put(&record("one")).await.expect(200);

    let folder = tempfile::tempdir().unwrap();
    let journal = format!("sqlite:{}", folder.path().join("j.db").display());
    let settings = [
        ("sidecar.history", "journal"),
        ("sidecar.journal", &*journal),
        ("sidecar.state_dir", "none"),
        ("sidecar.admin_listen", "127.0.0.1:0"),
        ("sidecar.timestamps_ttl", "100ms"),
        ("sidecar.poll_budget", "100%"),
        ("sidecar.overlap", "1s"),
    ];
    assert!(said(&kinto, &journal).contains("as long as Kinto keeps them"));
    let mut sidecar = sidecar_before(kinto.url(), &[BUCKET], &settings);
    eventually("the deletions to be known", async || {
        said(&kinto, &journal).contains("known in 1 of 1 collections").then_some(())
    })
    .await;
    let owner = sidecar.client().user("owner");
    owner.delete(&record("passing")).await.expect(200);
    owner.delete(&record("again")).await.expect(200);
    owner.put(&record("again")).await.expect(201);
    direct.delete(&record("elsewhere")).await.expect(200);
    direct.put(&record("two")).await.expect(200);
    let whole = eventually("all that was written", async || {
        let answer = since(&sidecar.client(), began).await;
        (deleted(&answer).len() == 3).then_some(answer)
    })
    .await;
    let history = format!("/buckets/{BUCKET}/history?uri={}&action=delete", record("elsewhere"));
    eventually("the deletion in the history", async || {
        let entries = owner.get(&history).await.expect(200).data();
        (!entries.as_array().unwrap().is_empty()).then_some(())
    })
    .await;
    let before = deleted(&whole);

    // Kinto forgets them while the sidecar runs, and one goes without a trace while it does not.
    direct.post("/__purge__").await.expect(200);
    let compared = sidecar.metric("kinto_sidecar_mirror_comparisons_total").await.unwrap();
    assert_eq!(deleted(&since(&sidecar.client(), began).await), before, "after {compared} comparisons");
    sidecar.kill();
    direct.delete(&record("down")).await.expect(200);
    direct.put(&record("two")).await.expect(200);
    direct.post("/__purge__").await.expect(200);
    sidecar.restart();
    let client = sidecar.client();
    let answer = eventually("what the journal knows", async || {
        let answer = since(&client, began).await;
        (deleted(&answer).len() == 4).then_some(answer)
    })
    .await;
    let after = deleted(&answer);
    assert!(before.is_subset(&after), "{before:?} {after:?}");
    assert!(after.iter().any(|(id, _)| id == "down"));
    let live: BTreeSet<&str> = answer["changes"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|row| row["deleted"] != true)
        .map(|row| row["id"].as_str().unwrap())
        .collect();
    assert!(live.contains("again") && live.contains("two"), "{live:?}");
    // `/v1` of this mode is the same, and whole changesets have no tombstones.
    let path = format!("{}?_expected=0&_since=%22{began}%22", changeset_of(BUCKET, "c"));
    let of_v1 = client.get(&path).await.expect(200).json();
    assert_eq!((&of_v1["changes"], &of_v1["timestamp"]), (&answer["changes"], &answer["timestamp"]));
    let path = format!("{}?_expected=0", changeset_of(BUCKET, "c"));
    let fresh = v2(&client, &path).await.expect(200).json();
    assert!(deleted(&fresh).is_empty());
    let direct_ids: BTreeSet<String> = ids(&direct.get(&format!("{uri}/records")).await.expect(200).data());
    assert_eq!(ids(&fresh["changes"]), direct_ids);
    // Who was away since before all of it is counted; who was not, is not.
    let counted = async || sidecar.metric("kinto_sidecar_changesets_before_deletions_total").await.unwrap();
    let known = eventually("somebody to be counted", async || {
        since(&client, began).await;
        Some(counted().await).filter(|counted| *counted > 0)
    })
    .await;
    since(&client, answer["timestamp"].as_u64().unwrap()).await;
    assert_eq!(counted().await, known);
}

fn ids(rows: &Value) -> BTreeSet<String> {
    rows.as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn deletions_are_known_after_a_purge() {
    are_known_after_a_purge(KintoOptions::memory()).await;
}

#[tokio::test]
async fn deletions_are_known_after_a_purge_of_postgresql() {
    are_known_after_a_purge(KintoOptions::postgres()).await;
}

#[tokio::test]
async fn deletions_that_find_no_room_are_counted_as_unknown() {
    const RECORDS: usize = 150;
    let bucket = unique("crowded");
    // In one that others use, too, the journal looks at their buckets first.
    let kinto = Kinto::start(KintoOptions::memory());
    let direct = kinto.client().user("owner");
    public_bucket(&direct, &bucket, &["c"]).await;
    let uri = format!("/buckets/{bucket}/collections/c/records");
    let batch = |method: &str, ids: std::ops::Range<usize>| {
        let requests = ids.map(|id| json!({"method": method, "path": format!("{uri}/record-{id}")}));
        json!({"requests": requests.collect::<Vec<_>>()})
    };
    let folder = tempfile::tempdir().unwrap();
    let journal = format!("sqlite:{}", folder.path().join("j.db").display());
    let settings = [
        ("sidecar.history", "journal"),
        ("sidecar.journal", &*journal),
        ("sidecar.state_dir", "none"),
        ("sidecar.admin_listen", "127.0.0.1:0"),
        ("sidecar.cache_size", "64KiB"),
        ("sidecar.poll_budget", "100%"),
    ];
    let mut sidecar = sidecar_before(kinto.url(), &[&bucket], &settings);
    let owner = sidecar.client().user("owner");
    let write = async |method: &str| {
        for first in (0..RECORDS).step_by(25) {
            owner.post("/batch").json(batch(method, first..first + 25)).await.expect(200);
        }
    };
    write("PUT").await;
    let resources = format!("/buckets/{bucket}");
    let account =
        [SERVICE_ACCOUNT, ("changes.resources", &*resources), ("sidecar.compat", "remote-settings")];
    let all: Vec<(&str, &str)> = account.iter().chain(&settings[..2]).copied().collect();
    eventually("deletions to be known from here on", async || {
        let said = examined(&kinto.url(), &all).0;
        said["facts"]["deletions"].as_str().unwrap().contains("known in 1 of 1 collections").then_some(())
    })
    .await;
    owner.put(&format!("{uri}/last")).await.expect(201);
    let away = owner.get(&uri).await.expect(200).timestamp();
    write("DELETE").await;
    let newest = owner.get(&uri).await.expect(200).timestamp();
    // What the journal knows is read once the mirror is.
    sidecar.kill();
    sidecar.restart();
    let client = sidecar.client();
    let changeset = changeset_of(&bucket, "c");
    let counted = async || sidecar.metric("kinto_sidecar_changesets_before_deletions_total").await.unwrap();
    let early = format!("{changeset}?_expected=0&_since={away}");
    let known = eventually("somebody who was away to be counted", async || {
        assert_eq!(deleted(&v2(&client, &early).await.expect(200).json()).len(), RECORDS, "Kinto has them");
        Some(counted().await).filter(|counted| *counted > 0)
    })
    .await;
    let late = format!("{changeset}?_expected=0&_since={newest}");
    v2(&client, &late).await.expect(200);
    assert_eq!(counted().await, known);
    assert!(sidecar.log().contains("half of sidecar.cache_size is too little"), "{}", sidecar.log());
}
