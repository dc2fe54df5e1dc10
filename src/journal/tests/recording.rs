//! What becomes an entry.

use super::*;
use crate::kinto::CollectionKey;

const BUCKET: &str = "/buckets/a";
const COLLECTION: &str = "/buckets/a/collections/c";
const RECORD: &str = "/buckets/a/collections/c/records/r";

#[tokio::test]
async fn data_is_kept_as_it_was_sent() {
    let sent = r#"{ "z":1.0, "a" :100000000000000000000000, "é\u0000": [ 1e400 ]}"#;
    for place in places().await {
        let journal = place.open().await;
        let mut odd = change(RECORD, None, 4, &json!(null));
        odd.data = Some(RawValue::from_string(sent.to_owned()).unwrap());
        settle(&journal, vec![odd]).await;
        let page = journal.page("a", &query(""), &Sees::Everything, None).await.unwrap();
        assert!(page.rows[0].get().contains(sent));
    }
}

#[tokio::test]
async fn a_version_is_recorded_once() {
    for place in places().await {
        let journal = place.open().await;
        let created = change(RECORD, None, 4, &json!({"x": 1}));
        assert_eq!(settle(&journal, vec![created.clone(), created.clone()]).await, 1);
        assert_eq!(settle(&journal, vec![created.clone()]).await, 0);
        settle(&journal, vec![change(RECORD, None, 5, &json!({"x": 2}))]).await;
        assert_eq!(settle(&journal, vec![created]).await, 0);
        let versions = [(RECORD, 4), (RECORD, 5), (RECORD, 6), (COLLECTION, 4)];
        let versions = versions.map(|(uri, modified)| (Object::of_uri(uri).unwrap(), Timestamp(modified)));
        let missing = journal.missing(versions.to_vec()).await.unwrap();
        assert_eq!(missing, versions[2..]);
    }
}

#[tokio::test]
async fn two_writes_that_were_given_the_same_version_have_an_entry_each() {
    for place in places().await {
        let journal = place.open().await;
        let mine = change(RECORD, None, 4, &json!({"x": 1}));
        let yours = Change { user_id: Some("you".to_owned()), ..change(RECORD, None, 4, &json!({"x": 2})) };
        for together in [vec![mine.clone(), yours.clone()], vec![yours, mine]] {
            settle(&journal, together).await;
            let about = entries(&journal, "a", "resource_name=record&_sort=last_modified").await;
            let authors: Vec<_> = about.iter().map(|entry| entry["user_id"].clone()).collect();
            assert_eq!(authors, ["me", "you"]);
        }
    }
}

#[tokio::test]
async fn a_version_with_the_same_data_makes_an_entry() {
    for place in places().await {
        let journal = place.open().await;
        settle(&journal, vec![change(RECORD, None, 4, &json!({"x": 1, "last_modified": 4}))]).await;
        let same = |modified| change(RECORD, None, modified, &json!({"x": 1, "last_modified": modified}));
        for modified in [5, 6] {
            assert_eq!(settle(&journal, vec![same(modified)]).await, 1);
            assert_eq!(newest(&journal).await["action"], "update");
        }
        assert_eq!(journal.alive("/buckets/a/collections/c/records").await.unwrap()[0].1, Timestamp(6));
        let mut shared = same(7);
        shared.permissions = Some(permissions(&json!({"write": ["me"], "read": ["you"]})));
        assert_eq!(settle(&journal, vec![shared]).await, 1);
        let mut unknown = same(8);
        unknown.permissions = None;
        settle(&journal, vec![unknown]).await;
        let shown = json!({"write": ["me"], "read": ["you"]});
        assert_eq!(newest(&journal).await["target"]["permissions"], shown);
    }
}

