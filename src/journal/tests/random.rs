//! Clients that follow from a seed send a journal what a stranger chooses the size of: many rows and long ones, many readers,
//! deletions by filters, what is trimmed and swept. No transaction of the writer is larger than a constant for it, whoever
//! comes meanwhile is served in between, and nobody holds a connection while anything but the engine is waited for: Kinto, room
//! for large entries, somebody who looks into them.
//!
//! `SEEDS=100` tries more of them, `SEED=7` one, `MINUTES=10` as many as there is time for.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use tokio::task::yield_now;
use tokio::time::Instant;

use super::*;
use crate::journal::engine::LONG_READERS;
use crate::journal::queue::{Done, Surplus, Work};

/// What one transaction may come to. A single row is not longer than [`LONGEST`], and two things are done together at most
/// that are as large as one may be.
const STATEMENTS: usize = 5000;
const ROWS: usize = 6000;
const READERS: usize = 24_000;
const SENT: usize = (16 << 20) + 2 * LONGEST;
/// Nobody here tells of much again: else it may be twice as much.
const READ: usize = (16 << 20) + 2 * LONGEST;
const REMOVED: usize = 2 * ((4 << 20) + LONGEST);
const LONGEST: usize = 1300 << 10;
const SHORT: usize = 200;

/// Beside whoever looks how long it waits.
const CLIENTS: usize = 3;
const STEPS: usize = 6;
/// Transactions that others may have before somebody is served: those of the turn under way, of the next one, and as many
/// portions; twice, as what is refused is tried again in parts, and once more where it is late.
const BEFORE: usize = 6 * (CLIENTS + 2);

/// Numbers that follow from a seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % bound
    }

    fn between(&mut self, least: usize, most: usize) -> usize {
        least + self.below(most - least)
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// One client, with a bucket of its own.
struct Client {
    journal: Journal,
    bucket: String,
    random: Random,
    modified: u64,
    long: Box<RawValue>,
    reading: Arc<Reading>,
}

/// How many wait for an answer of the journal, and how many of those for Kinto's.
#[derive(Default)]
struct Reading {
    all: AtomicUsize,
    asked: AtomicUsize,
}

impl Client {
    fn change(&mut self, name: &str, readers: usize, length: usize) -> Change {
        self.modified += 1;
        let data = json!({"x": self.modified, "text": "x".repeat(length.min(SHORT))});
        let uri = format!("/buckets/{}{name}", self.bucket);
        let readers: Vec<String> = (0..readers).map(|reader| format!("{reader}{name}")).collect();
        let permissions = (!readers.is_empty()).then(|| [("read".to_owned(), readers)].into());
        let data = if length > SHORT { self.long.clone() } else { to_raw_value(&data).unwrap() };
        let bare = Change::bare(Object::of_uri(&uri).unwrap(), None, Timestamp(self.modified));
        Change { data: Some(data), permissions, ..bare }
    }

    fn record(&mut self, number: usize, readers: usize, length: usize) -> Change {
        self.change(&format!("/collections/c/records/r{number}"), readers, length)
    }

    async fn settle(&self, changes: Vec<Change>) {
        // Whoever asks for much is told to come again where it takes long.
        let _ = self.journal.settle_at_last(Outcome { changes, ..Outcome::default() }).await;
    }

    async fn step(&mut self) {
        match self.random.below(20) {
            0..3 => {
                let number = self.random.below(5);
                let few = (0..number).map(|number| self.record(number, 1, 100)).collect();
                self.settle(few).await;
            }
            3..5 => {
                let number = self.random.between(1000, 3500);
                let many = (0..number).map(|number| self.record(number, 0, 10)).collect();
                self.settle(many).await;
            }
            5..7 => {
                let number = self.random.between(12, 22);
                let long = (0..number).map(|number| self.record(number, 0, LONGEST)).collect();
                self.settle(long).await;
            }
            7 => {
                let readers = self.random.between(1900, 40_000);
                let read_by_many = self.change("", readers, 10);
                self.settle(vec![read_by_many]).await;
            }
            8 => {
                let (number, readers) = (self.random.between(50, 180), self.random.between(200, 500));
                let sets = (0..number).map(|number| self.record(number, readers, 10)).collect();
                self.settle(sets).await;
            }
            9 => self.tell_again().await,
            10 => {
                let filter = ["", "_limit=7", "resource_name=record", "like_uri=r1", "in_record_id=r1,r2"];
                let query = query(filter[self.random.below(filter.len())]);
                self.reading.all.fetch_add(1, Ordering::SeqCst);
                let _ = self.journal.delete(&self.bucket, &query).await;
                self.reading.all.fetch_sub(1, Ordering::SeqCst);
            }
            11..16 => self.read().await,
            16 => {
                let before = Timestamp(Timestamp::now().0 + 1000);
                let bucket = self.bucket.clone();
                self.remove(Surplus::Age { bucket, before }).await;
            }
            17 => {
                let (bucket, user_id) = (self.bucket.clone(), None);
                self.remove(Surplus::Count { bucket, kind: "record", user_id, is_begun: true }).await;
            }
            18 => {
                let gone = Change { action: Some(Action::Delete), ..self.change("", 0, 1) };
                self.settle(vec![gone]).await;
                self.remove(Surplus::Dead).await;
            }
            _ => {
                let mut after = 0;
                while let Ok(Done::Swept(Some(next))) = self.journal.write(Work::Sweep(after)).await {
                    after = next;
                }
            }
        }
    }

    async fn remove(&self, surplus: Surplus) {
        while let Ok(Done::Removed(true)) = self.journal.write(Work::Remove(surplus.clone())).await {
            yield_now().await;
        }
    }

    /// An object is made and deleted with the same version time and again.
    async fn tell_again(&mut self) {
        let number = self.random.between(12, 25);
        let modified = self.modified + 1;
        for _ in 0..number {
            let make = Change { action: Some(Action::Create), ..self.record(0, 0, LONGEST) };
            let delete = Change { action: Some(Action::Delete), ..self.record(0, 0, 1) };
            let same = [make, delete].map(|change| Change { modified: Timestamp(modified), ..change });
            self.settle(same.into()).await;
        }
    }

    /// A history is read by somebody of whom Kinto is asked.
    async fn read(&mut self) {
        const FILTERS: [&str; 5] =
            ["", "_limit=5", "_since=0", "like_uri=r1", "like_target.data.text=*x*&_limit=9"];
        let query = query(FILTERS[self.random.below(FILTERS.len())]);
        let (engine, reading) = (Arc::clone(&self.journal.engine), Arc::clone(&self.reading));
        let verdict = |_: Object| -> BoxFuture<'_, bool> {
            let (engine, reading) = (Arc::clone(&engine), Arc::clone(&reading));
            Box::pin(async move {
                let asked = reading.asked.fetch_add(1, Ordering::SeqCst) + 1;
                let held = LONG_READERS - engine.long_readers.available_permits();
                let others = reading.all.load(Ordering::SeqCst) - asked;
                assert!(held <= others, "Kinto is asked with a connection in hand");
                yield_now().await;
                reading.asked.fetch_sub(1, Ordering::SeqCst);
                asked % 2 == 0
            })
        };
        let sees = Sees::Some { principals: &["nobody".to_owned()], verdict: &verdict };
        self.reading.all.fetch_add(1, Ordering::SeqCst);
        match self.random.below(4) {
            0 => drop(self.journal.count(&self.bucket, &query, &sees).await),
            1 => drop(self.journal.touched(&self.bucket, &query, None, &sees, 1 << 20, None).await),
            2 => self.read_texts().await,
            _ => drop(self.journal.page(&self.bucket, &query, &sees, None).await),
        }
        self.reading.all.fetch_sub(1, Ordering::SeqCst);
    }

    /// What the newest entries of a history say is read.
    async fn read_texts(&self) {
        let newest = query("_limit=12");
        let Ok(page) = self.journal.page(&self.bucket, &newest, &Sees::Everything, None).await else {
            return;
        };
        let entries = page.rows.iter().filter_map(|row| Touched::of_entry(row));
        let entries: Vec<Timestamp> = entries.flat_map(|touched| touched.entries).collect();
        let _ = self.journal.data_at(&self.bucket, &entries).await;
    }
}

