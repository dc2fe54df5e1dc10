//! Nothing acknowledged is lost, nothing is recorded twice, and each object's entries are in the order of its versions,
//! however the sidecar dies, and whatever is written past it meanwhile.
//!
//! `KILLS=300 SEED=1 cargo test --test it history::kill -- --nocapture` does it for longer, on both engines.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::entries;
use crate::support::{Client, Kinto, KintoOptions, PATIENCE, SERVICE_ACCOUNT, Sidecar, eventually, unique};

/// Who writes through the sidecar, each their own records and values that nobody else has.
const OWNERS: usize = 3;
/// Who writes through the sidecar, and past it, the same few records and values as the others.
const CROWD: usize = 3;
const PAST: usize = 2;
/// How many records the crowd has, and how many values.
const SHARED: u64 = 4;
const VALUES: u64 = 2;

/// In memory, Kinto mixes what batches do at the same time.
static KINTO: LazyLock<Kinto> = LazyLock::new(|| Kinto::start(KintoOptions::postgres()));

/// What was written: the object and its version, by whom.
type Written = (String, u64, String);

/// What is known of all writes.
#[derive(Debug, Default)]
struct Seen {
    /// Acknowledged by the sidecar.
    acknowledged: Vec<Written>,
    /// Acknowledged by Kinto itself.
    past: HashSet<(String, u64)>,
    /// Who wrote to an object without an answer that says what came of it.
    unanswered: HashSet<(String, String)>,
}

/// A number from the environment.
fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|number| number.parse().ok()).unwrap_or(default)
}

/// Numbers that look random and are the same in each run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Owner,
    Crowd,
    Past,
}

/// Somebody who writes in every way there is until told to stop.
struct Writer {
    client: Client,
    user: String,
    role: Role,
    collection: String,
    dice: Dice,
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
}

impl Writer {
    /// The id of one of their records.
    fn id(&mut self) -> String {
        match self.role {
            Role::Owner => format!("{}-{}", self.user, self.dice.roll(12)),
            _ => format!("shared-{}", self.dice.roll(SHARED)),
        }
    }

