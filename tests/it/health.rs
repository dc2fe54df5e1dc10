//! What the second listener says of how the sidecar is.

use std::fs;

use serde_json::{Value, json};

use crate::support::{Chaos, Client, Kinto, SERVICE_ACCOUNT, Sidecar, eventually, unique};

const LIST: &str = "/buckets/monitor/collections/changes/records";
const ADMIN: (&str, &str) = ("sidecar.admin_listen", "127.0.0.1:0");

/// What is asked on the second listener: its status, and what it says.
pub async fn asked(sidecar: &Sidecar, path: &str) -> (u16, Value) {
    let answer = Client::new(&sidecar.admin().unwrap()).request_target(http::Method::GET, path).await;
    (answer.status, answer.json())
}

/// What is wrong, in one text.
fn why(condition: &Value) -> String {
    condition["why"]
        .as_array()
        .unwrap()
        .iter()
        .map(|why| why.as_str().unwrap())
        .collect::<Vec<_>>()
        .join("\n")
}

/// A bucket with a collection `c` in which there is a record `r`, which everybody may read.
pub async fn bucket(stem: &str) -> String {
    let client = Kinto::shared().client().user("alice");
    let bucket = format!("/buckets/{}", unique(stem));
    client.put(&bucket).json(json!({"permissions": {"read": ["system.Everyone"]}})).await.expect(201);
    client.put(&format!("{bucket}/collections/c")).await.expect(201);
    client.put(&format!("{bucket}/collections/c/records/r")).await.expect(201);
    bucket
}

#[tokio::test]
async fn who_can_give_old_answers_is_ready_and_degraded() {
    let bucket = bucket("warm").await;
    let chaos = Chaos::before(Kinto::shared().url());
    let settings = [SERVICE_ACCOUNT, ADMIN, ("changes.resources", &bucket)];
    let sidecar = Sidecar::start(chaos.url(), &settings);
    sidecar.client().get(LIST).await.expect(200);
    let (status, condition) = asked(&sidecar, "/health/ready").await;
    assert_eq!(status, 200);
    assert_eq!(
        condition,
        json!({
            "ready": true, "degraded": false, "reads": true, "writes": true, "stopping": false, "upstream": true,
            "journal": true, "why": [],
            "monitored": {"collections": 1, "loaded": true, "unreadable": 0, "missing": 0, "failing": 0},
        })
    );
    chaos.cut();
    let (status, condition) = asked(&sidecar, "/health/ready").await;
    assert_eq!(status, 200);
    assert_eq!(
        ["ready", "degraded", "reads", "writes", "upstream"].map(|part| condition[part].as_bool().unwrap()),
        [true, true, true, false, false]
    );
    assert!(why(&condition).contains("is Kinto running at"), "{condition}");
    assert_eq!(asked(&sidecar, "/health/ready?require=writes").await.0, 503);
    assert_eq!(asked(&sidecar, "/__heartbeat__").await, (503, json!({"upstream": false, "journal": true})));
    chaos.restore();
    assert_eq!(asked(&sidecar, "/health/ready?require=writes").await.0, 200);
}

#[tokio::test]
async fn what_is_missing_or_unreadable_is_named() {
    let missing = format!("/buckets/{}", unique("missing"));
    let resources = format!("{} {missing}", bucket("there").await);
    let settings = [SERVICE_ACCOUNT, ADMIN, ("changes.resources", &resources)];
    let sidecar = Sidecar::start(Kinto::shared().url(), &settings);
    sidecar.client().get(LIST).await.expect(200);
    let (status, condition) = asked(&sidecar, "/health/ready").await;
    assert!(status == 200 && condition["degraded"] == true && condition["monitored"]["missing"] == 1);
    let words = format!("{missing} does not exist: make it, or take it out of changes.resources");
    assert!(why(&condition).contains(&words) && sidecar.log().contains(&words), "{condition}");
    Kinto::shared().client().user("alice").put(&missing).await.expect(201);
    eventually("the bucket", async || {
        (asked(&sidecar, "/health/ready").await.1["degraded"] == false).then_some(())
    })
    .await;

    let private = format!("/buckets/{}", unique("private"));
    Kinto::shared().client().user("alice").put(&private).await.expect(201);
    let sidecar = Sidecar::start(Kinto::shared().url(), &[ADMIN, ("changes.resources", &private)]);
    sidecar.client().get(LIST).await.expect(503);
    let (status, condition) = asked(&sidecar, "/health/ready").await;
    assert!(status == 200 && condition["monitored"]["unreadable"] == 1, "{condition}");
    assert!(why(&condition).contains("bucket_read_principals"), "{condition}");
}

