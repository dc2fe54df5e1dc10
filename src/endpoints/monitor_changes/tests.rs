//! The list over a snapshot; what the plugin answers to the same is in the table of `tests/it/parity`.

use http::{HeaderName, Request};
use http_body::Body as _;
use serde_json::Value;

use super::*;
use crate::kinto::CollectionKey;
use crate::kinto::seq::Seq;
use crate::timeline::entries::{MonitorEntry, entry_id};

pub(in crate::endpoints) const NOW: Timestamp = Timestamp(1_795_245_800_000);
const HOST: &str = "www.example.org";
const NEWEST: u64 = 1_795_245_794_920;

/// Four collections, of which `late` was learned when the list's timestamp was already there.
pub(in crate::endpoints) fn entries(late: Option<u64>) -> Entries {
    let entry = |bucket: &str, collection: &str, timestamp: u64| {
        let key = CollectionKey::new(bucket, collection);
        let late = late.filter(|_| collection == "one" && bucket == "a").map(Timestamp);
        MonitorEntry {
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
fn plain_queries_are_told_from_others() {
    let plain = |query| Plain::read(Some(query), NOW);
    let since = |since| Plain { since: Some(Timestamp(since)), expected: None };
    assert_eq!(plain("_since=%2212%22&_sort=-last_modified"), Some(since(12)));
    assert_eq!(plain("_since=12"), Some(since(12)));
    assert_eq!(plain("_expected=abc"), Some(Plain { since: None, expected: Some("abc") }));
    for query in [
        "_since=x", "_since=1&_since=2", "_since=1.5", "_sort=bucket", "_limit=1", "a=b",
        "_since=1895245794711",
    ] {
        assert_eq!(plain(query), None, "{query}");
    }
}
