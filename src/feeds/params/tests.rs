//! How requests for feeds are read.

use super::*;
use crate::kinto::Timestamp;
use http::HeaderValue;

const MAX: Duration = Duration::from_secs(300);

fn read(query: &str) -> Result<Params, String> {
    Params::read(Some(query), &HeaderMap::new(), None, MAX).map_err(|error| error.to_string())
}

#[test]
fn a_feed_without_parameters_gives_everything_that_there_is() {
    let params = read("").unwrap();
    assert_eq!((params.mode, params.since), (Mode::Normal, Bound::Seq(Seq::ZERO)));
    assert_eq!((params.limit, params.docs, params.descending), (None, false, false));
    assert_eq!(params.patience, Patience::Timeout(Duration::from_secs(60)));
}

#[test]
fn since_is_a_seq_or_a_moment_in_many_spellings() {
    for (query, since) in [
        ("since=12", Bound::Seq(Seq::of(Timestamp(12)))),
        ("since=%2212%22", Bound::Seq(Seq::of(Timestamp(12)))),
        ("since=now", Bound::Now),
        ("SINCE=1&since=2", Bound::Seq(Seq::of(Timestamp(2)))),
        ("since=1&last-event-id=7", Bound::Seq(Seq::of(Timestamp(1)))),
        ("feed=longpoll&last-event-id=7&since=1", Bound::Seq(Seq::of(Timestamp(1)))),
        ("feed=eventsource&since=1&last-event-id=7", Bound::Seq(Seq::of(Timestamp(7)))),
        ("feed=eventsource&lastEventId=7&since=1", Bound::Seq(Seq::of(Timestamp(7)))),
        ("feed=eventsource&evs_last_event_id=7", Bound::Seq(Seq::of(Timestamp(7)))),
        ("feed=eventsource&last-event-id=&since=1", Bound::Seq(Seq::of(Timestamp(1)))),
        ("since=12.500", Bound::Seq(Seq::parse("12.5").unwrap())),
        ("since=%2212.004%22", Bound::Seq(Seq::parse("12.004").unwrap())),
        ("since=99999999999999999999999", Bound::Seq(Seq::of(Timestamp(u64::MAX)))),
        ("since=2023-11-14T22:13:20.123Z", Bound::Seq(Seq::of(Timestamp(1_700_000_000_123)))),
        ("since=2023-11-14T23:13:20+01:00", Bound::Seq(Seq::of(Timestamp(1_700_000_000_000)))),
        ("since=%222023-11-14T23:13:20%2B01:00%22", Bound::Seq(Seq::of(Timestamp(1_700_000_000_000)))),
    ] {
        assert_eq!(read(query).unwrap().since, since, "{query}");
    }
    for query in
        ["since=abc", "since=-1", "since=1.", "since=%22%22", "since=5-g1AAA", "since=2023-11-14T22:13:20"]
    {
        let expected = "Malformed sequence supplied in 'since' parameter.";
        assert_eq!(read(query).unwrap_err(), expected, "{query}");
    }
}

#[test]
fn a_feed_may_end_at_a_seq_or_a_moment() {
    let until = |query| read(query).unwrap().until;
    assert_eq!(until(""), None);
    assert_eq!(until("until=now"), Some(Bound::Now));
    assert_eq!(until("UNTIL=12.5"), Some(Bound::Seq(Seq::parse("12.5").unwrap())));
    assert_eq!(until("until=1970-01-01T00:00:01Z"), Some(Bound::Seq(Seq::of(Timestamp(1000)))));
    assert_eq!(until("until="), None);
    assert_eq!(read("until=x").unwrap_err(), "Malformed sequence supplied in 'until' parameter.");
}

#[test]
fn the_header_of_a_browser_that_comes_back_counts_most() {
    let headers = HeaderMap::from_iter([(
        http::HeaderName::from_static("last-event-id"),
        HeaderValue::from_static("9"),
    )]);
    let read = |query| Params::read(Some(query), &headers, None, MAX).unwrap().since;
    assert_eq!(read("feed=eventsource&since=0&last-event-id=3"), Bound::Seq(Seq::of(Timestamp(9))));
    assert_eq!(read("since=4&last-event-id=3"), Bound::Seq(Seq::of(Timestamp(4))));
}

