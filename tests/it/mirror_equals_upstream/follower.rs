//! A client that keeps a copy by only ever asking what is new since the timestamp of the last answer.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::COLLECTION;
use crate::support::{Client, PATIENCE, eventually};

/// Rows by id.
pub type Rows = BTreeMap<String, Value>;

#[derive(Debug)]
pub struct Follower {
    client: Client,
    is_direct: bool,
    timestamp: u64,
    rows: Rows,
}

impl Follower {
    /// One that follows changesets.
    pub fn of(client: Client) -> Self {
        Self { client, is_direct: false, timestamp: 0, rows: Rows::new() }
    }

    /// One that follows the list of records.
    pub fn on_kinto(client: Client) -> Self {
        Self { is_direct: true, ..Self::of(client) }
    }

    /// Asks what is new, over and over.
    pub async fn follow_until(mut self, end: Instant) -> Self {
        while Instant::now() < end {
            self.ask().await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self
    }

    /// Asks what is new.
    pub async fn ask(&mut self) {
        let (path, rows) = if self.is_direct {
            (format!("{COLLECTION}/records?_since={}", self.timestamp), "data")
        } else {
            let since = self.timestamp;
            (format!("{COLLECTION}/changeset?_expected={since}&_since=%22{since}%22"), "changes")
        };
        let answer = self.client.get(&path).await;
        // The collection is being made, or written while it is read. Kinto on PostgreSQL answers 500 to one of two who are the
        // first to ask for the timestamp of an empty collection.
        if matches!(answer.status, 403 | 404 | 500 | 502 | 503) {
            return;
        }
        let body = answer.clone().expect(200).json();
        let timestamp = if self.is_direct { answer.timestamp() } else { body["timestamp"].as_u64().unwrap() };
        // Oldest first, so that the newest version of a record is what stays.
        for row in body[rows].as_array().unwrap().iter().rev() {
            let id = row["id"].as_str().unwrap().to_owned();
            if row["deleted"] == true {
                self.rows.remove(&id);
            } else {
                self.rows.insert(id, row.clone());
            }
        }
        self.timestamp = timestamp;
    }

    /// Asks until the copy equals the upstream's records, which nobody writes any more.
    pub async fn catch_up(&mut self, upstream: &Client) {
        let truth = records(upstream).await;
        let mut last = (0, 0, 0);
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            self.ask().await;
            last = self.differences(&truth);
            if last == (0, 0, 0) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let (missing, outdated, gone) = last;
        panic!("of {} records {missing} are missing, {outdated} outdated, {gone} gone but kept", truth.len());
    }

    /// How many records this copy lacks, has in another version, and has though they are gone.
    pub fn differences(&self, truth: &Rows) -> (usize, usize, usize) {
        let missing = truth.keys().filter(|id| !self.rows.contains_key(*id)).count();
        let outdated =
            truth.iter().filter(|(id, row)| self.rows.get(*id).is_some_and(|copied| copied != *row)).count();
        let gone = self.rows.keys().filter(|id| !truth.contains_key(*id)).count();
        (missing, outdated, gone)
    }

    /// Forgets everything.
    pub fn start_again(&mut self) {
        self.timestamp = 0;
        self.rows.clear();
    }
}

/// The upstream's records.
pub async fn records(upstream: &Client) -> Rows {
    by_id(&upstream.get(&format!("{COLLECTION}/records")).await.expect(200).data())
}

/// The records of a whole changeset, once there is one.
pub async fn changeset(through: &Client) -> Rows {
    let answer = eventually("a changeset", async || {
        let answer = through.get(&format!("{COLLECTION}/changeset?_expected=0")).await;
        (answer.status == 200).then_some(answer)
    })
    .await;
    by_id(&answer.json()["changes"])
}

fn by_id(rows: &Value) -> Rows {
    rows.as_array().unwrap().iter().map(|row| (row["id"].as_str().unwrap().to_owned(), row.clone())).collect()
}
