//! The changeset over a snapshot, in both compatibility modes.

use http::header::IF_NONE_MATCH;

use super::*;
use crate::endpoints::monitor_changes::tests::{NOW, entries, names, request, settings, text};
use crate::settings::Settings;
use crate::timeline::entries::Entries;
use crate::wire::dictionaries::Dictionaries;

fn respond(entries: &Entries, host: &str, settings: &Settings, request: &Parts) -> Response {
    let base_url = || "http://www.example.org".to_owned();
    let context = Context { settings, now: NOW, base_url: &base_url, dictionaries: &Dictionaries::new(0) };
    match check(&context, request) {
        Ok(ControlFlow::Break(response)) => response,
        Ok(ControlFlow::Continue(params)) => {
            let monitor = Monitor { entries, host, context };
            answer(&params, &monitor, request).unwrap_or_else(Error::into_response)
        }
        Err(error) => error.into_response(),
    }
}

fn ask(entries: &Entries, settings: &Settings, query: &str, known: Option<&str>) -> Response {
    let headers: Vec<_> = known.map(|known| (IF_NONE_MATCH, known)).into_iter().collect();
    let request = request("GET", &format!("/v1/changeset{query}"), &headers);
    respond(entries, "www.example.org", settings, &request)
}

fn get(query: &str) -> Response {
    ask(&entries(None), &Settings::default(), query, None)
}

#[test]
fn an_old_since_is_redirected_to_the_changeset() {
    let response = get("?_expected=1&_since=%223%22&bucket=a&collection=one%20x");
    assert_eq!(response.headers()["location"], "/v1/changeset?_expected=1&bucket=a&collection=one%20x");
    assert_eq!(get("?_since=%223%22").status(), 400, "parameters come first");
}

#[test]
fn late_rows_are_in_the_changeset_and_change_its_etag() {
    let late = entries(Some(1_795_245_794_920));
    let settings = Settings::default();
    let late_names = |query| names(&text(ask(&late, &settings, query, None)));
    assert_eq!(late_names("?_expected=0&_since=%221795245794783%22"), "b/one a/one");
    assert_eq!(late_names("?_expected=0&_since=%221795245794783%22&bucket=a"), "a/one");
    assert_eq!(late_names("?_expected=0&_since=%221795245794783%22&_limit=1"), "b/one");

    let mut fewer = entries(None);
    fewer.rows.pop();
    let etag = |entries: &Entries| ask(entries, &settings, "?_expected=0", None).headers()["etag"].clone();
    assert_ne!(etag(&fewer), etag(&entries(None)), "the same timestamp, another content");
    let known = etag(&fewer);
    let known = format!("\"x\", W/{}", known.to_str().unwrap());
    assert_eq!(ask(&fewer, &settings, "?_expected=0", Some(&known)).status(), 304);
    assert_eq!(ask(&entries(None), &settings, "?_expected=0", Some(&known)).status(), 200);
    assert_eq!(ask(&fewer, &settings, "?_expected=0", Some("*")).status(), 304);
}

#[test]
fn remote_settings_has_its_own_ways() {
    let settings = settings(|settings| settings.compat = Compat::RemoteSettings);
    let ask = |query: &str| ask(&entries(None), &settings, query, None);
    assert!(
        text(ask("?_expected=0&_limit=1")).starts_with(r#"{"metadata":{"bucket":"monitor"},"timestamp":"#)
    );
    assert_eq!(names(&text(ask("?_expected=0&_since=1795245794783"))), "b/one");
    let quoted = ask("?_expected=%22123%22&_since=%221%22&bucket=a%20b");
    assert_eq!(quoted.status(), 307);
    assert_eq!(quoted.headers()["location"], "/v1/changeset?_expected=123&_since=%221%22&bucket=a%20b");
    assert_eq!(ask("?_expected=12&_since=13").status(), 204);
    assert_eq!(ask("?_expected=0&_since=13").status(), 307);
    for (quoted, plain) in [("42%22", "42"), ("%2242", "42"), ("4%222%22", "42"), ("%22", ""), ("%22%22", "")]
    {
        let query = format!("?_expected={quoted}&_since=1795245794783");
        let redirect = ask(&query);
        assert_eq!(redirect.status(), 307, "{quoted}");
        let location = format!("/v1/changeset?_expected={plain}&_since=1795245794783");
        assert_eq!(redirect.headers()["location"], location.as_str());
    }
}
