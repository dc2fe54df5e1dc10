//! Indexes that an import into PostgreSQL leaves out until all is in it.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Child, ChildStdin, Stdio};
use std::time::Instant;

use sqlx::{Connection, PgConnection};

use super::entries;
use super::transfer::{history, outcome, said};
use crate::support::{Kinto, SERVICE_ACCOUNT, Sidecar, database, eventually, unique};

const INDEXES: &str = "SELECT count(*) FROM pg_indexes WHERE tablename = 'sidecar_entries'";
const MARKS: &str = "SELECT count(*) FROM sidecar_meta WHERE name = 'indexes'";
const ENTRIES: &str = "SELECT count(*) FROM sidecar_entries";
const ALL: i64 = 13;

async fn number(journal: &str, question: &'static str) -> i64 {
    let mut connection = PgConnection::connect(journal).await.unwrap();
    sqlx::query_scalar(question).fetch_one(&mut connection).await.unwrap()
}

/// Entries of a bucket, as Kinto's plugin serves them. What is in them has to be escaped, however they are written.
fn lines(bucket: &str, count: u64) -> String {
    let mut lines = String::new();
    for n in 1..=count {
        let uri = format!("/buckets/{bucket}/groups/g{n}");
        let data = format!(r#""text":"\"\\{{}},NULL ä","rest":"{}""#, "x".repeat(500));
        writeln!(
            lines,
            r#"{{"id":"e{n}","last_modified":{n},"date":"2026-01-01T00:00:00","action":"create","resource_name":"group","uri":"{uri}","user_id":"a\"\\{{}},b","bucket_id":null,"group_id":"g{n}","target":{{"data":{{"id":"g{n}","last_modified":{n},{data}}},"permissions":{{}}}}}}"#
        )
        .unwrap();
    }
    lines
}

/// `ENTRIES=100000 cargo test --release --test it history::indexes::many -- --nocapture` says how long that takes.
#[tokio::test]
async fn many_entries_are_imported_into_a_journal_that_is_empty_and_one_that_is_not() {
    let entries = std::env::var("ENTRIES").map_or(3000, |text| text.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    for journal in [format!("sqlite:{}", folder.path().join("j.db").display()), database()] {
        for bucket in ["first", "second"] {
            let file = folder.path().join("lines");
            std::fs::write(&file, lines(bucket, entries)).unwrap();
            let begun = Instant::now();
            let told = said(0, &journal, &["import", "--new", file.to_str().unwrap()]);
            let took = begun.elapsed().as_secs_f64();
            assert!(told.contains(&format!("{entries} entries were imported, 0 were there")), "{told}");
            #[expect(clippy::cast_precision_loss, reason = "it is for people")]
            let rate = entries as f64 / took;
            let (engine, _) = journal.split_once(':').unwrap();
            println!("{engine}, {bucket}: {entries} entries in {took:.1} s, {rate:.0} a second");
        }
        said(0, &journal, &["verify"]);
    }
}

/// An import that has begun, and waits for lines.
fn begun(journal: &str) -> (Child, ChildStdin) {
    let mut import = history(journal, &["import", "--new"]).stdin(Stdio::piped()).spawn().unwrap();
    let input = import.stdin.take().unwrap();
    (import, input)
}

async fn without_indexes(journal: &str) {
    eventually("indexes are left out", async || {
        let tables = "SELECT count(*) FROM pg_tables WHERE tablename = 'sidecar_meta'";
        (number(journal, tables).await > 0 && number(journal, MARKS).await > 0).then_some(())
    })
    .await;
    assert!(number(journal, INDEXES).await < ALL);
}

#[tokio::test]
async fn indexes_that_a_killed_import_left_out_are_made_by_the_sidecar_that_starts_next() {
    let (journal, bucket) = (database(), unique("killed"));
    let text = lines(&bucket, 20_100);
    let (mut import, mut input) = begun(&journal);
    without_indexes(&journal).await;
    let writing = text.clone();
    let writer = std::thread::spawn(move || input.write_all(writing.as_bytes()));
    eventually("entries are there", async || (number(&journal, ENTRIES).await > 0).then_some(())).await;
    import.kill().unwrap();
    import.wait().unwrap();
    _ = writer.join().unwrap();
    let verified = history(&journal, &["verify"]).output().unwrap();
    let found = String::from_utf8(verified.stdout).unwrap();
    assert!(verified.status.success() && found.contains("the next start makes them"), "{found}");

    let sidecar = Sidecar::start(Kinto::shared().url(), &[SERVICE_ACCOUNT, ("sidecar.journal", &journal)]);
    let alice = sidecar.client().user("alice");
    let put = || alice.put(&format!("/buckets/{bucket}"));
    eventually("writes", async || (put().await.status == 201).then_some(())).await;
    assert_eq!((number(&journal, INDEXES).await, number(&journal, MARKS).await), (ALL, 0));

    // Repeated, it adds what is not there yet.
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &text).unwrap();
    said(0, &journal, &["import", file.path().to_str().unwrap()]);
    assert_eq!(number(&journal, ENTRIES).await, 20_101);
    let served = entries(&alice, &format!("/buckets/{bucket}")).await;
    let imported = served.iter().find(|entry| entry["id"] == "e20100").unwrap();
    assert_eq!(imported["target"]["data"]["text"], "\"\\{},NULL ä");
    assert_eq!(imported["user_id"], "a\"\\{},b");
}

#[tokio::test]
async fn a_sidecar_that_starts_during_an_import_makes_the_indexes_and_both_go_on() {
    let (journal, bucket) = (database(), unique("beside"));
    let (import, mut input) = begun(&journal);
    without_indexes(&journal).await;
    let sidecar = Sidecar::start(Kinto::shared().url(), &[SERVICE_ACCOUNT, ("sidecar.journal", &journal)]);
    let alice = sidecar.client().user("alice");
    let own = format!("/buckets/{}", unique("own"));
    eventually("writes", async || (alice.put(&own).await.status < 300).then_some(())).await;
    assert_eq!((number(&journal, INDEXES).await, number(&journal, MARKS).await), (ALL, 0));
    input.write_all(lines(&bucket, 500).as_bytes()).unwrap();
    drop(input);
    let (code, told) = outcome(&import.wait_with_output().unwrap());
    assert!(code == Some(0) && told.contains("500 entries were imported"), "{told}");
    assert_eq!(entries(&alice, &own).await.len(), 1);
}

#[tokio::test]
async fn an_import_beside_a_sidecar_leaves_no_index_out() {
    let (journal, bucket) = (database(), unique("beside"));
    let _sidecar = Sidecar::start(Kinto::shared().url(), &[SERVICE_ACCOUNT, ("sidecar.journal", &journal)]);
    let (import, mut input) = begun(&journal);
    // More than are read before the first of them is written.
    input.write_all(lines(&bucket, 20_001).as_bytes()).unwrap();
    eventually("entries are there", async || (number(&journal, ENTRIES).await > 0).then_some(())).await;
    assert_eq!((number(&journal, INDEXES).await, number(&journal, MARKS).await), (ALL, 0));
    drop(input);
    assert_eq!(outcome(&import.wait_with_output().unwrap()).0, Some(0));
}

#[tokio::test]
async fn lines_that_postgresql_cannot_keep_are_left_out_and_the_rest_is_imported() {
    let journal = database();
    let text = lines("odd", 5);
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let author = r#""user_id":"a\"\\{},b""#;
    // Random, as what repeats is stored in less.
    let long: String = (0..200).map(|_| uuid::Uuid::new_v4().simple().to_string()).collect();
    lines[1] = lines[1].replace(author, &format!("\"user_id\":\"{long}\""));
    lines[3] = lines[3].replace(author, r#""user_id":"a\u0000b""#);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), lines.join("\n")).unwrap();
    let told = said(0, &journal, &["import", "--new", file.path().to_str().unwrap()]);
    assert!(told.contains("3 entries were imported"), "{told}");
    assert_eq!(told.matches("a line is left out").count(), 2, "{told}");
    assert_eq!((number(&journal, INDEXES).await, number(&journal, MARKS).await), (ALL, 0));
}
