//! Kinto's own clients work through the sidecar as they do against Kinto, and CouchDB's follow its collections.

use std::process::Command;

use serde_json::json;

use crate::support::{Environment, Kinto, SERVICE_ACCOUNT, Sidecar, environment, tests_folder, unique};

/// Runs a client's script against a sidecar and a bucket of it.
fn run(kind: Environment, script: &str, sidecar: &Sidecar, bucket: &str) {
    let installed = environment(kind);
    let copy = matches!(kind, Environment::Node).then(|| installed.script(script));
    let (program, path) = match &copy {
        Some(copy) => (installed.node(), copy.to_path_buf()),
        None => (installed.python(), tests_folder().join("clients").join(script)),
    };
    let output = Command::new(program).arg(path).args([&sidecar.url(), bucket]).output().unwrap();
    assert!(
        output.status.success(),
        "{script}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

fn monitoring(bucket: &str) -> Sidecar {
    let resource = format!("/buckets/{bucket}");
    Sidecar::start(Kinto::shared().url(), &[SERVICE_ACCOUNT, ("changes.resources", &resource)])
}

#[test]
fn kinto_http_py_batches_and_follows_changes() {
    let bucket = unique("python");
    run(Environment::Plain, "python_client.py", &monitoring(&bucket), &bucket);
}

#[test]
fn kinto_http_js_batches_and_follows_changes() {
    let bucket = unique("node");
    run(Environment::Node, "http_client.mjs", &monitoring(&bucket), &bucket);
}

#[test]
fn kinto_http_py_reads_and_purges_history() {
    let bucket = unique("history-py");
    run(Environment::Plain, "history_client.py", &monitoring(&bucket), &bucket);
}

#[test]
fn kinto_http_js_reads_history_and_snapshots() {
    let bucket = unique("history-js");
    run(Environment::Node, "history_client.mjs", &monitoring(&bucket), &bucket);
}

#[test]
fn kinto_admin_shows_histories_with_what_was_undone() {
    let bucket = unique("admin");
    run(Environment::Node, "kinto_admin.mjs", &monitoring(&bucket), &bucket);
}

#[tokio::test]
async fn kinto_js_stores_synchronise_with_each_other() {
    let bucket = unique("sync");
    let sidecar = monitoring(&bucket);
    let alice = sidecar.client().user("alice");
    alice.put(&format!("/buckets/{bucket}")).await.expect(201);
    alice.put(&format!("/buckets/{bucket}/collections/notes")).data(json!({})).await.expect(201);
    run(Environment::Node, "offline_sync.mjs", &sidecar, &bucket);
}

/// Runs a client's script against a collection `notes` of a bucket that is not monitored.
async fn run_with_notes(kind: Environment, script: &str) {
    let bucket = unique("notes");
    let sidecar = Sidecar::start(Kinto::shared().url(), &[SERVICE_ACCOUNT]);
    let alice = sidecar.client().user("alice");
    alice.put(&format!("/buckets/{bucket}")).await.expect(201);
    alice.put(&format!("/buckets/{bucket}/collections/notes")).await.expect(201);
    run(kind, script, &sidecar, &bucket);
}

#[tokio::test]
async fn pouchdb_follows_a_collection() {
    run_with_notes(Environment::Node, "pouchdb_changes.mjs").await;
}

#[tokio::test]
async fn nano_follows_a_collection() {
    run_with_notes(Environment::Node, "nano_changes.mjs").await;
}

#[tokio::test]
async fn follow_and_cloudant_follow_follow_a_collection() {
    run_with_notes(Environment::Node, "follow_changes.mjs").await;
}

#[tokio::test]
async fn rxdb_replicates_a_collection() {
    run_with_notes(Environment::Node, "rxdb_replicate.mjs").await;
}

#[tokio::test]
async fn an_eventsource_follows_a_collection_over_many_connections() {
    run_with_notes(Environment::Node, "event_source.mjs").await;
}

#[tokio::test]
async fn cloudants_and_couchdbs_python_clients_follow_a_collection() {
    run_with_notes(Environment::Couch, "couch_clients.py").await;
}
