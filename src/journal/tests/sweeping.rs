//! Sets of readers that nothing refers to.

use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::sleep;

use super::*;
use crate::journal::queue::{Done, Work};
use crate::journal::statement::Statement;

/// A bucket that these may read.
fn bucket(name: &str, action: Option<Action>, modified: u64, readers: &[String]) -> Change {
    let permissions = (action != Some(Action::Delete)).then(|| permissions(&json!({"read": readers})));
    let data = json!({"deleted": action == Some(Action::Delete)});
    Change { permissions, ..change(&format!("/buckets/{name}"), action, modified, &data) }
}

/// Sets, sets in use, and rows of principals.
async fn numbers(journal: &Journal) -> [i64; 3] {
    let mut writing = journal.engine.writing().await.unwrap();
    let mut numbers = [0; 3];
    for (number, select) in numbers.iter_mut().zip([
        "SELECT count(*) FROM sidecar_reader_sets",
        "SELECT count(DISTINCT reader_set) FROM sidecar_entries",
        "SELECT count(*) FROM sidecar_readers",
    ]) {
        *number = Statement::new(select).number(writing.connection()).await.unwrap();
    }
    numbers
}

/// Waits until entries refer to so many sets.
async fn until_used(journal: &Journal, used: i64) {
    for _ in 0..200 {
        if numbers(journal).await[1] == used {
            return;
        }
        sleep(Duration::from_millis(25)).await;
    }
    panic!("{:?}", numbers(journal).await);
}

async fn sweep(journal: &Journal) {
    let mut after = 0;
    while let Done::Swept(Some(next)) = journal.write(Work::Sweep(after)).await.unwrap() {
        after = next;
    }
}

/// Who sees that there is anything in a bucket's history.
async fn is_seen_by(journal: &Journal, bucket: &str, principal: &str) -> bool {
    let principals = [principal.to_owned()];
    let nobody = |_: Object| -> BoxFuture<'_, bool> { Box::pin(async { false }) };
    let sees = Sees::Some { principals: &principals, verdict: &nobody };
    journal.count(bucket, &query(""), &sees).await.unwrap().total > 0
}

/// Buckets are written, and deleted but for one.
async fn come_and_go(journal: &Journal) -> Vec<String> {
    // More than one transaction removes.
    let many: Vec<String> = (0..1700).map(|index| format!("reader {index}")).collect();
    let kept = bucket("stays", None, 1, &["reader 1".to_owned(), "reader 2".to_owned()]);
    settle(journal, vec![kept, bucket("a", None, 1, &many)]).await;
    let others = (2..300).map(|modified| bucket("a", None, modified, &[format!("other {modified}")]));
    settle(journal, others.collect()).await;
    settle(journal, vec![bucket("a", Some(Action::Delete), 900, &[])]).await;
    many
}

#[tokio::test]
async fn sets_of_readers_are_removed_with_the_last_entry_that_refers_to_them() {
    for place in places().await {
        let journal = place.open().await;
        let many = come_and_go(&journal).await;
        until_used(&journal, 1).await;
        sweep(&journal).await;
        assert_eq!(numbers(&journal).await, [1, 1, 2]);
        assert!(is_seen_by(&journal, "stays", "reader 1").await);
        // What was removed is not remembered.
        settle(&journal, vec![bucket("b", None, 1000, &many)]).await;
        assert!(is_seen_by(&journal, "b", "reader 1699").await);
        assert_eq!(numbers(&journal).await, [2, 2, 1702]);
    }
}

#[tokio::test]
async fn a_journal_that_is_opened_is_swept_and_other_processes_forget_what_is_removed() {
    for place in places().await {
        let first = place.open().await;
        let many = come_and_go(&first).await;
        until_used(&first, 1).await;
        let other = (first.engine.kind == engine::Kind::Postgres).then(|| first.clone());
        drop(first);
        let journal = place.open().await;
        for _ in 0..200 {
            if numbers(&journal).await[0] == 1 {
                break;
            }
            sleep(Duration::from_millis(25)).await;
        }
        assert_eq!(numbers(&journal).await, [1, 1, 2]);
        let writer = other.as_ref().unwrap_or(&journal);
        settle(writer, vec![bucket("b", None, 1000, &many)]).await;
        assert!(is_seen_by(&journal, "b", "reader 1699").await);
    }
}
