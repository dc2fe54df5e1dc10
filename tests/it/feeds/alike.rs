//! Readers who look alike, behind one address and with one program: each is told of everything, and nobody asks in circles.
//!
//! They follow by long polls, each going on at once from the last seq, while rows are dated back, so that nothing but their
//! seqs tells how far each of them is. The plan follows from a seed; `KINTO_SIDECAR_SEED` replays it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::watch;

use super::Seq;
use crate::mirror_equals_upstream::random::Random;
use crate::support::{Client, Kinto, KintoOptions, PATIENCE, SERVICE_ACCOUNT, Sidecar, unique};

const READERS: u64 = 4;
const COLLECTION: &str = "/buckets/b/collections/c";

/// The versions of records.
type Versions = BTreeMap<String, String>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_who_look_alike_do_not_ask_in_circles() {
    follow(1, 2, 60, 8).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_do_they_between_two_sidecars() {
    // Nothing but what is dated back: the others are found by both at once. A row comes again at each change of sidecars.
    follow(2, 16, 20, u64::MAX).await;
}

/// Follows at so many sidecars, at one or the other each time, so many writes, of which one in `ordinary` is not dated back;
/// nobody is told a version more often than `most` times.
async fn follow(sidecars: usize, most: usize, writes: u64, ordinary: u64) {
    let seed = Random::seed();
    println!("KINTO_SIDECAR_SEED={seed} replays this plan");
    let mut random = Random::new(seed);
    let kinto = Kinto::start(KintoOptions::memory());
    let settings = [
        SERVICE_ACCOUNT,
        ("sidecar.timestamps_ttl", "50ms"),
        ("sidecar.poll_budget", "100%"),
        ("sidecar.overlap", "1s"),
        // Without a history, revisions are timestamps.
        ("sidecar.history", "off"),
    ];
    let direct = kinto.client().user("alice");
    direct.put("/buckets/b").json(json!({"permissions": {"read": ["system.Everyone"]}})).await.expect(201);
    direct.put(COLLECTION).await.expect(201);
    direct.put(&format!("{COLLECTION}/records/first")).await.expect(201);
    let mut started: BTreeMap<u64, Sidecar> = BTreeMap::new();
    while started.len() < sidecars {
        // Eight can be told apart by the seqs that they give.
        let sidecar = Sidecar::start(kinto.url(), &settings);
        started.insert(teller(&sidecar).await, sidecar);
    }
    let sidecars: Vec<Sidecar> = started.into_values().collect();
    let clients: Vec<Client> = sidecars.iter().map(Sidecar::client).collect();

    let (tell, truth) = watch::channel(None);
    let readers: Vec<_> = (0..READERS)
        .map(|_| tokio::spawn(read(Random::new(random.next()), clients.clone(), truth.clone())))
        .collect();
    let mut writers: Vec<Client> = clients.iter().map(|client| client.user("alice")).collect();
    writers.push(direct.clone());
    for number in 0..writes {
        let writer = &writers[usize::try_from(random.below(writers.len() as u64)).unwrap()];
        let path = format!("{COLLECTION}/records/r{}", random.below(20));
        let data = match random.below(ordinary) {
            0 => json!({}),
            _ => json!({"last_modified": 1000 + number}),
        };
        let answer = writer.put(&path).data(data).await;
        assert!(matches!(answer.status, 200 | 201), "{answer}");
    }
    let records = direct.get(&format!("{COLLECTION}/records")).await.expect(200).data();
    let versions: Versions = records
        .as_array()
        .unwrap()
        .iter()
        .map(|record| (record["id"].as_str().unwrap().to_owned(), format!("1-{}", record["last_modified"])))
        .collect();
    tell.send_replace(Some(versions));
    for reader in readers {
        let Followed { polls, told } = reader.await.unwrap();
        println!("{polls} polls for {} versions of {writes}", told.len());
        let (version, times) = told.iter().max_by_key(|(_, times)| **times).unwrap();
        assert!(*times <= most, "{version:?} was told {times} times");
        assert!(polls <= told.len() * most + 20, "{polls} polls for {} versions", told.len());
    }
}

/// The number by which a sidecar tells its seqs from those of others.
async fn teller(sidecar: &Sidecar) -> u64 {
    let alice = sidecar.client().user("alice");
    let own = format!("/buckets/b/collections/{}", unique("own"));
    alice.put(&own).await.expect(201);
    alice.put(&format!("{own}/records/r")).await.expect(201);
    let last_seq =
        async || alice.get(&format!("{own}/_changes")).await.expect(200).json()["last_seq"].to_string();
    last_seq().await;
    alice.put(&format!("{own}/records/late")).data(json!({"last_modified": 1000})).await.expect(201);
    let last_seq = last_seq().await;
    let (_, thousandths) = last_seq.split_once('.').unwrap();
    (format!("{thousandths:0<3}").parse::<u64>().unwrap() - 1) % 8
}

struct Followed {
    polls: usize,
    told: BTreeMap<(String, String), usize>,
}

/// Goes on from each last seq until the versions are those that there are, and then until there is nothing to tell.
async fn read(
    mut random: Random,
    clients: Vec<Client>,
    truth: watch::Receiver<Option<Versions>>,
) -> Followed {
    let mut followed = Followed { polls: 0, told: BTreeMap::new() };
    let mut versions = Versions::new();
    let mut since = "0".to_owned();
    let mut deadline = None;
    loop {
        let client = &clients[usize::try_from(random.below(clients.len() as u64)).unwrap()];
        let path = format!("{COLLECTION}/_changes?feed=longpoll&timeout=250&since={since}");
        let begun = Instant::now();
        let answer = client.get(&path).await.expect(200).json();
        let rows = answer["results"].as_array().unwrap();
        let (before, last_seq) = (Seq::of(&since.parse().unwrap()), &answer["last_seq"]);
        assert!(Seq::of(last_seq) >= before, "{answer} after {since}");
        let is_at_once = begun.elapsed() < Duration::from_millis(200);
        assert!(!is_at_once || Seq::of(last_seq) > before, "{answer} at once after {since}");
        followed.polls += usize::from(!rows.is_empty());
        for row in rows {
            let id = row["id"].as_str().unwrap().to_owned();
            let rev = row["changes"][0]["rev"].as_str().unwrap().to_owned();
            *followed.told.entry((id.clone(), rev.clone())).or_default() += 1;
            versions.insert(id, rev);
        }
        since = last_seq.to_string();
        let Some(truth) = truth.borrow().clone() else { continue };
        if versions == truth && Seq::of(last_seq) == before {
            return followed;
        }
        let deadline = *deadline.get_or_insert_with(|| Instant::now() + PATIENCE);
        let missing: Vec<_> = truth.iter().filter(|(id, rev)| versions.get(*id) != Some(*rev)).collect();
        assert!(Instant::now() < deadline, "never told of {missing:?}, now at {since}");
    }
}
