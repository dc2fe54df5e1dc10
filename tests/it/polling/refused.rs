//! Batches, buckets and collections that the upstream refuses, or on which it fails.

use std::process::Command;

use serde_json::json;

use super::{MONITOR, bucket, is_batch, is_head, kinto, listed, until_listed};
use crate::support::{
    Fate, Kinto, KintoOptions, Recorder, SERVICE_ACCOUNT, Sidecar, database, eventually, unique,
};

const QUICK: [(&str, &str); 4] = [
    SERVICE_ACCOUNT,
    ("sidecar.history", "off"),
    ("sidecar.timestamps_ttl", "50ms"),
    ("sidecar.poll_budget", "100%"),
];

fn sidecar(upstream: &str, resources: &str) -> Sidecar {
    let settings: Vec<_> = QUICK.into_iter().chain([("changes.resources", resources)]).collect();
    Sidecar::start(upstream, &settings)
}

fn check(upstream: &str, resources: &str) -> String {
    let (account, password) = SERVICE_ACCOUNT;
    let settings = [format!("{account}={password}"), format!("changes.resources={resources}")];
    let mut command = Command::new(env!("CARGO_BIN_EXE_kinto-sidecar"));
    command.args(["check", "--upstream", upstream, "--history", "off"]);
    for setting in settings {
        command.args(["--set", &setting]);
    }
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

#[tokio::test]
async fn a_kinto_that_only_reads_is_followed_without_batches() {
    let database = database().replace("postgres://", "postgresql://");
    let options = KintoOptions::postgres()
        .setting("kinto.storage_url", &database)
        .setting("kinto.permission_url", &database);
    let writer = Kinto::start(options.clone());
    let reader = Kinto::start(options.setting("kinto.readonly", "true"));
    let (bucket, made) = bucket(&writer.client().user("alice"), &["a", "b", "c"]).await;
    reader.client().post("/batch").json(json!({"requests": []})).await.expect(405);

    let sidecar = sidecar(&reader.url(), &bucket);
    assert_eq!(listed(&sidecar.client()).await, made);
    let record = format!("{bucket}/collections/b/records/r");
    let moved =
        writer.client().user("alice").put(&record).data(json!({"n": 2})).await.expect(200).timestamp();
    until_listed(&sidecar.client(), "b", moved).await;

    let said = check(&reader.url(), &bucket);
    assert!(said.contains("batches       none here (405 Method Not Allowed)"), "{said}");
    assert!(said.contains("monitored     3 collections"), "{said}");
    let said = check(&writer.url(), &bucket);
    assert!(!said.contains("batches"), "{said}");
}

#[tokio::test]
async fn whatever_a_front_says_of_batches_each_collection_is_asked_for() {
    for status in [401, 403, 404, 405, 400, 413, 501, 500, 502, 503, 429] {
        let (bucket, made) = bucket(&kinto(), &["a", "b", "c", "d"]).await;
        let recorder = Recorder::before(Kinto::shared().url());
        recorder.intercept(
            move |request| {
                if request.path() == "/v1/batch" { Fate::Answer(status) } else { Fate::Pass }
            },
        );
        let sidecar = sidecar(&recorder.url(), &bucket);
        assert_eq!(listed(&sidecar.client()).await, made, "{status}");
        let moved = kinto().put(&format!("{bucket}/collections/d/records/r")).data(json!({"n": 2})).await;
        until_listed(&sidecar.client(), "d", moved.timestamp()).await;
        recorder.wait_for(20, is_head).await;
        let tried = recorder.count(is_batch);
        assert!((1..=3).contains(&tried), "{tried} batches that are answered {status}");
    }
}

#[tokio::test]
async fn a_collection_on_which_the_upstream_fails_costs_itself_alone() {
    for as_a_whole in [false, true] {
        let (bucket, made) = bucket(&kinto(), &["a", "bad", "c", "d"]).await;
        let recorder = Recorder::before(Kinto::shared().url());
        recorder.intercept(move |request| {
            let is_about = |path: &str| path.contains("/collections/bad/");
            let fails = is_head(request) && is_about(&request.target)
                || is_batch(request)
                    && (as_a_whole || request.sub_requests().len() > 1)
                    && request.sub_requests().iter().any(|path| is_about(path));
            if fails { Fate::Answer(500) } else { Fate::Pass }
        });
        let sidecar = sidecar(&recorder.url(), &bucket);
        let good: Vec<_> = made.into_iter().filter(|(id, _)| id != "bad").collect();
        assert_eq!(listed(&sidecar.client()).await, good);
        let moved = kinto().put(&format!("{bucket}/collections/a/records/r")).data(json!({"n": 2})).await;
        until_listed(&sidecar.client(), "a", moved.timestamp()).await;
        let moved = kinto().put(&format!("{bucket}/collections/bad/records/r")).data(json!({"n": 2})).await;
        recorder.release();
        until_listed(&sidecar.client(), "bad", moved.timestamp()).await;
    }
}

#[tokio::test]
async fn a_bucket_that_cannot_be_listed_costs_itself_alone() {
    for status in [500, 403] {
        let ((first, _), (second, made)) = (bucket(&kinto(), &["a"]).await, bucket(&kinto(), &["b"]).await);
        let recorder = Recorder::before(Kinto::shared().url());
        let path = format!("/v1{first}/collections");
        recorder
            .intercept(move |request| if request.path() == path { Fate::Answer(status) } else { Fate::Pass });
        let sidecar = sidecar(&recorder.url(), &format!("{first} {second}"));
        assert_eq!(listed(&sidecar.client()).await, made, "{status}");
        let moved = kinto().put(&format!("{second}/collections/b/records/r")).data(json!({"n": 2})).await;
        until_listed(&sidecar.client(), "b", moved.timestamp()).await;
        recorder.release();
        eventually("the other bucket's collection", async || {
            (listed(&sidecar.client()).await.len() == 2).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn an_account_that_may_read_nothing_any_more_takes_nothing_out_of_the_list() {
    let (bucket, made) = bucket(&kinto(), &["a", "b"]).await;
    let recorder = Recorder::before(Kinto::shared().url());
    let sidecar = sidecar(&recorder.url(), &bucket);
    assert_eq!(listed(&sidecar.client()).await, made);
    let collections = format!("/v1{bucket}/collections");
    let list = collections.clone();
    recorder.intercept(move |request| {
        let is_refused = request.path() == list || is_head(request) || is_batch(request);
        if is_refused { Fate::Answer(401) } else { Fate::Pass }
    });
    recorder.clear();
    recorder.wait_for(2, |request| request.path() == collections).await;
    recorder.wait_for(4, is_head).await;
    assert_eq!(listed(&sidecar.client()).await, made);
    recorder.release();
    let moved = kinto().put(&format!("{bucket}/collections/a/records/r")).data(json!({"n": 2})).await;
    until_listed(&sidecar.client(), "a", moved.timestamp()).await;
}

#[tokio::test]
async fn an_upstream_that_fails_at_everything_gives_no_list() {
    let bucket = format!("/buckets/{}", unique("failing"));
    let recorder = Recorder::before(Kinto::shared().url());
    recorder.intercept(|_| Fate::Answer(503));
    let sidecar = sidecar(&recorder.url(), &bucket);
    sidecar.client().get(MONITOR).await.expect(503);
    recorder.release();
    eventually("the list", async || (sidecar.client().get(MONITOR).await.status == 200).then_some(())).await;
}

#[tokio::test]
async fn where_nothing_can_be_read_there_is_no_list() {
    let (bucket, _) = bucket(&kinto(), &["a"]).await;
    let missing = format!("/buckets/{}", unique("missing"));
    let sidecar = Sidecar::start(Kinto::shared().url(), &[("changes.resources", bucket.as_str())]);
    let client = sidecar.client();
    let list = MONITOR.strip_suffix("/records").unwrap();
    for path in [MONITOR, &format!("{list}/changeset?_expected=0"), "/__broadcasts__", "/_changes"] {
        client.get(path).await.expect(503);
        client.get(path).await.expect(503);
    }
    let told = format!("the collections of {bucket} cannot be listed (401 Unauthorized)");
    assert!(sidecar.log().contains(&told), "{}", sidecar.log());
    // What passes is known.
    let record = format!("{bucket}/collections/a/records/r");
    let written = client.user("alice").put(&record).data(json!({"n": 2})).await.expect(200).timestamp();
    assert_eq!(listed(&client).await, [("a".to_owned(), written)]);

    let sidecar = self::sidecar(&Kinto::shared().url(), &missing);
    assert_eq!(listed(&sidecar.client()).await, []);
}

#[tokio::test]
async fn what_cannot_be_read_beside_others_is_told_of_once() {
    let (public, made) = bucket(&kinto(), &["a"]).await;
    let (private, _) = bucket(&kinto(), &["b"]).await;
    let everybody = json!({"permissions": {"read": ["system.Everyone"]}});
    kinto().patch(&public).json(everybody.clone()).await.expect(200);
    let resources = format!("{public} {private}");
    let settings = [
        ("changes.resources", resources.as_str()),
        ("sidecar.timestamps_ttl", "50ms"),
        ("sidecar.poll_budget", "100%"),
    ];
    let sidecar = Sidecar::start(Kinto::shared().url(), &settings);
    assert_eq!(listed(&sidecar.client()).await, made);
    // One of its collections can be seen, and others may be there.
    kinto().patch(&format!("{private}/collections/b")).json(everybody).await.expect(200);
    eventually("the collection", async || (listed(&sidecar.client()).await.len() == 2).then_some(())).await;
    let told = format!("the collections of {private} cannot be listed");
    let lines = sidecar.log().lines().filter(|line| line.contains(&told)).count();
    assert_eq!(lines, 1, "{}", sidecar.log());
}
