//! Readers of feeds who are cut off, go on from where they were, and in the end have been told of everything.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::truth::{self, Versions};
use super::world::World;
use crate::feeds::Seq;
use crate::feeds::follower::Follower;
use crate::history::writers::why_wrong;
use crate::mirror_equals_upstream::random::Random;
use crate::support::{Client, PATIENCE};

/// `Authorization` of somebody who may read the history.
pub const ALICE: (&str, &str) = ("authorization", "Basic YWxpY2U6c2VjcmV0");

/// What there is in the end: the newest version of each row.
type Rows = BTreeMap<String, u64>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Normal,
    Longpoll,
    Events,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subject {
    Records,
    Entries,
    Collections,
}

struct Reader {
    mode: Mode,
    subject: Subject,
    path: String,
    address: String,
    random: Random,
    end: watch::Receiver<Option<Arc<Truths>>>,
    since: Seq,
    told: Rows,
    /// Documents that were shown, once.
    documents: Arc<Mutex<BTreeMap<String, Value>>>,
    rows: usize,
    story: Vec<String>,
}

/// What readers have to have been told of.
#[derive(Default)]
struct Truths {
    records: Rows,
    entries: Rows,
    collections: Rows,
}

pub struct Feeds {
    end: watch::Sender<Option<Arc<Truths>>>,
    readers: Vec<JoinHandle<usize>>,
    documents: Arc<Mutex<BTreeMap<String, Value>>>,
}

impl Feeds {
    pub fn begin(world: &World, seed: u64) -> Self {
        let (end, ends) = watch::channel(None);
        let documents = Arc::default();
        let records = format!("{}/_changes?include_docs=true", world.collection);
        let entries = format!("{}/history/_changes?", world.bucket);
        let readers = [
            (Mode::Normal, Subject::Records, records.clone()),
            (Mode::Longpoll, Subject::Records, records.clone()),
            (Mode::Events, Subject::Records, records),
            (Mode::Events, Subject::Entries, entries.clone()),
            (Mode::Longpoll, Subject::Entries, entries),
            (Mode::Longpoll, Subject::Collections, "/_changes?include_docs=true".to_owned()),
        ];
        let readers = readers.into_iter().enumerate().map(|(number, (mode, subject, path))| {
            let reader = Reader {
                mode,
                subject,
                path,
                address: world.sidecar.address().to_owned(),
                random: Random::new(seed * 100 + number as u64),
                end: ends.clone(),
                since: Seq::default(),
                told: Rows::new(),
                documents: Arc::clone(&documents),
                rows: 0,
                story: Vec::new(),
            };
            tokio::spawn(reader.read())
        });
        Self { end, readers: readers.collect(), documents }
    }

    /// Waits until all have been told of everything; gives how many rows there were.
    pub async fn end(self, world: &World, entries: &[Value], versions: &Versions) -> usize {
        let mut truths = Truths { records: truth::last(versions), ..Truths::default() };
        for entry in entries {
            let modified = entry["last_modified"].as_u64().unwrap();
            truths.entries.insert(entry["id"].as_str().unwrap().to_owned(), modified);
        }
        let records = format!("{}/records", world.collection);
        let timestamp = world.kinto().client().head(&records).await.expect(200).timestamp();
        truths.collections.insert("c".to_owned(), timestamp);
        self.end.send_replace(Some(Arc::new(truths)));
        let mut rows = 0;
        for reader in self.readers {
            rows += reader.await.unwrap();
        }
        for document in self.documents.lock().values() {
            truth::check(document, versions);
        }
        rows
    }
}

