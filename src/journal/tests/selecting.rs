//! That the engines select what the list language selects.

use std::collections::BTreeSet;

use futures_util::future::BoxFuture;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio::runtime::Runtime;

use super::*;

/// A small history of everything, with what is known of who reads it, and with tombstones.
pub(super) async fn filled(place: &Place) -> Journal {
    let journal = place.open().await;
    let sets = [json!({"write": ["me"]}), json!({"read": ["you", "others"]}), json!({})];
    let users = [None, Some("me"), Some("you"), Some("12"), Some("")];
    let uris = [
        "/buckets/a",
        "/buckets/a/groups/g",
        "/buckets/a/groups/12",
        "/buckets/a/collections/c",
        "/buckets/a/collections/C",
        "/buckets/a/collections/12",
        "/buckets/a/collections/c/records/r",
        "/buckets/a/collections/c/records/12",
        "/buckets/a/collections/12/records/r",
        "/buckets/a/collections/C/records/r",
    ];
    for round in 0..8_usize {
        let mut changes = Vec::new();
        for (index, uri) in uris.iter().enumerate() {
            let data = json!({"x": round % 3, "id": uri, "deep": {"y": [round]}});
            let version = u64::try_from(round * 100 + index).unwrap() + 1;
            let mut change = change(uri, None, version, &data);
            change.user_id = users[(round + index) % users.len()].map(str::to_owned);
            change.permissions =
                sets.get((round * 7 + index) % 4).map(permissions).filter(|_| round > 0 || index > 0);
            if round == 5 && index > 5 {
                change.action = Some(Action::Delete);
            }
            changes.push(change);
        }
        settle(&journal, changes).await;
    }
    journal.delete("a", &query("user_id=you&_limit=7&_sort=uri")).await.unwrap();
    settle(&journal, vec![change("/buckets/b/groups/g", None, 1, &json!({"x": 1}))]).await;
    journal
}

/// Parameters that are likely to select some.
fn parameters(timestamps: Vec<u64>) -> impl Strategy<Value = String> {
    let field = prop::sample::select(vec![
        "id", "last_modified", "uri", "resource_name", "collection_id", "record_id", "group_id", "bucket_id",
        "user_id", "action", "date", "deleted", "target.data.x", "user_id.x",
    ]);
    let operator = prop::sample::select(vec![
        "", "not_", "lt_", "max_", "gt_", "min_", "in_", "exclude_", "like_", "has_", "in_like_", "contains_",
    ]);
    let value = prop_oneof![
        prop::sample::select(vec![
            "a", "c", "C", "r", "g", "12", "null", "true", "1", "1.5", "me", "you", "", "\"\"", "record",
            "group", "update", "create", "c,12", "me,null", "12,r,c", "[1]", "{\"a\":1}",
            "/buckets/a/collections/c", "2026-06-01", "2099",
        ])
        .prop_map(str::to_owned),
        prop::sample::select(timestamps.clone()).prop_map(|timestamp| timestamp.to_string()),
    ];
    let bound = ("(_since|_before|gt_last_modified|last_modified)", prop::sample::select(timestamps));
    let filter = prop_oneof![
        8 => (operator, field, value).prop_map(|(operator, field, value)| format!("{operator}{field}={value}")),
        2 => bound.prop_map(|(name, value)| format!("{name}={value}")),
    ];
    let sort = prop::sample::select(vec![
        "", "last_modified", "-last_modified", "uri", "-user_id,collection_id", "record_id",
        "target.data.x,-action", "-id",
    ]);
    let limit = prop_oneof![Just(String::new()), (1..12_u32).prop_map(|limit| format!("&_limit={limit}"))];
    (prop::collection::vec(filter, 0..3), sort, limit)
        .prop_map(|(filters, sort, limit)| format!("{}&_sort={sort}{limit}", filters.join("&")))
}

fn parse(text: &str) -> Option<Query> {
    let encoded: String = text.replace('"', "%22").replace('{', "%7B").replace('}', "%7D");
    let rules = Rules { max_fetch_size: None, ..rules() };
    Query::parse(Some(&encoded), &rules).ok()
}

/// What a model selects of all rows.
fn expected(rows: &[Value], query: &Query) -> crate::query::Page<serde_json::Map<String, Value>> {
    let rows = rows.iter().filter_map(Value::as_object).cloned();
    query.select(rows.filter(|row| query.includes_deleted() || !row.contains_key("deleted")))
}

