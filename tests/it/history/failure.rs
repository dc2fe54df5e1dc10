//! A journal that cannot be used, or cannot be written for a while.

use std::future::IntoFuture;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Output};

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::json;
use sqlx::{AnyConnection, AssertSqlSafe, Connection, Executor, SqliteConnection};

use super::entries;
use crate::support::stub::PATIENCE;
use crate::support::{
    Chaos, Fate, Kinto, KintoOptions, Recorder, SERVICE_ACCOUNT, Sidecar, database, eventually, unique,
};

/// Starts a sidecar that is expected to refuse.
fn refused(journal: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kinto-sidecar"))
        .env_remove("KINTO_SIDECAR_TEST_ENV")
        .args(["--upstream", Kinto::shared().url().as_ref(), "--listen", "127.0.0.1:0", "--journal", journal])
        .output()
        .unwrap()
}

fn url(path: &Path) -> String {
    format!("sqlite:{}", path.display())
}

#[test]
fn a_journal_that_cannot_be_used_is_named_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let corrupt = folder.path().join("corrupt.db");
    let text = "this is no database, and somebody may want to have it back\n".repeat(100);
    std::fs::write(&corrupt, &text).unwrap();
    let used = folder.path().join("used.db");
    let journal = url(&used);
    let _user = Sidecar::start(Kinto::shared().url(), &[SERVICE_ACCOUNT, ("sidecar.journal", &journal)]);
    let missing = folder.path().join("missing/journal.db");
    // One that is in use may be free by and by: the process may be started again.
    for (path, status) in [(&corrupt, 2), (&used, 1), (&missing, 2)] {
        let output = refused(&url(path));
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(status), "{complaint}");
        assert_eq!(complaint.lines().count(), 1, "{complaint}");
        assert!(complaint.contains(&*path.to_string_lossy()), "{complaint}");
    }
    assert_eq!(std::fs::read_to_string(&corrupt).unwrap(), text);
}

/// How large the files are that it may write.
fn limit(sidecar: &Sidecar, bytes: Option<u64>) {
    let process = Pid::from_raw(sidecar.process_id().try_into().unwrap());
    prlimit(process, Resource::Fsize, Rlimit { current: bytes, maximum: None }).unwrap();
}

#[tokio::test]
async fn on_a_full_disk_writes_are_refused_before_they_reach_the_upstream() {
    let (folder, kinto) = (tempfile::tempdir().unwrap(), Kinto::shared());
    let bucket = format!("/buckets/{}", unique("full"));
    let journal = url(&folder.path().join("journal.db"));
    let sidecar = Sidecar::start(kinto.url(), &[SERVICE_ACCOUNT, ("sidecar.journal", &journal)]);
    let alice = sidecar.client().user("alice");
    alice.put(&bucket).await.expect(201);
    limit(&sidecar, Some(1));
    let refused = alice.put(&format!("{bucket}/collections/c")).await.expect(503);
    assert!(refused.headers.contains_key("retry-after"), "{refused}");
    assert_eq!(refused.json()["errno"], 201);
    kinto.client().user("alice").get(&format!("{bucket}/collections/c")).await.expect(404);
    assert_eq!(entries(&alice, &bucket).await.len(), 1, "what is there can be read");
    alice.get(&bucket).await.expect(200);
    limit(&sidecar, None);
    eventually("writes again", async || {
        (alice.put(&format!("{bucket}/collections/c")).await.status == 201).then_some(())
    })
    .await;
    assert_eq!(entries(&alice, &bucket).await.len(), 2);
}

#[tokio::test]
async fn where_the_operator_wants_it_writes_go_on_and_the_gap_is_healed() {
    let (folder, kinto) = (tempfile::tempdir().unwrap(), Kinto::shared());
    let bucket = format!("/buckets/{}", unique("forward"));
    let journal = url(&folder.path().join("journal.db"));
    let sidecar = Sidecar::start(
        kinto.url(),
        &[
            SERVICE_ACCOUNT,
            ("sidecar.journal", &journal),
            ("history.on_journal_failure", "forward"),
            ("history.resources", &bucket),
        ],
    );
    let alice = sidecar.client().user("alice");
    alice.put(&bucket).await.expect(201);
    limit(&sidecar, Some(1));
    alice.put(&format!("{bucket}/groups/g")).data(json!({"members": []})).await.expect(201);
    limit(&sidecar, None);
    eventually("the entry", async || (entries(&alice, &bucket).await.len() == 2).then_some(())).await;
}

