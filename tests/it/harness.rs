//! The support itself: that what other tests lean on holds.

use serde_json::json;

use crate::support::{Chaos, Kinto, KintoOptions, Plugin, Recorder, Sidecar, unique};

#[tokio::test]
async fn recorder_notes_each_request_and_holds_them_back() {
    let kinto = Kinto::shared();
    let recorder = Recorder::before(kinto.url());
    let sidecar = Sidecar::start(recorder.url(), &[]);
    let bucket = unique("recorded");
    let alice = sidecar.client().user("alice");

    let path = format!("/buckets/{bucket}");
    alice.put(&path).data(json!({"colour": "red"})).await.expect(201);
    let noted = |method: &'static str| {
        let path = format!("/v1{path}");
        move |request: &crate::support::Recorded| request.method == method && request.path() == path
    };
    assert_eq!(recorder.count(noted("PUT")), 1);
    alice.head(&path).header("if-none-match", "\"1\"").await.expect(200);
    alice
        .patch(&path)
        .header("content-type", "application/json")
        .body(r#"{"data":{"n":1}}"#)
        .await
        .expect(200);
    let requests = recorder.requests();
    let find = |method| requests.iter().find(|request| noted(method)(request)).unwrap();
    assert_eq!(find("HEAD").headers["if-none-match"], "\"1\"");
    assert_eq!(find("PATCH").body, r#"{"data":{"n":1}}"#);

    recorder.hold();
    let waiting = tokio::spawn(alice.get(&path).attempt());
    recorder.wait_for(1, noted("GET")).await;
    assert!(!waiting.is_finished());
    recorder.release();
    assert_eq!(waiting.await.unwrap().unwrap().data()["colour"], "red");
    recorder.clear();
    assert!(recorder.requests().iter().all(|request| request.method != "PUT"));
}

#[tokio::test]
async fn chaos_cuts_stalls_garbles_and_restores() {
    let kinto = Kinto::shared();
    let chaos = Chaos::before(kinto.url());
    let client =
        crate::support::Client::new(chaos.url().trim_start_matches("http://").trim_end_matches("/v1"));

    client.get("/").await.expect(200);
    chaos.cut();
    client.get("/").attempt().await.unwrap_err();
    chaos.garble();
    client.get("/").attempt().await.unwrap_err();
    chaos.stall();
    let stalled = tokio::spawn(client.get("/").attempt());
    chaos.restore();
    stalled.await.unwrap().unwrap().expect(200);
}

#[tokio::test]
async fn kinto_runs_with_plugins_and_settings() {
    let options = KintoOptions::memory().plugin(Plugin::History).plugin(Plugin::Changes);
    let kinto = Kinto::start(options.setting("kinto.changes.resources", "/buckets/a"));
    let capabilities = kinto.client().get("/").await.expect(200).json()["capabilities"].clone();
    assert!(capabilities["history"].is_object(), "{capabilities}");
    assert_eq!(capabilities["changes"]["collections"], json!(["/buckets/a"]));
}

#[tokio::test]
async fn kinto_on_postgresql_keeps_what_is_written() {
    let kinto = Kinto::start(KintoOptions::postgres());
    let alice = kinto.client().user("alice");
    alice.put("/buckets/a").await.expect(201);
    let created = alice.put("/buckets/a/collections/c").await.expect(201);
    assert_eq!(alice.get("/buckets/a/collections/c").await.expect(200).timestamp(), created.timestamp());
}

#[test]
fn sidecar_forwards_what_a_bare_socket_sends_and_starts_again_at_its_address() {
    let kinto = Kinto::shared();
    let mut sidecar = Sidecar::start(kinto.url(), &[]);
    let address = sidecar.address().to_owned();
    for _ in 0..2 {
        let mut socket = sidecar.connect();
        socket.send(format!("GET /v1/__lbheartbeat__ HTTP/1.1\r\nHost: {address}\r\n\r\n"));
        assert_eq!(socket.read().unwrap().status(), 200);
        sidecar.restart();
    }
    assert_eq!(sidecar.address(), address);
    sidecar.terminate();
    assert!(sidecar.wait(crate::support::PATIENCE).unwrap().success());
}
