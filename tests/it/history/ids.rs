//! Ids are what the upstream's id generators allow: objects of any id have their history, changesets, feeds and snapshots.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::entries;
use crate::support::{Kinto, KintoOptions, SERVICE_ACCOUNT, Sidecar, eventually};

const IDS: [&str; 12] =
    ["plain", "a.b", "x@example.org", "_x", "é", "a b", "100%", "\"q\"", "feed\n", "#?&=", ";p,q", "batch"];

fn path(id: &str) -> String {
    utf8_percent_encode(id, NON_ALPHANUMERIC).to_string()
}

/// As Kinto's `instance_uri` writes it.
fn in_uri(id: &str) -> String {
    let text = path(id);
    "-_.~!$&'()*+,;=:@"
        .chars()
        .fold(text, |text, c| text.replace(&format!("%{:02X}", u32::from(c)), &c.to_string()))
}

#[tokio::test]
async fn objects_of_any_id_have_their_history_changesets_feeds_and_snapshots() {
    // Kinto finds no permissions that come down from an object whose id is escaped.
    let kinds = ["bucket", "collection", "group", "record"];
    let granted =
        kinds.into_iter().flat_map(|kind| ["create", "read", "write"].map(|may| format!("{kind}_{may}")));
    let options = granted.fold(KintoOptions::memory().any_id(), |options, granted| {
        options.setting(&format!("kinto.{granted}_principals"), "system.Authenticated")
    });
    let kinto = Kinto::start(options);
    let settings = [
        SERVICE_ACCOUNT,
        ("sidecar.history", "journal"),
        ("changes.resources", "/buckets/x.y%20z"),
        ("sidecar.timestamps_ttl", "50ms"),
        ("sidecar.poll_budget", "100%"),
    ];
    let sidecar = Sidecar::start(kinto.url(), &settings);
    let alice = sidecar.client().user("alice");
    let bucket = "/buckets/x.y%20z";
    alice.put(bucket).await.expect(201);
    for id in IDS {
        alice.put(&format!("{bucket}/groups/{}", path(id))).data(json!({"members": []})).await.expect(201);
        let collection = format!("{bucket}/collections/{}", path(id));
        alice.put(&collection).await.expect(201);
        alice.put(&format!("{collection}/records/{}", path(id))).await.expect(201);
        let requests =
            json!([{"path": format!("{collection}/records/b{}", path(id)).replace("/batch", "/%62atch")}]);
        let batch = json!({"defaults": {"method": "PUT"}, "requests": requests});
        alice.post("/batch").json(batch).await.expect(200);
    }
    let recorded = entries(&alice, bucket).await;
    for id in IDS {
        let collection = format!("{bucket}/collections/{}", in_uri(id));
        for uri in [
            format!("{bucket}/groups/{}", in_uri(id)),
            collection.clone(),
            format!("{collection}/records/{}", in_uri(id)),
            format!("{collection}/records/b{}", in_uri(id)),
        ] {
            let about: Vec<_> = recorded.iter().filter(|entry| entry["uri"] == uri).collect();
            assert_eq!(about.len(), 1, "{uri}: {recorded:#?}");
            assert!(about[0]["user_id"].is_string());
        }
        let record = recorded.iter().find(|entry| entry["record_id"] == id).unwrap();
        assert_eq!((&record["collection_id"], &record["target"]["data"]["id"]), (&json!(id), &json!(id)));

        let collection = format!("{bucket}/collections/{}", path(id));
        let changeset = alice.get(&format!("{collection}/changeset?_expected=0")).await.expect(200);
        assert_eq!(changeset.json()["changes"].as_array().unwrap().len(), 2);
        let tags = changeset.header("surrogate-key").unwrap().split(' ').count();
        assert_eq!((tags, changeset.header("cache-tag").unwrap().split(',').count()), (2, 2));
        let feed = alice.get(&format!("{collection}/_changes?include_docs=true")).await.expect(200).json();
        let docs: Vec<_> = feed["results"].as_array().unwrap().iter().map(|row| &row["id"]).collect();
        assert_eq!(docs, [&json!(id), &json!(format!("b{id}"))]);
        let filtered =
            format!("{bucket}/history?collection_id={}&resource_name=record", path(&json!(id).to_string()));
        assert_eq!(alice.get(&filtered).await.expect(200).data().as_array().unwrap().len(), 2);
        let moment = &changeset.json()["timestamp"];
        let snapshot = format!("{bucket}/snapshot/collections/{}@{moment}", path(id));
        assert_eq!(alice.get(&snapshot).await.expect(200).data().as_array().unwrap().len(), 2);
    }
    let list = alice.get("/buckets/monitor/collections/changes/records").await.expect(200).data();
    let listed: Vec<&Value> = list.as_array().unwrap().iter().map(|row| &row["collection"]).collect();
    assert!(IDS.iter().all(|id| listed.contains(&&json!(id))), "{listed:?}");
    let feed = alice.get(&format!("{bucket}/_changes")).await.expect(200).json();
    assert_eq!(feed["results"].as_array().unwrap().len(), IDS.len());

    // What passes elsewhere is found.
    for id in IDS {
        let record = format!("{bucket}/collections/{}/records/behind{}", path(id), path(id));
        kinto.client().user("alice").put(&record).await.expect(201);
    }
    eventually("what was written elsewhere", async || {
        let recorded = entries(&alice, bucket).await;
        let is_there = |id: &str| recorded.iter().any(|entry| entry["record_id"] == format!("behind{id}"));
        IDS.iter().all(|id| is_there(id)).then_some(())
    })
    .await;
    let listed = alice.get("/buckets/monitor/collections/changes/changeset?_expected=0").await.expect(200);
    assert_eq!(listed.json()["changes"].as_array().unwrap().len(), IDS.len());
}
