//! A mirror is what the upstream is, whatever happens there: random writes through the sidecar and behind its back, by several
//! writers at once, with collections deleted and made again and everything flushed, while readers look closely at every answer.
//!
//! The plan follows from a seed, printed when the test fails; `KINTO_SIDECAR_SEED` replays it (the plan, not the timing).

mod follower;
mod ledger;
pub(crate) mod random;
mod reader;
mod writer;

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{Client, Kinto, KintoOptions, Plugin, SERVICE_ACCOUNT, Sidecar, eventually};
use follower::Follower;
use ledger::Ledger;
use random::Random;

const WRITERS: usize = 5;
const STORMS: usize = 3;
const STORM: Duration = Duration::from_millis(2500);
const BUCKET: &str = "/buckets/b";
const COLLECTION: &str = "/buckets/b/collections/c";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mirror_equals_upstream_in_memory() {
    show("memory", KintoOptions::memory()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mirror_equals_upstream_on_postgresql() {
    show("PostgreSQL", KintoOptions::postgres()).await;
}

async fn show(storage: &str, options: KintoOptions) {
    let seed = Random::seed();
    println!("KINTO_SIDECAR_SEED={seed} replays this plan");
    let mut random = Random::new(seed);
    let kinto = Kinto::start(options.plugin(Plugin::Flush));
    let settings = [
        SERVICE_ACCOUNT,
        ("changes.resources", BUCKET),
        ("sidecar.overlap", "2s"),
        ("sidecar.verify_every", "2s"),
        ("sidecar.poll_budget", "100%"),
    ];
    let sidecar = Sidecar::start(kinto.url(), &settings);
    let through = sidecar.client().user("alice");
    let behind = kinto.client().user("alice");
    make(&behind).await;

    let ledger = Arc::new(Ledger::default());
    let mut followers =
        [Follower::of(through.clone()), Follower::of(through.clone()), Follower::on_kinto(behind.clone())];
    let readers = [1, 2, 3].map(|number| {
        tokio::spawn(reader::read_until_told(
            Random::new(seed ^ number),
            through.clone(),
            Arc::clone(&ledger),
        ))
    });

    for storm in 0..STORMS {
        let end = Instant::now() + STORM;
        let writers: Vec<_> = (0..WRITERS)
            .map(|number| {
                let random = Random::new(random.next());
                let (through, behind, ledger) = (through.clone(), behind.clone(), Arc::clone(&ledger));
                tokio::spawn(writer::write_until(end, number, random, through, behind, ledger))
            })
            .collect();
        let following = followers.map(|follower| tokio::spawn(follower.follow_until(end)));
        for writer in writers {
            writer.await.unwrap();
        }
        followers = {
            let mut following = following.into_iter();
            let mut next = async || following.next().unwrap().await.unwrap();
            [next().await, next().await, next().await]
        };
        let quiet = Instant::now();
        let [first, second, direct] = &mut followers;
        for follower in [first, second] {
            follower.catch_up(&behind).await;
        }
        let settled = quiet.elapsed();
        direct.ask().await;
        let truth = follower::records(&behind).await;
        eventually("a changeset that equals the upstream", async || {
            (follower::changeset(&through).await == truth).then_some(())
        })
        .await;
        let (missing, outdated, gone) = direct.differences(&truth);
        println!(
            "{storage}, storm {storm}: {} records; through the sidecar none is missing {settled:?} after the last write; \
             directly on Kinto {missing} are missing, {outdated} outdated, {gone} gone but kept",
            truth.len()
        );
        if storm + 1 < STORMS {
            ledger.forget_expected();
            catastrophe(random.below(4), &through, &behind).await;
            ledger.forget_expected();
            // A reader of Kinto's own list is never told what went with the old collection.
            direct.start_again();
        }
    }
    ledger.tell_readers_to_stop();
    let mut answers = 0;
    for reader in readers {
        answers += reader.await.unwrap();
    }
    println!("{storage}: {} versions written, {answers} changesets read and found right", ledger.versions());
    assert!(answers > 0);
}

async fn make(client: &Client) {
    client.put(BUCKET).json(json!({"permissions": {"read": ["system.Everyone"]}})).await;
    client.put(COLLECTION).data(json!({"version": 0})).await;
}

/// Something after which no delta tells the truth.
async fn catastrophe(which: u64, through: &Client, behind: &Client) {
    let client = if which.is_multiple_of(2) { through } else { behind };
    println!("catastrophe {which}");
    if which < 2 {
        client.delete(COLLECTION).await.expect(200);
    } else {
        client.post("/__flush__").await.expect(202);
    }
    make(client).await;
}
