//! What the engines are asked: statements that they take, and for which they need not read everything.

use sqlx::Row;

use super::selecting::{filled, verdict};
use super::*;
use crate::journal::select::Question;

#[tokio::test]
async fn common_queries_are_answered_by_indexes() {
    let place = places().await.remove(0);
    let journal = filled(&place).await;
    let mut writing = journal.engine.writing().await.unwrap();
    for (text, index) in [
        ("", "sqlite_autoindex_sidecar_entries_1 (history=?)"),
        ("_since=5", "sqlite_autoindex_sidecar_entries_1 (history=? AND last_modified>?)"),
        (
            "_since=5&_before=9",
            "sqlite_autoindex_sidecar_entries_1 (history=? AND last_modified>? AND last_modified<?)",
        ),
        (
            "user_id=me&_since=5&_before=9",
            "sidecar_entries_user (history=? AND user_id=? AND last_modified>? AND last_modified<?)",
        ),
        ("id=x", "sidecar_entries_id (history=? AND id=?)"),
        ("uri=x&action=create", "sidecar_entries_uri (history=? AND uri=?)"),
        (
            "record_id=x&resource_name=record&collection_id=c",
            "sidecar_entries_record (history=? AND record_id=?)",
        ),
        ("in_record_id=x,y", "sidecar_entries_record (history=? AND record_id=?)"),
        ("in_uri=x,y&_since=5", "sidecar_entries_uri (history=? AND uri=? AND last_modified>?)"),
        ("group_id=x", "sidecar_entries_group (history=? AND group_id=?)"),
        (
            "collection_id=x&resource_name=record",
            "sidecar_entries_collection (history=? AND collection_id=?)",
        ),
        ("user_id=me&action=create", "sidecar_entries_user (history=? AND user_id=?)"),
        ("user_id=null&resource_name=record", "sidecar_entries_user (history=? AND user_id=?)"),
        ("resource_name=record&action=update", "sidecar_entries_resource (history=? AND resource_name=?)"),
        ("action=update&_since=5", "sidecar_entries_action (history=? AND action=? AND last_modified>?)"),
        ("in_action=create,update&target.data.x=1", "sqlite_autoindex_sidecar_entries_1 (history=?)"),
        ("exclude_resource_name=record", "sqlite_autoindex_sidecar_entries_1 (history=?)"),
    ] {
        let query = query(text);
        let question = Question::new(journal.engine.kind, 1, &query, &Sees::Everything);
        let conditions = condition::Conditions::of(&query, condition::Rows::Entries);
        let statement = question.columns(condition::Rows::Entries, &conditions);
        let statement =
            statement.push(&format!(" ORDER BY {} DESC LIMIT 10", conditions.order(engine::Kind::Sqlite)));
        let plan = statement.explained("EXPLAIN QUERY PLAN ").fetch(writing.connection()).await.unwrap();
        let steps: Vec<String> = plan.iter().map(|step| step.get(3)).collect();
        assert!(steps[0].ends_with(index), "{text}: {steps:?}");
        assert_eq!(
            steps.len(),
            if text.starts_with("in_record") || text.starts_with("in_uri") { 2 } else { 1 },
            "{steps:?}"
        );
    }
}

#[tokio::test]
async fn what_is_around_objects_and_their_entries_are_found_by_indexes_however_many_they_are() {
    for place in places().await {
        let journal = filled(&place).await;
        let kind = journal.engine.kind;
        let touched = |number: u64| Touched {
            object: Object::of_uri(&format!("/buckets/a/groups/g{number}")).unwrap(),
            entries: vec![Timestamp(number)],
            lost: None,
        };
        let touched: Vec<Touched> = (1..5000).map(touched).collect();
        let around = journal.around("a", &touched, &Sees::Everything).await.unwrap();
        assert_eq!(around.len(), touched.len());
        let (principals, verdict) = (["nobody".to_owned()], |object| verdict(object));
        let somebody = Sees::Some { principals: &principals, verdict: &verdict };
        assert_eq!(journal.around("a", &touched, &somebody).await.unwrap().len(), touched.len());
        let timestamps: Vec<Timestamp> = touched.iter().map(Touched::first).collect();
        let (query, sees) = (query(""), Sees::Everything);
        let question = Question::new(kind, 1, &query, &sees);
        if kind == engine::Kind::Postgres {
            let whole = timestamps.into_iter().collect();
            journal.entries_at("a", &whole, &BTreeSet::new(), &sees).await.unwrap();
            continue;
        }
        let mut writing = journal.engine.writing().await.unwrap();
        for (statement, searched) in [
            (question.select_around(&touched, &std::collections::HashSet::new()), 4),
            (question.select_at(&timestamps, "json"), 1),
        ] {
            let plan = statement.explained("EXPLAIN QUERY PLAN ").fetch(writing.connection()).await.unwrap();
            let steps: Vec<String> = plan.iter().map(|step| step.get(3)).collect();
            let searches = steps.iter().filter(|step| step.starts_with("SEARCH sidecar_entries USING"));
            assert_eq!(searches.count(), searched, "{steps:?}");
            assert!(!steps.iter().any(|step| step.starts_with("SCAN sidecar_entries")), "{steps:?}");
        }
    }
}

#[tokio::test]
async fn the_largest_queries_are_statements_that_engines_take() {
    for place in places().await {
        let journal = filled(&place).await;
        let some = entries(&journal, "a", "uri=/buckets/a&_limit=100").await;
        let others: Vec<String> = (0..400).map(|n| format!("/buckets/a/groups/g{n}")).collect();
        for operator in ["in_uri=/buckets/a,", "exclude_uri="] {
            let filter = format!("{operator}{}", others.join(","));
            let mut filters = vec![filter; 99];
            filters.push("uri=/buckets/a".to_owned());
            assert_eq!(entries(&journal, "a", &filters.join("&")).await, some);
        }
        let filters = vec!["uri=/buckets/a"; 100].join("&");
        assert_eq!(entries(&journal, "a", &filters).await, some);
    }
}

#[tokio::test]
async fn the_open_intents_of_others_are_found_by_an_index_and_the_turn_is_taken_where_there_are_none() {
    let places = places().await.into_iter();
    for place in places.filter(|place| matches!(place.url, JournalUrl::Postgres(_))) {
        let journal = place.open().await;
        let mut writing = journal.engine.writing().await.unwrap();
        let connection = writing.connection();
        let uris = BTreeSet::from(["/buckets/a".to_owned(), "/buckets".to_owned()]);
        let turns = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()";
        connection.execute("BEGIN").await.unwrap();
        assert!(intents::of_others(connection, 1, &uris, true).await.unwrap().is_empty());
        assert_eq!(connection.fetch_one(turns).await.unwrap().get::<i64, _>(0), 1);
        connection
            .execute(
                "INSERT INTO sidecar_intents (intent_group, position, owner, bucket, method, uri, known) \
                 SELECT n, 0, 2, 'a', 'PUT', '/buckets/a/groups/' || n, 0 FROM generate_series(1, 10000) AS n; \
                 COMMIT; ANALYZE sidecar_intents",
            )
            .await
            .unwrap();
        let plan = intents::select_of_others(1, &uris, true).explained("EXPLAIN ");
        let plan = plan.fetch(connection).await.unwrap();
        let plan: Vec<String> = plan.iter().map(|step| step.get(0)).collect();
        assert!(plan.iter().any(|step| step.contains("sidecar_intents_uri")), "{plan:#?}");
        assert!(!plan.iter().any(|step| step.contains("Seq Scan")), "{plan:#?}");
    }
}
