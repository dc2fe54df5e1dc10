//! Nothing acknowledged is lost and nothing is recorded twice, however the sidecar dies.
//!
//! `KILLS=300 cargo test --release --test it history::kill` does it for longer, on both engines.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use super::entries;
use crate::support::{Client, Kinto, KintoOptions, SERVICE_ACCOUNT, Sidecar, eventually, unique};

const WRITERS: usize = 6;

/// What the sidecar acknowledged: the object and its version, with who wrote it.
type Acknowledged = Arc<Mutex<Vec<(String, u64, String)>>>;

fn kills(default: usize) -> usize {
    std::env::var("KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(default)
}

/// Numbers that look random and are the same in each run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// Writes in every way there is until told to stop. What each object says of its author is who wrote it.
async fn write(
    client: Client,
    user: String,
    collection: String,
    seed: u64,
    stop: Arc<AtomicBool>,
    seen: Acknowledged,
) {
    let client = client.user(&user);
    let records = format!("{collection}/records");
    let mut dice = Dice(seed);
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let id = format!("{user}-{}", dice.roll(12));
        let uri = format!("{records}/{id}");
        let data = json!({"by": user, "n": number});
        let request = match dice.roll(6) {
            0 | 1 => client.put(&uri).data(data),
            2 => client.patch(&uri).data(data),
            3 => client.post(&records).data(data),
            4 => client.delete(&uri),
            _ => client.post("/batch").json(json!({
                "defaults": {"method": "PUT"},
                "requests": [
                    {"path": uri, "body": {"data": data}},
                    {"path": format!("{records}/{user}-b{}", dice.roll(5)), "body": {"data": data}},
                ],
            })),
        };
        let Ok(answer) = request.attempt().await else {
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        };
        if answer.status >= 300 {
            continue;
        }
        let answer = answer.json();
        let mut acknowledged = seen.lock().unwrap();
        let mut note = |body: &Value| {
            if let Some(id) = body["data"]["id"].as_str() {
                let modified = body["data"]["last_modified"].as_u64().unwrap();
                acknowledged.push((format!("{records}/{id}"), modified, user.clone()));
            }
        };
        match answer["responses"].as_array() {
            // Beside a conflict no sub-answer is to be believed.
            Some(answers) if answers.iter().any(|answer| answer["status"] == 409) => {}
            Some(answers) => answers
                .iter()
                .filter(|answer| answer["status"].as_u64().is_some_and(|status| status < 300))
                .for_each(|answer| note(&answer["body"])),
            None => note(&answer),
        }
    }
}

/// Kills the sidecar again and again while it is written to, then compares its history with what was acknowledged and
/// with what the upstream has.
async fn killed_again_and_again(kinto: &Kinto, journal: &str, kills: usize) {
    let bucket = format!("/buckets/{}", unique("kill"));
    let collection = format!("{bucket}/collections/c");
    let mut sidecar = Sidecar::start(
        kinto.url(),
        &[
            SERVICE_ACCOUNT,
            ("sidecar.history", "journal"),
            ("sidecar.journal", journal),
            ("sidecar.timestamps_ttl", "100ms"),
            ("sidecar.poll_budget", "100%"),
            ("sidecar.overlap", "1s"),
            ("history.resources", &bucket),
        ],
    );
    let admin = sidecar.client().user("alice");
    let open = json!({"permissions": {"write": ["system.Authenticated"]}});
    admin.put(&bucket).json(open).await.expect(201);
    admin.put(&collection).await.expect(201);
    let mut authors = HashMap::new();
    for number in 0..WRITERS {
        let user = format!("writer{number}");
        let root = kinto.client().user(&user).get("/").await.expect(200).json();
        authors.insert(user, root["user"]["id"].as_str().unwrap().to_owned());
    }
    let (stop, seen) = (Arc::new(AtomicBool::new(false)), Acknowledged::default());
    let writers: Vec<_> = authors
        .keys()
        .enumerate()
        .map(|(seed, user)| {
            let (client, stop, seen) = (Client::new(sidecar.address()), stop.clone(), seen.clone());
            tokio::spawn(write(client, user.clone(), collection.clone(), seed as u64 + 1, stop, seen))
        })
        .collect();
    let mut dice = Dice(99);
    for _ in 0..kills {
        let before = seen.lock().unwrap().len();
        let enough = 1 + usize::try_from(dice.roll(20)).unwrap();
        eventually("acknowledged writes", async || {
            (seen.lock().unwrap().len() >= before + enough).then_some(())
        })
        .await;
        sidecar.kill();
        sidecar.restart();
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    let acknowledged = seen.lock().unwrap().clone();
    compare(kinto, &sidecar, &bucket, &acknowledged, &authors).await;
}

async fn compare(
    kinto: &Kinto,
    sidecar: &Sidecar,
    bucket: &str,
    acknowledged: &[(String, u64, String)],
    authors: &HashMap<String, String>,
) {
    let collection = format!("{bucket}/collections/c");
    let reader = sidecar.client().user("alice");
    let present =
        kinto.client().user("alice").get(&format!("{collection}/records?_since=0")).await.expect(200).json();
    let present: Vec<_> = present["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|record| {
            let uri = format!("{collection}/records/{}", record["id"].as_str().unwrap());
            (uri, record["last_modified"].as_u64().unwrap())
        })
        .collect();
    let history = eventually("what the upstream has", async || {
        let mut history: BTreeMap<(String, u64), Vec<Value>> = BTreeMap::new();
        for entry in entries(&reader, bucket).await {
            let version = entry["target"]["data"]["last_modified"].as_u64().unwrap();
            history.entry((entry["uri"].as_str().unwrap().to_owned(), version)).or_default().push(entry);
        }
        present.iter().all(|version| history.contains_key(version)).then_some(history)
    })
    .await;
    for (version, entries) in &history {
        assert_eq!(entries.len(), 1, "{version:?} is recorded twice: {entries:#?}");
    }
    for (uri, version, user) in acknowledged {
        let entries = history.get(&(uri.clone(), *version));
        let entry =
            entries.unwrap_or_else(|| panic!("{uri} {version} was acknowledged and is not in the history"));
        assert_eq!(entry[0]["user_id"], authors[user].as_str(), "{uri} {version}");
    }
    let theirs: HashMap<_, _> = authors.iter().map(|(user, id)| (user.as_str(), id.as_str())).collect();
    for entry in history.values().flatten().filter(|entry| entry["resource_name"] == "record") {
        if let Some(user) = entry["target"]["data"]["by"].as_str() {
            assert_eq!(entry["user_id"], theirs[user], "{entry:#}");
        }
    }
    println!(
        "{} writes were acknowledged, {} versions are in the history",
        acknowledged.len(),
        history.len()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_moment_it_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let journal = format!("sqlite:{}", folder.path().join("journal.db").display());
    killed_again_and_again(Kinto::shared(), &journal, kills(8)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_moment_it_loses_nothing_on_postgresql() {
    let kinto = Kinto::start(KintoOptions::postgres());
    let journal = crate::support::database();
    killed_again_and_again(&kinto, &journal, kills(8)).await;
}
