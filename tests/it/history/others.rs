//! Sidecars on one journal, one of which died, hangs, or was stopped by its host: what that costs the others, and what
//! becomes of its writes.

use std::time::Duration;

use kinto_sidecar::journal::{Action, Among, Change, Intent, Journal, Object, Outcome};
use kinto_sidecar::kinto::Timestamp;
use kinto_sidecar::settings::{JournalUrl, Settings};
use rustix::process::Signal;
use serde_json::value::to_raw_value;
use serde_json::{Value, json};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, Executor, Row};

use super::entries;
use crate::support::{Client, Fate, Kinto, Recorder, SERVICE_ACCOUNT, Sidecar, database, eventually, unique};

/// Where rows stand that say of intents that nobody waits for them.
const PASSED_FROM: i64 = 2 << 32;

/// Two sidecars on one journal; what the first one asks of Kinto passes a recorder.
struct World {
    bucket: String,
    recorder: Recorder,
    first: Sidecar,
    second: Sidecar,
    journal: PgConnection,
}

impl World {
    async fn begin() -> Self {
        let bucket = format!("/buckets/{}", unique("others"));
        let address = database();
        let recorder = Recorder::before(Kinto::shared().url());
        let settings = [
            SERVICE_ACCOUNT,
            ("sidecar.journal", &*address),
            ("sidecar.exclusive", "true"),
            ("changes.resources", &*bucket),
        ];
        let first = Sidecar::start(recorder.url(), &settings);
        let second = Sidecar::start(Kinto::shared().url(), &settings);
        let bob = second.client().user("bob");
        bob.put(&bucket).json(json!({"permissions": {"write": ["system.Authenticated"]}})).await.expect(201);
        bob.put(&format!("{bucket}/collections/c")).await.expect(201);
        let mut journal = PgConnection::connect(&address).await.unwrap();
        // Notes who says that they wait.
        for text in [
            "CREATE TABLE told (uri TEXT)".to_owned(),
            "CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS \
             $$ BEGIN INSERT INTO told VALUES (NEW.uri); RETURN NEW; END $$"
                .to_owned(),
            format!(
                "CREATE TRIGGER tell AFTER INSERT ON sidecar_intents FOR EACH ROW \
                 WHEN (NEW.method = 'MADE' AND NEW.position < {PASSED_FROM}) EXECUTE FUNCTION tell()"
            ),
        ] {
            journal.execute(AssertSqlSafe(text)).await.unwrap();
        }
        Self { bucket, recorder, first, second, journal }
    }

    fn record(&self, id: &str) -> String {
        format!("{}/collections/c/records/{id}", self.bucket)
    }

    /// Writes of alice's through the first sidecar that Kinto takes, and whose answers do not come back.
    async fn left(&self, ids: &[&str]) -> Vec<tokio::task::JoinHandle<()>> {
        self.recorder.intercept(|request| if request.method == "PUT" { Fate::Late } else { Fate::Pass });
        let mut writes = Vec::new();
        for id in ids {
            let write = self.first.client().user("alice").put(&self.record(id)).data(json!({"by": "alice"}));
            writes.push(tokio::spawn(async move { drop(write.attempt().await) }));
            let kinto = Kinto::shared().client().user("alice");
            eventually("the write at Kinto", async || {
                let answer = kinto.get(&self.record(id)).await;
                (answer.status == 200).then_some(())
            })
            .await;
        }
        writes
    }

    async fn number(&mut self, select: String) -> i64 {
        self.journal.fetch_one(AssertSqlSafe(select)).await.unwrap().get(0)
    }

    /// How many versions somebody told of who had to wait.
    async fn told(&mut self) -> i64 {
        self.number("SELECT count(*) FROM told".to_owned()).await
    }

    /// Who made the versions of a record, by its entries.
    async fn authors(&self, client: &Client, id: &str) -> Vec<Value> {
        let entries = entries(client, &self.bucket).await.into_iter();
        entries
            .filter(|entry| entry["record_id"] == id)
            .map(|entry| [entry["user_id"].clone(), entry["target"]["data"]["by"].clone()].into())
            .collect()
    }

    async fn id_of(client: &Client) -> Value {
        client.get("/").await.expect(200).json()["user"]["id"].clone()
    }
}

#[tokio::test]
async fn one_that_was_killed_delays_nobody_and_what_it_left_is_recorded_as_its_authors() {
    let mut world = World::begin().await;
    let _writes = world.left(&["alone", "overwritten"]).await;
    world.first.kill();
    // Its connections are at their end when its lock is.
    let owner = "SELECT count(*) FROM pg_locks, sidecar_intents WHERE locktype = 'advisory' \
                 AND (CAST(classid AS BIGINT) << 32 | CAST(objid AS BIGINT)) = owner AND database = \
                 (SELECT oid FROM pg_database WHERE datname = current_database())";
    eventually("the end of its connections", async || {
        (world.number(owner.to_owned()).await == 0).then_some(())
    })
    .await;
    let bob = world.second.client().user("bob");
    for id in ["overwritten", "other", "overwritten"] {
        bob.put(&world.record(id)).data(json!({"by": "bob"})).await;
    }
    assert_eq!(world.told().await, 0, "nobody waited");
    let [alice, bobs_id] =
        [World::id_of(&world.second.client().user("alice")).await, World::id_of(&bob).await];
    eventually("the entry of what it left", async || {
        let authors = world.authors(&bob, "alone").await;
        (!authors.is_empty()).then(|| assert_eq!(authors, [json!([alice, "alice"])]))
    })
    .await;
    assert_eq!(world.authors(&bob, "overwritten").await, [json!([bobs_id, "bob"]), json!([bobs_id, "bob"])]);
}