    async fn write(mut self) {
        let records = format!("{}/records", self.collection);
        let mut n = 0;
        while !self.stop.load(Ordering::Relaxed) {
            n += 1;
            // Versions of others may lie between those of one batch.
            let (id, other) = (self.id(), self.id());
            let data = match self.role {
                Role::Owner => json!({"by": self.user, "n": n}),
                _ => json!({"n": self.dice.roll(VALUES)}),
            };
            let uri = format!("{records}/{id}");
            let mut about = vec![uri.clone()];
            let request = match self.dice.roll(6) {
                0 | 1 => self.client.put(&uri).data(data),
                2 => self.client.patch(&uri).data(data),
                3 if self.role == Role::Owner => self.client.post(&records).data(data),
                3 => self.client.patch(&uri).header("response-behavior", "light").data(data),
                4 => self.client.delete(&uri),
                _ => {
                    about.push(format!("{records}/{other}"));
                    self.client.post("/batch").json(json!({
                        "defaults": {"method": "PUT"},
                        "requests": [
                            {"path": about[0], "body": {"data": data}},
                            {"path": about[1], "body": {"data": data}},
                        ],
                    }))
                }
            };
            let answer = request.attempt().await;
            let is_known = self.note(&records, &about, answer.ok());
            if !is_known || self.role == Role::Past {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }

    /// Notes what an answer says was written; whether it says it.
    fn note(&self, records: &str, about: &[String], answer: Option<crate::support::Response>) -> bool {
        let mut seen = self.seen.lock().unwrap();
        let Some(answer) = answer.filter(|answer| answer.status < 500) else {
            seen.unanswered.extend(about.iter().map(|uri| (uri.clone(), self.user.clone())));
            return false;
        };
        if answer.status >= 300 {
            return true;
        }
        let mut note = |uri: String, modified: u64| {
            if self.role == Role::Past {
                seen.past.insert((uri, modified));
            } else {
                seen.acknowledged.push((uri, modified, self.user.clone()));
            }
        };
        let body = answer.json();
        let answers = match body["responses"].as_array() {
            Some(answers) => answers.clone(),
            None => vec![json!({"status": answer.status, "body": body})],
        };
        // Beside a conflict no sub-answer is to be believed.
        if answers.iter().any(|answer| answer["status"] == 409) {
            seen.unanswered.extend(about.iter().map(|uri| (uri.clone(), self.user.clone())));
            return true;
        }
        for sub in answers.iter().filter(|sub| sub["status"].as_u64().is_some_and(|status| status < 300)) {
            let data = &sub["body"]["data"];
            match (data["id"].as_str(), data["last_modified"].as_u64()) {
                (Some(id), Some(modified)) => note(format!("{records}/{id}"), modified),
                // A part of the object.
                _ => note(about[0].clone(), answer.timestamp()),
            }
        }
        true
    }
}

/// Kills the sidecar again and again while it is written to, then compares its history with what was acknowledged and
/// with what the upstream has.
async fn killed_again_and_again(engine: &str, kinto: &Kinto, journal: &str) {
    let (kills, seed, begun) = (number("KILLS", 8), number("SEED", 1), Instant::now());
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
            ("history.resources", &bucket),
        ],
    );
    let admin = sidecar.client().user("alice");
    let open = json!({"permissions": {"write": ["system.Authenticated"]}});
    admin.put(&bucket).json(open).await.expect(201);
    admin.put(&collection).await.expect(201);
    let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Seen::default())));
    let roles = [(Role::Owner, OWNERS), (Role::Crowd, CROWD), (Role::Past, PAST)];
    let roles = roles.iter().flat_map(|(role, number)| std::iter::repeat_n(*role, *number));
    let mut authors = HashMap::new();
    let mut writers = Vec::new();
    for (number, role) in roles.enumerate() {
        let user = format!("writer{number}");
        let direct = kinto.client().user(&user);
        let root = direct.get("/").await.expect(200).json();
        authors.insert(user.clone(), root["user"]["id"].as_str().unwrap().to_owned());
        let client = if role == Role::Past { direct } else { Client::new(sidecar.address()).user(&user) };
        let dice = Dice(seed * 1000 + number as u64);
        let (collection, stop, seen) = (collection.clone(), stop.clone(), seen.clone());
        let writer = Writer { client, user, role, collection, dice, stop, seen };
        writers.push(tokio::spawn(writer.write()));
    }
    let mut dice = Dice(seed * 1000 + 999);
    for _ in 0..kills {
        let before = seen.lock().unwrap().acknowledged.len();
        let enough = 1 + usize::try_from(dice.roll(20)).unwrap();
        eventually("acknowledged writes", async || {
            (seen.lock().unwrap().acknowledged.len() >= before + enough).then_some(())
        })
        .await;
        sidecar.kill();
        sidecar.restart();
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    let versions = compare(kinto, &sidecar, &bucket, &seen, &authors).await;
    println!(
        "{engine}, commit {}, SEED={seed}: {kills} kills, {} writes were acknowledged and {} passed elsewhere, \
         {versions} versions are in the history, {} s",
        crate::support::commit(),
        seen.acknowledged.len(),
        seen.past.len(),
        begun.elapsed().as_secs()
    );
}

