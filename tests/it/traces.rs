//! Spans of requests, as a collector is told of them.

use serde_json::Value;

use crate::support::stub::{HELLO, Stub};
use crate::support::{Client, Sidecar, eventually};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const OFF: [(&str, &str); 2] = [("sidecar.changes", "off"), ("sidecar.history", "off")];

/// The spans that the collector is told of next.
fn told(collector: &Stub) -> Vec<Value> {
    let seen = collector.next();
    assert_eq!(seen.line(), "POST /v1/traces HTTP/1.1");
    assert_eq!(seen.header("content-type"), ["application/json"]);
    let body: Value = serde_json::from_slice(&seen.body).unwrap();
    let of_process = &body["resourceSpans"][0];
    assert_eq!(of_process["resource"]["attributes"][0]["value"]["stringValue"], "kinto-sidecar");
    of_process["scopeSpans"][0]["spans"].as_array().unwrap().clone()
}

/// What a span says of its request.
fn attribute<'s>(span: &'s Value, name: &str) -> &'s Value {
    let attributes = span["attributes"].as_array().unwrap();
    let found = attributes.iter().find(|attribute| attribute["key"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {span}"))["value"]
        .as_object()
        .unwrap()
        .values()
        .next()
        .unwrap()
}

#[test]
fn a_request_is_a_span_in_its_callers_trace_and_the_parent_of_kintos() {
    let (kinto, collector) = (Stub::answering(HELLO), Stub::answering(HELLO));
    let url = format!("http://{}/v1/traces", collector.address);
    let sidecar = Sidecar::start(kinto.url(), &[OFF[0], OFF[1], ("sidecar.otlp_traces", &url)]);
    let not_sampled = PARENT.replace("-01", "-00");
    let mut connection = sidecar.connect();
    for headers in [
        format!("traceparent: {not_sampled}\r\n"),
        format!("traceparent: {PARENT}\r\ntracestate: a=b\r\nX-Request-Id: an-id\r\n"),
        "tracestate: a=b\r\n".to_owned(),
    ] {
        let request = format!("GET /v1/x?secret HTTP/1.1\r\nHost: h\r\n{headers}\r\n");
        assert_eq!(connection.send(&request).read().unwrap().status(), 200);
    }
    let heard: Vec<_> = (0..3).map(|_| kinto.next()).collect();
    let traceparent = |number: usize| heard[number].header("traceparent").concat();
    assert_eq!(traceparent(0), not_sampled, "what is not sampled passes as it came");
    let states: Vec<_> = heard.iter().map(|heard| heard.header("tracestate").concat()).collect();
    assert_eq!(states, ["", "a=b", ""]);

    let mut spans = Vec::new();
    while spans.len() < 2 {
        spans.extend(told(&collector));
    }
    for (span, number) in spans.iter().zip([1, 2]) {
        let (trace, id) = (span["traceId"].as_str().unwrap(), span["spanId"].as_str().unwrap());
        assert_eq!(traceparent(number), format!("00-{trace}-{id}-01"));
        assert_eq!((&span["name"], &span["kind"]), (&"GET forward".into(), &2.into()));
        assert_eq!(
            (attribute(span, "url.path"), attribute(span, "http.response.status_code")),
            (&"/v1/x".into(), &"200".into())
        );
        attribute(span, "kinto_sidecar.upstream_microseconds");
        let time = |name: &str| span[name].as_str().unwrap().parse::<u64>().unwrap();
        assert!(time("startTimeUnixNano") <= time("endTimeUnixNano"));
    }
    assert!(PARENT.contains(spans[0]["traceId"].as_str().unwrap()));
    assert_eq!(spans[0]["parentSpanId"], "b7ad6b7169203331");
    assert_eq!(attribute(&spans[0], "kinto_sidecar.request_id"), "an-id");
    assert_eq!(spans[1].get("parentSpanId"), None);
    assert_ne!(spans[0]["traceId"], spans[1]["traceId"]);
}

#[tokio::test]
async fn a_collector_that_is_away_is_counted_and_holds_nobody_up() {
    let kinto = Stub::answering(HELLO);
    let nowhere = ("sidecar.otlp_traces", "http://127.0.0.1:1/v1/traces");
    let sidecar =
        Sidecar::start(kinto.url(), &[OFF[0], OFF[1], nowhere, ("sidecar.admin_listen", "127.0.0.1:0")]);
    for _ in 0..2 {
        let answer = sidecar.connect().send("GET /v1/x HTTP/1.1\r\nHost: h\r\n\r\n").read().unwrap();
        assert_eq!(answer.text(), "hello");
    }
    let admin = Client::new(&sidecar.admin().unwrap());
    eventually("both are counted", async || {
        let metrics = admin.request_target(http::Method::GET, "/metrics").await.text();
        metrics.contains("kinto_sidecar_spans_total{outcome=\"failed\"} 2").then_some(())
    })
    .await;
    assert_eq!(sidecar.log().matches("spans cannot be told").count(), 1);
}