fn compare(runtime: &Runtime, journal: &Journal, rows: &[Value], text: &str, sees: &Sees<'_>) {
    let mut page = text.to_owned();
    for _ in 0..100 {
        let Some(query) = parse(&page) else { return };
        let expected = expected(rows, &query);
        let given = runtime.block_on(journal.page("a", &query, sees, None)).unwrap();
        let given_rows: Vec<Value> =
            given.rows.iter().map(|row| serde_json::from_str(row.get()).unwrap()).collect();
        let expected_rows: Vec<Value> = expected.rows.into_iter().map(Value::Object).collect();
        assert_eq!(given_rows, expected_rows, "{page}");
        assert_eq!(given.next, expected.next, "{page}");
        let alive = rows.iter().filter_map(Value::as_object).filter(|row| !row.contains_key("deleted"));
        let total = alive.filter(|row| query.matches(*row)).count();
        assert_eq!(runtime.block_on(journal.count("a", &query, sees)).unwrap().total, total, "{page}");
        match given.next {
            Some(next) => page = format!("{text}&_token={next}"),
            None => return,
        }
    }
}

#[test]
fn engines_select_what_the_list_language_selects() {
    let runtime = Runtime::new().unwrap();
    for place in runtime.block_on(places()) {
        let journal = runtime.block_on(filled(&place));
        let rows = runtime.block_on(entries(&journal, "a", "_since=0"));
        assert!(rows.len() > 50 && rows.iter().any(|row| row.get("deleted").is_some()));
        let seen = runtime.block_on(seen_by(&journal, &["you"]));
        let timestamps = rows.iter().filter_map(|row| row["last_modified"].as_u64()).collect();
        let mut runner =
            TestRunner::new(Config { cases: 400, failure_persistence: None, ..Config::default() });
        let result = runner.run(&parameters(timestamps), |text| {
            compare(&runtime, &journal, &rows, &text, &Sees::Everything);
            let principals = ["you".to_owned()];
            let verdict = |object: Object| -> BoxFuture<'_, bool> { verdict(object) };
            let some = Sees::Some { principals: &principals, verdict: &verdict };
            compare(&runtime, &journal, &seen, &text, &some);
            Ok(())
        });
        result.unwrap();
    }
}

/// Objects whose readers are not known are seen where their ids are numbers.
pub(super) fn verdict(object: Object) -> BoxFuture<'static, bool> {
    Box::pin(async move { object.id() == "12" })
}

/// What a model says that somebody sees; no tombstones are among it.
async fn seen_by(journal: &Journal, principals: &[&str]) -> Vec<Value> {
    let mut seen = Vec::new();
    let mut writing = journal.engine.writing().await.unwrap();
    let select = "SELECT e.json, e.knows_readers, s.principals, e.uri FROM sidecar_entries e \
                  JOIN sidecar_reader_sets s ON s.id = e.reader_set ORDER BY last_modified DESC";
    for row in statement::Statement::new(select).fetch(writing.connection()).await.unwrap() {
        use sqlx::Row;
        let readers: BTreeSet<String> = serde_json::from_str(&row.get::<String, _>(2)).unwrap();
        let object = Object::of_uri(&row.get::<String, _>(3)).unwrap();
        if object.bucket() != "a" {
            continue;
        }
        let is_reader = principals.iter().any(|principal| readers.contains(*principal));
        if is_reader || row.get::<i64, _>(1) == 0 && verdict(object).await {
            seen.push(serde_json::from_str(&row.get::<String, _>(0)).unwrap());
        }
    }
    assert!(!seen.is_empty());
    seen
}

#[tokio::test]
async fn who_sees_nothing_is_told_so() {
    for place in places().await {
        let journal = filled(&place).await;
        let principals = ["stranger".to_owned()];
        let nobody = |_: Object| -> BoxFuture<'_, bool> { Box::pin(async { false }) };
        let verdict = |object: Object| -> BoxFuture<'_, bool> { verdict(object) };
        let sees = Sees::Some { principals: &principals, verdict: &nobody };
        let page = journal.page("a", &query(""), &sees, None).await.unwrap();
        assert!(page.rows.is_empty() && !page.sees_any);
        assert!(!journal.count("a", &query(""), &sees).await.unwrap().sees_any);
        let some = Sees::Some { principals: &principals, verdict: &verdict };
        let page = journal.page("a", &query("action=none"), &some, None).await.unwrap();
        assert!(page.rows.is_empty() && page.sees_any);
    }
}

#[tokio::test]
async fn somebody_may_be_in_as_many_groups_as_there_are() {
    for place in places().await {
        let journal = filled(&place).await;
        let nobody = |_: Object| -> BoxFuture<'_, bool> { Box::pin(async { false }) };
        let mut principals = vec!["you".to_owned()];
        let few = Sees::Some { principals: &principals.clone(), verdict: &nobody };
        let expected = journal.page("a", &query(""), &few, None).await.unwrap();
        assert!(!expected.rows.is_empty());
        principals.extend((0..70_000).map(|number| format!("/buckets/a/groups/\"g'{number}\"")));
        let many = Sees::Some { principals: &principals, verdict: &nobody };
        let page = journal.page("a", &query(""), &many, None).await.unwrap();
        assert_eq!(page.rows.len(), expected.rows.len());
        let count = journal.count("a", &query(""), &many).await.unwrap();
        assert_eq!(count.total, journal.count("a", &query(""), &few).await.unwrap().total);
        assert!(count.sees_any);
    }
}

