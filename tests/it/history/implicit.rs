//! What the default bucket makes by itself is recorded at once and with its author, whatever was asked of it.

use http::Method;
use serde_json::json;

use super::entries;
use super::recorded::Both;
use crate::support::{Fate, Kinto, Recorded, Recorder, Request, Response, SERVICE_ACCOUNT, Sidecar, unique};

/// Of two who make buckets at once, Kinto on PostgreSQL asks one to come again.
async fn until_no_conflict(request: impl Fn() -> Request) -> Response {
    loop {
        let answer = request().await;
        let is_refused =
            answer.status == 409 || String::from_utf8_lossy(&answer.body).contains("\"code\":409");
        if !is_refused {
            return answer;
        }
    }
}

/// Compares what both made. The plugin shows what the look itself makes from the next one on.
async fn compare(both: &Both, user: &str) {
    for client in &both.clients {
        until_no_conflict(|| client.user(user).get("/buckets/default/history")).await;
    }
    both.compare(user, "/buckets/default").await;
}

#[tokio::test]
async fn whatever_makes_the_default_bucket_is_recorded_as_by_the_plugin() {
    let both = Both::start().await;
    for (method, path) in [
        (Method::GET, ""),
        (Method::OPTIONS, "/collections/c"),
        (Method::GET, "/collections/c"),
        (Method::GET, "/collections/c/"),
        (Method::GET, "/collections/c/records"),
        (Method::GET, "/collections/c/records/r"),
        (Method::GET, "/collections/c/changeset?_expected=0"),
        (Method::GET, "/groups"),
        (Method::GET, "/history"),
        (Method::GET, "/snapshot/collections/c@5"),
        (Method::GET, "/nothing"),
        (Method::DELETE, "/collections/c/records"),
        (Method::DELETE, "/collections/c/records/r"),
        (Method::PATCH, "/collections/c/records/r"),
        (Method::PUT, "/collections/c/records/r"),
        (Method::POST, "/collections/c/records"),
        (Method::PUT, "/collections/c"),
        (Method::PATCH, "/collections/c"),
        (Method::GET, "/collections/c%0a"),
        (Method::PUT, "/collections/c%0a"),
    ] {
        let path = format!("/buckets/default{path}");
        let user = unique("reader");
        // The sidecar shows a database there, and Kinto sends the client elsewhere.
        let is_shown = !path.ends_with('/');
        for client in both.clients.iter().filter(|_| is_shown) {
            until_no_conflict(|| {
                let request = client.user(&user).request(method.clone(), &path);
                let has_body = matches!(method, Method::PUT | Method::PATCH | Method::POST);
                if has_body { request.data(json!({"n": 1})) } else { request }
            })
            .await;
        }
        compare(&both, &user).await;
        // What leads to a record, or elsewhere, is made in a batch, too.
        if is_shown && !path.contains("/records/r") {
            continue;
        }
        let batched = unique("batched");
        let batch = json!({"requests": [
            {"method": "GET", "path": "/"},
            {"method": method.as_str(), "path": path, "body": {"data": {"n": 1}}},
        ]});
        for client in &both.clients {
            until_no_conflict(|| client.user(&batched).post("/batch").json(batch.clone())).await;
        }
        compare(&both, &batched).await;
    }
}

#[tokio::test]
async fn what_the_sidecars_own_answers_make_is_recorded_too() {
    let sidecar = Sidecar::start(Kinto::shared().url(), &[SERVICE_ACCOUNT]);
    for path in ["", "/_changes", "/changeset?_expected=0"] {
        let user = unique("asking");
        let client = sidecar.client().user(&user);
        client
            .get(&format!("/buckets/default/collections/c/{}", path.trim_start_matches('/')))
            .await
            .expect(200);
        let made = entries(&client, "/buckets/default").await;
        assert_eq!(made.len(), 2, "{path}: {made:#?}");
        assert!(
            made.iter().all(|entry| entry["action"] == "create" && entry["user_id"].is_string()),
            "{made:#?}"
        );
    }
}

#[tokio::test]
async fn what_a_refused_write_makes_is_recorded_as_by_the_plugin() {
    let both = Both::start().await;
    let record = "/buckets/default/collections/c/records/r";
    for (header, value, body) in [
        ("if-match", "\"1\"", json!({"data": {}})),
        ("if-none-match", "x", json!({})),
        ("x-x", "x", json!([1])),
    ] {
        let user = unique("refused");
        for client in &both.clients {
            let put = || client.user(&user).put(record).header(header, value).json(body.clone());
            let answer = until_no_conflict(put).await;
            assert!(answer.status >= 400, "{answer}");
        }
        compare(&both, &user).await;
    }
}

