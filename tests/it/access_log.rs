//! The access log, beside that of a real Kinto for the same requests.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::{Map, Value, json};

use crate::support::stub::{HELLO, Stub};
use crate::support::{Kinto, KintoOptions, PATIENCE, Request, SERVICE_ACCOUNT, Sidecar, eventually};

/// What Kinto has no field for.
const OURS: [&str; 5] = ["client", "bytes", "upstream_t", "cache", "traceparent"];

/// The lines of a log about a request, but for those of Kinto that are not summaries.
fn lines(log: &str, id: &str) -> Vec<Value> {
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines
        .filter(|line| line["Fields"]["rid"] == id && line["Type"].as_str().unwrap().ends_with(".summary"))
        .collect()
}

/// Waits for all lines about a request: the request's own is the last.
async fn summaries(log: impl Fn() -> String, id: &str) -> Vec<Value> {
    eventually("the line of a request", async || {
        Some(lines(&log(), id)).filter(|lines| lines.iter().any(|line| line["Type"] == "request.summary"))
    })
    .await
}

fn names(object: &Value) -> BTreeSet<&str> {
    object.as_object().unwrap().keys().map(String::as_str).collect()
}

/// The fields that have to be the same; how long it took is each one's own.
fn fields(line: &Value) -> Map<String, Value> {
    let mut fields = line["Fields"].as_object().unwrap().clone();
    fields.retain(|name, _| !OURS.contains(&name.as_str()) && !matches!(name.as_str(), "time" | "t"));
    fields
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_are_those_of_kinto_field_for_field() {
    let kinto = Kinto::start(KintoOptions::memory().setting("test.json_log", "true"));
    let sidecar = Sidecar::start(kinto.url(), &[SERVICE_ACCOUNT, ("sidecar.log_format", "json")]);
    let client = sidecar.client().with("user-agent", "curl/8").with("accept-language", "fr, en;q=0.5");
    let alice = client.user("alice");
    let batch = |requests: Value| alice.post("/batch").json(json!({ "requests": requests }));
    let requests: Vec<Request> = vec![
        alice.put("/buckets/logged").data(json!({})),
        alice.put("/buckets/logged/collections/c").data(json!({})),
        alice.put("/buckets/logged/collections/c/records/r").data(json!({"text": "\u{e9}"})),
        alice.get("/buckets/logged?a=1&a=2&b=&c&d=%C3%A9%20x+y"),
        alice.get("/buckets/logged/collections/%C3%A9t%20x"),
        alice.get("/buckets/logged/collections/c/records?_limit=x"),
        alice.put("/buckets/logged").body("{"),
        alice.head("/buckets/logged/collections/c/records"),
        client.get("/buckets/logged"),
        client.get("/nowhere"),
        sidecar.client().get("/__lbheartbeat__"),
        batch(json!([
            {"path": "/buckets/logged?x=1"},
            {"method": "PUT", "path": "/v1/buckets/logged/collections/%C3%A9", "headers": {"User-Agent": "sub"}},
            {"path": "/buckets/nobodys"},
        ])),
        batch(json!([{"path": "/batch"}])),
        batch(json!([])),
        alice.delete("/buckets/logged"),
    ];
    for (number, request) in requests.into_iter().enumerate() {
        let id = format!("request-{number}");
        let answer = request.header("x-request-id", &id).await;
        assert_eq!(answer.header("x-request-id"), Some(&*id), "{answer}");
        let ours = summaries(|| sidecar.log(), &id).await;
        let kintos = summaries(|| kinto.log(), &id).await;
        assert_eq!(ours.len(), kintos.len(), "{ours:#?} {kintos:#?}");
        for (ours, kintos) in ours.iter().zip(&kintos) {
            assert_eq!(names(ours), names(kintos));
            for name in ["Type", "Logger", "Hostname", "EnvVersion", "Severity"] {
                assert_eq!(ours[name], kintos[name]);
            }
            let mut own = fields(ours);
            // Kinto looks at who sends it where it has to: not in a batch as a whole, nor where nothing is found.
            if !kintos["Fields"].as_object().unwrap().contains_key("uid") {
                own.retain(|name, _| !matches!(name.as_str(), "uid" | "authn_type"));
            }
            assert_eq!(own, fields(kintos), "{id}: {answer}");
            let (at, kintos_at) =
                (ours["Timestamp"].as_u64().unwrap(), kintos["Timestamp"].as_u64().unwrap());
            assert!(at.abs_diff(kintos_at) < 60_000_000_000);
            if ours["Type"] == "request.summary" {
                let told = &ours["Fields"];
                assert!(
                    told["t"].is_u64() && told["time"].is_string() && told["upstream_t"].is_u64(),
                    "{told}"
                );
                let length = if answer.body.is_empty() { 0 } else { answer.body.len() };
                assert_eq!((&told["client"], &told["bytes"]), (&"127.0.0.1".into(), &length.into()), "{id}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn own_answers_tell_what_the_cache_had_and_no_line_is_lost_at_the_end() {
    let kinto = Kinto::shared();
    let settings =
        [SERVICE_ACCOUNT, ("changes.resources", "/buckets/cached"), ("sidecar.log_format", "json")];
    let mut sidecar = Sidecar::start(kinto.url(), &settings);
    let alice = sidecar.client().user("alice");
    alice.put("/buckets/cached").json(json!({"permissions": {"read": ["system.Everyone"]}})).await;
    alice.put("/buckets/cached/collections/c").await.expect(201);
    let path = "/buckets/cached/collections/c/changeset?_expected=0";
    for id in ["first", "second"] {
        sidecar.client().get(path).header("x-request-id", id).await.expect(200);
    }
    let made = sidecar.client().get("/buckets/cached").await.expect(200);
    assert!(made.header("x-request-id").is_some_and(|id| id.len() == 36), "{made}");
    let last = made.header("x-request-id").unwrap();
    sidecar.terminate();
    assert!(sidecar.wait(PATIENCE).is_some());
    let second = summaries(|| sidecar.log(), "second").await;
    assert_eq!(second[0]["Fields"]["cache"], "hit");
    assert_eq!(second[0]["Fields"]["querystring"], json!({"_expected": "0"}));
    let first = summaries(|| sidecar.log(), "first").await;
    assert!(first[0]["Fields"]["bytes"].as_u64().unwrap() > 2, "{}", first[0]);
    summaries(|| sidecar.log(), last).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_names_the_path_the_collection_and_the_request() {
    for format in ["json", "text"] {
        let settings = [("sidecar.log_format", format), ("changes.resources", "/buckets/a")];
        let sidecar = Sidecar::start("http://127.0.0.1:1/v1", &settings);
        let path = "/buckets/a/collections/b/changeset?_expected=0";
        let answer = sidecar.client().get(path).header("x-request-id", "the-id").await.expect(503);
        assert_eq!(answer.header("x-request-id"), Some("the-id"));
        eventually("a line that names all three", async || {
            let log = sidecar.log();
            let parts = ["/v1/buckets/a/collections/b/changeset\"", "\"a/b\"", "the-id"];
            let is_failure = |line: &&str| {
                (line.contains("WARN") || line.contains("\"Severity\":4"))
                    && parts.iter().all(|part| line.contains(part))
            };
            log.lines().find(is_failure).map(str::to_owned)
        })
        .await;
    }
}

#[test]
fn traces_are_passed_on_and_logged_and_the_log_may_be_off() {
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    for (wanted, is_logged) in [("on", true), ("off", false)] {
        let stub = Stub::answering(HELLO);
        let settings =
            [("sidecar.access_log", wanted), ("sidecar.history", "off"), ("sidecar.log_format", "text")];
        let mut sidecar = Sidecar::start(stub.url(), &settings);
        let mut client = sidecar.connect();
        client.send(format!("GET /v1/x HTTP/1.1\r\nHost: h\r\nTraceparent: {trace}\r\n\r\n"));
        let answer = client.read().unwrap();
        assert_eq!(answer.header("x-request-id").len(), 1);
        let seen = std::iter::repeat_with(|| stub.next()).find(|seen| seen.line() == "GET /v1/x HTTP/1.1");
        assert_eq!(seen.unwrap().header("traceparent"), [trace]);
        sidecar.terminate();
        assert!(sidecar.wait(PATIENCE).is_some());
        let until = std::time::Instant::now() + PATIENCE;
        while is_logged && !sidecar.log().contains(trace) {
            assert!(std::time::Instant::now() < until, "{}", sidecar.log());
            std::thread::yield_now();
        }
        assert_eq!(sidecar.log().contains("answered"), is_logged);
    }
}

#[test]
fn a_filter_that_names_no_level_is_an_error() {
    let run = |filter: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kinto-sidecar"));
        command.args(["--log", filter, "health", "http://127.0.0.1:1/"]).output().unwrap()
    };
    for filter in ["inof", "info,hyper", "kinto_sidecar=inof"] {
        let output = run(filter);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && said.contains("expected a filter such as"), "{said}");
    }
    for filter in ["info", "warn,kinto_sidecar=debug", "info,kinto_sidecar::access=off", "3"] {
        let said = String::from_utf8_lossy(&run(filter).stderr).into_owned();
        assert!(!said.contains("sidecar.log"), "{said}");
    }
}
