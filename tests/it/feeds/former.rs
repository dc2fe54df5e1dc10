//! What is told of records that went with their collection or bucket, once another one of that name is there.

use serde_json::{Value, json};

use super::World;
use crate::support::Client;

/// The ids of rows, in their own order.
fn ids(rows: &Value) -> Vec<&str> {
    let mut ids: Vec<&str> = rows.as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap()).collect();
    ids.sort_unstable();
    ids
}

async fn changes(client: &Client, collection: &str, query: &str) -> Value {
    let answer = client.get(&format!("{collection}/_changes?{query}")).await.expect(200).json();
    assert!(answer["results"].as_array().unwrap().iter().all(|row| row["seq"] != 0), "{answer}");
    answer["results"].clone()
}

#[tokio::test]
async fn whoever_makes_a_bucket_anew_is_told_nothing_of_what_was_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let journal = format!("sqlite:{}", folder.path().join("journal.db").display());
    let mut world = World::new(&[("sidecar.journal", &journal)]).await;
    let collection = world.collection.clone();
    let read = world.write("alices-secret-name", json!({"v": 1})).await;
    world.changes("").await;
    world.alice.delete(&world.bucket).await.expect(200);
    let bob = world.sidecar.client().user("bob");
    bob.put(&world.bucket).await.expect(201);
    bob.put(&collection).await.expect(201);
    bob.put(&format!("{collection}/records/bobs")).await.expect(201);
    for is_restarted in [false, true] {
        if is_restarted {
            world.sidecar.restart();
        }
        let bob = world.sidecar.client().user("bob");
        for since in [0, 1, read] {
            for query in
                [format!("since={since}"), format!("since={since}&limit=1"), "descending=true".into()]
            {
                assert_eq!(ids(&changes(&bob, &collection, &query).await), ["bobs"], "{query}");
            }
            let changeset = format!("{collection}/changeset?_expected=0&_since=%22{since}%22");
            let changeset = bob.get(&changeset).await.expect(200).json();
            assert_eq!(ids(&changeset["changes"]), ["bobs"], "{changeset}");
        }
        let copies = format!("{collection}/alices-secret-name?open_revs=all&revs=true");
        assert_eq!(bob.get(&copies).await.expect(200).json(), json!([{"missing": "all"}]));
    }
}

#[tokio::test]
async fn what_went_with_its_collection_is_told_to_those_who_can_have_read_it() {
    let folder = tempfile::tempdir().unwrap();
    let journal = format!("sqlite:{}", folder.path().join("journal.db").display());
    let mut world = World::new(&[("sidecar.journal", &journal)]).await;
    let read = world.write("old", json!({})).await;
    world.changes("").await;
    world.alice.delete(&world.collection).await.expect(200);
    world.alice.put(&world.collection).await.expect(201);
    world.write("new", json!({})).await;
    for is_restarted in [false, true] {
        if is_restarted {
            world.sidecar.restart();
        }
        let alice = world.sidecar.client().user("alice");
        for since in [0, 1, read - 1] {
            let told = changes(&alice, &world.collection, &format!("since={since}")).await;
            assert_eq!(ids(&told), ["new"], "{since}");
        }
        let told = changes(&alice, &world.collection, &format!("since={read}")).await;
        assert_eq!(ids(&told), ["new", "old"]);
        let changeset = |since| format!("{}/changeset?_expected=0&_since=%22{since}%22", world.collection);
        let given = alice.get(&changeset(read - 1)).await.expect(200).json();
        assert_eq!(ids(&given["changes"]), ["new"]);
        let given = alice.get(&changeset(read)).await.expect(200).json();
        assert_eq!(ids(&given["changes"]), ["new", "old"]);
    }
}
