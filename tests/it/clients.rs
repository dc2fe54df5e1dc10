//! Kinto's own clients work through the sidecar as they do against Kinto, and CouchDB's follow its collections.

use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::support::{Environment, Kinto, SERVICE_ACCOUNT, Sidecar, environment, tests_folder, unique};

/// Runs a client's script against a sidecar that monitors one bucket, which the script may make.
fn run(interpreter: &Path, script: &str, sidecar: &Sidecar, bucket: &str) {
    let is_for_node = Path::new(script).extension().is_some_and(|extension| extension == "mjs");
    let mut program = tests_folder().join("clients").join(script);
    if is_for_node {
        // Node looks for packages beside the script.
        let beside = environment(Environment::Node).node_folder().join(format!("{bucket}-{script}"));
        std::fs::copy(&program, &beside).unwrap();
        program = beside;
    }
    let output = Command::new(interpreter).arg(&program).args([&sidecar.url(), bucket]).output().unwrap();
    assert!(
        output.status.success(),
        "{script}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    if is_for_node {
        std::fs::remove_file(program).unwrap();
    }
}

fn monitoring(bucket: &str) -> Sidecar {
    let resource = format!("/buckets/{bucket}");
    Sidecar::start(Kinto::shared().url(), &[SERVICE_ACCOUNT, ("changes.resources", &resource)])
}

#[test]
fn kinto_http_py_batches_and_follows_changes() {
    let bucket = unique("python");
    run(&environment(Environment::Plain).python(), "python_client.py", &monitoring(&bucket), &bucket);
}

#[test]
fn kinto_http_js_batches_and_follows_changes() {
    let bucket = unique("node");
    run(&environment(Environment::Node).node(), "http_client.mjs", &monitoring(&bucket), &bucket);
}

#[test]
fn kinto_http_py_reads_and_purges_history() {
    let bucket = unique("history-py");
    run(&environment(Environment::Plain).python(), "history_client.py", &monitoring(&bucket), &bucket);
}

#[test]
fn kinto_http_js_reads_history_and_snapshots() {
    let bucket = unique("history-js");
    run(&environment(Environment::Node).node(), "history_client.mjs", &monitoring(&bucket), &bucket);
}

#[test]
fn kinto_admin_shows_histories_with_what_was_undone() {
    let bucket = unique("admin");
    run(&environment(Environment::Node).node(), "kinto_admin.mjs", &monitoring(&bucket), &bucket);
}

#[tokio::test]
async fn kinto_js_stores_synchronise_with_each_other() {
    let bucket = unique("sync");
    let sidecar = monitoring(&bucket);
    let alice = sidecar.client().user("alice");
    alice.put(&format!("/buckets/{bucket}")).await.expect(201);
    alice.put(&format!("/buckets/{bucket}/collections/notes")).data(json!({})).await.expect(201);
    run(&environment(Environment::Node).node(), "offline_sync.mjs", &sidecar, &bucket);
}

/// A collection `notes` in a bucket that is not monitored.
async fn with_notes() -> (Sidecar, String) {
    let bucket = unique("notes");
    let sidecar = Sidecar::start(Kinto::shared().url(), &[SERVICE_ACCOUNT]);
    let alice = sidecar.client().user("alice");
    alice.put(&format!("/buckets/{bucket}")).await.expect(201);
    alice.put(&format!("/buckets/{bucket}/collections/notes")).await.expect(201);
    (sidecar, bucket)
}

#[tokio::test]
async fn pouchdb_follows_a_collection() {
    let (sidecar, bucket) = with_notes().await;
    run(&environment(Environment::Node).node(), "pouchdb_changes.mjs", &sidecar, &bucket);
}

#[tokio::test]
async fn nano_follows_a_collection() {
    let (sidecar, bucket) = with_notes().await;
    run(&environment(Environment::Node).node(), "nano_changes.mjs", &sidecar, &bucket);
}

#[tokio::test]
async fn follow_and_cloudant_follow_follow_a_collection() {
    let (sidecar, bucket) = with_notes().await;
    run(&environment(Environment::Node).node(), "follow_changes.mjs", &sidecar, &bucket);
}

#[tokio::test]
async fn rxdb_replicates_a_collection() {
    let (sidecar, bucket) = with_notes().await;
    run(&environment(Environment::Node).node(), "rxdb_replicate.mjs", &sidecar, &bucket);
}

#[tokio::test]
async fn an_eventsource_follows_a_collection_over_many_connections() {
    let (sidecar, bucket) = with_notes().await;
    run(&environment(Environment::Node).node(), "event_source.mjs", &sidecar, &bucket);
}

#[tokio::test]
async fn cloudants_and_couchdbs_python_clients_follow_a_collection() {
    let (sidecar, bucket) = with_notes().await;
    run(&environment(Environment::Couch).python(), "couch_clients.py", &sidecar, &bucket);
}