#[test]
fn numbers_are_refused_in_couchdbs_words() {
    for (query, reason) in [
        ("heartbeat=0", "The heartbeat value should be a positive integer (in milliseconds)."),
        ("heartbeat=-1000", "The heartbeat value should be a positive integer (in milliseconds)."),
        ("heartbeat=a1000", "Invalid heartbeat value. Expecting a positive integer value (in milliseconds)."),
        ("limit=x", "The limit parameter should be a non-negative integer"),
        ("limit=", "The limit parameter should be a non-negative integer"),
        ("limit=-1", "The limit value should be a non-negative integer"),
        ("timeout=1.5", "The timeout parameter should be a non-negative integer"),
        ("timeout=-5", "The timeout value should be a non-negative integer"),
        ("feed=foo", "Supported `feed` types: normal, continuous, live, longpoll, eventsource"),
    ] {
        assert_eq!(read(query).unwrap_err(), reason, "{query}");
    }
}

#[test]
fn heartbeats_overrule_timeouts_and_both_are_bounded() {
    let patience = |query| read(query).unwrap().patience;
    let (ms, second) = (Duration::from_millis, Duration::from_secs);
    assert_eq!(patience("heartbeat=1500&timeout=10"), Patience::Heartbeat(ms(1500)));
    assert_eq!(patience("heartbeat=1"), Patience::Heartbeat(second(1)));
    assert_eq!(patience("heartbeat=true"), Patience::Heartbeat(second(60)));
    assert_eq!(patience("timeout=999999999"), Patience::Timeout(MAX));
    assert_eq!(patience("feed=eventsource"), Patience::Heartbeat(second(30)));
    assert_eq!(patience("feed=eventsource&timeout=10"), Patience::Timeout(ms(10)));
}

#[test]
fn polls_that_many_share_have_a_cursor_and_wait_for_less_than_caches_do() {
    let shared = |query| read(query).unwrap().shared.map(|shared| (shared.cursor, shared.wait));
    let (ms, longest) = (Duration::from_millis, LONGEST_SHARED);
    assert_eq!(shared("feed=longpoll&cursor=7&heartbeat=true"), Some((7, longest)));
    assert_eq!(shared("feed=longpoll&cursor=0&timeout=250"), Some((0, ms(250))));
    for query in ["feed=longpoll", "cursor=x", "feed=continuous&cursor=7"] {
        assert_eq!(shared(query), None, "{query}");
    }
    assert!(read("feed=longpoll&cursor=x").unwrap_err().starts_with("The cursor parameter"));
}

#[test]
fn what_is_not_couchdbs_is_a_filter_only_where_that_is_said() {
    let query = "_x=3&title=a&Limit=1&style=all_docs&min_age=2";
    let params = read(query).unwrap();
    assert_eq!(params.kinto, Parameters::default());
    assert_eq!(params.ignored.as_deref(), Some("title"));
    let params = read(&format!("filter=_kinto&{query}")).unwrap();
    let names: Vec<_> = params.kinto.iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["_x", "title", "min_age"]);
    assert_eq!(params.ignored, None);
    assert_eq!(read("Limit=1&style=all_docs&_x=3").unwrap().ignored, None);
}

#[test]
fn ids_and_selectors_come_from_the_query_or_the_body() {
    let body = serde_json::json!({"doc_ids": ["a"], "selector": {"x": 1}});
    let read = |query| Params::read(Some(query), &HeaderMap::new(), Some(body.clone()), MAX).unwrap();
    assert_eq!(read("").doc_ids, Some(serde_json::json!(["a"])));
    assert_eq!(read("doc_ids=%5B%22b%22%5D").doc_ids, Some(serde_json::json!(["b"])));
    assert_eq!(read("").selector, Some(serde_json::json!({"x": 1})));
}
