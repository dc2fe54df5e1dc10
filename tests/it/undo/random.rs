//! Random writes, and a revert to a moment in the middle of them. `SEEDS=1000 cargo test --test it undo::random -- --nocapture`
//! makes more, from `SEED` on.

use std::collections::BTreeMap;
use std::future::IntoFuture;

use serde_json::{Value, json};

use super::{World, user_id, without_timestamps};
use crate::history::entries;
use crate::mirror_equals_upstream::random::Random;
use crate::support::{Kinto, KintoOptions, commit, database};

/// The seeds: `SEEDS` of them, from `SEED` on.
fn seeds() -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|number| number.parse().ok());
    let first = number("SEED").unwrap_or(0);
    first..first + number("SEEDS").unwrap_or(2)
}

#[tokio::test]
async fn what_was_done_since_a_moment_is_undone_whatever_it_was() {
    let shared = database();
    let postgres = Kinto::start(KintoOptions::postgres());
    let run = async |mut world: World| {
        for seed in seeds() {
            one(&world, seed).await;
            world = World::behind(world.sidecar, "random").await;
        }
    };
    tokio::join!(
        run(World::before(Kinto::shared(), "random", &[]).await),
        run(World::before(&postgres, "random", &[("sidecar.journal", &shared)]).await)
    );
    println!("{} seeds on each engine, commit {}: {:?}", seeds().count(), commit(), seeds());
}

async fn one(world: &World, seed: u64) {
    let mut random = Random::new(seed);
    let bob = world.sidecar.client().user("bob");
    let bobs = user_id(&bob).await;
    world.alice.patch(&world.bucket).json(json!({"permissions": {"write": [bobs]}})).await.expect(200);
    writes(world, &mut random, 15).await;
    let (moment, before) = (world.now().await, world.state().await);
    let mut follower = Follower::new(world).await;
    writes(world, &mut random, 25).await;
    let after = world.state().await;
    follower.follow(world).await;
    assert_eq!(follower.records, after, "seed {seed}");
    let differing = before.keys().chain(after.keys()).collect::<std::collections::BTreeSet<_>>();
    let differing = differing.into_iter().filter(|id| before.get(*id) != after.get(*id)).count();
    let made_before = entries(&world.alice, &world.bucket).await.len();
    let last = world.now().await;

    let selection =
        json!({"from": moment, "to": last, "resource_name": "record", "reason": format!("seed {seed}")});
    let (lines, end) = world.revert(&bob, selection.clone()).await;
    assert_eq!(end["complete"], true, "seed {seed}: {lines:?}");
    let state = world.state().await;
    assert_eq!(state, before, "seed {seed}: {lines:?}");
    let snapshot = format!("{}/snapshot/collections/c@{moment}", world.bucket);
    let snapshot = world.alice.get(&snapshot).await.expect(200).data();
    assert_eq!(state, without_timestamps(snapshot.as_array().unwrap().clone()), "seed {seed}");
    let all = entries(&world.alice, &world.bucket).await;
    let made = &all[made_before..];
    assert_eq!(made.len(), differing, "seed {seed}: only what differed was written");
    let reason = format!("seed {seed}");
    assert!(made.iter().all(|entry| entry["user_id"] == bobs.as_str() && entry["reason"] == reason.as_str()));
    follower.follow(world).await;
    assert_eq!(follower.records, before, "seed {seed}: whoever follows is there, too");

    // Reverting the revert; what somebody did meanwhile stands.
    let ids: Vec<&Value> = made.iter().map(|entry| &entry["id"]).collect();
    let touched = made.first().map(|entry| entry["record_id"].as_str().unwrap().to_owned());
    if let Some(id) = &touched {
        world.alice.put(&world.record(id)).data(json!({"theirs": seed})).await;
    }
    // Others write beside it: Kinto on PostgreSQL may answer with 409, in the middle of a batch.
    let beside = async {
        for n in 0..6 {
            world.alice.put(&world.record(&format!("beside{}", n % 3))).data(json!({"n": n})).await;
        }
    };
    let ((lines, end), ()) = tokio::join!(world.revert(&bob, json!({"entries": ids})), beside);
    assert_eq!(end["complete"], true, "seed {seed}: {lines:?}");
    let mut expected = after;
    if let Some(id) = touched {
        let conflicts: Vec<_> = lines.iter().filter(|line| line["status"] == "conflict").collect();
        assert_eq!((conflicts.len(), &conflicts[0]["uri"]), (1, &json!(world.record(&id))), "seed {seed}");
        expected.insert(id.clone(), json!({"id": id, "theirs": seed}));
    }
    let mut state = world.state().await;
    state.retain(|id, _| !id.starts_with("beside"));
    assert_eq!(state, expected, "seed {seed}: {lines:?}");
}

/// Writes of two people, single and in batches: creations, updates, deletions, and creations again.
async fn writes(world: &World, random: &mut Random, number: u64) {
    let writers = [world.alice.clone(), world.sidecar.client().user("bob")];
    for _ in 0..number {
        let writer = &writers[usize::try_from(random.below(2)).unwrap()];
        match random.below(10) {
            0..5 => write(world, random, writer).await,
            5 => {
                let requests: Vec<Value> = (0..=random.below(6))
                    .map(|_| {
                        let path = world.record(&format!("r{}", random.below(12)));
                        match random.below(3) {
                            0 => json!({"method": "DELETE", "path": path}),
                            _ => json!({"method": "PUT", "path": path, "body": {"data": {"n": random.below(5)}}}),
                        }
                    })
                    .collect();
                writer.post("/batch").json(json!({"requests": requests})).await.expect(200);
            }
            6 if random.below(4) == 0 => {
                writer.delete(&world.records()).await.expect(200);
            }
            _ => {
                // Two at once, of different records.
                let (left, right) = (random.below(6), 6 + random.below(6));
                let put = |id: u64, n| writer.put(&world.record(&format!("r{id}"))).data(json!({"n": n}));
                let (n, m) = (random.below(5), random.below(5));
                tokio::join!(put(left, n).into_future(), put(right, m).into_future());
            }
        }
    }
}

async fn write(world: &World, random: &mut Random, writer: &crate::support::Client) {
    let record = world.record(&format!("r{}", random.below(12)));
    let answer = match random.below(4) {
        0 => writer.delete(&record).await,
        1 => {
            writer.patch(&record).data(json!({"m": random.below(5), "deep": {"x": [random.below(3)]}})).await
        }
        _ => writer.put(&record).data(json!({"n": random.below(5)})).await,
    };
    assert!(answer.status < 500, "{answer}");
}

/// Whoever follows a collection by `_since`.
struct Follower {
    records: BTreeMap<String, Value>,
    since: u64,
}

impl Follower {
    async fn new(world: &World) -> Self {
        let since = world.alice.get(&world.records()).await.expect(200).timestamp();
        Self { records: world.state().await, since }
    }

    async fn follow(&mut self, world: &World) {
        let since = world.alice.get(&world.records()).await.expect(200).timestamp();
        let news = world.alice.all(&format!("{}?_since={}", world.records(), self.since)).await;
        for (id, row) in without_timestamps(news) {
            if row["deleted"] == true {
                self.records.remove(&id);
            } else {
                self.records.insert(id, row);
            }
        }
        self.since = since;
    }
}