#[tokio::test]
async fn what_was_lacking_is_found_also_where_nobody_writes_past_the_sidecar() {
    let [missing, private] = ["missing", "private"].map(|name| format!("/buckets/{}", unique(name)));
    let direct = Kinto::shared().client().user("alice");
    direct.put(&private).await.expect(201);
    direct.put(&format!("{private}/collections/c")).await.expect(201);
    direct.put(&format!("{private}/collections/c/records/r")).await.expect(201);
    let there = bucket("exclusive").await;
    let readable = json!({"permissions": {"read": ["system.Everyone"]}});
    let resources = format!("{there} {missing} {private}");
    let settings = [ADMIN, ("changes.resources", &*resources), ("sidecar.exclusive", "true")];
    let sidecar = Sidecar::start(Kinto::shared().url(), &settings);
    sidecar.client().get(LIST).await.expect(200);
    let lacking = asked(&sidecar, "/health/ready").await.1["monitored"].clone();
    // Whoever shows no credentials is not told what is there.
    assert_eq!(lacking["unreadable"], 2, "{lacking}");
    let alice = sidecar.client().user("alice");
    alice.put(&missing).json(readable.clone()).await.expect(201);
    alice.patch(&private).json(readable).await.expect(200);
    eventually("what was lacking", async || {
        let is_well = asked(&sidecar, "/health/ready").await.1["degraded"] == false;
        let listed = sidecar.client().get(LIST).await.expect(200).data();
        let has_it = |row: &Value| row["bucket"] == private.trim_start_matches("/buckets/");
        (is_well && listed.as_array().unwrap().iter().any(has_it)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_journal_that_cannot_be_written_is_degraded_and_takes_no_writes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("j.db");
    let journal = format!("sqlite:{}", path.display());
    let settings = [SERVICE_ACCOUNT, ADMIN, ("sidecar.history", "journal"), ("sidecar.journal", &*journal)];
    let sidecar = Sidecar::start(Kinto::shared().url(), &settings);
    assert_eq!(asked(&sidecar, "/health/ready?require=writes").await.0, 200);
    fs::remove_file(&path).unwrap();
    let (status, condition) = asked(&sidecar, "/health/ready").await;
    assert_eq!(
        (status, &condition["writes"], &condition["journal"], &condition["degraded"]),
        (200, &json!(false), &json!(false), &json!(true))
    );
    assert!(why(&condition).contains("was removed"), "{condition}");
    assert_eq!(asked(&sidecar, "/health/ready?require=writes").await.0, 503);
}

#[tokio::test]
async fn dockerflow_is_answered_on_the_second_listener() {
    let sidecar = Sidecar::start(Kinto::shared().url(), &[SERVICE_ACCOUNT, ADMIN]);
    assert_eq!(asked(&sidecar, "/__lbheartbeat__").await, (200, json!({})));
    assert_eq!(asked(&sidecar, "/__heartbeat__").await, (200, json!({"upstream": true, "journal": true})));
    let (status, version) = asked(&sidecar, "/__version__").await;
    assert_eq!((status, &version["version"]), (200, &json!(env!("CARGO_PKG_VERSION"))));
}

#[tokio::test]
async fn one_line_says_what_was_started_and_what_it_found() {
    let missing = format!("/buckets/{}", unique("missing"));
    let resources = format!("{} {missing}", bucket("started").await);
    let folder = tempfile::tempdir().unwrap();
    let journal = format!("sqlite:{}", folder.path().join("j.db").display());
    let settings = [SERVICE_ACCOUNT, ADMIN, ("changes.resources", &resources), ("sidecar.journal", &journal)];
    let sidecar = Sidecar::start(Kinto::shared().url(), &settings);
    let line = eventually("the line", async || {
        let log = sidecar.log();
        let line = log.lines().find(|line| line.contains("\"msg\":\"started\""));
        line.map(|line| serde_json::from_str::<Value>(line).unwrap())
    })
    .await;
    let fields = &line["Fields"];
    assert_eq!(fields["upstream"], Kinto::shared().url());
    assert_eq!(fields["journal"], journal);
    assert_eq!(
        (&fields["kinto"], &fields["monitored"], &fields["missing"]),
        (&json!("26.5.0"), &json!(1), &json!(1))
    );
    assert!(fields["account"].as_str().unwrap().starts_with("basicauth:"));
    assert_eq!(fields["listens"], format!("http://{}", sidecar.address()));
}
