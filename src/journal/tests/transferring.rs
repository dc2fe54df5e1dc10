//! Journals that move, and what an upstream's plugin had recorded.

use super::*;
use crate::journal::statement::Statement;

pub(super) async fn exported(journal: &Journal, bucket: Option<&str>) -> Vec<String> {
    let mut export = journal.export(bucket.map(str::to_owned));
    let mut lines = Vec::new();
    while let Some(more) = export.next().await.unwrap() {
        lines.extend(more);
    }
    lines
}

pub(super) async fn import(journal: &Journal, lines: &[String]) -> Imported {
    let mut imported = Imported::default();
    for lines in lines.chunks(300) {
        let lines = lines.iter().map(|line| Line::parse(line).unwrap()).collect();
        let part = journal.import(Arc::new(lines)).await.unwrap();
        imported.added += part.added;
        imported.known += part.known;
    }
    imported
}

/// Something of everything.
async fn fill(journal: &Journal) {
    let mut odd = change("/buckets/a/collections/c/records/odd", None, 3, &json!(null));
    odd.data = Some(RawValue::from_string(r#"{"z": 1.0, "a":1.00,"last_modified":3 }"#.to_owned()).unwrap());
    odd.permissions = None;
    settle(journal, vec![change("/buckets/a", None, 1, &json!({"last_modified": 1})), odd]).await;
    // What Kinto takes for 1, and for a version before all others.
    let odd = |id: &str, version, says: Value| {
        change(
            &format!("/buckets/a/collections/c/records/{id}"),
            None,
            version,
            &json!({"last_modified": says}),
        )
    };
    settle(journal, vec![odd("true", 1, json!(true)), odd("below", 0, json!(-5))]).await;
    let many = (10..1200_u64).map(|index| {
        let uri = format!("/buckets/a/collections/c/records/r{}", index % 700);
        change(&uri, None, index, &json!({"x": index, "last_modified": index}))
    });
    settle(journal, many.collect()).await;
    settle(journal, vec![change("/buckets/b", None, 2, &json!({"last_modified": 2}))]).await;
    journal.delete("a", &query("_limit=3&_sort=uri")).await.unwrap();
    let watermarks = ["/buckets", "/buckets/a/collections", "/buckets/b/groups"];
    let watermarks = watermarks.map(|list| (list.to_owned(), Timestamp(7))).to_vec();
    journal.settle(Outcome { watermarks, ..Outcome::default() }).await.unwrap();
}

#[tokio::test]
async fn a_journal_is_moved_between_engines_as_it_is() {
    for place in places().await {
        let first = place.open().await;
        fill(&first).await;
        let lines = exported(&first, None).await;
        for other in places().await {
            let second = other.open().await;
            let imported = import(&second, &lines).await;
            assert_eq!(imported, Imported { added: 1192, known: 0 });
            assert_eq!(exported(&second, None).await, lines);
            assert_eq!(import(&second, &lines).await, Imported { added: 0, known: 1192 });
            assert_eq!(exported(&second, None).await, lines);
            assert_eq!(first.timestamp("a").await.unwrap(), second.timestamp("a").await.unwrap());
            let total = second.count("a", &query(""), &Sees::Everything).await.unwrap().total;
            assert_eq!(total, 1191);
            let again = change("/buckets/b", None, 2, &json!({"last_modified": 2}));
            assert_eq!(settle(&second, vec![again]).await, 0);
            settle(&second, vec![change("/buckets/a", None, 9999, &json!({}))]).await;
            assert!(
                newest(&second).await["last_modified"].as_u64().unwrap()
                    > first.timestamp("a").await.unwrap().0
            );
        }
        assert!(exported(&first, Some("b")).await.iter().all(|line| !line.contains("/buckets/a")));
    }
}

#[tokio::test]
async fn two_writes_of_one_version_are_moved_and_one_write_is_not_doubled() {
    for place in places().await {
        let first = place.open().await;
        let record = |n: u64| {
            change("/buckets/a/collections/c/records/r", None, 5, &json!({"n": n, "last_modified": 5}))
        };
        settle(&first, vec![record(1)]).await;
        settle(&first, vec![record(2)]).await;
        let lines = exported(&first, None).await;
        let second = places().await.remove(0);
        let journal = second.open().await;
        // It was found elsewhere, without its author.
        settle(&journal, vec![Change { user_id: None, ..record(2) }]).await;
        assert_eq!(import(&journal, &lines).await, Imported { added: 1, known: 1 });
        assert_eq!(import(&journal, &lines).await, Imported { added: 0, known: 2 });
        assert_eq!(entries(&journal, "a", "").await.len(), 2);
    }
}

#[tokio::test]
async fn entries_of_the_plugin_are_taken_over() {
    let entry = json!({
        "bucket": "a",
        "date": "2026-11-21T09:42:58.848742+00:00",
        "target": {"data": {"a": 1, "id": "r", "last_modified": 1_795_254_178_848_u64}, "permissions": {"write": ["me"]}},
        "action": "update",
        "uri": "/buckets/a/collections/c/records/r",
        "user_id": "me",
        "resource_name": "record",
        "collection_id": "c",
        "record_id": "r",
        "id": "679dfee0-9cfd-46a4-93c0-d57c5af5a0a3",
        "last_modified": 1_795_254_178_849_u64,
    });
    for place in places().await {
        let journal = place.open().await;
        let mut collides = entry.clone();
        collides["id"] = json!("another");
        collides["target"]["data"]["last_modified"] = json!(1_795_254_178_000_u64);
        let lines = [entry.to_string(), collides.to_string()];
        assert_eq!(import(&journal, &lines).await, Imported { added: 2, known: 0 });
        assert_eq!(import(&journal, &lines).await, Imported { added: 0, known: 2 });
        let mut expected = entry.clone();
        expected.as_object_mut().unwrap().remove("bucket");
        let mut served = entries(&journal, "a", "record_id=r&_sort=last_modified").await;
        assert_eq!(served.remove(0), expected);
        assert_eq!(served[0]["last_modified"], 1_795_254_178_850_u64);
        let same =
            change("/buckets/a/collections/c/records/r", None, 1_795_254_178_848, &entry["target"]["data"]);
        assert_eq!(settle(&journal, vec![same]).await, 0, "it is not recorded again");
    }
    for (name, value) in [
        ("uri", json!("/buckets/a/collections/d/records/r")),
        ("uri", json!("elsewhere")),
        ("action", json!("other")),
        ("resource_name", json!("collection")),
        ("record_id", json!(null)),
        ("group_id", json!("g")),
        ("id", json!(5)),
        ("last_modified", json!("x")),
        ("last_modified", json!(0)),
        ("last_modified", json!(i64::MAX)),
        ("target", json!({})),
    ] {
        let mut bad = entry.clone();
        bad[name] = value;
        assert!(Line::parse(&bad.to_string()).is_err(), "{bad}");
    }
    for bad in [
        "",
        "{}",
        "[]",
        "x",
        r#"{"bucket":"a"}"#,
        r#"{"bucket":"a","timestamp":9223372036854775807}"#,
        r#"{"bucket":"a/b","timestamp":5}"#,
        r#"{"bucket":"a","tombstone":"t","last_modified":9223372036854775807}"#,
        r#"{"object":"/buckets/a/x","modified":5,"deleted":false,"permissions":null,"is_entry":true}"#,
        r#"{"entry":{},"readers":[],"knows_readers":true}"#,
    ] {
        assert!(Line::parse(bad).is_err(), "{bad}");
    }
}

#[tokio::test]
async fn indexes_that_an_import_left_out_are_made_by_whoever_opens_the_journal_next() {
    let count = async |journal: &Journal| {
        let mut writing = journal.engine.writing().await.unwrap();
        let select =
            "SELECT count(*) FROM sqlite_master WHERE type = 'index' AND tbl_name = 'sidecar_entries'";
        Statement::new(select).number(writing.connection()).await.unwrap()
    };
    for place in places().await.iter().filter(|place| matches!(place.url, JournalUrl::Sqlite(_))) {
        let journal = place.open().await;
        let all = count(&journal).await;
        journal.leave_indexes_out().await.unwrap();
        assert!(count(&journal).await < all);
        settle(&journal, vec![change("/buckets/a", Some(Action::Create), 5, &json!({}))]).await;
        drop(journal);
        let journal = place.open().await;
        assert_eq!(count(&journal).await, all);
        assert_eq!(entries(&journal, "a", "").await.len(), 1);
        journal.leave_indexes_out().await.unwrap();
        assert_eq!(count(&journal).await, all, "of a journal in which something is");
    }
}