#[tokio::test]
async fn a_new_life_may_begin_with_a_version_of_the_last_one() {
    let versions = async |journal: &Journal| {
        let about = entries(journal, "a", "resource_name=record&_sort=last_modified").await;
        let version = |entry: &Value| (entry["action"].clone(), entry["target"]["data"]["x"].clone());
        about.iter().map(version).collect::<Vec<_>>()
    };
    for place in places().await {
        let journal = place.open().await;
        let made = |modified, x: u64| change(RECORD, Some(Action::Create), modified, &json!({"x": x}));
        let deletion = change(RECORD, Some(Action::Delete), 9, &json!({"deleted": true}));
        let made_again = made(4, 2);
        settle(&journal, vec![made(4, 1), deletion.clone(), made_again.clone()]).await;
        // Told once more, as where nobody knows whether it was recorded.
        settle(&journal, vec![made_again, deletion]).await;
        let expected =
            [(json!("create"), json!(1)), (json!("delete"), Value::Null), (json!("create"), json!(2))];
        assert_eq!(versions(&journal).await, expected);
        settle(&journal, vec![change(RECORD, Some(Action::Update), 5, &json!({"x": 3}))]).await;
        assert_eq!(versions(&journal).await[3], (json!("update"), json!(3)));
        assert_eq!(journal.alive("/buckets/a/collections/c/records").await.unwrap()[0].1, Timestamp(5));
    }
}

#[tokio::test]
async fn what_was_found_is_not_recorded_behind_what_is_newer() {
    for place in places().await {
        let journal = place.open().await;
        settle(&journal, vec![change(RECORD, None, 4, &json!({"x": 1}))]).await;
        let found = |modified| Change { is_found: true, ..change(RECORD, None, modified, &json!({"x": 2})) };
        assert_eq!(settle(&journal, vec![found(3)]).await, 0);
        assert_eq!(settle(&journal, vec![found(5)]).await, 1);
        // What was acknowledged is, whatever its place.
        assert_eq!(settle(&journal, vec![change(RECORD, None, 2, &json!({"x": 0}))]).await, 1);
    }
}

#[tokio::test]
async fn timestamps_are_unique_and_increase() {
    for place in places().await {
        let journal = place.open().await;
        let at_first = journal.timestamp("a").await.unwrap();
        assert_eq!(journal.timestamp("a").await.unwrap(), at_first);
        let writers = (0..20_u64).map(|writer| {
            let journal = journal.clone();
            tokio::spawn(async move {
                let uri = format!("/buckets/a/collections/c/records/r{writer}");
                for modified in 1..10 {
                    settle(&journal, vec![change(&uri, None, modified, &json!({"x": modified}))]).await;
                }
            })
        });
        for writer in writers.collect::<Vec<_>>() {
            writer.await.unwrap();
        }
        let served = entries(&journal, "a", "").await;
        let timestamps: Vec<u64> =
            served.iter().map(|entry| entry["last_modified"].as_u64().unwrap()).collect();
        assert_eq!(timestamps.len(), 180);
        assert!(timestamps.is_sorted_by(|left, right| left > right));
        assert_eq!(journal.timestamp("a").await.unwrap().0, timestamps[0]);
    }
}

#[tokio::test]
async fn a_deleted_bucket_has_no_history() {
    for place in places().await {
        let journal = place.open().await;
        settle(&journal, vec![change(BUCKET, None, 1, &json!({})), change(RECORD, None, 2, &json!({}))])
            .await;
        let before = journal.timestamp("a").await.unwrap();
        let deletion = change(BUCKET, Some(Action::Delete), 3, &json!({"id": "a", "deleted": true}));
        assert_eq!(settle(&journal, vec![deletion.clone()]).await, 1);
        assert!(entries(&journal, "a", "").await.is_empty());
        assert!(journal.alive("/buckets/a/collections/c/records").await.unwrap().is_empty());
        assert!(journal.timestamp("a").await.unwrap() > before);
        settle(&journal, vec![change(BUCKET, None, 4, &json!({})), deletion.clone()]).await;
        assert!(settle(&journal, vec![deletion, change(RECORD, None, 2, &json!({}))]).await <= 1);
        let actions: Vec<Value> = entries(&journal, "a", "resource_name=bucket").await;
        assert_eq!(actions.len(), 1);
        assert_eq!(actions[0]["action"], "create");
    }
}

