//! Nothing acknowledged is lost, nothing is recorded twice, and each object's entries are in the order of its versions,
//! however the sidecar dies, and whatever is written past it meanwhile.
//!
//! `KILLS=300 SEED=1 cargo test --test it history::kill -- --nocapture` does it for longer, on both engines.

use std::sync::LazyLock;
use std::time::Instant;

use serde_json::json;

use super::compare::compare;
use super::writers::Writers;
use crate::mirror_equals_upstream::random::Random;
use crate::support::{Kinto, KintoOptions, SERVICE_ACCOUNT, Sidecar, eventually, number, unique};

/// In memory, Kinto mixes what batches do at the same time.
static KINTO: LazyLock<Kinto> = LazyLock::new(|| Kinto::start(KintoOptions::postgres()));

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
    let mut writers = Writers::begin(kinto, &kinto.address(), sidecar.address(), &collection, seed).await;
    let mut random = Random::new(seed * 1000 + 999);
    for _ in 0..kills {
        let before = writers.seen.lock().acknowledged.len();
        let enough = 1 + usize::try_from(random.below(20)).unwrap();
        eventually("acknowledged writes", async || {
            (writers.seen.lock().acknowledged.len() >= before + enough).then_some(())
        })
        .await;
        sidecar.kill();
        sidecar.restart();
    }
    writers.end().await;
    let seen = std::mem::take(&mut *writers.seen.lock());
    assert!(seen.wrong.is_empty(), "{}", seen.wrong[0]);
    let versions = compare(kinto, &sidecar, &bucket, &seen, &writers.authors).await.len();
    println!(
        "{engine}, commit {}, SEED={seed}: {kills} kills, {} writes were acknowledged and {} passed elsewhere, \
         {versions} versions are in the history, {} s",
        crate::support::commit(),
        seen.acknowledged.len(),
        seen.past.len(),
        begun.elapsed().as_secs()
    );
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
