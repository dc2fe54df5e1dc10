//! What Kinto 26.5 with kinto-changes 4.1.2 answered to these queries, and the language against a plain model.

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
fn queries_select_what_kinto_selects() {
    let all = "b/one a/three a/two a/one";
    let a = "a/three a/two a/one";
    for (query, expected) in [
        ("_since=1795245794783", "b/one"),
        ("_since=1795245794711.7", "b/one a/three"),
        ("_since=%221795245794711%22", "b/one a/three"),
        ("_since=1795245794711%0A", "b/one a/three"),
        ("_since=1.7952457947117e12", "b/one a/three"),
        ("_since=null", all),
        ("_since=0", all),
        ("_before=1795245794711", "a/one"),
        ("_to=1795245794711", "a/one"),
        ("_before=null", ""),
        ("_limit=", all),
        ("_limit=1.7", "b/one"),
        ("_limit=%221%22", "b/one"),
        ("_limit=%2B2", "b/one a/three"),
        ("_limit=null", all),
        ("_limit=0", all),
        ("_limit=1_000", all),
        ("_limit=9223372036854775808", all),
        ("_sort=", all),
        ("_sort=bucket,collection", "a/one a/three a/two b/one"),
        ("_sort=-bucket,collection", "b/one a/one a/three a/two"),
        ("_sort=%2Bbucket,-collection", "a/two a/three a/one b/one"),
        ("_sort=+bucket,-collection", "a/two a/three a/one b/one"),
        ("_sort=bucket.x", all),
        ("_sort=[1]", all),
        ("_sort=-", all),
        ("_sort=a-b", all),
        ("_sort=last_modified", "a/one a/two a/three b/one"),
        ("_token=", all),
        ("_token={}", all),
        ("_foo=bar", all),
        ("&&&", all),
        ("id=aefb85a4-63ac-5bf3-2f6f-9576d7c16963", "a/one"),
        ("id=", ""),
        ("id=null", ""),
        ("last_modified=1795245794711", "a/two"),
        ("last_modified=%221795245794711%22", "a/two"),
        ("last_modified=1795245794711.5", "a/two"),
        ("bucket=a", a),
        ("bucket=%22a%22", a),
        ("%20bucket=a", a),
        ("bucket=1", ""),
        ("bucket", ""),
        ("bucket.x=1", ""),
        ("not_bucket=a", "b/one"),
        ("in_bucket=a,b", all),
        ("in_bucket=", ""),
        ("exclude_bucket=a", "b/one"),
        ("exclude_id=aefb85a4-63ac-5bf3-2f6f-9576d7c16963,b", "b/one a/three a/two"),
        ("like_bucket=A", a),
        ("like_collection=o", "b/one a/two a/one"),
        ("like_collection=o*", "b/one a/one"),
        ("like_collection=*o", "a/two"),
        ("like_collection=*o*", "b/one a/two a/one"),
        ("like_collection=", all),
        ("like_collection=t*h*e", "a/three"),
        ("like_id=a", "a/three a/one"),
        ("has_bucket=true", all),
        ("has_bucket=false", ""),
        ("has_bucket=maybe", all),
        ("has_bucket=0", ""),
        ("has_bucket.x=false", all),
        ("has_last_modified=1", all),
        ("contains_bucket=a", a),
        ("contains_bucket=[]", all),
        ("contains_bucket=[%22a%22]", a),
        ("contains_any_bucket=a", a),
        ("contains_any_bucket=[]", ""),
        ("min_last_modified=1795245794711", "b/one a/three a/two"),
        ("max_last_modified=1795245794711", "a/two a/one"),
        ("gt_last_modified=1795245794711", "b/one a/three"),
        ("lt_last_modified=1795245794711", "a/one"),
        ("eq_last_modified=1795245794711", "a/two"),
        ("gt_bucket=a", "b/one"),
        ("gt_bucket=1", ""),
        ("lt_bucket=true", all),
        ("deleted=true", ""),
        ("not_deleted=true", all),
        ("has_deleted=false", all),
        ("_since=1795245794711&_before=1795245794783", ""),
        ("host=www.example.org&bucket=b", "b/one"),
        ("bucket=a;collection=one", "a/one"),
    ] {
        assert_eq!(ask(query).as_deref(), Ok(expected), "{query}");
    }
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
fn queries_are_refused_in_the_words_of_kinto() {
    for (query, message) in [
        ("_since=abc", "_since in querystring: \"abc\" is not a number"),
        ("_since=true", "_since in querystring: \"true\" is not a number"),
        ("_since=", "Invalid value for _since"),
        ("_since=%22%22", "Invalid value for _since"),
        ("_since={}", "Invalid value for _since"),
        ("_since=[1]", "_since in querystring: \"[1]\" is not a number"),
        ("_since=1&_since=2", "_since in querystring: \"['1', '2']\" is not a number"),
        ("_since=NaN", "_since in querystring: \"NaN\" is not a number"),
        ("_since=1e400", "_since in querystring: \"1e400\" is not a number"),
        ("_since=%221795245794711", "_since in querystring: \"\"1795245794711\" is not a number"),
        ("_since=9223372036854775808", "Invalid value for _since"),
        (
            "_since=9223372036854775809",
            "_since in querystring: 9223372036854775809 is greater than maximum value 9223372036854775808",
        ),
        ("_since=1895245794711", "Invalid value for _since"),
        ("_before=abc", "_before in querystring: \"abc\" is not a number"),
        ("_limit=-1", "_limit in querystring: -1 is less than minimum value 0"),
        ("_limit=true", "_limit in querystring: \"true\" is not a number"),
        ("_limit=1&_limit=2", "_limit in querystring: \"['1', '2']\" is not a number"),
        ("_sort=unknown", "querystring: Unknown sort field 'unknown'"),
        ("_fields=bucket,unknown", "Invalid _fields parameter in body: Fields unknown do not exist"),
        ("_token=abc", "querystring: _token has invalid content"),
        ("_token=1", "1 is not a string: {'_token': ''}"),
        ("_token=%22abc%22", "querystring: _token has invalid content"),
        ("id=1", "1 is not a string: {'id': ''}"),
        ("last_modified=abc", "last_modified in querystring: \"abc\" is not a number"),
        ("last_modified=", "Invalid value for last_modified"),
        ("last_modified=null", "Invalid value for last_modified"),
        ("in_id=1,2", "Invalid value for in_id"),
        ("in_last_modified=1795245794711", "Invalid value for in_last_modified"),
        ("exclude_last_modified=1795245794711", "Invalid value for exclude_last_modified"),
        ("like_collection=1", "Invalid value for like_collection"),
        ("has_last_modified=true", "Invalid value for has_last_modified"),
        ("contains_id=a", "contains_id in querystring: Field 'id' is not an array"),
        ("contains_any_id=a", "contains_any_id in querystring: Field 'id' is not an array"),
        ("contains_last_modified=1", "Invalid value for contains_last_modified"),
        ("gt_last_modified=2795245794711", "Invalid value for gt_last_modified"),
        ("bucket=a%00", "bucket in querystring: Invalid character 0x00"),
        ("bucket=%22a%5Cu0000%22", "bucket in querystring: Invalid character 0x00"),
        ("in_bucket=a%00,b", "in_bucket in querystring: Invalid character 0x00"),
        ("bucket%00=a", "Unknown filter field 'bucket\0'"),
        ("target.data=1", "Unknown filter field 'target.data'"),
        ("=1", "Unknown filter field ''"),
        ("min_=1", "Unknown filter field 'min_'"),
        ("min_bucket-x=1", "Unknown filter field 'min_bucket-x'"),
        ("max__x=1", "Unknown filter field 'max__x'"),
        ("in_like_bucket=a", "Unknown filter field 'in_like_bucket'"),
    ] {
        assert_eq!(ask(query), Err(message.to_owned()), "{query}");
    }
    let unnamed = Query::parse(Some("_sort=unknown"), &RULES).unwrap_err();
    assert_eq!(
        serde_json::to_value(unnamed.details()).unwrap(),
        json!([{"location": "querystring", "name": null, "description": "Unknown sort field 'unknown'"}])
    );
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