async fn compare(
    kinto: &Kinto,
    sidecar: &Sidecar,
    bucket: &str,
    seen: &Seen,
    authors: &HashMap<String, String>,
) -> usize {
    let collection = format!("{bucket}/collections/c");
    let reader = sidecar.client().user("alice");
    let direct = kinto.client().user("alice");
    let version = |entry: &Value| {
        let modified = entry["target"]["data"]["last_modified"].as_u64().unwrap();
        (entry["uri"].as_str().unwrap().to_owned(), modified)
    };
    // What a failure is about, as those who wrote it and the history tell it.
    let story = |uri: &str, list: &[Value]| {
        let told = seen.acknowledged.iter().filter(|(told, ..)| told == uri);
        let past = seen.past.iter().filter(|(told, _)| told == uri);
        let unanswered = seen.unanswered.iter().filter(|(told, _)| told == uri);
        let entries: Vec<_> = list.iter().filter(|entry| entry["uri"] == uri).map(Value::to_string).collect();
        format!(
            "acknowledged {:#?}, elsewhere {:#?}, unanswered {:#?}, authors {authors:#?}, entries {entries:#?}",
            told.collect::<Vec<_>>(),
            past.collect::<Vec<_>>(),
            unanswered.collect::<Vec<_>>(),
        )
    };
    let until = Instant::now() + PATIENCE;
    let list = loop {
        // What a killed sidecar had sent may be written yet, over what was there.
        let present = direct.all(&format!("{collection}/records?_since=0&_fields=last_modified")).await;
        let present: Vec<_> = present
            .iter()
            .map(|record| {
                let uri = format!("{collection}/records/{}", record["id"].as_str().unwrap());
                (uri, record["last_modified"].as_u64().unwrap())
            })
            .collect();
        let list = entries(&reader, bucket).await;
        let versions: HashSet<_> = list.iter().map(version).collect();
        let Some(missing) = present.iter().find(|version| !versions.contains(*version)) else { break list };
        assert!(Instant::now() < until, "{missing:?} is not in the history: {}", story(&missing.0, &list));
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let acknowledged: HashSet<_> =
        seen.acknowledged.iter().map(|(uri, version, _)| (uri.clone(), *version)).collect();
    let mut history: HashMap<(String, u64), Vec<&Value>> = HashMap::new();
    let mut newest: BTreeMap<String, u64> = BTreeMap::new();
    for entry in &list {
        let version = version(entry);
        // Kinto may give two writes of one object at the same moment the same version.
        let is_of_another =
            |known: &Value| known["user_id"] != entry["user_id"] || known["target"] != entry["target"];
        let recorded = history.entry(version.clone()).or_default();
        assert!(recorded.iter().all(|known| is_of_another(known)), "{version:?} is recorded twice");
        recorded.push(entry);
        // It takes the version of a write before it waits for others of the same object: what was in nobody's answer may
        // have come over something newer.
        if !acknowledged.contains(&version) {
            continue;
        }
        let before = newest.insert(version.0.clone(), version.1);
        assert!(
            before <= Some(version.1),
            "{version:?} stands behind {before:?}: {}",
            story(&version.0, &list)
        );
    }
    for (uri, version, user) in &seen.acknowledged {
        let entries = history.get(&(uri.clone(), *version));
        let is_theirs = |entry: &&Value| entry["user_id"] == authors[user].as_str();
        assert!(
            entries.is_some_and(|entries| entries.iter().any(is_theirs)),
            "{uri} {version} of {user} was acknowledged and is not in the history: {}",
            story(uri, &list)
        );
    }
    let entries =
        history.iter().flat_map(|(version, entries)| entries.iter().map(move |entry| (version, *entry)));
    for (version, entry) in entries.filter(|(_, entry)| entry["resource_name"] == "record") {
        let author = &entry["user_id"];
        if let Some(user) = entry["target"]["data"]["by"].as_str() {
            assert_eq!(*author, authors[user].as_str(), "{entry:#}");
        } else if !acknowledged.contains(version) {
            // Nobody's, or of somebody who may have written just that and was not told.
            let is_of = |user: &String| seen.unanswered.contains(&(version.0.clone(), user.clone()));
            let may_be = authors.iter().any(|(user, id)| author == id.as_str() && is_of(user));
            assert!(author.is_null() || may_be, "{entry:#}");
        }
    }
    list.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_moment_it_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let journal = format!("sqlite:{}", folder.path().join("journal.db").display());
    killed_again_and_again("SQLite", &KINTO, &journal).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_moment_it_loses_nothing_on_postgresql() {
    killed_again_and_again("PostgreSQL", &KINTO, &crate::support::database()).await;
}
