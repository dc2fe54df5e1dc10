//! How the sidecar learns what was written past it: whatever is the matter with one question, the others are asked.

mod clocks;
pub mod hanging;
mod refused;
mod sweep;

use serde_json::{Value, json};

use crate::support::{Client, Kinto, Recorded, eventually, unique};

const MONITOR: &str = "/buckets/monitor/collections/changes/records";

/// The rows of the list, as collections and timestamps.
fn rows(list: &Value) -> Vec<(String, u64)> {
    let rows = list["data"].as_array().cloned().unwrap_or_default();
    rows.iter()
        .map(|row| (row["collection"].as_str().unwrap().to_owned(), row["last_modified"].as_u64().unwrap()))
        .collect()
}

/// The list once it can be had, by collection.
async fn listed(client: &Client) -> Vec<(String, u64)> {
    let mut rows = rows(&client.get(MONITOR).await.expect(200).json());
    rows.sort();
    rows
}

/// Waits until the list has a collection at a timestamp.
async fn until_listed(client: &Client, collection: &str, timestamp: u64) {
    let wanted = (collection.to_owned(), timestamp);
    eventually("the timestamp in the list", async || {
        let answer = client.get(MONITOR).await;
        (answer.status == 200 && rows(&answer.json()).contains(&wanted)).then_some(())
    })
    .await;
}

/// A bucket with collections of one record each, and the timestamp of each, made behind the sidecar's back.
async fn bucket(kinto: &Client, collections: &[&str]) -> (String, Vec<(String, u64)>) {
    let bucket = format!("/buckets/{}", unique("polled"));
    kinto.put(&bucket).await.expect(201);
    let mut made = Vec::new();
    for collection in collections {
        let path = format!("{bucket}/collections/{collection}");
        kinto.put(&path).await.expect(201);
        let record = kinto.put(&format!("{path}/records/r")).data(json!({"n": 1})).await.expect(201);
        made.push(((*collection).to_owned(), record.timestamp()));
    }
    made.sort();
    (bucket, made)
}

/// A `HEAD` for the timestamp of a collection's records.
fn is_head(request: &Recorded) -> bool {
    request.method == "HEAD" && request.path().ends_with("/records")
}

/// A batch of such.
fn is_batch(request: &Recorded) -> bool {
    let is_of_heads = String::from_utf8_lossy(&request.body).contains(r#""method":"HEAD""#);
    request.method == "POST" && request.path() == "/v1/batch" && is_of_heads
}

fn kinto() -> Client {
    Kinto::shared().client().user("alice")
}
