//! Query strings of lists and of changesets: the first line; the others are rows.
//!
//! Following the pages to their end gives what one page without a limit gives, in the same order, and each page counts
//! the same total.

#![no_main]

use kinto_sidecar::endpoints::changeset_params::ChangesetParams;
use kinto_sidecar::endpoints::list;
use kinto_sidecar::kinto::Timestamp;
use kinto_sidecar::query::{Query, Rules};
use kinto_sidecar::settings::Compat;
use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value};

type Row = Map<String, Value>;

const NOW: Timestamp = Timestamp(1_795_245_800_000);
const MOST_ROWS: usize = 24;

const MONITOR: Rules<'_> = Rules {
    known_fields: &["id", "last_modified", "deleted", "host", "bucket", "collection"],
    text_fields: &[],
    in_like: false,
    paginate_by: None,
    max_fetch_size: Some(3),
    now: NOW,
};
const HISTORY: Rules<'_> = Rules {
    known_fields: &["uri", "action", "user_id", "record_id", "target", "id", "last_modified", "deleted"],
    text_fields: &["record_id"],
    in_like: true,
    paginate_by: Some(2),
    ..MONITOR
};
/// A filter of a feed.
const ANYTHING: Rules<'_> = Rules { known_fields: &[], ..MONITOR };

fuzz_target!(|input: &[u8]| {
    let Some(mut lines) = support::lines(input) else { return };
    let query = lines.next().unwrap_or_default();
    changeset(query);
    let rows: Vec<Row> =
        lines.take(MOST_ROWS).take_while(|line| !line.is_empty()).enumerate().map(row).collect();
    for rules in [MONITOR, HISTORY, ANYTHING] {
        pages(query, &rules, &rows);
    }
});

/// A row with an id of its own, as every row of Kinto has one.
fn row((index, line): (usize, &str)) -> Row {
    let mut row: Row = serde_json::from_str(line).unwrap_or_default();
    row.insert("id".to_owned(), format!("r{index}").into());
    let modified = row.get("last_modified").and_then(Value::as_u64).unwrap_or(index as u64);
    row.insert("last_modified".to_owned(), modified.into());
    row
}

fn pages(text: &str, rules: &Rules<'_>, rows: &[Row]) {
    let query = match Query::parse(Some(text), rules) {
        Ok(query) => query,
        Err(invalid) => return assert!(!invalid.message().is_empty()),
    };
    let ids = |rows: &[&Row]| rows.iter().map(|row| row["id"].to_string()).collect::<Vec<_>>();
    let mut whole = query.clone();
    whole.limit = None;
    let whole = whole.select(rows);
    assert!(whole.next.is_none());
    assert_eq!(query.unpaged().select(rows).total, whole.total);

    let limit = query.limit.expect("the rules bound it");
    let (mut page, mut paged) = (query.select(rows), Vec::new());
    loop {
        assert!(page.rows.len() <= limit);
        assert_eq!(page.total, whole.total);
        paged.extend(ids(&page.rows));
        let Some(token) = &page.next else { break };
        assert!(paged.len() <= whole.rows.len(), "the pages have no end");
        let next =
            list::next_page("http://h", "/v1/x", Some(text), limit, token).expect("it was read before");
        let next = next.to_str().expect("it is encoded");
        let (_, next) = next.split_once('?').expect("it has a token");
        let next = Query::parse(Some(next), rules).unwrap_or_else(|invalid| panic!("{next}: {invalid}"));
        assert_eq!(next.sorting, query.sorting);
        page = next.select(rows);
    }
    assert_eq!(paged, ids(&whole.rows));
    for row in rows {
        let written = Value::Object(row.clone()).to_string();
        let kept = query.project_text(&written).unwrap_or(written);
        let kept: Row = serde_json::from_str(&kept).expect("it is an object");
        assert!(kept.contains_key("id") && kept.contains_key("last_modified"));
        assert!(kept.keys().all(|name| row.contains_key(name)));
    }
}

/// remote-settings takes whatever the plugin takes, and takes it for the same, but for what is past its own last day.
fn changeset(query: &str) {
    let parse = |compat| ChangesetParams::parse(Some(query), compat);
    let Ok(params) = parse(Compat::KintoChanges) else { return };
    assert!(!params.expected.is_empty());
    assert!(params.limit != Some(0) && params.limit_within(Some(5)).is_none_or(|limit| limit <= 5));
    assert_eq!(parse(Compat::RemoteSettings).ok().as_ref(), Some(&params));
}
