//! The name of the journal's PostgreSQL leads to another server than it did.

use futures_util::future::join_all;

use super::entries;
use crate::support::{Chaos, Client, Kinto, Postgres, SERVICE_ACCOUNT, Sidecar, eventually, unique};

/// How many readers are kept.
const READERS: usize = 8;

/// A sidecar whose journal is reached by a way that may lead to either of two servers, and a bucket with a collection `c`.
struct World {
    way: Chaos,
    primary: String,
    standby: String,
    bucket: String,
    alice: Client,
    _sidecar: Sidecar,
    _postgres: Postgres,
}

impl World {
    async fn new(stem: &str) -> Self {
        let mut postgres = Postgres::start();
        let (way, journal) = Chaos::before_database(&postgres.database());
        let bucket = format!("/buckets/{}", unique(stem));
        let settings = [SERVICE_ACCOUNT, ("sidecar.journal", &*journal)];
        let former = Sidecar::start(Kinto::shared().url(), &settings);
        let alice = former.client().user("alice");
        alice.put(&bucket).await.expect(201);
        alice.put(&format!("{bucket}/collections/c")).await.expect(201);
        drop(former);
        let [primary, standby] = postgres.with_standby();

        let sidecar = Sidecar::start(Kinto::shared().url(), &settings);
        let alice = sidecar.client().user("alice");
        Self { way, primary, standby, bucket, alice, _sidecar: sidecar, _postgres: postgres }
    }
}

async fn is_in_history(reader: &Client, bucket: &str, record: &str) -> bool {
    let path = format!("{bucket}/history?record_id={record}");
    let answer = reader.get(&path).await.expect(200).json();
    answer["data"].as_array().is_some_and(|entries| !entries.is_empty())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_read_from_a_standby_that_the_name_led_to_for_a_moment() {
    let world = World::new("failover").await;
    let World { way, primary, standby, bucket, alice, .. } = &world;
    eventually("writes", async || {
        let answer = alice.put(&format!("{bucket}/collections/c/records/first")).await;
        (answer.status == 201).then_some(())
    })
    .await;
    let refused = format!("{bucket}/collections/c/records/refused");
    way.cut();
    alice.put(&refused).await.expect(503);
    way.lead_to(standby);
    way.restore();
    alice.put(&refused).await.expect(503);
    // Readers that the standby would answer.
    let history = format!("{bucket}/history");
    let asked = join_all((0..READERS).map(|_| async { alice.get(&history).await })).await;
    assert!(asked.iter().all(|answer| answer.status == 503), "{:?}", asked.first());

    way.lead_to(primary);
    eventually("writes again", async || {
        let answer = alice.put(&format!("{bucket}/collections/c/records/again")).await;
        (answer.status == 201).then_some(())
    })
    .await;
    for number in 0..20 {
        let record = format!("r{number}");
        alice.put(&format!("{bucket}/collections/c/records/{record}")).await.expect(201);
        let found = join_all((0..3).map(|_| is_in_history(alice, bucket, &record))).await;
        assert_eq!(found, [true; 3], "{record}");
    }
    assert_eq!(entries(alice, bucket).await.len(), 24);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_follow_a_writer_to_another_server() {
    let world = World::new("moved").await;
    let World { way, primary, standby, bucket, alice, .. } = &world;
    let put = |record: String| alice.put(&format!("{bucket}/collections/c/records/{record}"));
    eventually("writes", async || (put("first".to_owned()).await.status == 201).then_some(())).await;
    let history = format!("{bucket}/history");
    eventually("histories", async || {
        let asked = join_all((0..READERS).map(|_| async { alice.get(&history).await.status })).await;
        (asked == [200; READERS]).then_some(())
    })
    .await;
    // The former primary lives on, and its readers with it.
    Postgres::execute(standby, "SELECT pg_promote()");
    way.lead_to(standby);
    let writers = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query = 'COMMIT'";
    Postgres::execute(primary, writers);
    eventually("writes elsewhere", async || (put("again".to_owned()).await.status == 201).then_some(()))
        .await;
    for number in 0..20 {
        let record = format!("r{number}");
        put(record.clone()).await.expect(201);
        let found = join_all((0..3).map(|_| is_in_history(alice, bucket, &record))).await;
        assert_eq!(found, [true; 3], "{record}");
    }
}