#[tokio::test]
async fn entries_that_repeat_the_one_before_can_be_left_out() {
    for place in places().await {
        let journal = place.open().await;
        let version = |uri: &str, modified: u64, x: u64| {
            change(uri, None, modified, &json!({"x": x, "y": [1, {"z": 1.0}], "last_modified": modified}))
        };
        let (record, group) = ("/buckets/a/collections/c/records/r", "/buckets/a/groups/g");
        let shared = |change: Change| Change {
            permissions: Some(permissions(&json!({"read": ["you", "others"], "write": ["me"]}))),
            ..change
        };
        let turned = |change: Change| Change {
            permissions: Some(permissions(&json!({"write": ["me"], "read": ["others", "you"]}))),
            ..change
        };
        let gone = change(record, Some(Action::Delete), 8, &json!({"deleted": true}));
        let changes = vec![
            version(record, 1, 1),
            version(group, 2, 1),
            version(record, 3, 1),
            version(record, 4, 2),
            version(record, 5, 1),
            shared(version(record, 6, 1)),
            turned(version(record, 7, 1)),
            gone,
            version(record, 9, 1),
            version(group, 10, 1),
        ];
        settle(&journal, changes).await;
        let only = |text: &str| query(text).only_changes(true);
        let versions = |rows: &[Box<RawValue>]| -> Vec<u64> {
            let rows = rows.iter().map(|row| serde_json::from_str::<Value>(row.get()).unwrap());
            rows.map(|row| row["target"]["data"]["last_modified"].as_u64().unwrap_or(8)).collect()
        };
        let (mut seen, mut token) = (Vec::new(), String::new());
        loop {
            let text = format!("_sort=last_modified&_limit=2{token}");
            let page = journal.page("a", &only(&text), &Sees::Everything, None).await.unwrap();
            seen.extend(versions(&page.rows));
            let Some(next) = page.next else { break };
            token = format!("&_token={next}");
        }
        assert_eq!(seen, [1, 2, 4, 5, 6, 8, 9]);
        for (text, total) in [("", 7), ("resource_name=group", 1), ("target.data.x=1", 5), ("_before=1", 0)] {
            assert_eq!(
                journal.count("a", &only(text), &Sees::Everything).await.unwrap().total,
                total,
                "{text}"
            );
        }
        journal.delete("a", &only("action=update")).await.unwrap();
        let left = journal.page("a", &query("_sort=last_modified"), &Sees::Everything, None).await.unwrap();
        assert_eq!(versions(&left.rows), [1, 2, 3, 7, 8, 9, 10]);
    }
}

#[tokio::test]
async fn versions_are_those_of_a_moment() {
    for place in places().await {
        let journal = place.open().await;
        let uri = "/buckets/a/collections/c/records/r";
        for modified in [10, 20] {
            settle(&journal, vec![change(uri, None, modified, &json!({"v": modified}))]).await;
        }
        settle(&journal, vec![change(uri, Some(Action::Delete), 30, &json!({"deleted": true}))]).await;
        settle(&journal, vec![change(uri, None, 40, &json!({"v": 40}))]).await;
        let collection = Object::of_uri("/buckets/a/collections/c").unwrap();
        for (moment, expected) in [
            (9, None),
            (10, Some((10, json!({"v": 10})))),
            (29, Some((20, json!({"v": 20})))),
            (30, Some((30, json!({"deleted": true})))),
            (99, Some((40, json!({"v": 40})))),
        ] {
            let past = journal.versions_at(&collection, &["r", "other"], Timestamp(moment)).await.unwrap();
            assert!(!past.has_gaps && !past.are_others_newer, "of the other nothing is known");
            let entries: Vec<Timestamp> = past.versions.iter().map(|version| version.entry).collect();
            let data = journal.data_at("a", &entries).await.unwrap();
            let found = past.versions.iter().map(|version| {
                assert_eq!(version.is_deletion, moment == 30);
                let data = &data[&version.entry];
                assert!(version.length > data.len());
                (version.modified.0, serde_json::from_slice(data).unwrap())
            });
            assert_eq!(found.collect::<Vec<(u64, Value)>>(), Vec::from_iter(expected), "{moment}");
            let past = journal.versions_at(&collection, &["r"], Timestamp(9)).await.unwrap();
            assert!(past.versions.is_empty() && past.are_others_newer, "it was made since");
        }
    }
}