#[tokio::test]
async fn a_deleted_collection_takes_its_records_along() {
    for place in places().await {
        let journal = place.open().await;
        settle(&journal, vec![change(COLLECTION, None, 1, &json!({})), change(RECORD, None, 2, &json!({}))])
            .await;
        let deletion = change(COLLECTION, Some(Action::Delete), 3, &json!({"deleted": true}));
        assert_eq!(settle(&journal, vec![deletion]).await, 1);
        assert!(journal.alive("/buckets/a/collections/c/records").await.unwrap().is_empty());
        assert!(journal.alive("/buckets/a/collections").await.unwrap().is_empty());
        settle(&journal, vec![change(RECORD, None, 5, &json!({}))]).await;
        assert_eq!(newest(&journal).await["action"], "create");
        assert_eq!(entries(&journal, "a", "").await.len(), 4);
    }
}

#[tokio::test]
async fn excluded_changes_are_known_and_not_recorded() {
    for mut place in places().await {
        place.settings.exclude_resources = vec![COLLECTION.to_owned(), "/buckets/b".to_owned()];
        place.settings.exclude_user_ids = vec!["robot".to_owned()];
        let journal = place.open().await;
        let mut by_robot = change("/buckets/a/groups/g", None, 3, &json!({}));
        by_robot.user_id = Some("robot".to_owned());
        let excluded = vec![
            change(RECORD, None, 1, &json!({})),
            change(COLLECTION, None, 1, &json!({})),
            change("/buckets/b/groups/g", None, 2, &json!({})),
            by_robot,
        ];
        assert_eq!(settle(&journal, excluded).await, 0);
        assert_eq!(journal.alive("/buckets/a/groups").await.unwrap().len(), 1);
        assert_eq!(settle(&journal, vec![change(BUCKET, None, 9, &json!({}))]).await, 1);
        let collection = Object::of_uri(COLLECTION).unwrap();
        assert!(journal.versions_at(&collection, &["r"], Timestamp(5)).await.unwrap().has_gaps);
    }
}

#[tokio::test]
async fn the_version_before_is_told_where_that_is_wanted() {
    for mut place in places().await {
        place.settings.include_previous = true;
        let journal = place.open().await;
        let changes =
            vec![change(RECORD, None, 1, &json!({"x": 1})), change(RECORD, None, 2, &json!({"x": 2}))];
        settle(&journal, changes).await;
        let made = entries(&journal, "a", "").await;
        assert_eq!(made[1]["target"].get("previous"), None);
        assert_eq!(made[0]["target"]["previous"], json!({"x": 1}));
    }
}

#[tokio::test]
async fn what_is_known_makes_no_entry() {
    for place in places().await {
        let journal = place.open().await;
        let known = vec![change(RECORD, None, 4, &json!({})), change(COLLECTION, None, 2, &json!({}))];
        let watermarks = vec![("/buckets/a/collections".to_owned(), Timestamp(2))];
        let outcome = Outcome { known, watermarks, ..Outcome::default() };
        assert_eq!(journal.settle(outcome).await.unwrap(), 0);
        assert_eq!(journal.watermark("/buckets/a/collections").await.unwrap(), Some(Timestamp(2)));
        assert_eq!(journal.watermark("/buckets").await.unwrap(), None);
        let made =
            settle(&journal, vec![change(RECORD, None, 4, &json!({})), change(RECORD, None, 5, &json!({}))])
                .await;
        assert_eq!((made, &newest(&journal).await["action"]), (1, &json!("update")));
        let object = Object::of_uri(RECORD).unwrap();
        let known = journal.known(std::slice::from_ref(&object)).await.unwrap();
        assert_eq!(known[&object].modified, Timestamp(5));
    }
}

