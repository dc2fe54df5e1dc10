//! A journal of an earlier version is brought up to date while the sidecar serves, and by whoever comes next where it is
//! killed.
//!
//! `ENTRIES=1000000 cargo test --test it history::upgrade -- --nocapture` says how long so many take.

use std::time::{Duration, Instant};

use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, Executor, Row, SqliteConnection};

use crate::health::asked;
use crate::support::{Kinto, PATIENCE, SERVICE_ACCOUNT, Sidecar, commit, eventually, unique};

/// Makes of a journal one of before there were chains, in which each record has this many more entries.
async fn age(journal: &mut SqliteConnection, entries: usize) {
    let more = format!(
        "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {entries}) \
         INSERT INTO sidecar_entries SELECT history, (SELECT max(last_modified) FROM sidecar_entries) + n, id || '-' || n, uri || '-' || n, object_modified, \
         resource_name, action, user_id, date, bucket_id, group_id, collection_id, record_id || '-' || n, reader_set, \
         knows_readers, json FROM sidecar_entries, numbers WHERE resource_name = 'record'"
    );
    journal.execute(AssertSqlSafe(more)).await.unwrap();
    for text in [
        "UPDATE sidecar_histories SET timestamp = max(timestamp, (SELECT max(last_modified) FROM sidecar_entries))",
        "DROP TABLE sidecar_checkpoints",
        "DROP TABLE sidecar_versions",
        "ALTER TABLE sidecar_intents DROP COLUMN note",
        "DELETE FROM sidecar_meta WHERE name = 'chains'",
        "UPDATE sidecar_meta SET value = '1' WHERE name = 'schema'",
        // The second step of what takes long never ends.
        "CREATE TRIGGER slow BEFORE UPDATE ON sidecar_meta WHEN old.name = 'filling' AND old.value <> '0 ' \
         AND old.value NOT LIKE '% ' BEGIN \
         SELECT count(*) FROM sidecar_entries a, sidecar_entries b, sidecar_entries c, sidecar_entries d; END",
    ] {
        journal.execute(text).await.unwrap();
    }
}

async fn number(journal: &mut SqliteConnection, select: &'static str) -> i64 {
    journal.fetch_one(select).await.unwrap().get(0)
}

#[tokio::test]
async fn an_old_journal_is_brought_up_to_date_while_the_sidecar_serves_and_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let place = format!("sqlite:{}", folder.path().join("journal.db").display());
    let settings = [
        SERVICE_ACCOUNT,
        ("sidecar.history", "journal"),
        ("sidecar.journal", &*place),
        ("sidecar.admin_listen", "127.0.0.1:0"),
    ];
    let bucket = format!("/buckets/{}", unique("old"));
    let mut sidecar = Sidecar::start(Kinto::shared().url(), &settings);
    let alice = sidecar.client().user("alice");
    for path in ["", "/collections/c", "/collections/c/records/r"] {
        alice.put(&format!("{bucket}{path}")).json(json!({})).await.expect(201);
    }
    sidecar.terminate();
    sidecar.wait(PATIENCE).unwrap();
    let mut journal = SqliteConnection::connect(&place).await.unwrap();
    let entries = std::env::var("ENTRIES").map_or(4_200, |number| number.parse().unwrap());
    age(&mut journal, entries).await;

    sidecar.restart();
    let condition = eventually("health says that it is under way", async || {
        let (_, condition) = asked(&sidecar, "/health/ready").await;
        condition.to_string().contains("brought up to date (").then_some(condition)
    })
    .await;
    assert_eq!([&condition["ready"], &condition["degraded"]], [&json!(true), &json!(true)], "{condition}");
    assert_eq!([&condition["writes"], &condition["journal"]], [&json!(false), &json!(false)], "{condition}");
    sidecar.client().user("alice").get(&bucket).await.expect(200);
    let made = "SELECT count(*) FROM sidecar_versions";
    let first = eventually("some of it is done", async || {
        let first = number(&mut journal, made).await;
        (first > 0).then_some(first)
    })
    .await;
    sidecar.kill();
    let uris = number(&mut journal, "SELECT count(DISTINCT uri) FROM sidecar_entries").await;
    assert!(first < uris, "{first} of {uris}");
    journal.execute("DROP TRIGGER slow").await.unwrap();

    let begun = Instant::now();
    sidecar.restart();
    let patience = PATIENCE + Duration::from_millis(entries as u64);
    while asked(&sidecar, "/health/ready").await.1["degraded"] != false {
        assert!(begun.elapsed() < patience, "{}", sidecar.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!("{} entries at {}: {:.1?}", uris - first, commit(), begun.elapsed());
    // What was found elsewhere meanwhile has its entry and its version.
    let without =
        "SELECT (SELECT count(DISTINCT uri) FROM sidecar_entries) - (SELECT count(*) FROM sidecar_versions)";
    assert_eq!(number(&mut journal, without).await, 0);
    let log = sidecar.log();
    assert!(log.contains("the journal is of an earlier version") && log.contains("is up to date"), "{log}");
    sidecar.client().user("alice").put(&format!("{bucket}/collections/d")).await.expect(201);
    assert_eq!(number(&mut journal, "SELECT count(*) FROM sidecar_meta WHERE name = 'filling'").await, 0);
}
