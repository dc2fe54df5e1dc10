//! What is removed by itself.

use std::time::Duration;

use tokio::time::sleep;

use super::*;

async fn until(journal: &Journal, text: &str, expected: usize) {
    for _ in 0..100 {
        if journal.count("a", &query(text), &Sees::Everything).await.unwrap().total == expected {
            return;
        }
        sleep(Duration::from_millis(50)).await;
    }
    let left = journal.count("a", &query(text), &Sees::Everything).await.unwrap().total;
    panic!("{left} entries are left of {text:?}, not {expected}");
}

fn record(index: u64, user: &str) -> Change {
    let uri = format!("/buckets/a/collections/c/records/r{}", index % 10);
    Change { user_id: Some(user.to_owned()), ..change(&uri, None, index + 1, &json!({"x": index})) }
}

#[tokio::test]
async fn the_oldest_entries_of_a_kind_are_trimmed() {
    for mut place in places().await {
        place.settings.auto_trim_max_count = Some(20);
        place.settings.auto_trim_threshold = 5;
        let journal = place.open().await;
        settle(&journal, vec![change("/buckets/a", None, 1, &json!({}))]).await;
        settle(&journal, (0..25).map(|index| record(index, "me")).collect()).await;
        sleep(Duration::from_secs(1)).await;
        until(&journal, "resource_name=record", 25).await;
        settle(&journal, vec![record(25, "me")]).await;
        until(&journal, "resource_name=record", 20).await;
        until(&journal, "", 21).await;
        let left = entries(&journal, "a", "resource_name=record&_sort=last_modified").await;
        assert_eq!(left[0]["target"]["data"]["x"], 6);
        let collection = Object::of_uri("/buckets/a/collections/c").unwrap();
        let past = journal.versions_at(&collection, &["r5"], Timestamp(8)).await.unwrap();
        assert!(past.versions.is_empty() && past.has_gaps);
        settle(&journal, (26..1300).map(|index| record(index, "me")).collect()).await;
        until(&journal, "resource_name=record", 20).await;
    }
}

#[tokio::test]
async fn only_those_authors_are_trimmed() {
    for mut place in places().await {
        place.settings.auto_trim_max_count = Some(5);
        place.settings.auto_trim_threshold = 1;
        place.settings.auto_trim_user_ids = vec!["robot".to_owned(), "other".to_owned()];
        let journal = place.open().await;
        let changes = (0..20).map(|index| record(index, if index % 2 == 0 { "robot" } else { "me" }));
        settle(&journal, changes.collect()).await;
        until(&journal, "user_id=robot", 5).await;
        until(&journal, "user_id=me", 10).await;
    }
}

#[tokio::test]
async fn old_entries_are_removed() {
    for mut place in places().await {
        let journal = place.open().await;
        settle(&journal, (0..20).map(|index| record(index, "me")).collect()).await;
        let mut connection = journal.engine.writing().await.unwrap();
        let age = "UPDATE sidecar_entries SET last_modified = last_modified - 172800000 WHERE object_modified <= 12";
        connection.connection().execute(age).await.unwrap();
        drop((connection, journal));
        place.settings.keep_days = Some(1);
        let journal = place.open().await;
        until(&journal, "", 8).await;
    }
}

#[tokio::test]
async fn nothing_is_left_of_deleted_buckets() {
    for place in places().await {
        let journal = place.open().await;
        settle(&journal, (0..600).map(|index| record(index, "me")).collect()).await;
        journal.delete("a", &query("_limit=10")).await.unwrap();
        settle(&journal, vec![change("/buckets/a", Some(Action::Delete), 9999, &json!({"deleted": true}))])
            .await;
        let count = "SELECT (SELECT count(*) FROM sidecar_entries) + (SELECT count(*) FROM sidecar_tombstones) \
                     + (SELECT count(*) FROM sidecar_histories)";
        for _ in 0..100 {
            sleep(Duration::from_millis(50)).await;
            let mut writing = journal.engine.writing().await.unwrap();
            let row = statement::Statement::new(count).first(writing.connection()).await.unwrap().unwrap();
            if statement::timestamp(&row, 0).unwrap() == Timestamp(1) {
                break;
            }
        }
        let mut writing = journal.engine.writing().await.unwrap();
        let row = statement::Statement::new(count).first(writing.connection()).await.unwrap().unwrap();
        assert_eq!(statement::timestamp(&row, 0).unwrap(), Timestamp(1));
    }
}
