//! A batch that is committed late: its rows have older timestamps than what was visible before them.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use sqlx::postgres::PgConnection;
use sqlx::{Connection, Executor};

use crate::support::{Client, Kinto, KintoOptions, SERVICE_ACCOUNT, Sidecar, database, eventually};

const COLLECTION: &str = "/buckets/b/collections/c";

/// A record that nobody can write: whoever tries waits until this is let go.
struct Held(PgConnection);

impl Held {
    /// Holds the record `held` in this database.
    async fn take(database: &str) -> Self {
        let mut connection = PgConnection::connect(database).await.unwrap();
        connection.execute("BEGIN").await.unwrap();
        let held = connection.execute("SELECT 1 FROM objects WHERE id = 'held' FOR UPDATE").await.unwrap();
        assert_eq!(held.rows_affected(), 1);
        Self(connection)
    }

    async fn has_somebody_waiting(&mut self) -> bool {
        let waiting = "SELECT 1 FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'";
        self.0.execute(waiting).await.unwrap().rows_affected() > 0
    }

    async fn let_go(mut self) {
        self.0.execute("COMMIT").await.unwrap();
    }
}

#[tokio::test]
async fn who_read_elsewhere_what_was_visible_before_it_is_told_of_all_of_it() {
    let storage = database();
    let url = storage.replacen("postgres://kinto@localhost/", "postgresql://kinto@/", 1);
    let kinto = Kinto::start(
        KintoOptions::postgres().setting("kinto.storage_url", &url).setting("kinto.permission_url", &url),
    );
    let journal = database();
    let settings = [SERVICE_ACCOUNT, ("sidecar.exclusive", "true"), ("changes.resources", "/buckets/b")];
    let shared = [settings.as_slice(), &[("sidecar.journal", &*journal)]].concat();
    let elsewhere = Sidecar::start(kinto.url(), &settings);
    let [through, beside] = [(), ()].map(|()| Sidecar::start(kinto.url(), &shared));

    let alice = through.client().user("alice");
    alice.put("/buckets/b").json(json!({"permissions": {"read": ["system.Everyone"]}})).await.expect(201);
    alice.put(COLLECTION).await.expect(201);
    let begin = alice.put(&format!("{COLLECTION}/records/held")).await.expect(201).timestamp();
    for sidecar in [&elsewhere, &through, &beside] {
        assert_eq!(changes(&sidecar.client(), begin - 1).await, (begin, ids(&["held"])));
    }

    let mut held = Held::take(&storage).await;
    let put = |id| json!({"method": "PUT", "path": format!("{COLLECTION}/records/{id}"), "body": {"data": {"n": 1}}});
    let batch = tokio::spawn({
        let requests = json!({"requests": [put("early"), put("held"), put("newest")]});
        let alice = alice.clone();
        async move { alice.post("/batch").json(requests).await.expect(200).json() }
    });
    eventually("the batch at the held record", async || held.has_somebody_waiting().await.then_some(()))
        .await;
    let other = format!("{COLLECTION}/records/other");
    let since = elsewhere.client().user("alice").put(&other).await.expect(201).timestamp();
    let reader = elsewhere.client().with("user-agent", "reader");
    assert_eq!(changes(&reader, begin).await, (since, ids(&["other"])));

    held.let_go().await;
    let answers = batch.await.unwrap();
    let timestamp =
        |place: usize| answers["responses"][place]["body"]["data"]["last_modified"].as_u64().unwrap();
    let (early, newest) = (timestamp(0), timestamp(2));
    assert!(early < since && since < newest, "{early} {since} {newest}");

    let all = ids(&["early", "held", "newest"]);
    let monitor = "/buckets/monitor/collections/changes/records";
    eventually("the other sidecar to be told", async || {
        let list = beside.client().get(monitor).await.expect(200).data();
        (list[0]["last_modified"] == newest).then_some(())
    })
    .await;
    let mut missed = Vec::new();
    for (name, sidecar) in [("through", &through), ("beside", &beside), ("elsewhere", &elsewhere)] {
        let reader = sidecar.client().with("user-agent", "reader");
        let path = format!("{COLLECTION}/changeset?_expected={newest}&_since=%22{since}%22");
        let changeset = reader.get(&path).await.expect(200).json();
        let given = changeset["changes"].as_array().unwrap().iter().map(id).collect();
        let (last_seq, told) = changes(&reader, since).await;
        assert_eq!(last_seq, newest);
        for (what, told) in [("changeset", given), ("feed", told)] {
            missed.extend(all.difference(&told).map(|id| format!("{id} in the {what} of {name}")));
        }
    }
    assert!(missed.is_empty(), "{missed:?}");
}

