//! Who may read what is the upstream's to say, to each requester for themself, and what it says counts at once.

use std::time::Duration;

use serde_json::{Value, json};

mod matrix;

use crate::support::{
    Chaos, Client, Fate, Kinto, Recorded, Recorder, Response, SERVICE_ACCOUNT, Sidecar, eventually, unique,
};

/// Long enough that nothing is forgotten during a test.
const LONG: (&str, &str) = ("sidecar.permission_ttl", "1h");

/// A collection of alice's with one record, which `readers` may read.
async fn collection(client: &Client, readers: Value) -> String {
    let bucket = format!("/buckets/{}", unique("access"));
    let collection = format!("{bucket}/collections/c");
    let alice = client.user("alice");
    alice.put(&bucket).await.expect(201);
    alice.put(&collection).json(json!({"permissions": {"read": readers}})).await.expect(201);
    alice.put(&format!("{collection}/records/r")).data(json!({"secret": "of alice"})).await.expect(201);
    collection
}

async fn changeset(client: &Client, collection: &str) -> Response {
    client.get(&format!("{collection}/changeset?_expected=0")).await
}

async fn principal(client: &Client) -> String {
    client.get("/").await.expect(200).json()["user"]["id"].as_str().unwrap().to_owned()
}

/// Whether the service account asks.
fn is_the_sidecars_own(request: &Recorded) -> bool {
    request.headers.get("authorization").is_some_and(|value| value == "Basic c2lkZWNhcjpzZWNyZXQ=")
}

/// Whether a request asks, for a requester, whether they may read a collection.
fn is_question(request: &Recorded, collection: &str) -> bool {
    let body = String::from_utf8_lossy(&request.body);
    let is_about = request.path() == "/v1/batch" && body.contains(&format!("\"{collection}\""));
    is_about && !is_the_sidecars_own(request)
}

#[tokio::test]
async fn requesters_who_ask_at_the_same_time_get_their_own_answers() {
    let kinto = Kinto::shared();
    let sidecar = Sidecar::start(kinto.url(), &[SERVICE_ACCOUNT, ("sidecar.permission_ttl", "0s")]);
    let client = sidecar.client();
    let collection = collection(&kinto.client(), json!([])).await;
    let (alice, bob) = (client.user("alice"), client.user("bob"));
    let requesters = [(alice, 200), (bob, 403), (client.with("authorization", ""), 401), (client, 401)];
    let mut asked = Vec::new();
    for round in 0..80 {
        let (requester, status) = requesters[round % requesters.len()].clone();
        let collection = collection.clone();
        asked.push(tokio::spawn(async move { (changeset(&requester, &collection).await, status) }));
    }
    for asked in asked {
        let (answer, status) = asked.await.unwrap();
        let answer = answer.expect(status);
        assert_eq!(answer.to_string().contains("of alice"), status == 200, "{answer}");
        assert_eq!(answer.header("cdn-cache-control"), Some("no-store"), "{answer}");
    }
}

#[tokio::test]
async fn a_refusal_is_worded_as_the_upstream_words_it() {
    let kinto = Kinto::shared();
    let sidecar = Sidecar::start(kinto.url(), &[SERVICE_ACCOUNT]);
    let collection = collection(&kinto.client(), json!([])).await;
    for (user, status) in [(Some("bob"), 403), (None, 401)] {
        let of = |client: Client| user.map_or_else(|| client.clone(), |user| client.user(user));
        let answer = changeset(&of(sidecar.client()), &collection).await.expect(status);
        let kintos = of(kinto.client()).get(&collection).await.expect(status);
        assert_eq!(answer.json(), kintos.json());
        assert_eq!(answer.header("www-authenticate"), kintos.header("www-authenticate"));
    }
}

