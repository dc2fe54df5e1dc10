//! However many ask, the upstream is asked once; and once more for what has changed.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::support::{Client, Kinto, Recorded, Recorder, SERVICE_ACCOUNT, Sidecar, unique};

const CLIENTS: u64 = 1_000;
const RECORDS: u64 = 24;

#[tokio::test]
async fn a_thousand_clients_cost_one_read_and_a_change_costs_one_delta() {
    let kinto = Kinto::shared();
    let bucket = unique("hot");
    let collection = format!("/buckets/{bucket}/collections/c");
    let alice = kinto.client().user("alice");
    alice
        .put(&format!("/buckets/{bucket}"))
        .json(json!({"permissions": {"read": ["system.Everyone"]}}))
        .await
        .expect(201);
    alice.put(&collection).await.expect(201);
    let mut timestamps = Vec::new();
    for number in 0..RECORDS {
        let record = alice.put(&format!("{collection}/records/r{number}")).data(json!({"n": number})).await;
        timestamps.push(record.expect(201).timestamp());
    }

    let recorder = Recorder::before(kinto.url());
    let resource = format!("/buckets/{bucket}");
    let sidecar = Sidecar::start(recorder.url(), &[SERVICE_ACCOUNT, ("changes.resources", &resource)]);
    let reads = |request: &Recorded| {
        // A background check lists only timestamps.
        request.reads_records_of(&bucket, "c") && !request.target.contains("_fields=")
    };

    // Nobody gets an answer before a good part of them has asked.
    recorder.hold();
    let asking = tokio::spawn(ask(sidecar.client(), collection.clone(), timestamps.clone()));
    recorder.wait_for(1, |_| true).await;
    recorder.release();
    asking.await.unwrap();
    assert_eq!(recorder.count(reads), 1, "{}", listed(&recorder));

    recorder.clear();
    let changed =
        sidecar.client().user("alice").put(&format!("{collection}/records/r{RECORDS}")).await.expect(201);
    timestamps.push(changed.timestamp());
    ask(sidecar.client(), collection, timestamps).await;
    assert_eq!(recorder.count(reads), 1, "{}", listed(&recorder));
    let delta = |request: &Recorded| reads(request) && !request.target.contains("_since=0&");
    assert_eq!(recorder.count(delta), 1, "{}", listed(&recorder));
}

/// A thousand questions with as many different `_expected` and a dozen different `_since`, many at once; each gets what is newer.
async fn ask(client: Client, collection: String, timestamps: Vec<u64>) {
    let newest = timestamps[timestamps.len() - 1];
    let timestamps = Arc::new(timestamps);
    let mut asked = tokio::task::JoinSet::new();
    for number in 0..CLIENTS {
        let (client, collection, timestamps) = (client.clone(), collection.clone(), Arc::clone(&timestamps));
        asked.spawn(async move {
            let since = usize::try_from(number % 13).unwrap();
            let mut query = format!("_expected={}", newest - number);
            if since > 0 {
                query += &format!("&_since=%22{}%22", timestamps[since - 1]);
            }
            let answer = client.get(&format!("{collection}/changeset?{query}")).await.expect(200).json();
            assert_eq!(answer["timestamp"], newest);
            // A sidecar that has just started gives what it first knew with an overlap.
            let changes = answer["changes"].as_array().unwrap();
            let is_newer =
                |change: &&Value| change["last_modified"].as_u64() > timestamps[..since].last().copied();
            assert_eq!(changes.iter().filter(is_newer).count(), timestamps.len() - since);
        });
        if asked.len() == 200 {
            asked.join_next().await.unwrap().unwrap();
        }
    }
    while let Some(outcome) = asked.join_next().await {
        outcome.unwrap();
    }
}

fn listed(recorder: &Recorder) -> String {
    let lines =
        recorder.requests().into_iter().map(|request| format!("{} {}", request.method, request.target));
    lines.collect::<Vec<_>>().join("\n")
}