#[tokio::test]
async fn a_journal_that_was_moved_away_is_noticed_before_anything_is_acknowledged() {
    let (folder, kinto) = (tempfile::tempdir().unwrap(), Kinto::shared());
    let bucket = format!("/buckets/{}", unique("moved"));
    let path = folder.path().join("journal.db");
    let journal = url(&path);
    let sidecar = Sidecar::start(kinto.url(), &[SERVICE_ACCOUNT, ("sidecar.journal", &journal)]);
    let (alice, group) = (sidecar.client().user("alice"), format!("{bucket}/groups/g"));
    alice.put(&bucket).await.expect(201);
    let away = folder.path().join("elsewhere.db");
    for replacement in [None, Some("something else")] {
        std::fs::rename(&path, &away).unwrap();
        if let Some(text) = replacement {
            std::fs::write(&path, text).unwrap();
        }
        alice.put(&group).data(json!({"members": []})).await.expect(503);
        kinto.client().user("alice").get(&group).await.expect(404);
        // By the connections that are open.
        let list = format!("{bucket}/history");
        eventually("what is there", async || (alice.get(&list).await.status == 200).then_some(())).await;
        assert!(sidecar.log().contains(&*path.to_string_lossy()), "{}", sidecar.log());
        std::fs::rename(&away, &path).unwrap();
    }
    alice.put(&group).data(json!({"members": []})).await.expect(201);
    assert_eq!(entries(&alice, &bucket).await.len(), 2);
}

/// Writes over the part of a journal where a table's entries begin.
async fn damage(path: &Path, table: &str) {
    let mut connection = SqliteConnection::connect(&url(path)).await.unwrap();
    let root = sqlx::query_scalar("SELECT rootpage FROM sqlite_master WHERE name = ?").bind(table);
    let root: i64 = root.fetch_one(&mut connection).await.unwrap();
    let size: i64 = sqlx::query_scalar("PRAGMA page_size").fetch_one(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    let file = std::fs::File::options().write(true).open(path).unwrap();
    let page = vec![0xff; size.try_into().unwrap()];
    file.write_all_at(&page, ((root - 1) * size).try_into().unwrap()).unwrap();
}

#[tokio::test]
async fn a_journal_that_is_found_damaged_is_not_written_and_the_operator_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.db");
    let journal = url(&path);
    let settings = [SERVICE_ACCOUNT, ("sidecar.journal", &*journal), ("sidecar.admin_listen", "127.0.0.1:0")];
    let mut sidecar = Sidecar::start(Kinto::shared().url(), &settings);
    let bucket = format!("/buckets/{}", unique("damaged"));
    let alice = sidecar.client().user("alice");
    alice.put(&bucket).await.expect(201);
    sidecar.terminate();
    sidecar.wait(PATIENCE).unwrap();
    damage(&path, "sidecar_entries").await;
    sidecar.restart();
    let alice = sidecar.client().user("alice");
    alice.get(&format!("{bucket}/history")).await.expect(503);
    // What was read was damaged, and what would be written is not told to anybody.
    alice.put(&format!("{bucket}/collections/c")).await.expect(503);
    let (status, condition) = crate::health::asked(&sidecar, "/health/ready?require=writes").await;
    assert_eq!((status, &condition["degraded"], &condition["journal"]), (503, &true.into(), &false.into()));
    assert!(condition.to_string().contains("is damaged, or was written over"), "{condition}");
}

