//! The list over a snapshot; what the plugin answers to the same is in the table of `tests/it/parity`.

use http::{HeaderName, Request};
use http_body::Body as _;
use serde_json::Value;

use super::*;
use crate::kinto::CollectionKey;
use crate::kinto::seq::Seq;
use crate::timeline::entries::{Entry, entry_id};

pub(in crate::endpoints) const NOW: Timestamp = Timestamp(1_795_245_800_000);
const HOST: &str = "www.example.org";
const NEWEST: u64 = 1_795_245_794_920;

/// Four collections, of which `late` was learned when the list's timestamp was already there.
pub(in crate::endpoints) fn entries(late: Option<u64>) -> Entries {
    let entry = |bucket: &str, collection: &str, timestamp: u64| {
        let key = CollectionKey::new(bucket, collection);
        let late = late.filter(|_| collection == "one" && bucket == "a").map(Timestamp);
        Entry {
            id: entry_id(HOST, &key),
            key,
            last_modified: Timestamp(timestamp),
            late: late.map(Seq::of),
            generation: 1,
        }
    };
    let rows = vec![
        entry("b", "one", NEWEST),
        entry("a", "three", 1_795_245_794_783),
        entry("a", "two", 1_795_245_794_711),
        entry("a", "one", 1_795_245_794_670),
    ];
    Entries { rows, timestamp: Timestamp(NEWEST), generation: 1, ..Entries::default() }
}