/// Writes little until others are done; how often, and how many transactions of others it waited for at most.
async fn write_little(journal: &Journal, are_done: &AtomicUsize) -> (usize, usize) {
    let (mut written, mut most) = (0, 0);
    while are_done.load(Ordering::SeqCst) < CLIENTS {
        let uri = format!("/buckets/other/groups/g{written}");
        loop {
            let before = journal.tallies.lock().len();
            let changes = vec![change(&uri, None, 5, &json!({}))];
            // On a machine that has much else to do, it is late, and tried again.
            if journal.settle(Outcome { changes, ..Outcome::default() }).await.is_ok() {
                most = most.max(journal.tallies.lock().len() - before);
                break;
            }
        }
        written += 1;
        yield_now().await;
    }
    (written, most)
}

async fn run(seed: u64, mut place: Place) {
    place.settings.auto_trim_max_count = Some(20);
    place.settings.auto_trim_threshold = 1_000_000;
    let journal = place.open().await;
    let long = RawValue::from_string(format!("{{\"text\": \"{}\"}}", "x".repeat(LONGEST - 4096))).unwrap();
    let (reading, are_done) = (Arc::<Reading>::default(), AtomicUsize::new(0));
    let clients = (0..CLIENTS).map(|number| {
        let random = Random(seed.wrapping_mul(1000) + number as u64);
        let (journal, reading) = (journal.clone(), Arc::clone(&reading));
        let (bucket, long, are_done) = (format!("b{number}"), long.clone(), &are_done);
        let mut client = Client { journal, bucket, random, modified: 1000, long, reading };
        async move {
            for _ in 0..STEPS {
                client.step().await;
            }
            are_done.fetch_add(1, Ordering::SeqCst);
        }
    });
    let ((), (written, waited)) =
        tokio::join!(async { drop(join_all(clients).await) }, write_little(&journal, &are_done));
    journal.flush().await;
    for tally in journal.tallies.lock().iter().filter(|tally| !tally.is_import) {
        let is_small = tally.statements <= STATEMENTS
            && tally.rows <= ROWS
            && tally.readers <= READERS
            && tally.sent <= SENT
            && tally.read <= READ
            && tally.removed <= REMOVED;
        assert!(is_small, "seed {seed}: {tally:?}");
    }
    assert!(waited <= BEFORE, "seed {seed}: somebody waited for {waited} transactions");
    assert_eq!(entries(&journal, "other", "").await.len(), written, "seed {seed}");
}

#[tokio::test]
async fn whatever_is_asked_of_it_no_transaction_is_large_and_others_have_their_turn() {
    let until = number("MINUTES").map(|minutes| Instant::now() + Duration::from_secs(60 * minutes));
    let mut seeds = number("SEED").map_or(1..=number("SEEDS").unwrap_or(2), |seed| seed..=seed);
    if until.is_some() {
        seeds = 1..=u64::MAX;
    }
    for seed in seeds {
        if until.is_some_and(|until| Instant::now() >= until) {
            break;
        }
        for place in places().await {
            run(seed, place).await;
        }
    }
}
