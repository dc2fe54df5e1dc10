//! What was done to a bucket, and undoing it.

mod command;
mod diff;
mod long;
mod many;
mod page;
mod random;
mod restore;
mod revert;
mod upstream;

use serde_json::Value;

use super::support::{Client, Kinto, SERVICE_ACCOUNT, Sidecar, unique};

/// A bucket with an empty collection `c`, and who owns both.
struct World {
    sidecar: Sidecar,
    bucket: String,
    alice: Client,
}

impl World {
    /// In front of the Kinto that tests share.
    async fn new(stem: &str) -> Self {
        Self::before(Kinto::shared(), stem, &[]).await
    }

    async fn before(kinto: &Kinto, stem: &str, settings: &[(&str, &str)]) -> Self {
        let settings: Vec<_> = [SERVICE_ACCOUNT].iter().chain(settings).copied().collect();
        Self::behind(Sidecar::start(kinto.url(), &settings), stem).await
    }

    /// Behind a sidecar that runs already.
    async fn behind(sidecar: Sidecar, stem: &str) -> Self {
        let bucket = format!("/buckets/{}", unique(stem));
        let alice = sidecar.client().user("alice");
        alice.put(&bucket).await.expect(201);
        alice.put(&format!("{bucket}/collections/c")).await.expect(201);
        Self { sidecar, bucket, alice }
    }

    fn records(&self) -> String {
        format!("{}/collections/c/records", self.bucket)
    }

    fn record(&self, id: &str) -> String {
        format!("{}/{id}", self.records())
    }

    fn history(&self) -> String {
        format!("{}/history", self.bucket)
    }

    /// The moment of now: later writes of records have a greater timestamp.
    async fn now(&self) -> u64 {
        let answer = self.alice.get(&self.records()).await.expect(200);
        let newest = super::history::entries(&self.alice, &self.bucket).await;
        let newest =
            newest.iter().map(|entry| entry["target"]["data"]["last_modified"].as_u64().unwrap()).max();
        newest.unwrap().max(answer.timestamp())
    }

    async fn diff(&self, query: &str) -> Vec<Value> {
        self.alice.all(&format!("{}/diff?{query}", self.history())).await
    }
}

/// Who somebody is to Kinto.
async fn user_id(client: &Client) -> String {
    client.get("/").await.expect(200).json()["user"]["id"].as_str().unwrap().to_owned()
}

impl World {
    /// Undoes something, as somebody; gives the lines, and what the last one says.
    async fn revert(&self, client: &Client, body: Value) -> (Vec<Value>, Value) {
        self.lines(client.post(&format!("{}/revert", self.history())).json(body)).await
    }

    async fn lines(&self, request: super::support::Request) -> (Vec<Value>, Value) {
        let answer = request.await.expect(200);
        assert_eq!(answer.header("content-type"), Some("application/x-ndjson"));
        let mut lines: Vec<Value> =
            answer.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let end = lines.pop().unwrap();
        assert!(end["end"].is_object(), "{end}");
        (lines, end["end"].clone())
    }

    /// The records by their ids, without their timestamps.
    async fn state(&self) -> std::collections::BTreeMap<String, Value> {
        without_timestamps(self.alice.all(&self.records()).await)
    }
}

fn without_timestamps(rows: Vec<Value>) -> std::collections::BTreeMap<String, Value> {
    let row = |mut row: Value| {
        row.as_object_mut().unwrap().remove("last_modified");
        (row["id"].as_str().unwrap().to_owned(), row)
    };
    rows.into_iter().map(row).collect()
}

/// A moment as RFC 3339 has it, without the zone.
fn rfc3339(milliseconds: u64) -> String {
    let at = std::time::UNIX_EPOCH + std::time::Duration::from_millis(milliseconds);
    let text = httpdate::fmt_http_date(at);
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let parts: Vec<&str> = text.split(' ').collect();
    let month = 1 + months.iter().position(|month| *month == parts[2]).unwrap();
    format!("{}-{month:02}-{}T{}.{:03}", parts[3], parts[1], parts[4], milliseconds % 1000)
}

/// Lines as `id: status`.
fn statuses(lines: &[Value]) -> Vec<String> {
    let mut told: Vec<String> = lines
        .iter()
        .map(|line| {
            let id = line["uri"].as_str().unwrap().rsplit('/').next().unwrap();
            format!("{id}: {}", line["status"].as_str().unwrap())
        })
        .collect();
    told.sort();
    told
}