#[tokio::test]
async fn permissions_that_pass_through_count_at_once() {
    let kinto = Kinto::shared();
    let sidecar = Sidecar::start(kinto.url(), &[SERVICE_ACCOUNT, LONG]);
    let client = sidecar.client();
    let (alice, bob) = (client.user("alice"), client.user("bob"));
    let collection = collection(&client, json!([])).await;
    let bucket = collection.strip_suffix("/collections/c").unwrap();
    let bobs = principal(&bob).await;
    let group = format!("{bucket}/groups/g");

    changeset(&bob, &collection).await.expect(403);
    alice.patch(&collection).json(json!({"permissions": {"read": [bobs]}})).await.expect(200);
    changeset(&bob, &collection).await.expect(200);
    alice.patch(&collection).json(json!({"permissions": {"read": []}})).await.expect(200);
    changeset(&bob, &collection).await.expect(403);

    // By way of the bucket.
    alice.patch(bucket).json(json!({"permissions": {"read": [bobs]}})).await.expect(200);
    changeset(&bob, &collection).await.expect(200);
    alice.patch(bucket).json(json!({"permissions": {"read": []}})).await.expect(200);
    changeset(&bob, &collection).await.expect(403);

    // By way of a group.
    alice.put(&group).data(json!({"members": [bobs]})).await.expect(201);
    alice.patch(&collection).json(json!({"permissions": {"read": [group]}})).await.expect(200);
    changeset(&bob, &collection).await.expect(200);
    alice.patch(&group).data(json!({"members": []})).await.expect(200);
    changeset(&bob, &collection).await.expect(403);

    // In a batch.
    let requests = |readers: Value| json!({"requests": [{"method": "PATCH", "path": collection, "body": {"permissions": {"read": readers}}}]});
    alice.post("/batch").json(requests(json!(["system.Everyone"]))).await.expect(200);
    changeset(&client, &collection).await.expect(200);
    alice.post("/batch").json(requests(json!([]))).await.expect(200);
    changeset(&client, &collection).await.expect(401);

    // With the collection itself.
    changeset(&alice, &collection).await.expect(200);
    alice.delete(&collection).await.expect(200);
    changeset(&alice, &collection).await.expect(404);
}

#[tokio::test]
async fn a_group_counts_in_every_bucket() {
    let sidecar = Sidecar::start(Kinto::shared().url(), &[SERVICE_ACCOUNT, LONG]);
    let client = sidecar.client();
    let (alice, bob) = (client.user("alice"), client.user("bob"));
    let collection = collection(&client, json!([])).await;
    let elsewhere = format!("/buckets/{}", unique("groups"));
    let group = format!("{elsewhere}/groups/g");
    let members = json!([principal(&bob).await]);
    alice.put(&elsewhere).await.expect(201);
    alice.put(&group).data(json!({"members": members})).await.expect(201);
    alice.patch(&collection).json(json!({"permissions": {"read": [group]}})).await.expect(200);
    changeset(&bob, &collection).await.expect(200);
    alice.patch(&group).data(json!({"members": []})).await.expect(200);
    changeset(&bob, &collection).await.expect(403);
    alice.patch(&group).data(json!({"members": members})).await.expect(200);
    changeset(&bob, &collection).await.expect(200);
    alice.delete(&format!("{elsewhere}/groups")).await.expect(200);
    changeset(&bob, &collection).await.expect(403);
}

#[tokio::test]
async fn what_the_upstream_said_is_remembered() {
    let kinto = Kinto::shared();
    let recorder = Recorder::before(kinto.url());
    let sidecar = Sidecar::start(recorder.url(), &[SERVICE_ACCOUNT, LONG]);
    let collection = collection(&kinto.client(), json!(["system.Everyone"])).await;
    let mut asked = Vec::new();
    for _ in 0..50 {
        let (client, collection) = (sidecar.client(), collection.clone());
        asked.push(tokio::spawn(async move { changeset(&client, &collection).await.expect(200) }));
    }
    for asked in asked {
        asked.await.unwrap();
    }
    assert_eq!(recorder.count(|request| is_question(request, &collection)), 1);
    changeset(&sidecar.client().user("alice"), &collection).await.expect(200);
    assert_eq!(recorder.count(|request| is_question(request, &collection)), 2);
}

#[tokio::test]
async fn a_requester_who_goes_away_does_not_take_the_question_along() {
    let kinto = Kinto::shared();
    let recorder = Recorder::before(kinto.url());
    let sidecar = Sidecar::start(recorder.url(), &[SERVICE_ACCOUNT, LONG]);
    let collection = collection(&kinto.client(), json!(["system.Everyone"])).await;
    recorder.hold();
    let mut raw = sidecar.connect();
    raw.send(format!("GET /v1{collection}/changeset?_expected=0 HTTP/1.1\r\nHost: x\r\n\r\n"));
    recorder.wait_for(1, |request| is_question(request, &collection)).await;
    let patient = {
        let (client, collection) = (sidecar.client(), collection.clone());
        tokio::spawn(async move { changeset(&client, &collection).await })
    };
    drop(raw);
    recorder.release();
    patient.await.unwrap().expect(200);
    assert_eq!(recorder.count(|request| is_question(request, &collection)), 1);
}

#[tokio::test]
async fn what_was_public_stays_public_while_the_upstream_fails() {
    let kinto = Kinto::shared();
    let chaos = Chaos::before(kinto.url());
    let settings = [SERVICE_ACCOUNT, ("sidecar.permission_ttl", "0s"), ("sidecar.stale_if_error", "1h")];
    let sidecar = Sidecar::start(chaos.url(), &settings);
    let (client, alice) = (sidecar.client(), sidecar.client().user("alice"));
    let collection = collection(&kinto.client(), json!(["system.Everyone"])).await;
    let fresh = changeset(&client, &collection).await.expect(200);
    changeset(&alice, &collection).await.expect(200);

    chaos.cut();
    let stale = changeset(&client, &collection).await.expect(200);
    assert_eq!(stale.json(), fresh.json());
    assert!(stale.header("cache-status").unwrap().contains("detail=upstream-failed"), "{stale}");
    // Somebody's credentials may have been withdrawn: nobody can say.
    changeset(&alice, &collection).await.expect(503);
}

