//! What was done to a bucket, and undoing it.

mod diff;

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
        let sidecar = Sidecar::start(kinto.url(), &settings);
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
