//! What is opened, and what is refused and left as it is.

use std::fs;
use std::path::PathBuf;

use super::*;

/// An SQLite journal at a path, and the error with which it is refused.
async fn refusal(path: PathBuf) -> String {
    let url = JournalUrl::Sqlite(path);
    match Journal::open(&url, &Settings::default().history, true).await {
        Err(JournalError::Unusable(text) | JournalError::InUse(text)) => text.to_string(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_is_no_journal_is_refused_and_left_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let text = refusal(path("none/journal.db")).await;
    assert!(text.contains("there is no directory"), "{text}");

    let long = "no database ".repeat(1000);
    for content in ["x", &long] {
        fs::write(path("text"), content).unwrap();
        let text = refusal(path("text")).await;
        assert!(text.contains("is a file that is not a database"), "{text}");
        assert_eq!(fs::read_to_string(path("text")).unwrap(), *content);
    }

    let text = refusal(directory.path().to_owned()).await;
    assert!(text.contains("cannot be used"), "{text}");

    sqlx::any::install_default_drivers();
    let other = format!("sqlite:{}?mode=rwc", path("other.db").display());
    let pool = sqlx::AnyPool::connect(&other).await.unwrap();
    pool.execute("CREATE TABLE sidecar_meta (name TEXT, value TEXT)").await.unwrap();
    pool.close().await;
    let before = fs::read(path("other.db")).unwrap();
    let text = refusal(path("other.db")).await;
    assert!(text.contains("belongs to something else"), "{text}");
    assert_eq!(fs::read(path("other.db")).unwrap(), before);
}

#[tokio::test]
async fn a_journal_is_used_by_one_process() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal.db");
    let url = JournalUrl::Sqlite(path.clone());
    let journal = Journal::open(&url, &Settings::default().history, true).await.unwrap();
    let text = refusal(path).await;
    assert!(text.contains("is in use by another process"), "{text}");
    settle(&journal, vec![change("/buckets/a", None, 1, &json!({}))]).await;
}

#[tokio::test]
async fn nobody_else_can_read_a_journal() {
    use std::os::unix::fs::PermissionsExt;

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal.db");
    for _ in 0..2 {
        let url = JournalUrl::Sqlite(path.clone());
        let journal = Journal::open(&url, &Settings::default().history, true).await.unwrap();
        settle(&journal, vec![change("/buckets/a", None, 1, &json!({}))]).await;
        let mut names = Vec::new();
        for file in fs::read_dir(directory.path()).unwrap().map(Result::unwrap) {
            assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{file:?}");
            names.push(file.file_name().into_string().unwrap());
            // As one that was made before modes were looked at.
            fs::set_permissions(file.path(), fs::Permissions::from_mode(0o644)).unwrap();
        }
        names.sort();
        assert_eq!(names, ["journal.db", "journal.db-shm", "journal.db-wal", "journal.db.lock"]);
    }
}

#[tokio::test]
async fn a_newer_journal_is_refused() {
    for place in places().await {
        settle(&place.open().await, vec![change("/buckets/a", None, 1, &json!({}))]).await;
        let engine = Engine::at(&place.url).await.unwrap();
        let mut writing = engine.writing().await.unwrap();
        writing
            .connection()
            .execute("UPDATE sidecar_meta SET value = '7' WHERE name = 'schema'")
            .await
            .unwrap();
        drop((writing, engine));
        let Err(JournalError::Unusable(text)) = place.try_open().await else { panic!("it was opened") };
        assert!(
            text.contains("was written by a newer kinto-sidecar (its schema is 7, this one knows 5)"),
            "{text}"
        );
    }
}

#[tokio::test]
async fn a_journal_in_memory_lasts_as_long_as_the_process() {
    let journal =
        Journal::open(&JournalUrl::SqliteInMemory, &Settings::default().history, true).await.unwrap();
    let other = Journal::open(&JournalUrl::SqliteInMemory, &Settings::default().history, true).await.unwrap();
    for modified in 1..50 {
        settle(&journal, vec![change("/buckets/a", None, modified, &json!({"x": modified}))]).await;
        assert_eq!(journal.timestamp("a").await.unwrap(), journal.timestamp("a").await.unwrap());
    }
    assert_eq!(entries(&journal, "a", "").await.len(), 49);
    assert!(entries(&other, "a", "").await.is_empty());
}

#[tokio::test]
async fn an_address_that_does_not_work_is_told_without_its_password() {
    let settings = Settings::default().history;
    let url = JournalUrl::Postgres("postgres://me:secret@127.0.0.1:1/none".to_owned());
    let Err(error) = Journal::open(&url, &settings, true).await else { panic!("it was opened") };
    assert!(matches!(error, JournalError::Unavailable(_)), "{error}");
    assert!(!error.to_string().contains("secret"), "{error}");
    for place in places().await {
        let JournalUrl::Postgres(address) = place.url else { continue };
        let (before, after) = address.split_once("kinto:").unwrap_or(("", ""));
        if after.is_empty() {
            continue;
        }
        let wrong = JournalUrl::Postgres(format!("{before}nobody:{after}"));
        let Err(JournalError::Unusable(text)) = Journal::open(&wrong, &settings, true).await else {
            panic!("it was opened")
        };
        assert!(text.contains("authentication failed"), "{text}");
    }
}
