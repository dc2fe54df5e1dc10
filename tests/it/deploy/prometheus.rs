//! The alerts and the dashboard, in a real Prometheus that reads a real sidecar.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use regex::Regex;
use serde_json::Value;

use super::manifests::documents;
use super::{deploy_folder, free_port, origin};
use crate::docs::explained_metrics;
use crate::support::prometheus::{Prometheus, programs};
use crate::support::{Client, eventually};

fn promtool(programs: &Path, arguments: &[&str]) {
    let output = Command::new(programs.join("promtool"))
        .args(arguments)
        .current_dir(deploy_folder().join("prometheus"))
        .output()
        .unwrap();
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
}

/// The texts that a member of this name has, anywhere in a document.
fn members<'a>(document: &'a Value, name: &str, found: &mut Vec<&'a str>) {
    match document {
        Value::Object(object) => {
            for (key, value) in object {
                match value {
                    Value::String(text) if key == name => found.push(text),
                    _ => members(value, name, found),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| members(value, name, found)),
        _ => {}
    }
}

#[test]
fn every_alert_fires_when_it_should_and_is_silent_when_not() {
    let documents = documents(&["prometheus/alerts.yaml", "prometheus/alerts.test.yaml"]);
    let mut alerts = Vec::new();
    members(&documents[0][0], "alert", &mut alerts);
    let tests = documents[1][0]["tests"].as_array().unwrap();
    for alert in alerts {
        let fires = |test: &Value| {
            let mut cases = test["alert_rule_test"].as_array().unwrap().iter();
            cases.find(|case| case["alertname"] == alert).map(|case| case.get("exp_alerts").is_some())
        };
        let outcomes: BTreeSet<bool> = tests.iter().filter_map(fires).collect();
        assert_eq!(outcomes.len(), 2, "{alert} has to be seen to fire, and not to");
    }
    let Some(programs) = programs() else { return };
    promtool(programs, &["check", "config", "prometheus.yaml"]);
    promtool(programs, &["test", "rules", "alerts.test.yaml"]);
}

/// The dashboard's queries, as Grafana would send them for all sidecars.
fn queries_of_the_dashboard() -> Vec<String> {
    let text = fs::read_to_string(deploy_folder().join("prometheus/dashboard.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let mut queries = Vec::new();
    members(&dashboard, "expr", &mut queries);
    let fill = |query: &str| query.replace("$__rate_interval", "1m").replace("$instance", ".*");
    // What is firing is marked in all panels; nothing is here.
    queries.into_iter().filter(|query| !query.starts_with("ALERTS")).map(fill).collect()
}

#[tokio::test]
async fn prometheus_reads_the_sidecar_loads_the_alerts_and_answers_the_dashboard() {
    let Some(programs) = programs() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (sidecar, collection) = origin("system.Everyone", None).await;
    let admin = sidecar.admin().expect("it has a second listener");
    let client = Client::new(sidecar.address());
    client.get(&format!("{collection}/changeset?_expected=0")).await.expect(200);

    let configuration = fs::read_to_string(deploy_folder().join("prometheus/prometheus.yaml")).unwrap();
    let rules = deploy_folder().join("prometheus/alerts.yaml");
    let configuration = configuration
        .replace("127.0.0.1:8890", &admin)
        .replace("interval: 15s", "interval: 100ms")
        .replace("[alerts.yaml]", &format!("[{}]", rules.display()));
    let path = folder.path().join("prometheus.yaml");
    fs::write(&path, configuration).unwrap();
    let prometheus = Prometheus::start(programs, &path, folder.path(), free_port());

    // Rates are there after two readings.
    let rate = "rate(kinto_sidecar_upstream_requests_total{job=\"kinto-sidecar\"}[1m]) > 0";
    eventually("the sidecar is read twice", async || {
        (!prometheus.get("/api/v1/query?query=up").await?["data"]["result"].as_array()?.is_empty()
            && !prometheus.query(rate).await.is_empty())
        .then_some(())
    })
    .await;
    assert_eq!(prometheus.query("up{job=\"kinto-sidecar\"} == 1").await.len(), 1);

    // Every alert is evaluated, without an error.
    eventually("all rules are evaluated", async || {
        let rules = prometheus.get("/api/v1/rules").await?;
        let rules = rules["data"]["groups"][0]["rules"].as_array()?.clone();
        assert!(rules.iter().all(|rule| rule["health"] != "err"), "{rules:?}");
        rules.iter().all(|rule| rule["health"] == "ok").then_some(())
    })
    .await;

    let metrics = Client::new(&admin).request_target(http::Method::GET, "/metrics").await.expect(200);
    let text = folder.path().join("metrics");
    fs::write(&text, &metrics.body).unwrap();
    let checked = Command::new(programs.join("promtool"))
        .args(["check", "metrics"])
        .stdin(fs::File::open(&text).unwrap())
        .output()
        .unwrap();
    let complaints = [checked.stdout, checked.stderr].concat();
    assert_eq!(String::from_utf8_lossy(&complaints), "", "promtool complains of nothing");

    // Every query of the dashboard is understood, asks for what there is, and has an answer.
    let known = explained_metrics();
    let name = Regex::new("kinto_sidecar_[a-z_]+").unwrap();
    for query in queries_of_the_dashboard() {
        let answer = prometheus.query(&query).await;
        // This sidecar shows no certificate, and may have had nothing to poll yet.
        let may_be_absent = ["tls_certificate", "timestamps_age"].iter().any(|name| query.contains(name));
        assert!(!answer.is_empty() || may_be_absent, "{query} has no answer");
        for metric in name.find_iter(&query) {
            let metric = metric.as_str().trim_end_matches("_bucket").trim_end_matches("_count");
            assert!(known.contains(metric), "{metric} is not explained: {query}");
        }
    }
}
