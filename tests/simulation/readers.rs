//! Transactions past the sidecars that commit late, below timestamps that were read already, and a reader who follows a
//! collection by its changesets, now at one sidecar and now at another, some of which come later.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use parking_lot::Mutex;
use serde_json::Value;

use crate::chance::Chance;
use crate::kinto::{COLLECTION, Kinto, RECORDS};
use crate::sidecar::{Alive, request};

/// The longest that a transaction takes, in milliseconds. `sidecar.overlap` has to be longer.
const LONGEST: u64 = 8_000;
/// For how long the reader reads on when all is committed, in seconds.
const AFTER: usize = 16;

/// How many sidecars there come to be, at most.
const SIDECARS: usize = 3;

/// What a reader knows.
#[derive(Debug, Default)]
struct Reader {
    since: Option<u64>,
    rows: BTreeMap<String, Value>,
}

/// What happens out of a seed under some settings; the trouble with it, if there is any.
pub async fn follow(seed: u64, settings: &[&str]) -> (Vec<String>, Result<(), String>) {
    let mut chance = Chance::new(seed);
    let folder = tempfile::tempdir().unwrap();
    let kinto = Arc::new(Mutex::new(Kinto::new()));
    let mut alive = vec![Alive::begin(folder.path(), &kinto, 0, settings).await];
    let (mut trace, mut reader) = (Vec::new(), Reader::default());
    // Transactions under way, and when they began.
    let mut open: Vec<(u64, usize)> = Vec::new();
    let mut elapsed = 0;
    for step in 0..20 + chance.roll(30) {
        let is_due = open.first().is_some_and(|(begun, _)| elapsed - begun >= LONGEST - 2_500);
        let commits = |open: &mut Vec<(u64, usize)>, at: usize, trace: &mut Vec<String>| {
            let (_, transaction) = open.remove(at);
            let row = kinto.lock().commit(transaction);
            trace.push(format!("{elapsed} commits {row}"));
        };
        match chance.roll(5) {
            _ if is_due => commits(&mut open, 0, &mut trace),
            0 if !open.is_empty() => {
                let at = chance.roll(open.len());
                commits(&mut open, at, &mut trace);
            }
            0 | 1 => {
                let id = format!("r{}", chance.roll(6));
                // Kinto lets one transaction at a time write an object.
                let is_free = open.iter().all(|(_, transaction)| kinto.lock().written(*transaction) != id);
                if is_free {
                    trace.push(format!("{elapsed} begins {id}"));
                    open.push((elapsed, kinto.lock().begin(&id, chance.is(20))));
                }
            }
            2 => {
                let body = format!(r#"{{"data":{{"step":{step}}}}}"#);
                let path = format!("/v1{RECORDS}/p{}", chance.roll(3));
                let which = chance.roll(alive.len());
                let answer = alive[which].ask(request(Method::PUT, &path, "writer", body)).await;
                trace.push(format!("{elapsed} passes {path} at {which} {}", answer.status()));
            }
            3 => {
                if alive.len() < SIDECARS && chance.is(20) {
                    alive.push(Alive::begin(folder.path(), &kinto, alive.len(), settings).await);
                }
                let which = chance.roll(alive.len());
                trace.push(format!("{elapsed} at {which}"));
                reader.read(&alive[which], &mut trace).await;
            }
            _ => {
                let milliseconds = [100, 500, 1_000, 2_000][chance.roll(4)];
                elapsed += milliseconds;
                pass(&alive, milliseconds).await;
            }
        }
    }
    for (_, transaction) in open {
        let row = kinto.lock().commit(transaction);
        trace.push(format!("{elapsed} commits {row}"));
    }
    for _ in 0..AFTER {
        pass(&alive, 1_000).await;
        let which = chance.roll(alive.len());
        reader.read(&alive[which], &mut trace).await;
    }
    let there = kinto.lock().alive();
    let known: BTreeMap<String, Value> =
        reader.rows.into_iter().filter(|(_, row)| row["deleted"] != true).collect();
    let missed = there.iter().find(|(id, row)| known.get(*id) != Some(*row));
    let checked = match (missed, known.keys().find(|id| !there.contains_key(*id))) {
        (Some((_, row)), _) => Err(format!("{row} is there, and its reader never heard of it")),
        (None, Some(id)) => Err(format!("{id} is gone, and its reader never heard of it")),
        (None, None) => Ok(()),
    };
    (trace, checked)
}

/// Time passes.
async fn pass(alive: &[Alive], milliseconds: u64) {
    for _ in 0..milliseconds / 100 {
        tokio::time::advance(Duration::from_millis(100)).await;
        for alive in alive {
            alive.settle().await;
        }
    }
}

impl Reader {
    async fn read(&mut self, alive: &Alive, trace: &mut Vec<String>) {
        let since = self.since.map(|since| format!("&_since=%22{since}%22")).unwrap_or_default();
        let path = format!("/v1{COLLECTION}/changeset?_expected=0{since}");
        let answer = alive.ask(request(Method::GET, &path, "reader", String::new())).await;
        let body: Value = serde_json::from_slice(answer.body()).unwrap();
        trace.push(format!("reads {path}: {body}"));
        for row in body["changes"].as_array().unwrap_or_else(|| panic!("{} {body}", answer.status())) {
            let id = row["id"].as_str().unwrap().to_owned();
            let is_older = self
                .rows
                .get(&id)
                .is_some_and(|known| known["last_modified"].as_u64() > row["last_modified"].as_u64());
            if !is_older {
                self.rows.insert(id, row.clone());
            }
        }
        self.since = body["timestamp"].as_u64();
    }
}
