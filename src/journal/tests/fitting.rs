//! What PostgreSQL cannot keep of one object, which SQLite can.

use super::*;
use crate::journal::engine::Kind;

const RECORDS: &str = "/buckets/a/collections/c/records";

/// A text that nothing makes shorter.
fn noise(length: usize) -> String {
    let mut state: u64 = 1;
    let mut letter = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(
            b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_"[(state >> 58) as usize],
        )
    };
    (0..length).map(|_| letter()).collect()
}

fn record(id: &str, modified: u64) -> Change {
    change(&format!("{RECORDS}/{id}"), None, modified, &json!({"last_modified": modified}))
}

/// Settles changes with a group of intents, and gives the versions of the records that have entries.
async fn recorded(journal: &Journal, changes: Vec<Change>) -> Vec<u64> {
    let group = journal.intend(vec![intent()]).await.unwrap();
    let watermarks = vec![(RECORDS.to_owned(), Timestamp(9))];
    let outcome = Outcome { closes: Some(group), changes, watermarks, ..Outcome::default() };
    journal.settle_at_last(outcome).await.unwrap();
    assert!(journal.open_groups(None).await.unwrap().is_empty(), "the group is closed");
    assert_eq!(journal.watermark(RECORDS).await.unwrap(), Some(Timestamp(9)));
    let entries = entries(journal, "a", "resource_name=record&_sort=last_modified").await;
    entries.iter().map(|entry| entry["target"]["data"]["last_modified"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn what_is_too_long_for_an_index_is_left_out_and_the_rest_is_recorded() {
    for place in places().await {
        let journal = place.open().await;
        let long = noise(2600);
        // That an author is too long shows when it is tried.
        let by_somebody = Change { user_id: Some(noise(2700)), ..record("c", 2) };
        let changes = vec![record(&long, 1), record("a", 3), by_somebody, record("b", 4)];
        let found = recorded(&journal, changes).await;
        let is_postgres = journal.engine.kind == Kind::Postgres;
        assert_eq!(found, if is_postgres { vec![3, 4] } else { vec![1, 3, 2, 4] });
        let uri = format!("{RECORDS}/{long}");
        assert_eq!(journal.keeps(&uri), !is_postgres);
        let seen = |uri: &str| Seen { uri: uri.to_owned(), modified: Timestamp(1), deleted: false };
        let named = journal.revisions(vec![seen(&uri), seen(&format!("{RECORDS}/new"))]).await.unwrap();
        assert!(named.iter().all(|named| matches!(named, Named::Known(_))), "{named:?}");
        let name = CheckpointName { user_id: "me".to_owned(), collection: "c".to_owned(), id: long };
        let kept = journal.keep_checkpoint(name, Some("{}".to_owned())).await;
        assert_eq!(matches!(kept, Err(JournalError::Refused(_))), is_postgres, "{kept:?}");
        assert_eq!(settle(&journal, vec![record("a", 5)]).await, 1, "others go on");
    }
}

#[tokio::test]
async fn what_the_bound_lets_through_can_be_kept() {
    for place in places().await {
        let journal = place.open().await;
        for length in [1200, 2500, 2520, 2550] {
            let mut change = record(&noise(length), 1);
            change.user_id = Some(noise(2590));
            let is_kept = journal.keeps(&change.object.to_string()) && journal.keeps_author(&noise(2590));
            assert_eq!(settle(&journal, vec![change]).await, usize::from(is_kept), "{length}");
        }
        let bucket = change(&format!("/buckets/{}", noise(2570)), None, 1, &json!({"last_modified": 1}));
        assert!(journal.keeps(&bucket.object.to_string()));
        let list = format!("{}/collections", bucket.object);
        let watermarks = vec![(list.clone(), Timestamp(1))];
        let outcome = Outcome { watermarks, changes: vec![bucket], ..Outcome::default() };
        assert_eq!(journal.settle(outcome).await.unwrap(), 1);
        assert_eq!(journal.watermark(&list).await.unwrap(), Some(Timestamp(1)));
    }
}

#[tokio::test]
async fn texts_with_a_nul_or_half_a_character_are_recorded() {
    for place in places().await {
        let journal = place.open().await;
        let mut odd = record("odd", 1);
        let data = r#"{"nul":"\u0000","half":"\ud800","\u0000":1,"last_modified":1}"#;
        odd.data = Some(RawValue::from_string(data.to_owned()).unwrap());
        odd.permissions = Some(permissions(&json!({"read": ["a\u{0}b", "you"]})));
        let mut by_nobody = record("by", 2);
        by_nobody.user_id = Some("a\u{0}b".to_owned());
        let group = journal.intend(vec![Intent { sent: odd.data.clone(), ..intent() }]).await.unwrap();
        let changes = vec![odd, by_nobody, record("after", 3)];
        let outcome = Outcome { closes: Some(group), changes, ..Outcome::default() };
        let made = journal.settle(outcome).await.unwrap();
        let is_postgres = journal.engine.kind == Kind::Postgres;
        assert_eq!(made, if is_postgres { 2 } else { 3 });
        let page =
            journal.page("a", &query("_sort=last_modified&_limit=1"), &Sees::Everything, None).await.unwrap();
        assert!(page.rows[0].get().contains(data));
        assert!(page.rows[0].get().contains(r#""read":["a\u0000b","you"]"#), "as it is said");
    }
}

#[tokio::test]
async fn a_journal_with_long_uris_is_moved_to_postgresql_without_them() {
    let places = places().await;
    let journal = places[0].open().await;
    settle(&journal, vec![record("a", 1), record(&noise(2600), 2), record("b", 3)]).await;
    let lines = transferring::exported(&journal, None).await;
    for place in places {
        if matches!(place.url, JournalUrl::Postgres(_)) {
            let imported = transferring::import(&place.open().await, &lines).await;
            assert_eq!(imported, Imported { added: 2, known: 0 });
        }
    }
}