#[tokio::test]
async fn entries_and_intents_survive() {
    for place in places().await {
        let journal = place.open().await;
        settle(&journal, vec![change(RECORD, None, 4, &json!({}))]).await;
        let sent = Some(to_raw_value(&json!({"x": 1})).unwrap());
        let intent = Intent { uri: RECORD.to_owned(), sent, known: Timestamp(4), ..intent() };
        let first = journal.intend(vec![intent.clone(), intent.clone()]).await.unwrap();
        let second = journal.intend(vec![intent.clone()]).await.unwrap();
        assert_eq!(journal.open_groups(Some("a")).await.unwrap().len(), 2);
        assert!(journal.open_groups(Some("b")).await.unwrap().is_empty());
        assert!(journal.abandoned().await.unwrap().is_empty());
        let closes = Some(second);
        journal.settle(Outcome { closes, ..Outcome::default() }).await.unwrap();
        drop(journal);
        let journal = place.open().await;
        let mut abandoned = journal.abandoned().await.unwrap();
        for _ in 0..100 {
            // The lock of the other one goes with its connection.
            if !abandoned.is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            abandoned = journal.abandoned().await.unwrap();
        }
        assert_eq!(abandoned.len(), 1);
        assert_eq!(abandoned[0].0, first);
        assert_eq!(abandoned[0].1.len(), 2);
        assert_eq!(abandoned[0].1[0].sent.as_ref().map(|sent| sent.get()), Some("{\"x\":1}"));
        assert!(journal.abandoned().await.unwrap().is_empty(), "they are its own now");
        assert_eq!(entries(&journal, "a", "").await.len(), 1);
    }
}

#[tokio::test]
async fn what_was_ever_known_is_told_newest_first_as_far_as_it_finds_room() {
    for place in places().await {
        let journal = place.open().await;
        let uri = |id: usize| format!("{COLLECTION}/records/r{id}");
        let mut changes: Vec<Change> =
            (0..5).map(|id| change(&uri(id), None, 10 + id as u64, &json!({}))).collect();
        changes.push(change(&uri(1), Some(Action::Delete), 20, &json!({})));
        changes.push(change(&format!("{BUCKET}/collections/c2/records/r"), None, 30, &json!({})));
        settle(&journal, changes).await;
        let key = CollectionKey::new("a", "c");
        let each = uri(0).len() + 100;
        for (room, ids, left_out) in [
            (5 * each, &["r1", "r4", "r3", "r2", "r0"][..], None),
            (5 * each - 1, &["r1", "r4", "r3", "r2"], Some(Timestamp(10))),
            (2 * each, &["r1", "r4"], Some(Timestamp(13))),
            (1, &[], Some(Timestamp(20))),
        ] {
            let wanted = Wanted { present: true, room: room as u64, each: 100 };
            let known = journal.ever_known(&key, wanted).await.unwrap();
            let found: Vec<&str> = known.records.iter().map(|record| &*record.id).collect();
            assert_eq!((&*found, known.left_out), (ids, left_out), "{room}");
            assert!(known.records.iter().all(|record| record.deleted == (&*record.id == "r1")));
        }
        let wanted = Wanted { present: false, room: 1 << 20, each: 100 };
        assert!(
            journal.ever_known(&key, wanted).await.unwrap().records.is_empty(),
            "it is in its first life"
        );
        let ended = change(COLLECTION, Some(Action::Delete), 40, &json!({}));
        let anew = change(&uri(2), None, 50, &json!({}));
        settle(&journal, vec![ended]).await;
        settle(&journal, vec![change(COLLECTION, None, 45, &json!({})), anew]).await;
        let last = |known: EverKnown| -> Vec<(String, u64, bool)> {
            let records = known.records.into_iter();
            records.map(|record| (record.id.to_string(), record.modified.0, record.deleted)).collect()
        };
        let of_before = ["r0", "r3", "r4"].map(|id| (id.to_owned(), 40, true));
        let of_before = [&of_before[..], &[("r1".to_owned(), 20, true)]].concat();
        assert_eq!(last(journal.ever_known(&key, wanted).await.unwrap()), of_before);
        let all = last(journal.ever_known(&key, Wanted { present: true, ..wanted }).await.unwrap());
        assert_eq!(all, [&[("r2".to_owned(), 50, false)], &*of_before].concat());
        assert_eq!(journal.bucket_ended("a").await.unwrap(), Timestamp::ZERO);
        settle(&journal, vec![change(BUCKET, Some(Action::Delete), 60, &json!({}))]).await;
        let made = |uri: &str, modified| change(uri, Some(Action::Create), modified, &json!({}));
        settle(&journal, vec![made(BUCKET, 65), made(COLLECTION, 66), made(&uri(9), 70)]).await;
        let known = journal.ever_known(&key, wanted).await.unwrap();
        assert_eq!((known.records.len(), known.former), (0, Timestamp(60)), "it went with the bucket");
        settle(&journal, vec![change(COLLECTION, Some(Action::Delete), 80, &json!({}))]).await;
        settle(&journal, vec![made(COLLECTION, 85)]).await;
        let known = journal.ever_known(&key, wanted).await.unwrap();
        assert_eq!(known.records[0].born, Timestamp(70));
        assert_eq!(last(known), [("r9".to_owned(), 80, true)]);
    }
}