#[tokio::test]
async fn nothing_that_is_there_is_asked_for_below_default() {
    let kinto = Kinto::shared();
    let recorder = Recorder::before(kinto.url());
    let sidecar = Sidecar::start(recorder.url(), &[SERVICE_ACCOUNT, ("sidecar.permission_ttl", "0s")]);
    let user = sidecar.client().user(&unique("somebody"));
    let collection = "/buckets/default/collections/c";
    // The first makes it.
    changeset(&user, collection).await.expect(200);
    recorder.clear();
    for path in ["/changeset?_expected=0", "/_changes", "/"] {
        user.get(&format!("{collection}{path}")).await.expect(200);
    }
    user.get("/buckets/default/_changes").await.expect(200);
    let below = |request: &Recorded| {
        request.target.contains("/default") || String::from_utf8_lossy(&request.body).contains("/default")
    };
    assert_eq!(recorder.count(below), 0, "{:?}", recorder.requests());
    // Nobody's own bucket is nobody's.
    for path in ["/changeset?_expected=0", "/_changes", "/"] {
        sidecar.client().get(&format!("{collection}{path}")).await.expect(401);
    }
}

#[tokio::test]
async fn a_permission_that_was_withdrawn_is_not_good_while_the_upstream_fails() {
    let kinto = Kinto::shared();
    let chaos = Chaos::before(kinto.url());
    let sidecar = Sidecar::start(chaos.url(), &[SERVICE_ACCOUNT, LONG, ("sidecar.stale_if_error", "1h")]);
    let client = sidecar.client();
    let collection = collection(&client, json!(["system.Everyone"])).await;
    changeset(&client, &collection).await.expect(200);
    let withdrawn = json!({"permissions": {"read": []}});
    client.user("alice").patch(&collection).json(withdrawn).await.expect(200);
    chaos.cut();
    let answer = changeset(&client, &collection).await;
    assert!(answer.status >= 500, "{answer}");
    chaos.restore();
    eventually("the upstream's word", async || {
        (changeset(&client, &collection).await.status == 401).then_some(())
    })
    .await;
}

#[tokio::test]
async fn whoever_shows_credentials_is_not_let_in_while_the_upstream_cannot_say_that_they_hold() {
    let chaos = Chaos::before(Kinto::shared().url());
    let settings = [SERVICE_ACCOUNT, ("sidecar.permission_ttl", "0s"), ("sidecar.stale_if_error", "1h")];
    let sidecar = Sidecar::start(chaos.url(), &settings);
    let (client, bob) = (sidecar.client(), sidecar.client().user("bob"));
    let collection = collection(&client, json!(["system.Everyone"])).await;
    for reader in [&client, &bob] {
        changeset(reader, &collection).await.expect(200);
    }
    chaos.cut();
    changeset(&client, &collection).await.expect(200);
    let answer = changeset(&bob, &collection).await;
    assert!(answer.status >= 500, "{answer}");
}

#[tokio::test]
async fn whatever_a_front_says_to_a_requesters_batch_their_permission_is_asked_for() {
    let recorder = Recorder::before(Kinto::shared().url());
    let settings = [SERVICE_ACCOUNT, ("sidecar.permission_ttl", "0s"), ("sidecar.history", "off")];
    for status in [400, 401, 403, 404, 405, 409, 413, 431, 501] {
        let sidecar = Sidecar::start(recorder.url(), &settings);
        let client = sidecar.client();
        let collection = collection(&client, json!([])).await;
        recorder.intercept(
            move |request| {
                if request.path() == "/v1/batch" { Fate::Answer(status) } else { Fate::Pass }
            },
        );
        changeset(&client.user("alice"), &collection).await.expect(200);
        changeset(&client.user("bob"), &collection).await.expect(403);
        recorder.release();
    }
}