pub(in crate::endpoints) fn request(method: &str, path: &str, headers: &[(HeaderName, &str)]) -> Parts {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

pub(in crate::endpoints) fn text(response: Response) -> String {
    let mut body = std::pin::pin!(response.into_body());
    let mut bytes = Vec::new();
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    while let std::task::Poll::Ready(Some(Ok(frame))) = body.as_mut().poll_frame(&mut context) {
        bytes.extend_from_slice(&frame.into_data().unwrap());
    }
    String::from_utf8(bytes).unwrap()
}

pub(in crate::endpoints) fn settings(change: impl FnOnce(&mut Settings)) -> Settings {
    let mut settings = Settings::default();
    change(&mut settings);
    settings
}

pub(in crate::endpoints) fn names(body: &str) -> String {
    let body: Value = serde_json::from_str(body).unwrap();
    let rows = body.get("data").or(body.get("changes")).and_then(Value::as_array).unwrap();
    let name =
        |row: &Value| format!("{}/{}", row["bucket"].as_str().unwrap(), row["collection"].as_str().unwrap());
    rows.iter().map(name).collect::<Vec<_>>().join(" ")
}

fn answer(entries: &Entries, settings: &Settings, request: &Parts) -> Result<Response, Error> {
    let base_url = || "http://www.example.org".to_owned();
    let context = Context { settings, now: NOW, base_url: &base_url, dictionaries: &Dictionaries::new(0) };
    match check(&context, request)? {
        ControlFlow::Break(response) => Ok(response),
        ControlFlow::Continue(asked) => asked.answer(&Monitor { entries, host: HOST, context }, request),
    }
}

fn get(query: &str, headers: &[(HeaderName, &str)]) -> Response {
    let request = request("GET", &format!("/v1/buckets/monitor/collections/changes/records{query}"), headers);
    answer(&entries(None), &Settings::default(), &request).unwrap_or_else(Error::into_response)
}

#[test]
fn rows_are_written_as_the_plugin_writes_them() {
    let response = get("?_since=1795245794783", &[]);
    let headers = response.headers().clone();
    assert_eq!(headers["etag"], "\"1795245794920\"");
    assert_eq!(headers["last-modified"], "Sat, 21 Nov 2026 07:23:14 GMT");
    assert_eq!(headers["cache-control"], "no-cache, no-store");
    let row = r#"{"id":"b9b19efc-8e15-8c48-bf77-f7f6df241406","last_modified":1795245794920,"bucket":"b","collection":"one","host":"www.example.org"}"#;
    assert_eq!(text(response), format!("{{\"data\":[{row}]}}"));
    assert_eq!(
        text(get("?bucket=b", &[])),
        format!("{{\"data\":[{row}]}}"),
        "the other way to the same rows"
    );
    let projected = text(get("?_fields=bucket,host.x,bucket&_limit=1&_sort=-collection", &[]));
    assert_eq!(
        projected,
        r#"{"data":[{"bucket":"a","host":"www.example.org","id":"f548fc99-20cb-46ec-2062-093d45d21353","last_modified":1795245794711}]}"#
    );
}

#[test]
fn pages_lead_on_by_an_absolute_address() {
    let first = get("?_limit=3&_foo=%C3%A9", &[]);
    let next = first.headers()["next-page"].to_str().unwrap().to_owned();
    let query =
        next.strip_prefix("http://www.example.org/v1/buckets/monitor/collections/changes/records").unwrap();
    assert!(query.starts_with("?_limit=3&_foo=%C3%A9&_token="), "{query}");
    let second = get(query, &[]);
    assert!(!second.headers().contains_key("next-page"));
    assert_eq!(format!("{} {}", names(&text(first)), names(&text(second))), "b/one a/three a/two a/one");
}

#[test]
fn head_counts_what_is_selected() {
    for (query, total) in [("", "4"), ("?_since=1795245794783", "1"), ("?bucket=a&_limit=1", "3")] {
        let request =
            request("HEAD", &format!("/v1/buckets/monitor/collections/changes/records{query}"), &[]);
        let response = answer(&entries(None), &Settings::default(), &request).unwrap();
        assert_eq!(response.headers()["total-objects"], total, "{query}");
        assert_eq!(response.headers()["total-records"], total, "{query}");
    }
    assert!(!get("", &[]).headers().contains_key("total-objects"));
}

#[test]
fn late_rows_are_delivered_until_the_timestamp_moves_on() {
    let late = entries(Some(NEWEST));
    let ask = |query: &str, headers: &[(HeaderName, &str)]| {
        let request = request("GET", &format!("/records{query}"), headers);
        answer(&late, &Settings::default(), &request).unwrap()
    };
    let etag = [(http::header::IF_NONE_MATCH, "\"1795245794920\"")];
    assert_eq!(names(&text(ask("?_since=1795245794920", &[]))), "a/one");
    assert_eq!(names(&text(ask("?_since=1795245794783", &[]))), "b/one a/one");
    assert_eq!(names(&text(ask("?_since=1795245794783&host=www.example.org", &[]))), "b/one a/one");
    assert_eq!(names(&text(ask("?_since=1795245794921", &[]))), "");
    assert_eq!(ask("?_since=1795245794920", &etag).status(), 200, "304 would hide the late row");
    assert_eq!(get("?_since=1795245794920", &etag).status(), 304);
}

#[test]
fn readers_from_before_the_start_get_a_while_more() {
    let entries = Entries { first_known: Timestamp(1_795_245_794_783), ..entries(None) };
    let settings = settings(|settings| settings.overlap = Duration::from_millis(100));
    let ask = |query: &str| {
        names(&text(answer(&entries, &settings, &request("GET", &format!("/records{query}"), &[])).unwrap()))
    };
    assert_eq!(ask("?_since=1795245794783"), "b/one a/three a/two");
    assert_eq!(ask("?_since=1795245794783&host=www.example.org"), "b/one a/three a/two");
    assert_eq!(ask("?_since=1795245794784"), "b/one");
}

#[test]
fn preconditions_come_before_filters_and_after_parameters() {
    let etag = (http::header::IF_NONE_MATCH, "\"1795245794920\"");
    let response = get("?foo=a", std::slice::from_ref(&etag));
    assert_eq!(
        (response.status().as_u16(), response.headers()["etag"].to_str().unwrap()),
        (304, "\"1795245794920\"")
    );
    assert_eq!(get("?_limit=a", &[etag]).status(), 400);
    let failed = get("", &[(http::header::IF_NONE_MATCH, "*")]);
    assert_eq!(
        (failed.status().as_u16(), failed.headers()["etag"].to_str().unwrap()),
        (412, "\"1795245794920\"")
    );
    assert_eq!(
        text(get("?_limit=a", &[(http::header::IF_MATCH, "x")])),
        r#"{"code":400,"errno":107,"error":"Invalid parameters","message":"If-Match in header: The value should be integer between double quotes.","details":[{"location":"header","name":"If-Match","description":"The value should be integer between double quotes."},{"location":"querystring","name":"_limit","description":"\"a\" is not a number"}]}"#
    );
}

#[test]
fn an_old_since_is_redirected_before_anything_is_looked_up() {
    let response = get("?_limit=2&_since=1&a=b%20c&x=%22&_since=3", &[]);
    assert_eq!(response.status(), 400, "a repeated _since is no number");
    let response = get("?_limit=2&_since=%221%22&a=b%20c&x=%22", &[(http::header::IF_MATCH, "\"1\"")]);
    assert_eq!(response.status(), 307);
    assert_eq!(
        response.headers()["location"],
        "/v1/buckets/monitor/collections/changes/records?_limit=2&a=b%20c&x=%22"
    );
    assert_eq!(response.headers()["cache-control"], "max-age=86400");
    assert_eq!(response.headers()["expires"], "Sun, 22 Nov 2026 07:23:20 GMT");
    assert_eq!(response.headers()["content-type"], "text/plain; charset=UTF-8");
    assert!(text(response).starts_with("307 Temporary Redirect\n\nThe resource has been moved to /v1/"));
    assert_eq!(get("?_since=1795245794783", &[]).status(), 200);
    assert_eq!(get("?_since=1793431399999", &[]).status(), 307, "a millisecond over 21 days");

    let settings = settings(|settings| {
        settings.kinto.http_host = Some("main.example.org".into());
        settings.changes.http_host = Some("cdn.example.org".into());
        settings.changes.since_max_age_redirect_ttl_seconds = -1;
    });
    let response = answer(&entries(None), &settings, &request("GET", "/records?_since=1", &[])).unwrap();
    assert_eq!(response.headers()["location"], "https://cdn.example.org/records");
    assert!(!response.headers().contains_key("cache-control"));
    let settings = Settings {
        changes: crate::settings::ChangesSettings { since_max_age_days: -1, ..settings.changes },
        ..Settings::default()
    };
    assert_eq!(
        answer(&entries(None), &settings, &request("GET", "/records?_since=1", &[])).unwrap().status(),
        200
    );
}

#[test]
fn remote_settings_never_says_304_and_answers_stale_requests_with_nothing() {
    let settings = settings(|settings| settings.compat = Compat::RemoteSettings);
    let ask = |query: &str, headers: &[(HeaderName, &str)]| {
        answer(&entries(None), &settings, &request("GET", &format!("/records{query}"), headers)).unwrap()
    };
    let known = ask("", &[(http::header::IF_NONE_MATCH, "\"1795245794920\"")]);
    assert_eq!(known.status(), 200);
    assert_eq!(known.headers()["etag"], "\"1795245794920\"");
    assert_eq!(text(known), "{\"data\":[]}");
    let stale = ask("?_expected=1795245794700&_since=%221795245794783%22", &[]);
    assert_eq!(
        (stale.status().as_u16(), stale.headers()["cache-control"].to_str().unwrap()),
        (204, "max-age=86400")
    );
    assert_eq!(ask("?_expected=5&_since=6", &[]).status(), 204, "before the redirect");
    assert_eq!(ask("?_expected=0&_since=1795245794783", &[]).status(), 200);
    assert_eq!(
        get("?_expected=1795245794700&_since=1795245794783", &[]).status(),
        200,
        "not in kinto-changes' way"
    );
}

#[test]
fn the_list_is_json() {
    let error = get("", &[(http::header::ACCEPT, "text/html")]);
    assert_eq!(error.status(), 406);
    assert_eq!(
        text(error),
        r#"{"code":406,"errno":107,"error":"Invalid parameters","message":"Accept header should be one of ['application/json']","details":[{"location":"header","name":"Accept","description":"Accept header should be one of ['application/json']"}]}"#
    );
}

#[test]
fn an_empty_list_has_the_present_time() {
    let empty = Entries::default();
    let response = answer(&empty, &Settings::default(), &request("GET", "/records", &[])).unwrap();
    assert_eq!(response.headers()["etag"], "\"1795245800000\"");
    assert_eq!(text(response), "{\"data\":[]}");
}

#[test]
fn plain_queries_are_told_from_others() {
    let plain = |query| Plain::read(Some(query), NOW);
    let since = |since| Plain { since: Some(Timestamp(since)), expected: None };
    assert_eq!(plain("_since=%2212%22&_sort=-last_modified"), Some(since(12)));
    assert_eq!(plain("_since=12"), Some(since(12)));
    assert_eq!(plain("_expected=abc"), Some(Plain { since: None, expected: Some("abc") }));
    for query in [
        "_since=x",
        "_since=1&_since=2",
        "_since=1.5",
        "_sort=bucket",
        "_limit=1",
        "a=b",
        "_since=1895245794711",
    ] {
        assert_eq!(plain(query), None, "{query}");
    }
}
