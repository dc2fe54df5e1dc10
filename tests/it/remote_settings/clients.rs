//! What Remote Settings' clients ask, one request after the other, read as they read it.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::{changeset_of, public_bucket, sidecar_of, v2};
use crate::support::{Client, Kinto, unique};

/// The members without which the Rust component gives up.
#[derive(Debug, Deserialize)]
struct Changeset {
    changes: Vec<Change>,
    timestamp: u64,
    metadata: Metadata,
}

#[derive(Debug, Deserialize)]
struct Metadata {
    bucket: String,
    signatures: Vec<Signature>,
}

#[derive(Debug, Deserialize, PartialEq, Eq)]
struct Signature {
    #[serde(rename = "signature")]
    text: String,
    x5u: String,
    mode: String,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Change {
    id: String,
    last_modified: u64,
    #[serde(default)]
    deleted: bool,
    attachment: Option<Attachment>,
    #[serde(flatten)]
    fields: Map<String, Value>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Attachment {
    filename: String,
    mimetype: String,
    location: String,
    hash: String,
    size: u64,
}

#[derive(Debug, Deserialize)]
struct List {
    changes: Vec<Listed>,
    timestamp: u64,
}

#[derive(Debug, Deserialize)]
struct Listed {
    bucket: String,
    collection: String,
    last_modified: u64,
}

#[derive(Debug, Deserialize)]
struct Service {
    capabilities: Capabilities,
}

#[derive(Debug, Deserialize)]
struct Capabilities {
    attachments: Attachments,
}

#[derive(Debug, Deserialize)]
struct Attachments {
    base_url: String,
}

/// What a client has of a collection.
#[derive(Debug, Default)]
struct Local {
    timestamp: u64,
    records: BTreeMap<String, Change>,
}

impl Local {
    fn take(&mut self, changeset: Changeset) {
        for change in changeset.changes {
            if change.deleted {
                self.records.remove(&change.id);
            } else {
                self.records.insert(change.id.clone(), change);
            }
        }
        self.timestamp = changeset.timestamp;
    }

    /// Whether it is what Kinto has.
    async fn is_that_of(&self, owner: &Client, uri: &str) {
        let list = owner.get(&format!("{uri}/records")).await.expect(200);
        let records: Vec<Change> = serde_json::from_value(list.data()).unwrap();
        let records: BTreeMap<_, _> = records.into_iter().map(|record| (record.id.clone(), record)).collect();
        assert_eq!((self.timestamp, &self.records), (list.timestamp(), &records));
    }
}

/// A bucket with a signed collection, and an attachment in it.
async fn signed_bucket(owner: &Client) -> (String, String) {
    let bucket = unique("flow");
    public_bucket(owner, &bucket, &["c", "unsigned"]).await;
    let uri = format!("/buckets/{bucket}/collections/c");
    owner.patch(&uri).data(json!({"signature": {"signature": "s", "x5u": "u"}})).await.expect(200);
    let attachment =
        json!({"filename": "f", "mimetype": "text/plain", "location": "l", "hash": "00", "size": 3});
    owner.put(&format!("{uri}/records/with")).data(json!({"attachment": attachment})).await.expect(201);
    (bucket, uri)
}

async fn change(owner: &Client, uri: &str) {
    owner.delete(&format!("{uri}/records/one")).await.expect(200);
    owner.put(&format!("{uri}/records/two")).data(json!({"text": "other"})).await.expect(200);
    owner.put(&format!("{uri}/records/new")).data(json!({"attachment": null})).await.expect(201);
}

async fn get<T: DeserializeOwned>(client: &Client, path: &str) -> T {
    serde_json::from_value(v2(client, path).await.expect(200).json()).unwrap()
}

#[tokio::test]
async fn the_rust_component_syncs_each_collection_that_is_listed() {
    let direct = Kinto::shared().client().user("owner");
    let (bucket, uri) = signed_bucket(&direct).await;
    let sidecar = sidecar_of(&[&bucket], &[]);
    let (client, owner) = (sidecar.client(), sidecar.client().user("owner"));
    let service: Service = get(&client, "/").await;
    assert!(service.capabilities.attachments.base_url.ends_with('/'));
    let mut locals: BTreeMap<String, Local> = BTreeMap::new();
    for round in 0..3 {
        let list: List = get(&client, "/buckets/monitor/collections/changes/changeset?_expected=0").await;
        assert_eq!(list.changes.len(), 2);
        for Listed { bucket, collection, last_modified } in list.changes {
            let local = locals.entry(collection.clone()).or_default();
            assert!(last_modified <= list.timestamp);
            if local.timestamp == last_modified {
                continue;
            }
            let since =
                if local.timestamp == 0 { String::new() } else { format!("&_since={}", local.timestamp) };
            let path = format!("{}?_expected=0{since}", changeset_of(&bucket, &collection));
            let changeset: Changeset = get(&client, &path).await;
            assert_eq!(changeset.timestamp, last_modified, "else it would sync for ever");
            assert_eq!(changeset.metadata.bucket, bucket);
            let signed =
                vec![Signature { text: "s".to_owned(), x5u: "u".to_owned(), mode: "p384ecdsa".to_owned() }];
            let expected = if collection == "c" { signed } else { Vec::new() };
            assert_eq!(changeset.metadata.signatures, expected);
            local.take(changeset);
        }
        locals["c"].is_that_of(&direct, &uri).await;
        // Once by what passes the sidecar, and then nothing.
        if round == 0 {
            change(&owner, &uri).await;
        }
    }
}

#[tokio::test]
async fn firefox_desktop_syncs_by_the_timestamps_that_are_listed() {
    let direct = Kinto::shared().client().user("owner");
    let (bucket, uri) = signed_bucket(&direct).await;
    let sidecar = sidecar_of(&[&bucket], &[]);
    let (client, owner) = (sidecar.client(), sidecar.client().user("owner"));
    let service: Service = serde_json::from_value(client.get("/").await.expect(200).json()).unwrap();
    assert!(service.capabilities.attachments.base_url.ends_with('/'));
    let mut local = Local::default();
    let mut seen = None::<u64>;
    for _ in 0..2 {
        let since = seen.map_or(String::new(), |seen| format!("&_since=%22{seen}%22"));
        let path =
            format!("/buckets/monitor/collections/changes/changeset?_expected=0&bucket={bucket}{since}");
        let answer = client.get(&path).await.expect(200);
        assert!(answer.header("content-type").unwrap().starts_with("application/json"));
        assert!(answer.header("date").is_some());
        let list: List = serde_json::from_value(answer.json()).unwrap();
        seen = Some(list.timestamp);
        let listed = list.changes.iter().find(|listed| listed.collection == "c").unwrap();
        let since =
            if local.timestamp == 0 { String::new() } else { format!("&_since=%22{}%22", local.timestamp) };
        let path = format!("{}?_expected={}{since}", changeset_of(&bucket, "c"), listed.last_modified);
        let changeset: Changeset =
            serde_json::from_value(client.get(&path).await.expect(200).json()).unwrap();
        assert_eq!(changeset.metadata.signatures.len(), 1);
        local.take(changeset);
        local.is_that_of(&direct, &uri).await;
        change(&owner, &uri).await;
        // What is there already is not listed again.
        owner.delete(&format!("{uri}/records/new")).await.expect(200);
        owner.put(&format!("{uri}/records/one")).await.expect(201);
    }
}