#[tokio::test]
async fn one_that_hangs_is_waited_for_once() {
    let mut world = World::begin().await;
    let writes = world.left(&["r"]).await;
    let bob = world.second.client().user("bob");
    for _ in 0..5 {
        bob.put(&world.record("r")).data(json!({"by": "bob"})).await.expect(200);
        bob.put(&world.record("other")).data(json!({"by": "bob"})).await;
    }
    assert_eq!(world.told().await, 1, "of the first write alone");
    let passed = format!("SELECT count(*) FROM sidecar_intents WHERE position >= {PASSED_FROM}");
    assert_eq!(world.number(passed.clone()).await, 1);
    world.recorder.release();
    for write in writes {
        write.await.unwrap();
    }
    let [alice, bobs_id] =
        [World::id_of(&world.first.client().user("alice")).await, World::id_of(&bob).await];
    let mut expected = vec![json!([bobs_id, "bob"]); 5];
    expected.push(json!([alice, "alice"]));
    assert_eq!(world.authors(&bob, "r").await, expected);
    assert_eq!(world.number(passed).await, 0);
}

#[tokio::test]
async fn one_that_is_stopped_in_a_transaction_does_not_keep_the_others_from_writing() {
    let mut world = World::begin().await;
    world.journal.execute("BEGIN; LOCK TABLE sidecar_entries IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let alice = world.first.client().user("alice");
    let write = alice.put(&world.record("alices")).data(json!({"by": "alice"}));
    let write = tokio::spawn(async move { write.await });
    let waiting = "SELECT count(*) FROM pg_locks AS waiting JOIN pg_locks AS turn ON turn.pid = waiting.pid \
                   WHERE NOT waiting.granted AND waiting.relation = CAST('sidecar_entries' AS regclass) \
                   AND turn.granted AND turn.locktype = 'advisory'";
    eventually("the write in its transaction", async || {
        (world.number(waiting.to_owned()).await > 0).then_some(())
    })
    .await;
    world.first.signal(Signal::STOP);
    world.journal.execute("COMMIT").await.unwrap();

    let bob = world.second.client().user("bob");
    bob.put(&world.record("bobs")).data(json!({"by": "bob"})).await.expect(201);
    world.first.signal(Signal::CONT);
    // It was told of no failure, or that it may try again; either way the entry comes.
    drop(write.await.unwrap());
    eventually("the entry of who was stopped", async || {
        (world.authors(&bob, "alices").await.len() == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_version_between_two_of_another_ones_batch_is_recorded_between_them() {
    let url = JournalUrl::Postgres(database());
    let settings = Settings::default().history;
    let [batch, single] = [
        Journal::open(&url, &settings, true).await.unwrap(),
        Journal::open(&url, &settings, true).await.unwrap(),
    ];
    let intent = || Intent {
        bucket: "a".to_owned(),
        user_id: None,
        method: "PUT".to_owned(),
        uri: "/buckets/a/groups/g".to_owned(),
        sent: None,
        note: None,
        known: Timestamp(0),
        length: 0,
    };
    let change = |modified: u64| Change {
        object: Object::of_uri("/buckets/a/groups/g").unwrap(),
        action: Some(Action::Update),
        modified: Timestamp(modified),
        data: to_raw_value(&json!({"id": "g", "last_modified": modified})).ok(),
        permissions: None,
        user_id: None,
        note: None,
        date: None,
        is_found: false,
    };
    let outcome = |closes, versions: &[u64]| Outcome {
        closes: Some(closes),
        changes: versions.iter().map(|version| change(*version)).collect(),
        ..Outcome::default()
    };
    let outer = batch.intend(vec![intent(), intent()]).await.unwrap();
    let between = single.intend(vec![intent()]).await.unwrap();
    let recorded = async {
        tokio::try_join!(
            batch.settle_among(Among::of(outer), outcome(outer, &[10, 30])),
            single.settle_among(Among::of(between), outcome(between, &[20])),
        )
    };
    tokio::time::timeout(Duration::from_secs(60), recorded).await.unwrap().unwrap();
    let mut journal = PgConnection::connect(match &url {
        JournalUrl::Postgres(address) => address,
        _ => unreachable!(),
    })
    .await
    .unwrap();
    let rows = journal
        .fetch_all("SELECT object_modified FROM sidecar_entries ORDER BY last_modified")
        .await
        .unwrap();
    let versions: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(versions, [10, 20, 30]);
    assert!(batch.open_groups(None).await.unwrap().is_empty());
}