#[tokio::test]
async fn an_odd_method_in_a_batch_makes_nothing_unseen_and_shows_nothing() {
    let both = Both::start().await;
    let private = format!("/buckets/{}", unique("private"));
    let collection = format!("{private}/collections/c");
    for client in &both.clients {
        let alice = client.user("alice");
        alice.put(&private).await.expect(201);
        alice.put(&collection).await.expect(201);
        alice.put(&format!("{collection}/records/r")).data(json!({"is": "a secret"})).await.expect(201);
    }
    let below = [
        "",
        "/collections/c",
        "/collections/c/",
        "/collections/c/records",
        "/collections/c/records/r",
        "/collections/c/changeset?_expected=0",
        "/collections/c/_changes",
        "/_changes",
        "/history",
        "/history/_changes",
        "/snapshot/collections/c@99999999999999",
        "/groups",
    ];
    for path in below {
        let user = unique("odd");
        let own = json!({"method": "TRACE", "path": format!("/buckets/default{path}"), "body": {"data": {}}});
        let others = json!({"method": "TRACE", "path": format!("{private}{path}")});
        for client in &both.clients {
            for request in [&own, &others] {
                let batch = json!({"requests": [request]});
                let answer =
                    until_no_conflict(|| client.user(&user).post("/batch").json(batch.clone())).await;
                let text = String::from_utf8_lossy(&answer.body).into_owned();
                assert!(answer.status >= 400 || !text.contains("\"status\":200"), "{request}: {answer}");
                assert!(!text.contains("a secret"), "{request}: {answer}");
            }
        }
        // Whatever was made has its entry; where the sidecar answers by itself, that may be less than the plugin's.
        let client = both.clients[1].user(&user);
        let recorded = entries(&client, "/buckets/default").await;
        let mut recorded: Vec<_> =
            recorded.iter().filter(|entry| entry["resource_name"] == "collection").collect();
        let made = client.get("/buckets/default/collections").await.expect(200).data();
        recorded.retain(|entry| entry["action"] == "create" && entry["user_id"].is_string());
        assert_eq!(recorded.len(), made.as_array().unwrap().len(), "{path}: {recorded:?} {made}");
        if matches!(path, "" | "/collections/c" | "/collections/c/records" | "/collections/c/records/r") {
            compare(&both, &user).await;
        }
    }
    both.compare("alice", &private).await;
    for method in ["OPTIONS", "CONNECT", "PROPFIND", "put"] {
        let batch = json!({"requests": [{"method": method, "path": format!("{collection}/records/r")}]});
        for client in &both.clients {
            client.user("alice").post("/batch").json(batch.clone()).await.expect(400);
        }
    }
}

#[tokio::test]
async fn what_an_id_that_is_refused_makes_has_an_author() {
    let sidecar = Sidecar::start(Kinto::shared().url(), &[SERVICE_ACCOUNT]);
    let client = sidecar.client().user(&unique("refused"));
    until_no_conflict(|| client.get("/buckets/default/collections/a%20b")).await.expect(400);
    let made = entries(&client, "/buckets/default").await;
    let authors: Vec<_> = made.iter().map(|entry| (&entry["action"], entry["user_id"].is_string())).collect();
    assert_eq!(authors, [(&json!("create"), true)]);
}

#[tokio::test]
async fn nothing_is_written_where_nobody_says_whose_the_default_bucket_is() {
    let recorder = Recorder::before(Kinto::shared().url());
    let sidecar = Sidecar::start(recorder.url(), &[SERVICE_ACCOUNT]);
    let client = sidecar.client().user(&unique("unknown"));
    let is_asked =
        |request: &Recorded| request.path() == "/v1/" && request.headers.contains_key("authorization");
    recorder.intercept(move |request| if is_asked(request) { Fate::Answer(503) } else { Fate::Pass });
    let put = || client.put("/buckets/default/collections/c/records/r").data(json!({}));
    put().await.expect(503);
    recorder.release();
    until_no_conflict(put).await.expect(201);
    assert_eq!(entries(&client, "/buckets/default").await.len(), 3);
}

#[tokio::test]
async fn what_is_deleted_in_a_default_bucket_was_made_before() {
    let sidecar = Sidecar::start(Kinto::shared().url(), &[SERVICE_ACCOUNT]);
    let client = sidecar.client().user(&unique("deleting"));
    until_no_conflict(|| client.delete("/buckets/default/collections/c")).await.expect(200);
    let made = entries(&client, "/buckets/default").await;
    let told: Vec<_> = made.iter().map(|entry| (&entry["resource_name"], &entry["action"])).collect();
    let [bucket, collection] = [&json!("bucket"), &json!("collection")];
    assert_eq!(
        told,
        [(bucket, &json!("create")), (collection, &json!("create")), (collection, &json!("delete"))]
    );
    assert!(made.iter().all(|entry| entry["user_id"].is_string()), "{made:#?}");
}

#[tokio::test]
async fn what_a_batch_makes_by_itself_and_then_writes_is_recorded_as_by_the_plugin() {
    let both = Both::start().await;
    let bucket = json!({"method": "PUT", "path": "/buckets/default", "body": {"data": {"n": 1}}});
    let refused = json!({"method": "POST", "path": "/buckets/default/collections/c/records/r"});
    let collection =
        json!({"method": "PUT", "path": "/buckets/default/collections/c", "body": {"data": {"n": 2}}});
    for requests in [json!([refused, bucket]), json!([refused, collection])] {
        let user = unique("batched");
        for client in &both.clients {
            until_no_conflict(|| client.user(&user).post("/batch").json(json!({"requests": requests}))).await;
        }
        compare(&both, &user).await;
    }
}
