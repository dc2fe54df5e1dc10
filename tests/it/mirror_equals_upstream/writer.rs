//! A writer with records of its own, sometimes through the sidecar and sometimes behind its back. What it wrote through the
//! sidecar it finds in the very next changeset.

use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::COLLECTION;
use super::ledger::Ledger;
use super::random::Random;
use crate::support::{Client, Request};

const RECORDS: u64 = 40;
const BATCH: u64 = 20;
const HOUR: u64 = 3_600_000;

pub async fn write_until(
    end: Instant,
    number: usize,
    mut random: Random,
    through: Client,
    behind: Client,
    ledger: Arc<Ledger>,
) {
    while Instant::now() < end {
        let is_through = random.below(2) == 0;
        let client = if is_through { &through } else { &behind };
        let id = format!("w{number}-{}", random.below(RECORDS));
        let path = format!("{COLLECTION}/records/{id}");
        let written = match random.below(100) {
            0..40 => batch(number, &mut random, client, &ledger).await,
            40..75 => {
                let version = ledger.attempt(&id);
                one(client.put(&path).data(json!({"version": version})), &ledger).await
            }
            75..88 => one(client.delete(&path), &ledger).await,
            88..95 => {
                let version = ledger.attempt(&id);
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
                let past = u64::try_from(now).unwrap() - 1 - random.below(HOUR);
                one(client.put(&path).data(json!({"version": version, "last_modified": past})), &ledger).await
            }
            _ => {
                let metadata = json!({"version": random.next() >> 16});
                client.patch(COLLECTION).data(metadata).await;
                Vec::new()
            }
        };
        if is_through {
            find(&written, &through).await;
        }
    }
}

/// Sends one write; gives the row that was made, if one was.
async fn one(request: Request, ledger: &Ledger) -> Vec<Value> {
    let answer = request.await;
    match answer.status {
        200 | 201 => {
            let row = answer.data();
            ledger.acknowledge(&row);
            vec![row]
        }
        404 | 409 | 503 => Vec::new(),
        _ => panic!("{answer}"),
    }
}

/// Sends several writes in one transaction; gives the rows that were made, unless there is doubt about one.
async fn batch(number: usize, random: &mut Random, client: &Client, ledger: &Ledger) -> Vec<Value> {
    let first = random.below(RECORDS);
    let requests: Vec<Value> = (first..first + BATCH)
        .map(|record| {
            let id = format!("w{number}-{}", record % RECORDS);
            let version = ledger.attempt(&id);
            let path = format!("{COLLECTION}/records/{id}");
            json!({"method": "PUT", "path": path, "body": {"data": {"version": version}}})
        })
        .collect();
    let answer = client.post("/batch").json(json!({"requests": requests})).await;
    if answer.status == 409 || answer.status == 503 {
        return Vec::new();
    }
    let answer = answer.expect(200).json();
    let answers = answer["responses"].as_array().unwrap();
    if answers.iter().any(|answer| !matches!(answer["status"].as_u64(), Some(200 | 201))) {
        return Vec::new();
    }
    let rows: Vec<Value> = answers.iter().map(|answer| answer["body"]["data"].clone()).collect();
    for row in &rows {
        ledger.acknowledge(row);
    }
    rows
}

/// Fails unless the changeset has these rows, which nobody else writes.
async fn find(written: &[Value], through: &Client) {
    let Some(expected) = written.iter().filter_map(|row| row["last_modified"].as_u64()).max() else { return };
    let answer = through.get(&format!("{COLLECTION}/changeset?_expected={expected}")).await;
    if answer.status == 503 {
        return;
    }
    let changes = answer.expect(200).json();
    let changes = changes["changes"].as_array().unwrap();
    for row in written {
        let found = changes.iter().find(|change| change["id"] == row["id"]);
        if row["deleted"] == true {
            assert_eq!(found, None, "deleted, and still there");
        } else {
            assert_eq!(found, Some(row), "written, and not there");
        }
    }
}
