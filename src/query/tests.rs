//! The language against a plain model, and where it goes further than Kinto. What Kinto answers to many queries is in
//! `tests/it/parity`.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;

const KNOWN: [&str; 6] = ["id", "last_modified", "deleted", "host", "bucket", "collection"];
const RULES: Rules<'_> = Rules {
    known_fields: &KNOWN,
    text_fields: &[],
    in_like: false,
    paginate_by: None,
    max_fetch_size: Some(10_000),
    now: Timestamp(1_795_245_800_000),
};

type Row = Map<String, Value>;

fn row(id: &str, last_modified: u64, bucket: &str, collection: &str) -> Row {
    let row = json!({
        "id": id, "last_modified": last_modified, "bucket": bucket, "collection": collection, "host": "www.example.org"
    });
    row.as_object().cloned().unwrap_or_default()
}

fn rows() -> Vec<Row> {
    vec![
        row("aefb85a4-63ac-5bf3-2f6f-9576d7c16963", 1_795_245_794_670, "a", "one"),
        row("f548fc99-20cb-46ec-2062-093d45d21353", 1_795_245_794_711, "a", "two"),
        row("ed40ee80-c108-8c2b-65e1-2a4b132d8102", 1_795_245_794_783, "a", "three"),
        row("b9b19efc-8e15-8c48-bf77-f7f6df241406", 1_795_245_794_920, "b", "one"),
    ]
}

fn ask(query: &str) -> Result<String, String> {
    let query = Query::parse(Some(query), &RULES).map_err(|invalid| invalid.message())?;
    let name =
        |row: Row| format!("{}/{}", row["bucket"].as_str().unwrap(), row["collection"].as_str().unwrap());
    Ok(query.select(rows()).rows.into_iter().map(name).collect::<Vec<_>>().join(" "))
}

#[test]
fn queries_go_further_where_kinto_fails_or_forgets() {
    for (query, expected) in [
        // Kinto 26.5 in memory: 500.
        ("like_collection=[", ""),
        ("like_last_modified=%221795245794711%22", "a/two"),
        // It takes a quoted timestamp for a text, less than any number.
        ("lt_last_modified=%221795245794711%22", "a/one"),
        // It forgets the filters before a `has_`.
        ("bucket=zzz&has_host=true", ""),
        // It compares with the list of both.
        ("not_collection=one&not_collection=two", "a/three"),
    ] {
        assert_eq!(ask(query).as_deref(), Ok(expected), "{query}");
    }
}

#[test]
fn numeric_ids_are_matched_as_texts() {
    let rules =
        Rules { known_fields: &["id", "last_modified", "record_id"], text_fields: &["record_id"], ..RULES };
    let rows =
        [json!({"id": "x", "last_modified": 2, "record_id": "12"}), json!({"id": "7", "last_modified": 1})];
    let rows: Vec<Row> = rows.iter().filter_map(Value::as_object).cloned().collect();
    for (query, expected) in
        [("record_id=12", "x"), ("in_record_id=11,12", "x"), ("not_record_id=12", "7"), ("not_id=7", "x")]
    {
        let page = Query::parse(Some(query), &rules).unwrap().select(&rows);
        let ids: Vec<_> = page.rows.iter().map(|row| row["id"].as_str().unwrap()).collect();
        assert_eq!(ids, [expected], "{query}");
    }
}

#[test]
fn several_patterns_can_be_given_where_that_is_allowed() {
    let rules = Rules { in_like: true, ..RULES };
    let page = Query::parse(Some("in_like_collection=t*,*x*"), &rules).unwrap().select(rows());
    assert_eq!(page.total, 2);
}

#[test]
fn a_token_that_was_tampered_with_is_refused() {
    let first = Query::parse(Some("_limit=2&_sort=bucket"), &RULES).unwrap().select(rows());
    let token = first.next.unwrap();
    let ask = |token: &str, sort: &str| {
        Query::parse(Some(&format!("_limit=2&_sort={sort}&_token={token}")), &RULES)
    };
    let second = ask(&token, "bucket").unwrap().select(rows());
    assert_eq!((second.rows.len(), second.next, second.total), (2, None, 4));
    assert!(ask(&token, "collection").is_err(), "it belongs to another order");
    for position in 0..token.len() {
        let mut other = token.clone().into_bytes();
        other[position] = if other[position] == b'A' { b'B' } else { b'A' };
        let other = String::from_utf8(other).unwrap();
        assert!(ask(&other, "bucket").is_err(), "byte {position}");
    }
}

