//! What is found wrong, and space that is given back.

use std::fs;
use std::path::Path;

use super::*;

async fn verified(url: &JournalUrl) -> Verified {
    JournalView::open(url).await.unwrap().unwrap().verify().await.unwrap()
}

async fn tamper(url: &JournalUrl, statement: &str) {
    let engine = Engine::at(url).await.unwrap();
    engine.writing().await.unwrap().connection().execute(sqlx::AssertSqlSafe(statement)).await.unwrap();
}

#[tokio::test]
async fn what_does_not_fit_is_found() {
    for place in places().await {
        let journal = place.open().await;
        settle(&journal, vec![change("/buckets/a", None, 1, &json!({"last_modified": 1}))]).await;
        settle(&journal, vec![change("/buckets/a/groups/g", None, 2, &json!({"last_modified": 2}))]).await;
        drop(journal);
        let found = verified(&place.url).await;
        assert!(found.problems.is_empty(), "{:?}", found.problems);
        assert!(found.facts.contains(&("entries", "2, of 1 buckets".to_owned())), "{:?}", found.facts);
        for (statement, problem, mend) in [
            (
                "UPDATE sidecar_entries SET action = 'update' WHERE uri = '/buckets/a'",
                "what it is selected by is not what it says",
                "UPDATE sidecar_entries SET action = 'create' WHERE uri = '/buckets/a'",
            ),
            (
                "UPDATE sidecar_histories SET entries = 7",
                "counts 7 entries, and has 2",
                "UPDATE sidecar_histories SET entries = 2",
            ),
            (
                "UPDATE sidecar_entries SET reader_set = reader_set + 900",
                "2 entries have lost who may read them",
                "UPDATE sidecar_entries SET reader_set = reader_set - 900",
            ),
            (
                "UPDATE sidecar_entries SET history = 900 WHERE uri = '/buckets/a'",
                "1 entries belong to no history",
                "UPDATE sidecar_entries SET history = (SELECT id FROM sidecar_histories)",
            ),
            ("UPDATE sidecar_histories SET timestamp = 5", "later than its own timestamp 5", "SELECT 1"),
            ("DROP INDEX sidecar_entries_date", "index sidecar_entries_date is missing", "SELECT 1"),
        ] {
            tamper(&place.url, statement).await;
            let found = verified(&place.url).await.problems;
            assert!(found.iter().any(|found| found.contains(problem)), "{statement}: {found:?}");
            tamper(&place.url, mend).await;
        }
    }
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).unwrap().len()
}

#[tokio::test]
async fn the_space_of_trimmed_entries_is_given_back() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal.db");
    let url = JournalUrl::Sqlite(path.clone());
    let mut settings = Settings::default().history;
    let open = async |settings: &HistorySettings| Journal::open(&url, settings, true).await.unwrap();
    let record = |modified: u64| {
        let uri = format!("/buckets/a/collections/c/records/r{modified}");
        change(&uri, None, modified, &json!({"text": "x".repeat(10_000), "last_modified": modified}))
    };
    let journal = open(&settings).await;
    settle(&journal, (1..1000).map(record).collect()).await;
    drop(journal);
    // As a journal that was made before.
    tamper(&url, "PRAGMA auto_vacuum = NONE; VACUUM; PRAGMA wal_checkpoint(TRUNCATE)").await;
    let full = length(&path);
    assert!(full > 10_000_000, "{full}");
    settings.auto_trim_max_count = Some(10);
    let journal = open(&settings).await;
    while journal.count("a", &query(""), &Sees::Everything).await.unwrap().total > 10 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    drop(journal);
    let Compacted { before, after } = Journal::compact(&url).await.unwrap();
    assert!(before >= full && after < 1_000_000, "{before} {after}");
    assert_eq!(length(&path), after);

    // From now on, by itself.
    let journal = open(&settings).await;
    settle(&journal, (1000..2000).map(record).collect()).await;
    let mut modified = 2000;
    while length(&path) < 5_000_000 {
        settle(&journal, (modified..modified + 100).map(record).collect()).await;
        modified += 100;
    }
    while length(&path) > 3_000_000 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    settle(&journal, vec![record(modified)]).await;
    assert!(verified(&url).await.problems.is_empty());
}
