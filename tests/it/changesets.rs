//! Changesets that are not the ordinary slice of a mirror, and remote-settings' way.

use serde_json::{Value, json};

use crate::support::{Client, Kinto, Sidecar};

/// A bucket of its own with some records in it, and what Kinto lists of them.
async fn filled(bucket: &str, permissions: Value, records: usize) -> Value {
    let owner = Kinto::shared().client().user("owner");
    owner.put(&format!("/buckets/{bucket}")).json(json!({"permissions": permissions})).await.expect(201);
    let collection = format!("/buckets/{bucket}/collections/things");
    owner.put(&collection).json(json!({})).await.expect(201);
    for record in 0..records {
        let path = format!("{collection}/records/r{record}");
        owner.put(&path).data(json!({"text": "x".repeat(100), "number": 1.5})).await.expect(201);
    }
    owner.get(&format!("{collection}/records")).await.expect(200).data()
}

fn public() -> Value {
    json!({"read": ["system.Everyone"]})
}

async fn changeset(client: &Client, bucket: &str, more: &str) -> crate::support::Response {
    client.get(&format!("/buckets/{bucket}/collections/things/changeset?_expected=0{more}")).await
}

#[tokio::test]
async fn a_collection_larger_than_the_cache_is_streamed_whole() {
    let records = filled("oversize", public(), 30).await;
    let sidecar = Sidecar::start(Kinto::shared().url(), &[("sidecar.cache_size", "1KiB")]);
    for _ in 0..2 {
        let answer = changeset(&sidecar.client(), "oversize", "").await.expect(200);
        assert_eq!(answer.json()["changes"], records);
        assert_eq!(answer.json()["metadata"]["id"], "things");
    }
    let answer = changeset(&sidecar.client(), "oversize", "&_limit=2").await.expect(200);
    assert_eq!(answer.json()["changes"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn what_the_service_account_may_not_read_its_owner_may_and_nobody_else() {
    let records = filled("private", json!({}), 3).await;
    let sidecar = Sidecar::start(Kinto::shared().url(), &[]);
    for _ in 0..2 {
        let answer = changeset(&sidecar.client().user("owner"), "private", "").await.expect(200);
        assert_eq!(answer.json()["changes"], records);
        assert_eq!(answer.header("cdn-cache-control"), Some("no-store"));
        assert_eq!(answer.header("vary"), Some("Authorization, Cookie"));
        changeset(&sidecar.client().user("stranger"), "private", "").await.expect(403);
        changeset(&sidecar.client(), "private", "").await.expect(401);
    }
}

#[tokio::test]
async fn each_way_to_keep_a_mirror_up_serves_what_kinto_has() {
    for mode in ["delta", "verified", "full"] {
        let bucket = format!("mode-{mode}");
        filled(&bucket, public(), 3).await;
        let sidecar = Sidecar::start(Kinto::shared().url(), &[("sidecar.mirror", mode)]);
        changeset(&sidecar.client(), &bucket, "").await.expect(200);
        let owner = sidecar.client().user("owner");
        let path = format!("/buckets/{bucket}/collections/things/records");
        owner.put(&format!("{path}/r1")).data(json!({"other": true})).await.expect(200);
        owner.delete(&format!("{path}/r2")).await.expect(200);
        let answer = changeset(&sidecar.client(), &bucket, "").await.expect(200);
        assert_eq!(answer.json()["changes"], owner.get(&path).await.expect(200).data(), "{mode}");
        let since = changeset(&sidecar.client(), &bucket, "&_since=%221%22").await.expect(200);
        let deleted = since.json()["changes"][0].clone();
        assert_eq!((&deleted["id"], &deleted["deleted"]), (&json!("r2"), &json!(true)), "{mode}");
    }
}

#[tokio::test]
async fn a_collection_of_the_default_bucket_is_made_when_its_changeset_is_read() {
    let sidecar = Sidecar::start(Kinto::shared().url(), &[]);
    let client = sidecar.client().user("somebody-new");
    let answer = client.get("/buckets/default/collections/made/changeset?_expected=0").await.expect(200);
    assert_eq!(answer.json()["changes"], json!([]));
    assert_eq!(answer.json()["metadata"]["id"], "made");
}

#[tokio::test]
async fn remote_settings_way_is_followed_where_it_is_asked_for() {
    let records = filled("remote", public(), 2).await;
    let settings = [("sidecar.compat", "remote-settings"), ("changes.resources", "/buckets/remote")];
    let sidecar = Sidecar::start(Kinto::shared().url(), &settings);
    let client = sidecar.client();
    let newest = records[0]["last_modified"].as_u64().unwrap();

    let answer = changeset(&client, "remote", &format!("&_since={newest}")).await.expect(200);
    assert_eq!(answer.json()["metadata"]["bucket"], "remote");
    assert_eq!(answer.json()["timestamp"], newest);

    let list = "/buckets/monitor/collections/changes/records";
    let etag = format!("\"{newest}\"");
    let known = client.get(list).header("If-None-Match", &etag).await.expect(200);
    assert_eq!(known.data(), json!([]));
    let monitor = "/buckets/monitor/collections/changes/changeset";
    let later = newest + 1;
    client.get(&format!("{monitor}?_expected={newest}&_since={later}")).await.expect(204);
    for quoted in [format!("%22{newest}%22"), format!("{newest}%22"), format!("%22{newest}")] {
        let led = client.get(&format!("{monitor}?_expected={quoted}")).await.expect(307);
        let location = led.header("location").unwrap();
        assert!(location.ends_with(&format!("/changeset?_expected={newest}")), "{quoted}: {location}");
    }
}