#[tokio::test]
async fn who_comes_from_another_sidecar_is_told_of_a_batch_that_is_wholly_below_what_they_know() {
    let storage = database();
    let url = storage.replacen("postgres://kinto@localhost/", "postgresql://kinto@/", 1);
    let kinto = Kinto::start(
        KintoOptions::postgres().setting("kinto.storage_url", &url).setting("kinto.permission_url", &url),
    );
    let settings =
        [SERVICE_ACCOUNT, ("changes.resources", "/buckets/b"), ("sidecar.timestamps_ttl", "100ms")];
    let [first, second] = [(), ()].map(|()| Sidecar::start(kinto.url(), &settings));
    let direct = kinto.client().user("alice");
    direct.put("/buckets/b").json(json!({"permissions": {"read": ["system.Everyone"]}})).await.expect(201);
    direct.put(COLLECTION).await.expect(201);
    let begin = direct.put(&format!("{COLLECTION}/records/first")).await.expect(201).timestamp();
    // Its timestamp is given once the record is let go: it is in another collection.
    direct.put("/buckets/b/collections/other").await.expect(201);
    direct.put("/buckets/b/collections/other/records/held").await.expect(201);
    let changeset = async |sidecar: &Sidecar, expected: u64, since: u64| {
        let path = format!("{COLLECTION}/changeset?_expected={expected}&_since=%22{since}%22");
        let answer = sidecar.client().get(&path).await.expect(200).json();
        let rows: BTreeSet<String> = answer["changes"].as_array().unwrap().iter().map(id).collect();
        (answer["timestamp"].as_u64().unwrap(), rows)
    };
    for sidecar in [&first, &second] {
        assert_eq!(changeset(sidecar, begin, begin).await, (begin, ids(&[])));
    }

    let mut held = Held::take(&storage).await;
    let put = |path: String| json!({"method": "PUT", "path": path, "body": {"data": {"n": 1}}});
    let paths = [
        format!("{COLLECTION}/records/early"),
        format!("{COLLECTION}/records/next"),
        "/buckets/b/collections/other/records/held".to_owned(),
    ];
    let batch = tokio::spawn({
        let requests = json!({"requests": paths.map(put)});
        let direct = direct.clone();
        async move { direct.post("/batch").json(requests).await.expect(200).json() }
    });
    eventually("the batch at the held record", async || held.has_somebody_waiting().await.then_some(()))
        .await;
    let since = direct.put(&format!("{COLLECTION}/records/other")).await.expect(201).timestamp();
    // One sidecar is asked before the batch is visible, the other one after that.
    assert_eq!(changeset(&first, since, begin).await, (since, ids(&["other"])));
    held.let_go().await;
    batch.await.unwrap();
    let all = ids(&["early", "next", "other"]);
    assert_eq!(changeset(&second, since, begin).await, (since, all.clone()));
    let missed = ids(&["early", "next"]);
    assert_eq!(
        changeset(&second, since, since).await,
        (since, missed.clone()),
        "who comes from the first one"
    );

    // What comes later comes with it, and once.
    let later = direct.put(&format!("{COLLECTION}/records/later")).await.expect(201).timestamp();
    let (timestamp, told) = changeset(&second, later, since).await;
    assert_eq!((timestamp, told), (later, &missed | &ids(&["later"])));
    assert_eq!(changeset(&second, later, later).await, (later, ids(&[])));
}

fn id(row: &Value) -> String {
    row["id"].as_str().unwrap().to_owned()
}

fn ids(ids: &[&str]) -> BTreeSet<String> {
    ids.iter().map(|id| (*id).to_owned()).collect()
}

/// The last seq of a feed, and the ids of its rows.
async fn changes(client: &Client, since: u64) -> (u64, BTreeSet<String>) {
    let answer = client.get(&format!("{COLLECTION}/_changes?since={since}")).await.expect(200).json();
    (answer["last_seq"].as_u64().unwrap(), answer["results"].as_array().unwrap().iter().map(id).collect())
}
