//! Writes that nobody expects: Kinto takes them, so they are recorded, and nothing stops because of them.

use serde_json::json;
use tokio::task::JoinSet;

use super::entries;
use crate::support::{Kinto, SERVICE_ACCOUNT, Sidecar, eventually, unique};

/// A sidecar before the shared Kinto, and a new collection of alice's.
async fn world(settings: &[(&str, &str)]) -> (Sidecar, String) {
    let bucket = format!("/buckets/{}", unique("odd"));
    // All others in this Kinto are other tests'.
    let mut all = vec![SERVICE_ACCOUNT, ("history.resources", &*bucket)];
    all.extend_from_slice(settings);
    let sidecar = Sidecar::start(Kinto::shared().url(), &all);
    let alice = sidecar.client().user("alice");
    alice.put(&bucket).await.expect(201);
    alice.put(&format!("{bucket}/collections/c")).await.expect(201);
    (sidecar, bucket)
}

#[tokio::test]
async fn records_with_odd_members_stop_nothing_not_even_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let journal = format!("sqlite:{}", folder.path().join("journal.db").display());
    let (mut sidecar, bucket) = world(&[("sidecar.journal", &journal)]).await;
    let record = |id: &str| format!("{bucket}/collections/c/records/{id}");
    let alice = sidecar.client().user("alice");
    alice.put(&record("gone")).data(json!({"deleted": "yes"})).await.expect(201);
    alice.put(&record("early")).data(json!({"last_modified": -5})).await.expect(201);
    sidecar.kill();
    sidecar.restart();
    let alice = sidecar.client().user("alice");
    alice.put(&record("after")).await.expect(201);
    let recorded = entries(&alice, &bucket).await;
    for id in ["gone", "early", "after"] {
        let about: Vec<_> = recorded.iter().filter(|entry| entry["record_id"] == id).collect();
        assert_eq!(about.len(), 1, "{id}: {recorded:#?}");
        assert!(about[0]["user_id"].is_string());
    }
}

#[tokio::test]
async fn batches_are_recorded_however_they_are_written() {
    let (sidecar, bucket) = world(&[]).await;
    let (alice, records) = (sidecar.client().user("alice"), format!("{bucket}/collections/c/records"));
    let post =
        |path: &str, body: String| alice.post(path).header("content-type", "application/json").body(body);
    let spelt = json!({"requests": [{"method": "PUT", "path": format!("{records}/spelt")}]}).to_string();
    post("/%62atch", spelt.clone()).await.expect(200);
    let twice = format!(
        r#"{{"requests": [{{"method": "GET", "method": "PUT", "path": "/", "path": "{records}/twice"}}]}}"#
    );
    post("/batch", twice).await.expect(200);
    alice
        .post("/batch")
        .header("content-type", "application/json; charset=utf-16")
        .body(spelt)
        .await
        .expect(400);
    let recorded = entries(&alice, &bucket).await;
    for id in ["spelt", "twice"] {
        let entry = recorded.iter().find(|entry| entry["record_id"] == id);
        assert!(entry.is_some_and(|entry| entry["user_id"].is_string()), "{id}: {recorded:#?}");
    }
}

#[tokio::test]
async fn what_went_with_its_collection_is_not_deleted_again() {
    let settings = [("sidecar.timestamps_ttl", "50ms"), ("sidecar.poll_budget", "100%")];
    let (sidecar, bucket) = world(&settings).await;
    let alice = sidecar.client().user("alice");
    let collection = format!("{bucket}/collections/c");
    let changeset = format!("{collection}/changeset?_expected=0");
    for id in ["a", "b"] {
        alice.put(&format!("{collection}/records/{id}")).await.expect(201);
    }
    assert_eq!(alice.get(&changeset).await.expect(200).json()["changes"].as_array().unwrap().len(), 2);
    alice.delete(&collection).await.expect(200);
    alice.put(&collection).await.expect(201);
    alice.get(&changeset).await.expect(200);
    // Found by those who watch, and so they have looked.
    Kinto::shared().client().user("alice").put(&format!("{collection}/records/new")).await.expect(201);
    let recorded = eventually("the record written elsewhere", async || {
        let recorded = entries(&alice, &bucket).await;
        recorded.iter().any(|entry| entry["record_id"] == "new").then_some(recorded)
    })
    .await;
    let invented: Vec<_> = recorded
        .iter()
        .filter(|entry| entry["resource_name"] == "record" && entry["action"] == "delete")
        .collect();
    assert!(invented.is_empty(), "{invented:#?}");
}

#[tokio::test]
async fn entries_of_one_object_have_the_order_of_its_versions() {
    let (sidecar, bucket) = world(&[]).await;
    let record = format!("{bucket}/collections/c/records/r");
    let open = json!({"permissions": {"write": ["system.Authenticated"]}});
    let alice = sidecar.client().user("alice");
    alice.put(&record).json(open).await.expect(201);
    let mut writers = JoinSet::new();
    for user in 0..12 {
        let (client, record) = (sidecar.client().user(&format!("user{user}")), record.clone());
        writers.spawn(async move {
            for n in 0..8 {
                client.put(&record).data(json!({"of": user, "n": n})).await;
            }
        });
    }
    writers.join_all().await;
    let recorded = entries(&alice, &bucket).await;
    let versions: Vec<u64> = recorded
        .iter()
        .filter(|entry| entry["record_id"] == "r")
        .map(|entry| entry["target"]["data"]["last_modified"].as_u64().unwrap())
        .collect();
    assert!(versions.len() > 12 && versions.is_sorted(), "{versions:?}");
}
