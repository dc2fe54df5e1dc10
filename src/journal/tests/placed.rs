//! A journal whose files do not stay where they are, and what is told while it cannot be written.

use std::fs;
use std::path::{Path, PathBuf};

use super::*;

const RECORD: &str = "/buckets/a/collections/c/records/r";

async fn opened(folder: &Path) -> (PathBuf, Journal) {
    let path = folder.join("journal.db");
    let journal = reopened(&path).await;
    settle(&journal, vec![version(1)]).await;
    (path, journal)
}

async fn reopened(path: &Path) -> Journal {
    let url = JournalUrl::Sqlite(path.to_owned());
    Journal::open(&url, &Settings::default().history, true).await.unwrap()
}

fn version(modified: u64) -> Change {
    change(RECORD, None, modified, &json!({"v": modified}))
}

fn outcome(changes: Vec<Change>) -> Outcome {
    Outcome { changes, ..Outcome::default() }
}

/// What it says to somebody who is about to write.
async fn complaint(journal: &Journal) -> String {
    match journal.intend(Vec::new()).await {
        Err(JournalError::Unavailable(text)) => text.to_string(),
        other => panic!("{other:?}"),
    }
}

async fn versions(journal: &Journal) -> Vec<u64> {
    let about = entries(journal, "a", "_sort=last_modified").await;
    about.iter().map(|entry| entry["target"]["data"]["v"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn a_file_that_is_gone_is_noticed_and_what_was_told_meanwhile_stays_in_its_order() {
    let folder = tempfile::tempdir().unwrap();
    let (path, journal) = opened(folder.path()).await;
    for (round, name) in ["journal.db", "journal.db-wal", "journal.db-shm"].into_iter().enumerate() {
        let (file, away) = (folder.path().join(name), folder.path().join("away"));
        let next = 10 * (u64::try_from(round).unwrap() + 1);
        fs::rename(&file, &away).unwrap();
        let text = complaint(&journal).await;
        assert!(text.contains(&*path.to_string_lossy()) && text.contains("was removed"), "{text}");
        fs::write(&file, "something else").unwrap();
        assert!(complaint(&journal).await.contains("was replaced"));
        journal.settle(outcome(vec![version(next + 9)])).await.unwrap_err();
        for modified in [next, next + 1] {
            journal.settle_at_last(outcome(vec![version(modified)])).await.unwrap_err();
        }
        fs::rename(&away, &file).unwrap();
        settle(&journal, vec![version(next + 2)]).await;
    }
    let expected = [1, 10, 11, 12, 20, 21, 22, 30, 31, 32];
    assert_eq!(versions(&journal).await, expected);
    drop(journal);
    assert_eq!(versions(&reopened(&path).await).await, expected);
}

#[tokio::test]
async fn what_is_late_is_written_without_anybody_asking() {
    let folder = tempfile::tempdir().unwrap();
    let (path, journal) = opened(folder.path()).await;
    let mut news = journal.subscribe();
    fs::rename(&path, folder.path().join("away")).unwrap();
    journal.settle_at_last(outcome(vec![version(2)])).await.unwrap_err();
    fs::rename(folder.path().join("away"), &path).unwrap();
    while news.recv().await.unwrap().objects[0].1 != Timestamp(2) {}
    assert_eq!(versions(&journal).await, [1, 2]);
}

#[tokio::test]
async fn a_log_that_was_removed_takes_nothing_along() {
    let folder = tempfile::tempdir().unwrap();
    let (path, journal) = opened(folder.path()).await;
    for name in ["journal.db-wal", "journal.db-shm"] {
        fs::remove_file(folder.path().join(name)).unwrap();
    }
    complaint(&journal).await;
    // What a process leaves that is killed now.
    let copy = folder.path().join("copy.db");
    fs::copy(&path, &copy).unwrap();
    assert_eq!(versions(&reopened(&copy).await).await, [1]);
}

#[tokio::test]
async fn a_folder_that_is_gone_and_a_file_that_was_written_over_are_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("inner");
    fs::create_dir(&inner).unwrap();
    let (path, journal) = opened(&inner).await;
    fs::rename(&inner, folder.path().join("away")).unwrap();
    assert!(complaint(&journal).await.contains("was removed"));
    fs::rename(folder.path().join("away"), &inner).unwrap();
    settle(&journal, vec![version(2)]).await;
    let whole = fs::read(&path).unwrap();
    fs::write(&path, "cut").unwrap();
    assert!(complaint(&journal).await.contains("cut short or written over"));
    fs::write(&path, "x".repeat(whole.len())).unwrap();
    assert!(complaint(&journal).await.contains("cut short or written over"));
}

#[tokio::test]
async fn on_each_engine_what_is_late_precedes_what_is_newer() {
    for place in places().await {
        let journal = place.open().await;
        let mut excessive = version(5);
        // PostgreSQL takes no such text, and SQLite does.
        excessive.user_id = Some("\0".to_owned());
        let refused = journal.settle_at_last(outcome(vec![excessive])).await.is_err();
        let newer = journal.settle_at_last(outcome(vec![version(6)])).await;
        assert_eq!(newer.is_err(), refused, "{newer:?}");
        let other = change("/buckets/a/groups/g", None, 7, &json!({"v": 7}));
        assert_eq!(settle(&journal, vec![other]).await, 1, "others go on");
    }
}