#[tokio::test]
async fn of_another_life_no_version_before_is_told() {
    for mut place in places().await {
        place.settings.include_previous = true;
        place.settings.exclude_user_ids = vec!["robot".to_owned()];
        let journal = place.open().await;
        let made = |uri: &str, modified| {
            change(uri, Some(Action::Create), modified, &json!({"n": modified, "last_modified": modified}))
        };
        settle(&journal, vec![made(COLLECTION, 1), made(RECORD, 2)]).await;
        let mut end = change(COLLECTION, Some(Action::Delete), 3, &json!({}));
        end.user_id = Some("robot".to_owned());
        settle(&journal, vec![end]).await;
        settle(&journal, vec![made(COLLECTION, 4)]).await;
        // It was there when it was seen for the first time, and has no entry.
        let known = vec![change(RECORD, None, 5, &json!({}))];
        journal.settle(Outcome { known, ..Outcome::default() }).await.unwrap();
        settle(&journal, vec![change(RECORD, None, 6, &json!({"n": 6}))]).await;
        assert_eq!(newest(&journal).await["target"].get("previous"), None);
        settle(&journal, vec![change(RECORD, None, 7, &json!({"n": 7}))]).await;
        assert_eq!(newest(&journal).await["target"]["previous"], json!({"n": 6}));
        let collection = Object::of_uri(COLLECTION).unwrap();
        assert_eq!(
            journal.ended(&collection).await.unwrap(),
            Some(Timestamp(3)),
            "of which there is no entry"
        );
    }
}

#[tokio::test]
async fn a_collection_that_is_made_while_it_is_known_to_be_there_was_deleted_before() {
    for place in places().await {
        let journal = place.open().await;
        let made = |uri: &str, modified| change(uri, Some(Action::Create), modified, &json!({"n": modified}));
        let told = async |uri: &str| entries(&journal, "a", &format!("uri={uri}&_sort=last_modified")).await;
        settle(&journal, vec![made(COLLECTION, 5)]).await;
        settle(&journal, vec![made(COLLECTION, 9)]).await;
        // Told again, it is the same.
        settle(&journal, vec![made(COLLECTION, 9)]).await;
        let about = told(COLLECTION).await;
        let actions: Vec<_> = about.iter().map(|entry| entry["action"].clone()).collect();
        assert_eq!(actions, ["create", "delete", "create"]);
        assert_eq!(
            (&about[1]["user_id"], &about[1]["target"]["data"]["last_modified"]),
            (&json!(null), &json!(8))
        );
        assert_eq!(journal.ended(&Object::of_uri(COLLECTION).unwrap()).await.unwrap(), Some(Timestamp(8)));
        let other = "/buckets/a/collections/other";
        settle(&journal, vec![change(other, None, 5, &json!({}))]).await;
        for again in [
            Change { is_found: true, ..made(other, 7) },
            Change { date: Some(Timestamp(8)), ..made(other, 8) },
            made(other, 4),
        ] {
            settle(&journal, vec![again]).await;
        }
        assert!(
            told(other).await.iter().all(|entry| entry["action"] != "delete"),
            "nobody was told that it was made"
        );
    }
}
