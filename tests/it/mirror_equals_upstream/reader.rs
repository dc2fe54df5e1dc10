//! A reader that looks closely at every changeset.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::COLLECTION;
use super::ledger::Ledger;
use super::random::Random;
use crate::support::Client;

/// Reads until told to stop; gives the number of changesets that were looked at.
pub async fn read_until_told(mut random: Random, through: Client, ledger: Arc<Ledger>) -> usize {
    let mut looked_at = 0;
    let mut known = 0;
    while ledger.readers_go_on() {
        let expected = if random.below(3) == 0 { 0 } else { ledger.expected() };
        let since = if random.below(2) == 0 { 0 } else { known };
        let mut query = format!("_expected={expected}");
        if since > 0 {
            query += &format!("&_since=%22{since}%22");
        }
        let limit = (random.below(5) == 0).then_some(7);
        if let Some(limit) = limit {
            query += &format!("&_limit={limit}");
        }
        let answer = through.get(&format!("{COLLECTION}/changeset?{query}")).await;
        match answer.status {
            200 => {}
            // Written while read; or just deleted.
            401..=404 | 502 | 503 => continue,
            _ => panic!("{answer}"),
        }
        let changeset = answer.json();
        let timestamp = changeset["timestamp"].as_u64().unwrap();
        assert!(timestamp >= expected || ledger.expected() < expected, "older than {expected}: {answer}");
        check(changeset["changes"].as_array().unwrap(), timestamp, limit, &ledger);
        known = timestamp;
        looked_at += 1;
        // The writers need the processor, too.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    looked_at
}

/// Whether rows are each once there, newest first, not newer than the whole, and as somebody wrote them.
fn check(changes: &[Value], timestamp: u64, limit: Option<usize>, ledger: &Ledger) {
    assert!(limit.is_none_or(|limit| changes.len() <= limit), "{} rows, {limit:?} asked", changes.len());
    let mut seen = HashSet::new();
    let mut before = timestamp;
    for row in changes {
        assert!(seen.insert(row["id"].as_str().unwrap()), "{row} is there twice");
        let last_modified = row["last_modified"].as_u64().unwrap();
        assert!(last_modified <= before, "{row} after one of {before}");
        before = last_modified;
        ledger.check(row);
    }
}
