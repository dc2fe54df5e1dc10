//! Buckets that vanish without being deleted, and others that are made under their names.

use super::*;

const BUCKET: &str = "/buckets/a";
const COLLECTION: &str = "/buckets/a/collections/c";

async fn exported(journal: &Journal) -> Vec<Value> {
    let lines = transferring::exported(journal, None).await;
    lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn created(modified: u64) -> Change {
    change(BUCKET, Some(Action::Create), modified, &json!({"id": "a", "last_modified": modified}))
}

async fn began(journal: &Journal) -> Life {
    let collection = change(COLLECTION, None, 2, &json!({"id": "c", "last_modified": 2}));
    settle(journal, vec![created(1), collection]).await;
    journal.life("a").await.unwrap().unwrap()
}

fn uris(entries: &[Value]) -> Vec<&str> {
    entries.iter().map(|entry| entry["uri"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn the_history_of_a_bucket_that_vanished_is_hidden_and_kept() {
    for place in places().await {
        let journal = place.open().await;
        assert_eq!(journal.life("a").await.unwrap(), None);
        let life = began(&journal).await;
        // The version may be older, newer or the same: whoever makes a bucket chooses it.
        let outcome = Outcome { changes: vec![created(1)], ended: vec![life.clone()], ..Outcome::default() };
        assert_eq!(journal.settle(outcome.clone()).await.unwrap(), 1);
        // Told twice, where it was not known whether it was written.
        assert_eq!(journal.settle(outcome).await.unwrap(), 0);
        assert_eq!(uris(&entries(&journal, "a", "").await), [BUCKET]);
        assert_eq!(entries(&journal, "a", "_since=0").await.len(), 1);
        assert!(journal.alive(&format!("{BUCKET}/collections")).await.unwrap().is_empty());
        let lines = exported(&journal).await;
        assert!(lines.iter().any(|line| line["entry"]["uri"] == COLLECTION), "{lines:?}");

        // It goes along to another journal, and is hidden there.
        for other in places().await {
            let second = other.open().await;
            let texts: Vec<String> = lines.iter().map(Value::to_string).collect();
            assert_eq!(transferring::import(&second, &texts).await, Imported { added: 3, known: 0 });
            assert_eq!(uris(&entries(&second, "a", "").await), [BUCKET]);
            assert_eq!(exported(&second).await, lines);
        }

        // A second one vanishes, and the third is deleted: with it goes all that is hidden behind its name.
        let second = journal.life("a").await.unwrap().unwrap();
        assert_ne!(second, life);
        let outcome = Outcome { changes: vec![created(9)], ended: vec![second], ..Outcome::default() };
        journal.settle(outcome).await.unwrap();
        assert_eq!(entries(&journal, "a", "").await.len(), 1);
        settle(&journal, vec![change("/buckets/ab", None, 1, &json!({"id": "ab"}))]).await;
        settle(&journal, vec![change(BUCKET, Some(Action::Delete), 10, &json!({"deleted": true}))]).await;
        let left: Vec<Value> =
            exported(&journal).await.into_iter().filter(|line| line.get("entry").is_some()).collect();
        assert_eq!(left.len(), 1, "{left:?}");
        assert_eq!(left[0]["entry"]["uri"], "/buckets/ab");
    }
}

#[tokio::test]
async fn a_bucket_that_was_deleted_or_updated_meanwhile_hides_nothing() {
    for place in places().await {
        let journal = place.open().await;
        let life = began(&journal).await;
        let update = change(BUCKET, Some(Action::Update), 5, &json!({"id": "a", "last_modified": 5}));
        let outcome = Outcome { changes: vec![update], ended: vec![life.clone()], ..Outcome::default() };
        journal.settle(outcome).await.unwrap();
        assert_eq!(entries(&journal, "a", "").await.len(), 3);
        // In one batch.
        let deleted = change(BUCKET, Some(Action::Delete), 6, &json!({"deleted": true}));
        let changes = vec![deleted, created(7)];
        journal.settle(Outcome { changes, ended: vec![life], ..Outcome::default() }).await.unwrap();
        assert_eq!(entries(&journal, "a", "").await.len(), 1);
        let hidden = exported(&journal).await.into_iter().any(|line| line.get("hidden").is_some());
        assert!(!hidden, "what was deleted is gone");
    }
}
