//! A journal that is left to another process.

use super::*;

fn sqlite(directory: &TempDir) -> Place {
    Place {
        url: JournalUrl::Sqlite(directory.path().join("journal.db")),
        settings: Settings::default().history,
        explicit_permissions: true,
        _directory: tempfile::tempdir().unwrap(),
    }
}

#[tokio::test]
async fn what_has_begun_is_recorded_before_the_next_process_has_the_journal() {
    let directory = tempfile::tempdir().unwrap();
    let place = sqlite(&directory);
    let old = place.open().await;
    let group = old.intend(vec![intent()]).await.unwrap();
    let leaving = tokio::spawn({
        let old = old.clone();
        async move { old.leave(Duration::from_secs(60)).await }
    });
    // No write begins any more, and the one that has is waited for.
    while let Ok(early) = old.intend(vec![intent()]).await {
        old.settle(Outcome { closes: Some(early), ..Outcome::default() }).await.unwrap();
    }
    assert!(matches!(old.intend(vec![intent()]).await, Err(JournalError::Left)));
    assert!(!leaving.is_finished());
    assert!(matches!(place.try_open().await, Err(JournalError::InUse(_))));
    let changes = vec![change("/buckets/a", None, 1, &json!({}))];
    old.settle(Outcome { closes: Some(group), changes, ..Outcome::default() }).await.unwrap();
    leaving.await.unwrap();

    let new = place.open().await;
    assert!(new.abandoned().await.unwrap().is_empty());
    assert_eq!(entries(&new, "a", "").await.len(), 1);
    // The old one reads on, and writes nothing.
    assert_eq!(entries(&old, "a", "").await.len(), 1);
    assert!(matches!(old.intend(vec![intent()]).await, Err(JournalError::Left)));
    assert!(matches!(old.settle(Outcome::default()).await, Err(JournalError::Left)));
    new.intend(vec![intent()]).await.unwrap();
}

#[tokio::test]
async fn what_takes_too_long_is_left_to_the_next_process() {
    let directory = tempfile::tempdir().unwrap();
    let place = sqlite(&directory);
    let old = place.open().await;
    let group = old.intend(vec![intent()]).await.unwrap();
    old.leave(Duration::from_millis(50)).await;
    let new = place.open().await;
    let left = new.abandoned().await.unwrap();
    assert_eq!(left.iter().map(|(group, _)| *group).collect::<Vec<_>>(), [group]);
}
