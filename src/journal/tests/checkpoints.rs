//! How far programs are that copy collections.

use super::*;
use crate::journal::engine::Writing;
use crate::journal::statement::Statement;

fn name(user: &str, collection: &str, id: usize) -> CheckpointName {
    let collection = format!("/buckets/a/collections/{collection}");
    CheckpointName { user_id: user.to_owned(), collection, id: id.to_string() }
}

async fn keep(journal: &Journal, name: CheckpointName, length: usize) -> i64 {
    let json = json!({"text": "x".repeat(length)}).to_string();
    journal.keep_checkpoint(name, Some(json)).await.unwrap()
}

async fn is_kept(journal: &Journal, name: &CheckpointName) -> bool {
    journal.checkpoint(name).await.unwrap().is_some()
}

async fn writing(place: &Place) -> Writing {
    Engine::at(&place.url).await.unwrap().writing().await.unwrap()
}

#[tokio::test]
async fn a_checkpoint_is_its_users_and_its_collections() {
    for place in places().await {
        let journal = place.open().await;
        let own = name("me", "c", 1);
        assert_eq!(keep(&journal, own.clone(), 5).await, 1);
        assert_eq!(keep(&journal, own.clone(), 6).await, 2);
        let kept = journal.checkpoint(&own).await.unwrap().unwrap();
        assert_eq!((kept.revision, &*kept.json), (2, r#"{"text":"xxxxxx"}"#));
        for other in [name("you", "c", 1), name("me", "d", 1), name("me", "c", 2)] {
            assert!(!is_kept(&journal, &other).await, "{other:?}");
        }
        journal.keep_checkpoint(own.clone(), None).await.unwrap();
        assert!(!is_kept(&journal, &own).await);
    }
}

#[tokio::test]
async fn checkpoints_are_bounded_in_bytes_and_in_age() {
    for place in places().await {
        let journal = place.open().await;
        let other = name("you", "c", 0);
        keep(&journal, other.clone(), 5).await;
        // A hundred and some more of them fill what a user has, in however many collections.
        let length = 40_000;
        for id in 0..110 {
            keep(&journal, name("me", &format!("c{}", id % 7), id), length).await;
        }
        assert!(!is_kept(&journal, &name("me", "c0", 0)).await);
        assert!(is_kept(&journal, &name("me", "c4", 109)).await);
        for user in 0..9 {
            for id in 0..100 {
                keep(&journal, name(&format!("u{user}"), "c8", id), length).await;
            }
        }
        assert!(is_kept(&journal, &name("u8", "c8", 99)).await);
        assert!(!is_kept(&journal, &name("u0", "c8", 0)).await, "it is the oldest of those who have most");
        assert!(is_kept(&journal, &other).await, "theirs is the oldest, and they have least");
        let text = "SELECT CAST(sum(bytes) AS BIGINT) FROM sidecar_checkpoints";
        let old = "UPDATE sidecar_checkpoints SET written = 1 WHERE id = '99'";
        drop(journal);
        let mut writing = writing(&place).await;
        let bytes = Statement::new(text).number(writing.connection()).await.unwrap();
        assert!((30_000_000..=32 << 20).contains(&bytes), "{bytes}");
        writing.connection().execute(old).await.unwrap();
        drop(writing);
        let journal = place.open().await;
        assert!(is_kept(&journal, &name("u8", "c8", 99)).await);
        keep(&journal, name("u8", "c8", 1), 5).await;
        assert!(!is_kept(&journal, &name("u8", "c8", 99)).await, "it is too old");
        assert!(is_kept(&journal, &name("u8", "c8", 98)).await);
    }
}

#[tokio::test]
async fn checkpoints_in_a_bucket_of_ones_own_push_out_no_others_whoever_keeps_them() {
    for place in places().await {
        let journal = place.open().await;
        let others: Vec<_> = (0..20).map(|user| name(&format!("you{user}"), "c", 0)).collect();
        for other in &others {
            keep(&journal, other.clone(), 60_000).await;
        }
        // Each of these users has less than each of the others.
        for user in 0..1200 {
            let collection = format!("/buckets/own/collections/c{}", user % 9);
            let own = CheckpointName { user_id: format!("me{user}"), collection, id: "x".to_owned() };
            keep(&journal, own, 30_000).await;
        }
        for other in &others {
            assert!(is_kept(&journal, other).await, "{other:?}");
        }
    }
}

#[tokio::test]
async fn a_journal_without_checkpoints_is_given_a_place_for_them() {
    for place in places().await {
        settle(&place.open().await, vec![change("/buckets/a", None, 1, &json!({}))]).await;
        let mut writing = writing(&place).await;
        for text in [
            "DROP INDEX IF EXISTS sidecar_intents_uri",
            "DROP TABLE sidecar_checkpoints",
            "UPDATE sidecar_meta SET value = '3' WHERE name = 'schema'",
        ] {
            writing.connection().execute(text).await.unwrap();
        }
        drop(writing);
        let journal = place.open().await;
        assert_eq!(keep(&journal, name("me", "c", 1), 5).await, 1);
        assert_eq!(entries(&journal, "a", "").await.len(), 1, "nothing else was changed");
    }
}
