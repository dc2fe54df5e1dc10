//! Feeds over real Kintos: everybody who follows one is told of each change, once, in order, and at once.

mod alike;
mod answers;
mod bounds;
mod copies;
mod couchdb;
mod ends;
mod entries;
mod filters;
pub mod follower;
mod former;
mod late_batch;
mod live;
mod offline;
mod outage;
mod page;
mod previous;
mod proxies;
mod random;
mod shared;
mod sources;
mod unkept;
mod unreadable;

use serde_json::{Value, json};

use crate::support::{Client, Kinto, SERVICE_ACCOUNT, Sidecar, unique};
use follower::Follower;

/// A collection that everybody may read, behind a sidecar.
struct World {
    sidecar: Sidecar,
    /// `/buckets/{bucket}`
    bucket: String,
    /// `/buckets/{bucket}/collections/{collection}`
    collection: String,
    alice: Client,
}

impl World {
    async fn new(settings: &[(&str, &str)]) -> Self {
        Self::before(Kinto::shared(), settings).await
    }

    async fn before(kinto: &Kinto, settings: &[(&str, &str)]) -> Self {
        Self::before_url(kinto.url(), settings).await
    }

    async fn before_url(url: impl AsRef<str>, settings: &[(&str, &str)]) -> Self {
        let bucket = format!("/buckets/{}", unique("feeds"));
        let collection = format!("{bucket}/collections/c");
        let mut all = vec![SERVICE_ACCOUNT];
        all.extend_from_slice(settings);
        let sidecar = Sidecar::start(url, &all);
        let alice = sidecar.client().user("alice");
        let readable = json!({"permissions": {"read": ["system.Everyone"]}});
        alice.put(&bucket).json(readable).await.expect(201);
        alice.put(&collection).await.expect(201);
        Self { sidecar, bucket, collection, alice }
    }

    /// Writes a record through the sidecar; its timestamp.
    async fn write(&self, id: &str, data: Value) -> u64 {
        let path = format!("{}/records/{id}", self.collection);
        let answer = self.alice.put(&path).data(data).await;
        assert!(matches!(answer.status, 200 | 201), "{answer}");
        answer.data()["last_modified"].as_u64().unwrap()
    }

    /// Deletes a record through the sidecar; its tombstone's timestamp.
    async fn delete(&self, id: &str) -> u64 {
        let path = format!("{}/records/{id}", self.collection);
        let answer = self.alice.delete(&path).await.expect(200);
        answer.data()["last_modified"].as_u64().unwrap()
    }

    /// The path of the collection's feed.
    fn feed(&self, query: &str) -> String {
        format!("{}/_changes?{query}", self.collection)
    }

    /// What there is in the collection's feed.
    async fn changes(&self, query: &str) -> Value {
        self.sidecar.client().get(&self.feed(query)).await.expect(200).json()
    }

    /// Follows the collection's feed.
    async fn follow(&self, query: &str) -> Follower {
        Follower::open(&self.sidecar, &self.feed(query), &[]).await
    }
}

/// A seq as a client keeps it: a double, and what JSON makes of it.
#[derive(Clone, Debug, Default, PartialEq, PartialOrd)]
pub struct Seq(f64);

impl Seq {
    pub fn of(number: &Value) -> Self {
        Self(number.as_f64().unwrap_or_else(|| panic!("no seq: {number}")))
    }
}

impl std::fmt::Display for Seq {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(formatter)
    }
}

/// An answer with each revision cut down to its generation.
fn generations(mut answer: Value) -> Value {
    match &mut answer {
        Value::Array(values) => values.iter_mut().for_each(|value| *value = generations(value.take())),
        Value::Object(members) => {
            for (name, value) in members.iter_mut() {
                *value = match value.as_str() {
                    Some(rev) if name == "rev" || name == "_rev" => {
                        let (generation, digest) = rev.split_once('-').unwrap();
                        assert_eq!(digest.len(), 32, "{rev}");
                        generation.parse::<u64>().unwrap().into()
                    }
                    _ => generations(value.take()),
                };
            }
        }
        _ => {}
    }
    answer
}

/// The ids of an answer's rows.
fn ids(answer: &Value) -> Vec<&str> {
    answer["results"].as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap()).collect()
}