#[tokio::test]
async fn a_journal_whose_table_is_gone_is_not_written_until_it_is_there_again() {
    sqlx::any::install_default_drivers();
    let folder = tempfile::tempdir().unwrap();
    for journal in [url(&folder.path().join("journal.db")), database()] {
        let settings =
            [SERVICE_ACCOUNT, ("sidecar.journal", &*journal), ("sidecar.admin_listen", "127.0.0.1:0")];
        let sidecar = Sidecar::start(Kinto::shared().url(), &settings);
        let bucket = format!("/buckets/{}", unique("lacking"));
        let alice = sidecar.client().user("alice");
        alice.put(&bucket).await.expect(201);
        let mut connection = AnyConnection::connect(&journal).await.unwrap();
        let ready = async || crate::health::asked(&sidecar, "/health/ready?require=writes").await;
        for (from, to, status) in [("versions", "elsewhere", 503), ("elsewhere", "versions", 201)] {
            let rename = format!("ALTER TABLE sidecar_{from} RENAME TO sidecar_{to}");
            connection.execute(AssertSqlSafe(rename)).await.unwrap();
            let (said, condition) = ready().await;
            assert_eq!((said == 503, condition["journal"] == false), (status == 503, status == 503));
            assert_eq!(condition.to_string().contains("history verify"), status == 503, "{condition}");
            alice.put(&format!("{bucket}/collections/c")).await.expect(status);
        }
        assert_eq!(entries(&alice, &bucket).await.len(), 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_postgresql_is_away_writes_wait_outside_and_the_rest_goes_on() {
    let (way, journal) = Chaos::before_database(&database());
    let kinto = Kinto::shared();
    let bucket = format!("/buckets/{}", unique("away"));
    let settings = [SERVICE_ACCOUNT, ("sidecar.journal", &journal), ("changes.resources", &bucket)];
    let sidecar = Sidecar::start(kinto.url(), &settings);
    let alice = sidecar.client().user("alice");
    alice.put(&bucket).await.expect(201);
    alice.put(&format!("{bucket}/collections/c")).await.expect(201);
    let changeset = format!("{bucket}/collections/c/changeset?_expected=0");
    alice.get(&changeset).await.expect(200);
    way.cut();
    let record = format!("{bucket}/collections/c/records/r");
    alice.put(&record).await.expect(503);
    kinto.client().user("alice").get(&record).await.expect(404);
    alice.get(&changeset).await.expect(200);
    alice.get(&format!("{bucket}/history")).await.expect(503);
    way.restore();
    eventually("writes again", async || (alice.put(&record).await.status == 201).then_some(())).await;
    assert_eq!(entries(&alice, &bucket).await.len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_written_while_postgresql_went_away_stands_before_what_comes_later() {
    let (way, journal) = Chaos::before_database(&database());
    let kinto = Kinto::shared();
    let recorder = Recorder::before(kinto.url());
    let bucket = format!("/buckets/{}", unique("late"));
    // Who somebody is need not be asked while nothing comes through.
    let settings = [SERVICE_ACCOUNT, ("sidecar.journal", &*journal), ("sidecar.permission_ttl", "1h")];
    let sidecar = Sidecar::start(recorder.url(), &settings);
    let (alice, direct) = (sidecar.client().user("alice"), kinto.client().user("alice"));
    alice.put(&bucket).await.expect(201);
    alice.put(&format!("{bucket}/collections/c")).await.expect(201);
    let record = format!("{bucket}/collections/c/records/r");
    let put = |n: u64| alice.put(&record).data(json!({"n": n}));
    put(0).await.expect(201);
    recorder.clear();
    recorder.intercept(|request| if request.method == "PUT" { Fate::Hold } else { Fate::Pass });
    let waiting = tokio::spawn(put(1).into_future());
    let path = format!("/v1{record}");
    recorder.wait_for(1, |request| request.method == "PUT" && request.path() == path).await;
    way.cut();
    recorder.release();
    waiting.await.unwrap().expect(503);
    assert_eq!(direct.get(&record).await.expect(200).data()["n"], 1);
    way.restore();
    eventually("writes again", async || (put(2).await.status == 200).then_some(())).await;
    let about = entries(&alice, &bucket).await;
    let values: Vec<_> = about.iter().filter_map(|entry| entry["target"]["data"]["n"].as_u64()).collect();
    assert_eq!(values, [0, 1, 2], "{about:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgresql_that_hangs_is_not_waited_for_at_the_start() {
    let (way, journal) = Chaos::before_database(&database());
    way.stall();
    let bucket = format!("/buckets/{}", unique("hangs"));
    let admin = ("sidecar.admin_listen", "127.0.0.1:0");
    let settings = [SERVICE_ACCOUNT, ("sidecar.journal", &journal), admin];
    let sidecar = Sidecar::start(Kinto::shared().url(), &settings);
    let alice = sidecar.client().user("alice");
    alice.put(&bucket).await.expect(503);
    alice.get(&bucket).await.expect(403);
    let (_, condition) = crate::health::asked(&sidecar, "/health/ready").await;
    assert!(
        condition.to_string().contains("the journal is not available: it does not answer"),
        "{condition}"
    );
    // What hangs never goes on; what comes later is served.
    way.cut();
    way.restore();
    eventually("writes", async || (alice.put(&bucket).await.status == 201).then_some(())).await;
    assert_eq!(entries(&alice, &bucket).await.len(), 1);
}

#[tokio::test]
async fn what_a_former_process_left_open_of_one_object_holds_nobody_up_for_long() {
    let (folder, kinto) = (tempfile::tempdir().unwrap(), Kinto::start(KintoOptions::memory()));
    let journal = url(&folder.path().join("journal.db"));
    let settings = [SERVICE_ACCOUNT, ("sidecar.journal", &*journal), ("sidecar.admin_listen", "127.0.0.1:0")];
    let mut sidecar = Sidecar::start(kinto.url(), &settings);
    let alice = sidecar.client().user("alice");
    for bucket in ["/buckets/odd", "/buckets/other"] {
        alice.put(bucket).await.expect(201);
        alice.put(&format!("{bucket}/collections/c")).await.expect(201);
    }
    // Kinto keeps it, and fails on it from then on: it has no date in a year of four digits.
    let odd = alice
        .put("/buckets/odd/collections/c/records/r")
        .data(json!({"last_modified": 300_000_000_000_000_u64}));
    assert_eq!(odd.await.status, 500);
    sidecar.kill();
    sidecar.restart();
    let alice = sidecar.client().user("alice");
    alice.put("/buckets/other/collections/c/records/r").await.expect(201);
    let log = sidecar.log();
    assert!(log.contains("could not look up what became of a write of a former process"), "{log}");
}
