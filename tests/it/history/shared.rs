//! Several sidecars on one journal in PostgreSQL.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::entries;
use crate::support::{Kinto, SERVICE_ACCOUNT, Sidecar, database, eventually, unique};

/// Two sidecars that ask the upstream for nothing that they are not told of.
fn two(bucket: &str) -> [Sidecar; 2] {
    let journal = database();
    [(), ()].map(|()| {
        let settings = [
            SERVICE_ACCOUNT,
            ("sidecar.journal", &*journal),
            ("sidecar.exclusive", "true"),
            ("changes.resources", bucket),
        ];
        Sidecar::start(Kinto::shared().url(), &settings)
    })
}

#[tokio::test]
async fn what_passes_through_one_is_known_to_the_other_at_once() {
    let bucket = format!("/buckets/{}", unique("shared"));
    let [one, other] = two(&bucket);
    let (alice, reader) = (one.client().user("alice"), other.client().user("alice"));
    alice.put(&bucket).await.expect(201);
    alice.put(&format!("{bucket}/collections/c")).await.expect(201);
    let monitor = "/buckets/monitor/collections/changes/records";
    let listed = |answer: Value| answer["data"].as_array().unwrap().clone();
    eventually("the collection in the other's list", async || {
        let list = listed(reader.get(monitor).await.expect(200).json());
        list.iter().any(|entry| entry["collection"] == "c").then_some(())
    })
    .await;
    for number in 0..3 {
        let record = format!("{bucket}/collections/c/records/r{number}");
        let written = alice.put(&record).data(json!({"n": number})).await.expect(201).json();
        let timestamp = &written["data"]["last_modified"];
        eventually("its timestamp in the other's list", async || {
            let list = listed(reader.get(monitor).await.expect(200).json());
            list.iter().any(|entry| entry["last_modified"] == *timestamp).then_some(())
        })
        .await;
        assert_eq!(entries(&reader, &bucket).await.len(), number + 3);
    }
    alice.delete(&format!("{bucket}/collections/c")).await.expect(200);
    eventually("its end in the other's list", async || {
        let list = listed(reader.get(monitor).await.expect(200).json());
        list.iter().all(|entry| entry["collection"] != "c").then_some(())
    })
    .await;
}

#[tokio::test]
async fn they_write_together_and_record_nothing_twice() {
    let bucket = format!("/buckets/{}", unique("together"));
    let sidecars = two(&bucket);
    let clients = [0, 1].map(|index: usize| sidecars[index].client().user("alice"));
    clients[0].put(&bucket).await.expect(201);
    clients[0].put(&format!("{bucket}/collections/c")).await.expect(201);
    let writers = clients.iter().cloned().enumerate().map(|(writer, client)| {
        let records = format!("{bucket}/collections/c/records");
        tokio::spawn(async move {
            for number in 0..20 {
                client
                    .put(&format!("{records}/{writer}-{number}"))
                    .data(json!({"n": number}))
                    .await
                    .expect(201);
                client.put(&format!("{records}/both")).data(json!({"w": writer, "n": number})).await;
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let seen = entries(&clients[1], &bucket).await;
    assert_eq!(seen, entries(&clients[0], &bucket).await);
    let versions: BTreeSet<String> = seen
        .iter()
        .map(|entry| format!("{} {}", entry["uri"], entry["target"]["data"]["last_modified"]))
        .collect();
    assert_eq!(versions.len(), seen.len());
    assert_eq!(seen.len(), 2 + 40 + 40);
    let timestamps: Vec<u64> = seen.iter().map(|entry| entry["last_modified"].as_u64().unwrap()).collect();
    assert!(timestamps.is_sorted_by(|one, other| one < other));
}

#[tokio::test]
async fn they_write_one_object_at_once_and_record_its_versions_in_their_order() {
    let bucket = format!("/buckets/{}", unique("at-once"));
    let sidecars = two(&bucket);
    let clients = [0, 1].map(|index: usize| sidecars[index].client().user("alice"));
    clients[0].put(&bucket).await.expect(201);
    clients[0].put(&format!("{bucket}/collections/c")).await.expect(201);
    let record = format!("{bucket}/collections/c/records/r");
    let writers = (0..8).map(|writer| {
        let (client, record) = (clients[writer % 2].clone(), record.clone());
        tokio::spawn(async move {
            for number in 0..8 {
                let answer = client.put(&record).data(json!({"w": writer, "n": number})).await;
                assert!(answer.status < 300, "{answer}");
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let mut entries = entries(&clients[0], &bucket).await;
    entries.retain(|entry| entry["resource_name"] == "record");
    entries.sort_by_key(|entry| entry["last_modified"].as_u64());
    let version = |entry: &Value| entry["target"]["data"]["last_modified"].as_u64().unwrap();
    let versions: Vec<u64> = entries.iter().map(version).collect();
    assert_eq!(versions.len(), 8 * 8);
    assert!(versions.is_sorted_by(|one, other| one < other), "{versions:?}");
}
