//! What a feed is asked for: lines of query, `Last-Event-ID`, body, a record, and a filter as metadata defines it.
//!
//! A filter says the same however it is wrapped: in one `$or` or `$and` it is itself, and no record is selected both by it
//! and by its negation.

#![no_main]

use std::sync::LazyLock;
use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use kinto_sidecar::feeds::filter::FeedFilter;
use kinto_sidecar::feeds::filter::mango::Selector;
use kinto_sidecar::feeds::filter::steps::Steps;
use kinto_sidecar::feeds::snapshot::FeedRow;
use kinto_sidecar::feeds::params::Params;
use kinto_sidecar::feeds::params::Patience;
use kinto_sidecar::kinto::Timestamp;
use kinto_sidecar::kinto::seq::Seq;
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

const MOST: Duration = Duration::from_secs(300);

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().expect("a runtime"));

fuzz_target!(|input: &[u8]| {
    let Some(mut lines) = support::lines(input) else { return };
    let mut next = || lines.next().unwrap_or_default();
    let (query, event, body, record, defined) = (next(), next(), next(), next(), next());

    let mut headers = HeaderMap::new();
    if let Ok(event) = HeaderValue::try_from(event) {
        headers.insert("last-event-id", event);
    }
    let body: Option<Value> = serde_json::from_str(body).ok().filter(Value::is_object);
    let Ok(mut params) = Params::read(Some(query), &headers, body, MOST) else { return };
    let (Patience::Timeout(patience) | Patience::Heartbeat(patience)) = params.patience;
    assert!(patience <= MOST);

    let row = FeedRow {
        revision: None,
        seq: Seq::of(Timestamp(7)),
        id: "a".into(),
        last_modified: Timestamp(5),
        deleted: record.contains("deleted"),
        json: record.to_owned().into(),
    };
    let named = async |_: &str| Ok(serde_json::from_str(defined).ok());
    let selector = params.selector.clone();
    if let Ok(Some(filter)) = RUNTIME.block_on(FeedFilter::read(&mut params, named)) {
        let (all, few) = (filter.matches(&row, &mut Steps::unlimited()), filter.matches(&row, &mut Steps::at_most(100)));
        assert!(all.is_ok() && (few.is_err() || few == all), "{all:?} {few:?}");
    }
    if let (Some(selector), Ok(record)) = (&selector, serde_json::from_str(record)) {
        wrapped(selector, &record);
    }
});

fn wrapped(selector: &Value, record: &Value) {
    let matches = |selector: Value| {
        let read = Selector::read(&selector).ok()?;
        read.matches(record, &mut Steps::unlimited()).ok()
    };
    let Some(plain) = matches(selector.clone()) else { return };
    // Nested once more, it may be too deep.
    for same in [json!({"$or": [selector]}), json!({"$and": [selector]}), json!({"$not": {"$not": selector}})]
    {
        assert!(matches(same.clone()).is_none_or(|same| same == plain), "{same}");
    }
    let negated = matches(json!({"$not": selector}));
    assert!(!(plain && negated == Some(true)), "{selector} and its negation select {record}");
    let none = matches(json!({"$nor": [selector]}));
    assert!(negated.zip(none).is_none_or(|(negated, none)| negated == none), "$not and $nor of {selector}");
}