#[test]
fn a_number_in_a_token_is_the_number_of_the_row() {
    let rows = ["6.2810880380454246e-12", "7.5"].map(|number| -> Row {
        serde_json::from_str(&format!(r#"{{"id":"{number}","last_modified":1,"n":{number}}}"#)).unwrap()
    });
    let rules = Rules { known_fields: &[], max_fetch_size: Some(1), ..RULES };
    let first = Query::parse(Some("_sort=n"), &rules).unwrap().select(rows.clone());
    let next = format!("_sort=n&_token={}", first.next.unwrap());
    assert_eq!(Query::parse(Some(&next), &rules).unwrap().select(rows.clone()).rows, rows[1..]);
}

/// Rows with few different values, so that they are often equal.
fn some_rows() -> impl Strategy<Value = Vec<Row>> {
    let value = prop_oneof![
        Just(None),
        prop_oneof![Just(json!(null)), Just(json!(true)), Just(json!([1, "a"])), Just(json!({"x": 1}))]
            .prop_map(Some),
        (0..3_i64).prop_map(|number| Some(json!(number))),
        "[ab]{0,2}".prop_map(|text| Some(json!(text))),
    ];
    prop::collection::vec((0..4_u64, value.clone(), value), 0..12).prop_map(|rows| {
        let build =
            |(index, (modified, bucket, collection)): (usize, (u64, Option<Value>, Option<Value>))| {
                let mut row = Row::new();
                row.insert("id".into(), format!("id{index:02}").into());
                row.insert("last_modified".into(), json!(modified));
                for (name, value) in [("bucket", bucket), ("collection", collection)] {
                    row.extend(value.map(|value| (name.to_owned(), value)));
                }
                row
            };
        rows.into_iter().enumerate().map(build).collect()
    })
}

proptest! {
    #[test]
    fn pages_put_together_are_the_whole_list(
        rows in some_rows(),
        sort in prop::sample::select(vec!["", "bucket", "-bucket,collection", "last_modified", "-id", "collection,-id"]),
        limit in 1..5_usize,
    ) {
        let whole = Query::parse(Some(&format!("_sort={sort}")), &RULES).unwrap().select(&rows);
        let mut paged = Vec::new();
        let mut token = String::new();
        loop {
            let query = format!("_sort={sort}&_limit={limit}&_token={token}");
            let page = Query::parse(Some(&query), &RULES).unwrap().select(&rows);
            prop_assert_eq!(page.total, rows.len());
            prop_assert!(page.rows.len() <= limit);
            paged.extend(page.rows);
            match page.next {
                Some(next) => token = next,
                None => break,
            }
        }
        prop_assert_eq!(paged, whole.rows);
    }

    #[test]
    fn pages_that_are_deleted_are_the_whole_list_and_none_is_deleted_twice(
        rows in some_rows(),
        sort in prop::sample::select(vec!["", "bucket", "-bucket,collection", "last_modified", "-id", "collection,-id"]),
        limit in 1..5_usize,
        most_bytes in prop::option::of(1..2000_usize),
    ) {
        let whole = Query::parse(Some(&format!("_sort={sort}")), &RULES).unwrap().select(&rows);
        let (mut left, mut deleted) = (rows.clone(), Vec::new());
        let mut token = String::new();
        loop {
            let text = format!("_sort={sort}&_limit={limit}&_token={token}");
            let mut query = Query::parse(Some(&text), &RULES).unwrap().for_deletion().unwrap();
            query.most_bytes = most_bytes;
            let page = query.select(left.clone());
            let name = |row: &Row| (row["id"].as_str().unwrap().to_owned(), Timestamp(row["last_modified"].as_u64().unwrap()));
            if let Some(first) = query.begins_with() {
                prop_assert_eq!(page.rows.first().map(name), Some(first.clone()));
                prop_assert!(!deleted.iter().any(|row| name(row) == first));
            }
            left.retain(|row| !page.rows.contains(row));
            deleted.extend(page.rows);
            prop_assert_eq!(page.next.is_some(), !left.is_empty());
            match page.next {
                Some(next) => token = next,
                None => break,
            }
        }
        prop_assert_eq!(deleted.iter().collect::<Vec<_>>(), whole.rows);
    }

    #[test]
    fn comparisons_agree_with_a_plain_model(
        rows in some_rows(),
        operator in prop::sample::select(vec!["", "eq_", "not_", "lt_", "max_", "gt_", "min_"]),
        value in prop::sample::select(vec![json!(1), json!("a"), json!(null), json!(true), json!([1, "a"]), json!("")]),
    ) {
        // What is not there is greater than everything; then come types, then values.
        let key = |value: Option<&Value>| match value {
            Some(Value::Null) => (0, String::new()),
            Some(Value::String(text)) => (1, text.clone()),
            Some(Value::Number(number)) => (2, number.to_string()),
            Some(Value::Bool(value)) => (3, value.to_string()),
            Some(Value::Array(_)) => (4, String::new()),
            Some(Value::Object(_)) => (5, String::new()),
            None => (6, String::new()),
        };
        let query = format!("{operator}bucket={value}");
        let page = Query::parse(Some(&query), &RULES).unwrap().select(&rows);
        let holds = |row: &&Row| {
            let (left, right) = (key(row.get("bucket")), key(Some(&value)));
            match operator {
                "" | "eq_" => left == right,
                "not_" => left != right,
                "lt_" => left < right,
                "max_" => left <= right,
                "gt_" => left > right,
                _ => left >= right,
            }
        };
        let mut expected: Vec<_> = rows.iter().filter(holds).collect();
        expected.sort_by_key(|row| std::cmp::Reverse(row["last_modified"].as_u64()));
        prop_assert_eq!(page.rows, expected);
    }

    #[test]
    fn any_query_is_answered_or_refused(query in "[ -~]{0,60}", rows in some_rows()) {
        if let Ok(query) = Query::parse(Some(&query), &RULES) {
            let page = query.select(&rows);
            prop_assert!(page.rows.len() <= page.total);
        }
    }

    #[test]
    fn likely_queries_are_answered_or_refused(
        parts in prop::collection::vec(
            (
                "(lt|min|not|in|in_like|exclude|like|has|contains|contains_any)?_?(id|last_modified|bucket|_since|_token|_sort|_fields|_limit)(\\.x)?",
                prop_oneof!["[*\\[\\]{}\"a,.%0-9]{0,8}", Just("%22%5Cu0000%22".to_owned()), Just("1795245794711".to_owned())],
            ),
            0..5,
        ),
        rows in some_rows(),
    ) {
        let query = parts.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&");
        let rules = Rules { in_like: true, text_fields: &["bucket"], ..RULES };
        if let Ok(query) = Query::parse(Some(&query), &rules) {
            query.select(&rows);
        }
    }
}