#[tokio::test]
async fn whose_writes_fail_takes_nothing_from_those_who_read() {
    let kinto = Kinto::shared();
    let chaos = Chaos::before(kinto.url());
    let sidecar = Sidecar::start(chaos.url(), &[SERVICE_ACCOUNT, LONG, ("sidecar.stale_if_error", "1h")]);
    let (client, alice) = (sidecar.client(), sidecar.client().user("alice"));
    let collection = collection(&kinto.client(), json!(["system.Everyone"])).await;
    let bucket = collection.strip_suffix("/collections/c").unwrap();
    let fresh = changeset(&client, &collection).await.expect(200);
    chaos.cut();
    let readers = json!({"permissions": {"read": []}});
    let sub_request = json!({"method": "PATCH", "path": collection, "body": readers});
    let attempts = [
        alice.patch(&collection).json(readers.clone()),
        alice.patch(bucket).json(readers.clone()),
        alice.put(&format!("{collection}/records/r")).data(json!({})),
        alice.post(&format!("{bucket}/collections")).json(readers),
        alice.put(&format!("{bucket}/groups/g")).data(json!({"members": []})),
        alice.delete("/buckets"),
        alice.put("/accounts/alice").data(json!({"password": "x"})),
        alice.post("/__flush__"),
        alice.post("/batch").json(json!({"requests": [sub_request]})),
    ];
    for attempt in attempts {
        let what = format!("{attempt:?}");
        assert!(attempt.await.status >= 500, "{what}");
        let stale = changeset(&client, &collection).await.expect(200);
        assert_eq!(stale.json(), fresh.json(), "{what}");
        client.get(&format!("{collection}/_changes")).await.expect(200);
    }
}

#[tokio::test]
async fn after_a_write_that_may_have_happened_the_upstream_is_asked_who_may_read() {
    let kinto = Kinto::shared();
    let recorder = Recorder::before(kinto.url());
    let sidecar = Sidecar::start(recorder.url(), &[SERVICE_ACCOUNT, LONG]);
    let client = sidecar.client();
    let collection = collection(&kinto.client(), json!(["system.Everyone"])).await;
    changeset(&client, &collection).await.expect(200);
    recorder.intercept(|request| if request.method == "PATCH" { Fate::Answer(502) } else { Fate::Pass });
    let withdrawn = json!({"permissions": {"read": []}});
    client.user("alice").patch(&collection).json(withdrawn.clone()).await.expect(502);
    // It had come through all the same.
    kinto.client().user("alice").patch(&collection).json(withdrawn).await.expect(200);
    changeset(&client, &collection).await.expect(401);
}

#[tokio::test]
async fn what_timestamps_found_out_of_batches_holds_for_permissions() {
    let kinto = Kinto::shared();
    let recorder = Recorder::before(kinto.url());
    recorder.intercept(|request| if request.path() == "/v1/batch" { Fate::Answer(405) } else { Fate::Pass });
    let collection = collection(&kinto.client(), json!(["system.Everyone"])).await;
    let bucket = collection.strip_suffix("/collections/c").unwrap();
    kinto.client().user("alice").put(&format!("{bucket}/collections/d")).await.expect(201);
    let sidecar = Sidecar::start(recorder.url(), &[SERVICE_ACCOUNT, ("changes.resources", bucket)]);
    let client = sidecar.client();
    client.get("/buckets/monitor/collections/changes/records").await.expect(200);
    assert_eq!(recorder.count(|request| request.path() == "/v1/batch"), 1);
    changeset(&client, &collection).await.expect(200);
    assert_eq!(recorder.count(|request| request.path() == "/v1/batch"), 1);
}

#[tokio::test]
async fn an_old_permission_is_checked_behind_the_requesters_back() {
    let kinto = Kinto::shared();
    let recorder = Recorder::before(kinto.url());
    let sidecar = Sidecar::start(recorder.url(), &[SERVICE_ACCOUNT, ("sidecar.permission_ttl", "100ms")]);
    let client = sidecar.client();
    let collection = collection(&kinto.client(), json!(["system.Everyone"])).await;
    changeset(&client, &collection).await.expect(200);
    // Past the sidecar, so that it is not told.
    let withdrawn = json!({"permissions": {"read": []}});
    kinto.client().user("alice").patch(&collection).json(withdrawn).await.expect(200);
    let since = std::time::Instant::now();
    eventually("the refusal", async || (changeset(&client, &collection).await.status == 401).then_some(()))
        .await;
    assert!(since.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn no_credential_is_ever_logged() {
    let kinto = Kinto::shared();
    let settings = [SERVICE_ACCOUNT, ("sidecar.log", "trace")];
    let sidecar = Sidecar::start(kinto.url(), &settings);
    let collection = collection(&sidecar.client(), json!([])).await;
    changeset(&sidecar.client().user("alice"), &collection).await.expect(200);
    changeset(&sidecar.client().user("mallory").with("cookie", "auth=crumbs"), &collection).await.expect(403);
    let log = sidecar.log();
    for secret in
        ["YWxpY2U6c2VjcmV0", "bWFsbG9yeTpzZWNyZXQ", "c2lkZWNhcjpzZWNyZXQ", "sidecar:secret", "crumbs"]
    {
        assert!(!log.contains(secret), "{secret}:\n{log}");
    }
}