impl Reader {
    async fn read(mut self) -> usize {
        let mut deadline = None;
        loop {
            let truths = self.end.borrow().clone();
            if let Some(truths) = truths {
                let rows = match self.subject {
                    Subject::Records => &truths.records,
                    Subject::Entries => &truths.entries,
                    Subject::Collections => &truths.collections,
                };
                let missing: Vec<_> =
                    rows.iter().filter(|(id, version)| self.told.get(*id) != Some(*version)).collect();
                if missing.is_empty() {
                    return self.rows;
                }
                let deadline = *deadline.get_or_insert_with(|| Instant::now() + PATIENCE);
                if Instant::now() > deadline {
                    let told: Vec<_> = missing.iter().map(|(id, _)| self.told.get(*id)).collect();
                    let id = missing[0].0;
                    let about: Vec<_> = self.story.iter().filter(|line| line.contains(id)).collect();
                    let end = self.story.len().saturating_sub(20);
                    let last = self.story[end..].join("\n");
                    panic!(
                        "{:?} of {:?} was told {told:?} and not of {missing:?}: {about:#?}\n{last}",
                        self.mode, self.subject
                    );
                }
            }
            let asked = if self.mode == Mode::Events { self.follow().await } else { self.ask().await };
            if let Err(trouble) = asked {
                self.story.push(trouble);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }

    async fn ask(&mut self) -> Result<(), String> {
        let (mode, limit) =
            (if self.mode == Mode::Normal { "normal" } else { "longpoll" }, 1 + self.random.below(60));
        let path = format!("{}&feed={mode}&timeout=500&limit={limit}&since={}", self.path, self.since);
        let client = Client::new(&self.address);
        let client = if self.subject == Subject::Entries { client.with(ALICE.0, ALICE.1) } else { client };
        let answer = client.get(&path).attempt().await?;
        if answer.status != 200 {
            let wrong =
                why_wrong(&answer).or((!matches!(answer.status, 502..=504)).then(|| answer.to_string()));
            assert_eq!(wrong, None);
            return Err(format!("{} {path}", answer.status));
        }
        let body = answer.json();
        for row in body["results"].as_array().unwrap() {
            self.row(row);
        }
        let last = Seq::of(&body["last_seq"]);
        assert!(last >= self.since, "the last seq goes down from {}: {answer}", self.since);
        self.since = last;
        if self.mode == Mode::Normal {
            tokio::time::sleep(Duration::from_millis(60)).await;
        }
        Ok(())
    }

    async fn follow(&mut self) -> Result<(), String> {
        let path = format!("{}&feed=eventsource&since=0&timeout=700", self.path);
        let since = self.since.to_string();
        let mut headers = vec![("last-event-id", since.as_str())];
        headers.extend((self.subject == Subject::Entries).then_some(ALICE));
        let mut feed = Follower::try_open_at(&self.address, &path, &headers).await?;
        if feed.status != 200 {
            assert!(matches!(feed.status, 502..=504), "{} to {path}", feed.status);
            return Err(format!("{} {path}", feed.status));
        }
        for _ in 0..=self.random.below(100) {
            let event = feed.try_event().await.map_err(|error| error.to_string())?;
            let Some(event) = event else { break };
            match event.data.filter(|data| !data.is_empty()) {
                Some(data) => self.row(&serde_json::from_str(&data).unwrap()),
                None => {
                    if let Some(id) = event.id {
                        self.since = Seq::of(&serde_json::from_str(&id).unwrap());
                    }
                }
            }
        }
        Ok(())
    }

    fn row(&mut self, row: &Value) {
        let seq = Seq::of(&row["seq"]);
        assert!(seq >= self.since, "the seq goes down after {}: {row}", self.since);
        let doc = &row["doc"];
        let id = match self.subject {
            Subject::Collections => doc["collection"].as_str().unwrap(),
            _ => row["id"].as_str().unwrap(),
        };
        let version = if doc.is_null() { &row["seq"] } else { &doc["last_modified"] };
        let version = version.as_u64().unwrap_or_else(|| panic!("{row}"));
        if self.subject == Subject::Records {
            self.documents.lock().insert(doc.to_string(), doc.clone());
        }
        self.story.push(format!("{seq} {id} {version}"));
        self.told.insert(id.to_owned(), version);
        self.since = seq;
        self.rows += 1;
    }
}
