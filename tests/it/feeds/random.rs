//! No gap, no repeat, in order: readers that are cut off and go on at either of two sidecars, while several writers work
//! through both and behind their backs.
//!
//! A row may be repeated only where one sidecar found it late and the other one, which told of it, did not. Then it has
//! another seq than its own; or the seq that its reader came with, where others were found late with it. The plan follows
//! from a seed, printed when the test fails; `KINTO_SIDECAR_SEED` replays it (the plan, not the timing).

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::watch;

use super::Seq;
use super::follower::Follower;
use crate::mirror_equals_upstream::random::Random;
use crate::support::{Client, Kinto, KintoOptions, PATIENCE, SERVICE_ACCOUNT, Sidecar};

const STORM: Duration = Duration::from_secs(6);
const RECORDS: u64 = 60;
const BATCH: u64 = 12;
const COLLECTION: &str = "/buckets/b/collections/c";

/// What a reader has been told.
#[derive(Default)]
struct Told {
    /// The newest version of each record.
    versions: BTreeMap<String, String>,
    /// All versions, and where each was told first.
    all: BTreeMap<(String, String), String>,
    since: Seq,
    /// What happened, for a failure to be understood.
    story: Vec<String>,
}

impl Told {
    /// A reader came with its seq to a sidecar, and what it is told there is checked against that.
    fn row(&mut self, row: &Value, came_with: &Seq, address: &str) {
        let seq = Seq::of(&row["seq"]);
        assert!(seq >= self.since, "the seq goes down after {}: {row}", self.since.0);
        let (id, rev) = (row["id"].as_str().unwrap(), row["changes"][0]["rev"].as_str().unwrap());
        let version = (id.to_owned(), rev.to_owned());
        let teller = self.all.get(&version).cloned();
        let is_new = teller.is_none();
        let is_elsewhere = teller.as_deref().is_some_and(|teller| teller != address);
        let is_late = format!("1-{seq}") != rev || is_elsewhere && seq == *came_with;
        assert!(
            is_new || is_late,
            "{address} repeats what {teller:?} told to a reader who came with {came_with}: {row}\n{}",
            self.story[self.story.len().saturating_sub(60)..].join("\n")
        );
        self.all.entry(version).or_insert_with(|| address.to_owned());
        if is_new {
            self.versions.insert(id.to_owned(), rev.to_owned());
        }
        self.story.push(format!("{seq} {id} {rev}"));
        self.since = seq;
    }
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Events,
    Lines,
    Polls,
    Pages,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_who_are_cut_off_miss_nothing_and_are_told_nothing_twice() {
    let seed = Random::seed();
    println!("KINTO_SIDECAR_SEED={seed} replays this plan");
    let mut random = Random::new(seed);
    let kinto = Kinto::start(KintoOptions::postgres());
    // Without a history, revisions are timestamps.
    let history = ("sidecar.history", "off");
    let settings =
        [SERVICE_ACCOUNT, history, ("sidecar.timestamps_ttl", "50ms"), ("sidecar.poll_budget", "100%")];
    let sidecars = [Sidecar::start(kinto.url(), &settings), Sidecar::start(kinto.url(), &settings)];
    let addresses: Vec<String> = sidecars.iter().map(|sidecar| sidecar.address().to_owned()).collect();
    let direct = kinto.client().user("alice");
    direct.put("/buckets/b").json(json!({"permissions": {"read": ["system.Everyone"]}})).await.expect(201);
    direct.put(COLLECTION).await.expect(201);
    // Kinto may fail for those who are the first to ask for the timestamp of a collection.
    direct.put(&format!("{COLLECTION}/records/first")).await.expect(201);

    let (stop, end) = watch::channel(None);
    let kinds = [Kind::Events, Kind::Lines, Kind::Polls, Kind::Pages, Kind::Events, Kind::Polls];
    let readers: Vec<_> = kinds
        .into_iter()
        .enumerate()
        .map(|(number, kind)| {
            let random = Random::new(random.next());
            // Each is another program: a sidecar remembers by that what it has shown to whom.
            tokio::spawn(read(kind, random, format!("reader/{number}"), addresses.clone(), end.clone()))
        })
        .collect();
    let until = Instant::now() + STORM;
    let writers: Vec<_> = [sidecars[0].client(), sidecars[1].client(), kinto.client(), kinto.client()]
        .into_iter()
        .enumerate()
        .map(|(number, client)| {
            let random = Random::new(random.next());
            tokio::spawn(write(number, random, client.user("alice"), until))
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let records = direct.get(&format!("{COLLECTION}/records?_since=0")).await.expect(200).data();
    let versions: BTreeMap<String, String> = records
        .as_array()
        .unwrap()
        .iter()
        .map(|record| (record["id"].as_str().unwrap().to_owned(), format!("1-{}", record["last_modified"])))
        .collect();
    stop.send_replace(Some(versions));
    for reader in readers {
        if let Err(error) = reader.await {
            let logs = sidecars.each_ref().map(Sidecar::log).concat();
            panic!("{error}\n{logs}");
        }
    }
}

async fn write(number: usize, mut random: Random, client: Client, until: Instant) {
    while Instant::now() < until {
        let id = format!("w{number}-{}", random.below(RECORDS));
        let path = format!("{COLLECTION}/records/{id}");
        let answer = match random.below(10) {
            0..3 => {
                let requests: Vec<Value> = (0..BATCH)
                    .map(|_| format!("{COLLECTION}/records/w{number}-{}", random.below(RECORDS)))
                    .collect::<BTreeSet<_>>()
                    .into_iter()
                    .map(|path| json!({"method": "PUT", "path": path, "body": {"data": {"n": random.next() >> 16}}}))
                    .collect();
                client.post("/batch").json(json!({ "requests": requests })).await
            }
            3 => client.delete(&path).await,
            _ => client.put(&path).data(json!({"n": random.next() >> 16})).await,
        };
        assert!(matches!(answer.status, 200 | 201 | 404 | 409 | 503), "{answer}");
    }
}

/// Reads until it was told of everything that there is in the end.
async fn read(
    kind: Kind,
    mut random: Random,
    program: String,
    addresses: Vec<String>,
    end: watch::Receiver<Option<BTreeMap<String, String>>>,
) {
    let mut told = Told::default();
    let mut deadline = None;
    loop {
        if let Some(versions) = &*end.borrow() {
            if told.versions == *versions {
                return;
            }
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + PATIENCE);
            let missing: Vec<_> =
                versions.iter().filter(|(id, rev)| told.versions.get(*id) != Some(*rev)).collect();
            if Instant::now() >= deadline {
                let (_, rev) = missing.first().unwrap();
                let near = told
                    .story
                    .iter()
                    .position(|line| line.as_str() > rev.trim_start_matches("1-"))
                    .unwrap_or(0);
                let story = told.story[near.saturating_sub(25)..(near + 40).min(told.story.len())].join("\n");
                panic!("{kind:?} was never told of {missing:?}:\n{story}");
            }
        }
        let address = &addresses[usize::try_from(random.below(2)).unwrap()];
        let rows = 1 + random.below(40);
        let came_with = told.since.clone();
        let agent = ("user-agent", program.as_str());
        told.story.push(format!("{came_with} at {address}"));
        match kind {
            Kind::Events => {
                let path = format!("{COLLECTION}/_changes?feed=eventsource&since=0&timeout=300");
                let id = came_with.to_string();
                let mut feed = Follower::open_at(address, &path, &[("last-event-id", &id), agent]).await;
                // What is told again comes with each connection before what is new.
                let mut new = 0;
                while new < rows {
                    let Some(event) = feed.event().await else { break };
                    let Some(data) = event.data.filter(|data| !data.is_empty()) else { continue };
                    told.row(&serde_json::from_str(&data).unwrap(), &came_with, address);
                    new += u64::from(told.since > came_with);
                }
            }
            Kind::Lines => {
                let path = format!("{COLLECTION}/_changes?feed=continuous&since={came_with}&timeout=300");
                let mut feed = Follower::open_at(address, &path, &[agent]).await;
                let mut new = 0;
                while new < rows {
                    let Some(row) = feed.row().await else { break };
                    if row.get("last_seq").is_some() {
                        let last_seq = Seq::of(&row["last_seq"]);
                        assert!(last_seq >= told.since, "{last_seq} after {}", told.since);
                        told.since = last_seq;
                        break;
                    }
                    told.row(&row, &came_with, address);
                    new += u64::from(told.since > came_with);
                }
            }
            Kind::Polls | Kind::Pages => {
                let mode = if matches!(kind, Kind::Polls) { "longpoll" } else { "normal" };
                let path =
                    format!("{COLLECTION}/_changes?feed={mode}&timeout=300&limit={rows}&since={came_with}");
                let client = Client::new(address).with("user-agent", &program);
                let answer = client.get(&path).await;
                if matches!(answer.status, 502 | 503) {
                    continue;
                }
                let answer = answer.expect(200).json();
                for row in answer["results"].as_array().unwrap() {
                    told.row(row, &came_with, address);
                }
                let last_seq = Seq::of(&answer["last_seq"]);
                assert!(last_seq >= told.since, "{last_seq} after {}", told.since);
                told.since = last_seq;
            }
        }
    }
}
