//! Batches with sub-requests for the sidecar's own endpoints, and what passing batches tell.

use serde_json::{Value, json};

use crate::support::{Client, Kinto, KintoOptions, Recorder, SERVICE_ACCOUNT, Sidecar, stub, unique};

const MONITOR: &str = "/buckets/monitor/collections/changes/records";

/// A collection of alice's, anybody's to read.
async fn collection(client: &Client) -> String {
    let bucket = format!("/buckets/{}", unique("many"));
    let collection = format!("{bucket}/collections/c");
    let everyone = json!({"permissions": {"read": ["system.Everyone"]}});
    client.user("alice").put(&bucket).json(everyone).await.expect(201);
    client.user("alice").put(&collection).await.expect(201);
    collection
}

fn bucket_of(collection: &str) -> &str {
    collection.strip_suffix("/collections/c").unwrap()
}

async fn answers(client: &Client, batch: Value) -> Vec<Value> {
    let answer = client.post("/batch").json(batch).await.expect(200);
    answer.json()["responses"].as_array().unwrap().clone()
}

async fn timestamp_in_list(client: &Client) -> u64 {
    client.get(MONITOR).await.expect(200).data()[0]["last_modified"].as_u64().unwrap()
}

#[tokio::test]
async fn answers_come_in_the_order_asked() {
    let kinto = Kinto::shared();
    let collection = collection(&kinto.client()).await;
    let resources = [SERVICE_ACCOUNT, ("changes.resources", bucket_of(&collection))];
    let sidecar = Sidecar::start(kinto.url(), &resources);
    let alice = sidecar.client().user("alice");
    let changeset = format!("{collection}/changeset");
    let answers = answers(
        &alice,
        json!({
            "defaults": {"method": "GET"},
            "requests": [
                {"path": format!("{changeset}?_expected=0")},
                {"method": "PUT", "path": format!("{collection}/records/r"), "body": {"data": {"n": 1}}},
                {"path": format!("/v1{MONITOR}?_since=\"1\"")},
                {"path": format!("/v1{collection}/records/r")},
                {"method": "HEAD", "path": MONITOR},
                {"path": changeset},
                {"method": "DELETE", "path": MONITOR},
                {"path": "/nowhere"},
            ]
        }),
    )
    .await;
    let statuses: Vec<_> = answers.iter().map(|answer| answer["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [200, 201, 200, 200, 200, 400, 405, 404], "{answers:#?}");
    let paths: Vec<_> = answers.iter().map(|answer| answer["path"].as_str().unwrap()).collect();
    let record = format!("/v1{collection}/records/r");
    let (changeset, monitor) = (format!("/v1{changeset}"), format!("/v1{MONITOR}"));
    let expected =
        [&changeset, &record, &monitor, &record, &monitor, &changeset, &monitor, &"/v1/nowhere".to_owned()];
    assert_eq!(paths.iter().collect::<Vec<_>>(), expected);

    // The write is in the same transaction, and before what is read here.
    let written = &answers[1]["body"]["data"];
    assert_eq!(answers[0]["body"]["changes"], json!([written]));
    assert_eq!(answers[2]["body"]["data"][0]["last_modified"], written["last_modified"]);
    assert_eq!(answers[3]["body"]["data"], *written);
    assert_eq!(answers[4]["body"], "");
    assert_eq!(answers[4]["headers"]["ETag"], answers[2]["headers"]["ETag"]);
    assert_eq!(answers[5]["body"]["errno"], 107);
    assert_eq!(answers[6]["body"]["errno"], 115);
}

#[tokio::test]
async fn a_sub_answer_is_what_the_endpoint_answers() {
    let kinto = Kinto::shared();
    let collection = collection(&kinto.client()).await;
    let resources = [SERVICE_ACCOUNT, ("changes.resources", bucket_of(&collection))];
    let sidecar = Sidecar::start(kinto.url(), &resources);
    let client = sidecar.client();
    let changeset = format!("{collection}/changeset?_expected=0");
    let direct = client.get(&changeset).await.expect(200);
    let requests = json!({"requests": [{"path": changeset}]});
    let answer = client.post("/batch").header("Origin", "http://page").json(requests).await.expect(200);
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let sub_answer = &answer.json()["responses"][0];
    assert_eq!(sub_answer["body"], direct.json());
    assert_eq!(sub_answer["headers"]["ETag"], direct.header("etag").unwrap());
    assert_eq!(sub_answer["headers"]["Content-Length"], direct.text().len().to_string());

    let conditional = json!({"requests": [
        {"path": changeset, "headers": {"If-None-Match": direct.header("etag").unwrap()}},
    ]});
    let sub_answer = &answers(&client, conditional).await[0];
    assert_eq!(sub_answer["status"], 304);
    assert_eq!(sub_answer["body"], "");
}

#[tokio::test]
async fn each_sub_request_is_asked_with_its_own_credentials() {
    let kinto = Kinto::shared();
    let (alice, bucket) = (kinto.client().user("alice"), format!("/buckets/{}", unique("private")));
    let collection = format!("{bucket}/collections/c");
    alice.put(&bucket).await.expect(201);
    alice.put(&collection).await.expect(201);
    let sidecar = Sidecar::start(kinto.url(), &[SERVICE_ACCOUNT]);
    let path = format!("{collection}/changeset?_expected=0");
    let statuses = async |client: Client| {
        let batch = json!({"requests": [
            {"path": path},
            {"path": path, "headers": {"Authorization": "Basic Ym9iOnNlY3JldA=="}},
            {"path": path, "headers": {"authorization": "Basic YWxpY2U6c2VjcmV0"}},
            {"path": path, "headers": {"Authorization": ""}},
        ]});
        let answers = answers(&client, batch).await;
        answers.iter().map(|answer| answer["status"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(statuses(sidecar.client().user("alice")).await, [200, 403, 200, 401]);
    assert_eq!(statuses(sidecar.client()).await, [401, 403, 200, 401]);
}

#[tokio::test]
async fn a_batch_with_nothing_of_the_sidecars_goes_up_to_the_byte() {
    // Nobody else makes buckets in it meanwhile.
    let kinto = Kinto::start(KintoOptions::memory());
    let recorder = Recorder::before(kinto.url());
    let sidecar = Sidecar::start(recorder.url(), &[SERVICE_ACCOUNT]);
    let bucket = unique("bytes");
    kinto.client().user("alice").put(&format!("/buckets/{bucket}")).await.expect(201);
    let path = format!("/v1/buckets\\u002f{bucket}");
    let body = format!(
        "{{ \"requests\" : [\n {{\"path\": \"/\"}}, {{ \"path\":\"{path}\", \"method\":\"GET\"}} ]\t}}"
    );
    let ask = |client: Client| {
        client.user("alice").post("/batch").header("Content-Type", "application/json").body(body.clone())
    };
    let answer = ask(sidecar.client()).await.expect(200);
    let batches: Vec<_> =
        recorder.requests().into_iter().filter(|request| request.path() == "/v1/batch").collect();
    assert_eq!(batches.len(), 1);
    assert_eq!(batches[0].body, body);
    assert_eq!(
        answer.json()["responses"][1]["body"],
        ask(kinto.client()).await.json()["responses"][1]["body"]
    );
}

#[tokio::test]
async fn what_kinto_refuses_is_refused_in_its_words() {
    let kinto = Kinto::shared();
    let sidecar = Sidecar::start(kinto.url(), &[SERVICE_ACCOUNT]);
    let own = format!("{MONITOR}?_limit=1");
    let many: Vec<_> = (0..26).map(|_| json!({"path": own})).collect();
    let batches = [
        json!({"requests": many}),
        json!({"requests": [{"path": own}, {"path": "/batch", "method": "POST"}]}),
        json!({"requests": [{"path": own}, {"path": "buckets"}]}),
        json!({"requests": [{"path": own}, {"path": "/buckets", "method": "OPTIONS"}]}),
        json!({"requests": [{"path": own, "unknown": 1}]}),
        json!({"requests": [{"path": own, "body": "text"}]}),
        json!({"requests": [{"path": own, "headers": {"If-Match": 1}}]}),
        json!({"requests": [{"path": own}], "unknown": 1}),
        json!({"requests": [{"method": "GET"}]}),
        json!({"requests": {"path": own}}),
        json!({"defaults": {"path": own}}),
        json!([]),
        json!({"requests": [{"path": "/buckets/x", "method": "put"}]}),
        json!({"requests": [{"path": "/buckets/x", "method": "PUT"}, {"path": own, "method": "get"}]}),
        json!({"requests": [{"path": "/buckets/x", "method": "PUT", "unknown": 1}]}),
        json!({"requests": [{"path": "buckets/x", "method": "PUT"}]}),
        json!({"defaults": {"method": "FOO"}, "requests": [{"path": "/buckets/x", "method": "PUT"}]}),
    ];
    let batches = batches.map(|batch| batch.to_string()).into_iter().chain([String::new()]);
    for batch in batches {
        let ask = |client: Client| {
            client.post("/batch").header("content-type", "application/json").body(batch.clone())
        };
        let (kintos, answer) = (ask(kinto.client()).await, ask(sidecar.client()).await);
        assert_eq!(answer.status, kintos.status, "{batch}\n{answer}\n{kintos}");
        assert_eq!(answer.json(), kintos.json(), "{batch}");
    }
}

#[tokio::test]
async fn all_sub_requests_count_towards_the_limit() {
    // Kinto's own limit counts, whatever the settings say.
    let kinto = Kinto::start(KintoOptions::memory().setting("kinto.batch_max_requests", "3"));
    let recorder = Recorder::before(kinto.url());
    let settings = [SERVICE_ACCOUNT, ("batch_max_requests", "30")];
    let sidecar = Sidecar::start(recorder.url(), &settings);
    let batch = |theirs: usize| {
        let mut requests = vec![json!({"path": "/"}); theirs];
        requests.push(json!({"path": MONITOR}));
        json!({"requests": requests})
    };
    assert_eq!(answers(&sidecar.client(), batch(2)).await.len(), 3);
    recorder.clear();
    let refused = sidecar.client().post("/batch").json(batch(3)).await.expect(400);
    assert_eq!(refused.json()["details"][0]["description"], "Number of requests is limited to 3");
    // One with nothing of ours is refused, too, before anything of it is written down.
    let path = "/buckets/limited/collections/c/records/r";
    let puts = json!({"defaults": {"method": "PUT", "body": {"data": {"x": 1}}}, "requests": vec![json!({"path": path}); 4]});
    let refused = sidecar.client().post("/batch").json(puts.clone()).await.expect(400);
    assert_eq!(refused.json(), kinto.client().post("/batch").json(puts).await.expect(400).json());
    assert_eq!(recorder.count(|request| request.path() == "/v1/batch"), 0);
}

#[tokio::test]
async fn writes_of_a_batch_are_listed_at_once() {
    let kinto = Kinto::shared();
    let collection = collection(&kinto.client()).await;
    let bucket = bucket_of(&collection);
    let settings = [SERVICE_ACCOUNT, ("sidecar.exclusive", "true"), ("changes.resources", bucket)];
    let sidecar = Sidecar::start(kinto.url(), &settings);
    let alice = sidecar.client().user("alice");
    timestamp_in_list(&alice).await;
    let now = async || kinto.client().head(&format!("{collection}/records")).await.timestamp();

    let record = |id: &str| json!({"path": format!("{collection}/records/{id}")});
    let requests = [record("a"), record("b"), record("c")];
    let written = json!({"defaults": {"method": "PUT", "body": {"data": {"n": 1}}}, "requests": requests});
    answers(&alice, written).await;
    assert_eq!(timestamp_in_list(&alice).await, now().await);

    answers(&alice, json!({"defaults": {"method": "DELETE"}, "requests": [record("a"), record("b/")]})).await;
    assert_eq!(timestamp_in_list(&alice).await, now().await);

    // What is said twice is read by Kinto in its own way, and then known by its answer.
    let twice = format!(
        r#"{{"requests": [], "requests": [{{"method":"GET","method":"PUT","path":"{collection}/records/d","body":{{"data":{{}}}}}}]}}"#
    );
    let before = now().await;
    alice.post("/batch").header("Content-Type", "application/json").body(twice).await.expect(200);
    assert!(now().await > before);
    assert_eq!(timestamp_in_list(&alice).await, now().await);

    let requests = json!([
        {"method": "PUT", "path": format!("{bucket}/collections/new")},
        {"method": "DELETE", "path": collection},
    ]);
    answers(&alice, json!({"requests": requests})).await;
    let rows = alice.get(MONITOR).await.expect(200).data();
    assert_eq!(rows.as_array().unwrap().len(), 1);
    assert_eq!(rows[0]["collection"], "new");
}

/// Answers a batch as Kinto does after it rolled one back, and everything else with a collection at timestamp 1000.
fn rolled_back(batch: &'static str) -> stub::Stub {
    stub::Stub::start(move |mut upstream| {
        while let Some(seen) = upstream.read() {
            let (etag, body) = match seen.line() {
                line if line.starts_with("HEAD") => ("ETag: \"1000\"\r\n", ""),
                line if line.contains("/batch") && String::from_utf8_lossy(&seen.body).contains("PUT") => {
                    ("", batch)
                }
                line if line.contains("/batch") => (
                    "",
                    r#"{"responses":[{"status":200,"path":"/x","headers":{"ETag":"\"1000\"","Total-Objects":"1"},"body":""}]}"#,
                ),
                _ => ("", r#"{"capabilities":{},"settings":{},"data":[]}"#),
            };
            let length = body.len();
            upstream.write(format!(
                "HTTP/1.1 200 OK\r\n{etag}Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
            ));
        }
    })
}

#[tokio::test]
async fn no_sub_answer_beside_a_conflict_is_believed() {
    let upstream = rolled_back(
        r#"{"responses":[
            {"status":201,"path":"/v1/buckets/a/collections/c/records/1","headers":{},"body":{"data":{"id":"1","last_modified":2000}}},
            {"status":409,"path":"/v1/buckets/a/collections/c/records/2","headers":{},"body":{"errno":122}},
            {"status":201,"path":"/v1/buckets/a/collections/c/records/3","headers":{},"body":{"data":{"id":"3","last_modified":3000}}}
        ]}"#,
    );
    let settings =
        [SERVICE_ACCOUNT, ("sidecar.exclusive", "true"), ("changes.resources", "/buckets/a/collections/c")];
    let sidecar = Sidecar::start(upstream.url(), &settings);
    let client = sidecar.client();
    assert_eq!(timestamp_in_list(&client).await, 1000);
    let record = |id: u8| json!({"path": format!("/buckets/a/collections/c/records/{id}")});
    let requests = [record(1), record(2), record(3)];
    let batch = json!({"defaults": {"method": "PUT", "body": {"data": {}}}, "requests": requests});
    let answers = answers(&client, batch).await;
    assert_eq!(answers[0]["status"], 201);
    assert_eq!(timestamp_in_list(&client).await, 1000);
}

#[tokio::test]
async fn a_batch_that_fails_as_a_whole_fails_for_the_sidecars_part_too() {
    let kinto = Kinto::shared();
    let sidecar = Sidecar::start(kinto.url(), &[SERVICE_ACCOUNT]);
    let collection = collection(&kinto.client()).await;
    let etag = kinto.client().get(&format!("{collection}/records")).await.expect(200);
    let conditional = json!({
        "path": format!("{collection}/records"), "headers": {"If-None-Match": etag.header("etag").unwrap()},
    });
    // Kinto takes the 304 of a sub-request for a redirect.
    let batch = json!({"requests": [{"path": MONITOR}, conditional]});
    sidecar.client().post("/batch").json(batch).await.expect(500);
}

#[tokio::test]
async fn a_deletion_of_entries_leaves_those_of_its_own_batch() {
    let sidecar = Sidecar::start(Kinto::shared().url(), &[SERVICE_ACCOUNT]);
    let client = sidecar.client().user("alice");
    let bucket = format!("/buckets/{}", unique("trimmed"));
    client.put(&bucket).await.expect(201);
    client.put(&format!("{bucket}/collections/c")).await.expect(201);
    let deletion = json!({"method": "DELETE", "path": format!("{bucket}/history")});
    for (id, is_first) in [("before", true), ("after", false)] {
        let uri = format!("{bucket}/collections/c/records/{id}");
        let write = json!({"method": "PUT", "path": uri, "body": {"data": {}}});
        let requests = if is_first { [&deletion, &write] } else { [&write, &deletion] };
        answers(&client, json!({"requests": requests})).await;
        let entries = client.get(&format!("{bucket}/history")).await.expect(200).json();
        let uris: Vec<&Value> =
            entries["data"].as_array().unwrap().iter().map(|entry| &entry["uri"]).collect();
        assert_eq!(uris, [&json!(uri)]);
    }
}

#[tokio::test]
async fn a_slash_at_the_end_is_followed_where_kinto_follows_it() {
    let kinto = Kinto::shared();
    let collection = collection(&kinto.client()).await;
    let history = format!("{}/history", bucket_of(&collection));
    for is_followed in ["true", "false"] {
        let settings = [SERVICE_ACCOUNT, ("trailing_slash_redirect_enabled", is_followed)];
        let sidecar = Sidecar::start(kinto.url(), &settings);
        let requests = json!({"requests": [
            {"path": format!("{history}/?_limit=1")},
            {"path": format!("{collection}/changeset/?_expected=0"), "method": "HEAD"},
            {"path": format!("{MONITOR}/")},
            {"path": format!("{collection}/")},
        ]});
        let answers = answers(&sidecar.client().user("alice"), requests).await;
        if is_followed == "false" {
            assert_eq!(answers[0]["status"], 404, "{answers:#?}");
            continue;
        }
        assert_eq!(answers[0]["path"], format!("/v1{history}"), "{answers:#?}");
        assert!(answers.iter().all(|answer| answer["status"] == 200), "{answers:#?}");
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_sub_request_is_told_in_its_place() {
    let kinto = Kinto::shared();
    let collection = collection(&kinto.client()).await;
    let sidecar = Sidecar::start(kinto.url(), &[SERVICE_ACCOUNT]);
    let batch = json!({"requests": [
        {"method": "PUT", "path": format!("{collection}/records/beside"), "body": {"data": {}}},
        {"path": format!("{collection}/changeset?_expected=0&x={}", "y".repeat(66_000))},
    ]});
    let answers = answers(&sidecar.client().user("alice"), batch).await;
    assert_eq!([&answers[0]["status"], &answers[1]["status"]], [201, 400]);
    assert_eq!(answers[1]["body"]["errno"], 999);
}

#[tokio::test]
async fn a_batch_that_is_no_json_does_nothing() {
    let sidecar = Sidecar::start(Kinto::shared().url(), &[SERVICE_ACCOUNT]);
    let client = sidecar.client().user("alice");
    let bucket = format!("/buckets/{}", unique("text"));
    client.put(&bucket).await.expect(201);
    let deletion =
        json!({"requests": [{"method": "DELETE", "path": format!("{bucket}/history")}]}).to_string();
    let batch = || client.post("/batch").body(deletion.clone());
    assert_eq!(batch().header("content-type", "text/plain").await.expect(415).json()["errno"], 107);
    batch().header("origin", "https://page.test").await.expect(415);
    assert_eq!(client.all(&format!("{bucket}/history")).await.len(), 1);
    // As Kinto, of whoever is no browser.
    batch().await.expect(200);
    assert_eq!(client.all(&format!("{bucket}/history")).await.len(), 0);
}
