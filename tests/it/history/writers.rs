//! Clients who write in every way there is, whatever happens to the sidecar meanwhile, and what they know of their writes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::mirror_equals_upstream::random::Random;
use crate::support::{Client, Kinto, Response};

/// Who writes through the sidecar, each their own records and values that nobody else has.
const OWNERS: usize = 3;
/// Who writes through the sidecar, and past it, the same few records and values as the others.
const CROWD: usize = 3;
const PAST: usize = 2;
/// How many records the crowd has, and how many values.
const SHARED: u64 = 4;
const VALUES: u64 = 2;

/// What was written, by whom.
#[derive(Debug)]
pub struct Written {
    pub uri: String,
    pub version: u64,
    pub user: String,
    /// The method and the status, for a failure to be understood.
    pub how: String,
}

/// What is known of all writes.
#[derive(Debug, Default)]
pub struct Seen {
    /// Acknowledged by the sidecar.
    pub acknowledged: Vec<Written>,
    /// Acknowledged by Kinto itself.
    pub past: HashSet<(String, u64)>,
    /// Who wrote to an object without an answer that says what came of it.
    pub unanswered: HashSet<(String, String)>,
    /// What the sidecar answered and should not have.
    pub wrong: Vec<String>,
    /// How many requests there were.
    pub requests: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Owner,
    Crowd,
    Past,
}

/// Somebody who writes until told to stop.
struct Writer {
    client: Client,
    user: String,
    role: Role,
    collection: String,
    random: Random,
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
}

/// All who write to a collection.
pub struct Writers {
    pub seen: Arc<Mutex<Seen>>,
    /// Users, and their ids.
    pub authors: HashMap<String, String>,
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Writers {
    /// Some write through the sidecar at `address`, and some past it to Kinto at `past`.
    pub async fn begin(kinto: &Kinto, past: &str, address: &str, collection: &str, seed: u64) -> Self {
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Seen::default())));
        let roles = [(Role::Owner, OWNERS), (Role::Crowd, CROWD), (Role::Past, PAST)];
        let roles = roles.iter().flat_map(|(role, number)| std::iter::repeat_n(*role, *number));
        let (mut authors, mut writers) = (HashMap::new(), Vec::new());
        for (number, role) in roles.enumerate() {
            let user = format!("writer{number}");
            let root = kinto.client().user(&user).get("/").await.expect(200).json();
            authors.insert(user.clone(), root["user"]["id"].as_str().unwrap().to_owned());
            let address = if role == Role::Past { past } else { address };
            let client = Client::new(address).user(&user);
            let random = Random::new(seed * 1000 + number as u64);
            let (collection, stop, seen) = (collection.to_owned(), stop.clone(), seen.clone());
            writers.push(Writer { client, user, role, collection, random, stop, seen });
        }
        let tasks = writers.into_iter().map(|writer| tokio::spawn(writer.write())).collect();
        Self { seen, authors, stop, tasks }
    }

    /// Waits until they have stopped.
    pub async fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks.drain(..) {
            task.await.unwrap();
        }
    }
}

impl Writer {
    /// The id of one of their records.
    fn id(&mut self) -> String {
        match self.role {
            Role::Owner => format!("{}-{}", self.user, self.random.below(12)),
            _ => format!("shared-{}", self.random.below(SHARED)),
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
                _ => json!({"n": self.random.below(VALUES)}),
            };
            let uri = format!("{records}/{id}");
            let mut about = vec![uri.clone()];
            let request = match self.random.below(6) {
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
            let what = request.line();
            let answer = request.attempt().await;
            let is_known = self.note(&records, &about, &what, answer.ok());
            if !is_known || self.role == Role::Past {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }

    /// Notes what an answer says was written; whether it says it.
    fn note(&self, records: &str, about: &[String], what: &str, answer: Option<Response>) -> bool {
        let mut seen = self.seen.lock();
        seen.requests += 1;
        if self.role != Role::Past
            && let Some(answer) = &answer
        {
            seen.wrong.extend(why_wrong(answer));
        }
        let said = answer.filter(|answer| answer.status < 500 && !is_damaged(answer)).and_then(|answer| {
            let body = serde_json::from_slice::<Value>(&answer.body).ok()?;
            Some((answer, body))
        });
        let Some((answer, body)) = said else {
            seen.unanswered.extend(about.iter().map(|uri| (uri.clone(), self.user.clone())));
            return false;
        };
        if answer.status >= 300 {
            return true;
        }
        let how = format!("{what} {}", answer.status);
        let mut note = |uri: String, modified: u64| {
            if self.role == Role::Past {
                seen.past.insert((uri, modified));
            } else {
                let (user, how) = (self.user.clone(), how.clone());
                seen.acknowledged.push(Written { uri, version: modified, user, how });
            }
        };
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

/// What is wrong with an answer of the sidecar's, in whatever state it, its Kinto and its journal are.
pub fn why_wrong(answer: &Response) -> Option<String> {
    // What was damaged on its way from Kinto is passed on as it is.
    if is_damaged(answer) {
        return None;
    }
    let body: Value = match serde_json::from_slice(&answer.body) {
        Ok(body) => body,
        Err(error) => return Some(format!("{error}: {answer}")),
    };
    if answer.status < 400 {
        return None;
    }
    let is_kintos = body["code"] == answer.status && body["errno"].is_u64() && body["error"].is_string();
    let says_when = answer.status != 503 || answer.headers.contains_key("retry-after");
    // Kinto fails for some of those who write the same at once, or whose connections to PostgreSQL are ended.
    let is_known = answer.status != 500 || answer.headers.contains_key("via");
    (!is_kintos || !says_when || !is_known).then(|| answer.to_string())
}

/// Whether an answer has bytes that no Kinto sends, or has its own head as its body.
fn is_damaged(answer: &Response) -> bool {
    answer.body.contains(&0xff)
        || answer.body.starts_with(b"HTTP/1.")
        || answer.headers.values().any(|value| value.as_bytes().contains(&0xff))
}
