//! Everything goes wrong at once: what passes between the sidecar and its Kinto and its journal is late, cut, truncated,
//! repeated and garbled, disks and databases fail, clocks jump, the sidecar is killed, Kinto is restarted, be it empty or with an
//! older backup. Meanwhile clients write and read, and afterwards what they were told is held against every version that
//! Kinto's PostgreSQL ever committed.
//!
//! `SEED=7 cargo test --test it campaign -- --nocapture` plays one seed, an even one with a journal in SQLite and an odd one
//! in PostgreSQL. `MINUTES=60 SECONDS=60 SEED=1` plays one seed after the other, each for so many seconds.

mod back;
mod changesets;
mod clock;
pub mod feeds;
mod machine;
mod plan;
pub mod recovery;
mod truth;
pub mod world;

use std::time::{Duration, Instant};

use crate::history::compare::compare;
use crate::history::writers::Writers;
use crate::support::{Kinto, KintoOptions, commit, number, storm};
use changesets::Changesets;
use feeds::Feeds;
use machine::Machine;
use plan::Plan;
use truth::Truth;
use world::World;

/// How long the faults of a seed go on, in seconds, where nobody says it.
const USUAL: u64 = 6;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_goes_wrong_nothing_is_lost_or_invented_and_all_recovers() {
    seeds(play).await;
}

/// Plays one seed after the other, for as long as it is said.
async fn seeds(play: impl AsyncFn(u64, Duration)) {
    let (minutes, first) = (number("MINUTES", 0), number("SEED", 1));
    let until = Instant::now() + Duration::from_secs(60 * minutes);
    for seed in first.. {
        play(seed, Duration::from_secs(number("SECONDS", USUAL))).await;
        if Instant::now() >= until {
            break;
        }
    }
}

/// Prints what was planned and done when a seed fails.
struct Story {
    seed: u64,
    begun: Instant,
    done: Vec<String>,
}

impl Story {
    fn new(seed: u64) -> Self {
        Self { seed, begun: Instant::now(), done: Vec::new() }
    }

    /// What is done next.
    fn tell(&mut self, what: &str) {
        self.done.push(format!("{:?} {what}", self.begun.elapsed()));
    }

    /// How many steps there were.
    fn length(&self) -> usize {
        self.done.len()
    }
}

impl Drop for Story {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("SEED={}, commit {}: what was done\n  {}", self.seed, commit(), self.done.join("\n  "));
        }
    }
}

async fn play(seed: u64, time: Duration) {
    let begun = Instant::now();
    let mut story = Story::new(seed);
    storm::seed(seed);
    let troubles = storm::troubles();
    let mut world = World::begin(seed).await;
    let truth = Truth::watch(&world.storage).await;
    let mut writers =
        Writers::begin(world.kinto(), &world.past(), world.sidecar.address(), &world.collection, seed).await;
    let changesets = Changesets::begin(&world, &writers.seen);
    let feeds = Feeds::begin(&world, seed);
    tokio::time::sleep(Duration::from_secs(1)).await;

    let (until, mut plan) = (Instant::now() + time, Plan::new(seed));
    while Instant::now() < until {
        let step = plan.next(world.has_disk(), world.journal_is_far());
        story.tell(&format!("{step:?}"));
        world.suffer(step).await;
    }
    story.tell("calm");
    world.calm();
    world.set_clocks().await;
    recovery::is_good(&world).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    writers.end().await;
    let read = changesets.end().await;
    let mut seen = std::mem::take(&mut *writers.seen.lock());
    let (written, author) = recovery::news_come_at_once(&world).await;
    writers.authors.insert(written.user.clone(), author);
    seen.acknowledged.push(written);
    assert!(seen.wrong.is_empty(), "{} answers are wrong: {}", seen.wrong.len(), seen.wrong[0]);
    let entries = compare(world.kinto(), &world.sidecar, &world.bucket, &seen, &writers.authors).await;
    let versions = truth.all(&world).await;
    truth::compare(&entries, &versions);
    let rows = feeds.end(&world, &entries, &versions).await;
    let changesets = read.check(&world, &seen, &versions).await;
    let sums = world.sums();
    let (old, new) = recovery::holds_no_more_than_a_new_one(&mut world, seed).await;
    println!(
        "SEED={seed}, commit {}, journal in {}: {} requests, {} writes acknowledged, {} without an answer, {} past; {} versions, \
         {changesets} changesets and {rows} rows of feeds were right; {} steps, {} troubles on the way, {sums}; it \
         holds {old}, and a new one {new}; {:?}",
        commit(),
        if world.journal_is_far() { "PostgreSQL" } else { "SQLite" },
        seen.requests,
        seen.acknowledged.len(),
        seen.unanswered.len(),
        seen.past.len(),
        versions.len(),
        story.length() - 1,
        storm::troubles() - troubles,
        begun.elapsed(),
    );
}

/// A Kinto whose data outlives it, on this machine.
fn kinto(storage: &str, machine: Option<&Machine>) -> Kinto {
    let url = storage.replacen("postgres://kinto@localhost/", "postgresql://kinto@/", 1);
    let options =
        KintoOptions::postgres().setting("kinto.storage_url", &url).setting("kinto.permission_url", &url);
    let variables = machine.map(Machine::variables).into_iter().flatten();
    Kinto::start(variables.fold(options, |options, (name, value)| options.variable(name, value)))
}
