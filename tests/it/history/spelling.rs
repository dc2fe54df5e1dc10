//! A write is recorded however its path, its batch and its headers are spelt, or it does not happen.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::entries;
use crate::support::stub::Answer;
use crate::support::{Client, Kinto, Recorder, SERVICE_ACCOUNT, Sidecar, unique};

/// A sidecar before a Kinto whose requests are noted, and a bucket of alice's with a collection `c`.
async fn world(recorder: &Recorder) -> (Sidecar, String) {
    let settings = [SERVICE_ACCOUNT, ("sidecar.history", "journal"), ("sidecar.exclusive", "true")];
    let sidecar = Sidecar::start(recorder.url(), &settings);
    let bucket = format!("/buckets/{}", unique("spelt"));
    let alice = sidecar.client().user("alice");
    alice.put(&bucket).await.expect(201);
    alice.put(&format!("{bucket}/collections/c")).await.expect(201);
    (sidecar, bucket)
}

/// Sends these bytes as a target, as alice.
fn send(sidecar: &Sidecar, method: &str, target: &[u8], body: &str) -> Answer {
    let credentials = BASE64_STANDARD.encode("alice:secret");
    let (host, length) = (sidecar.address(), body.len());
    let head = format!(
        " HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nAuthorization: Basic {credentials}\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    let mut socket = sidecar.connect();
    socket.send([method.as_bytes(), b" ", target, head.as_bytes()].concat()).read().unwrap()
}

fn record_uris(entries: &[Value]) -> Vec<&str> {
    let records = entries.iter().filter(|entry| entry["resource_name"] == "record");
    records
        .inspect(|entry| assert!(entry["user_id"].is_string()))
        .map(|entry| entry["uri"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn every_spelling_that_kinto_takes_is_recorded() {
    let recorder = Recorder::before(Kinto::shared().url());
    let (sidecar, bucket) = world(&recorder).await;
    let collection = format!("{bucket}/collections/c");
    for (target, id) in [
        (format!("/v1{collection}/records/plain"), "plain"),
        (format!("/%76%31{collection}/records/version"), "version"),
        (format!("/v1{}/records/word", collection.replace("/b", "/%62")), "word"),
        (format!("/v1{collection}%2Frecords%2fslash"), "slash"),
        (format!("/v1{collection}/records/%65scape"), "escape"),
        (format!("/v1{collection}/records/fragment#f"), "fragment"),
        (format!("/v1{collection}/records/query?/v1/x"), "query"),
        (format!("/v1{collection}/records/feed%0a"), "feed%0A"),
    ] {
        let answer = send(&sidecar, "PUT", target.as_bytes(), r#"{"data":{}}"#);
        assert_eq!(answer.status(), 201, "{target}: {}", answer.text());
        let recorded = entries(&sidecar.client().user("alice"), &bucket).await;
        let uri = format!("{collection}/records/{id}");
        assert_eq!(record_uris(&recorded).last(), Some(&uri.as_str()), "{target}");
    }
}

#[tokio::test]
async fn what_servers_read_in_several_ways_is_refused_if_it_writes_and_passes_if_it_reads() {
    let recorder = Recorder::before(Kinto::shared().url());
    let (sidecar, bucket) = world(&recorder).await;
    let record = format!("{bucket}/collections/c/records/r");
    let batch = json!({"requests": [{"method": "PUT", "path": record}]}).to_string();
    for target in [
        format!("//v1{record}"),
        format!("///v1{record}"),
        format!("http://h//v1{record}"),
        format!("/v1/{record}"),
        format!("/v1{bucket}/collections/c/records%2F%2Fr"),
        format!("/v1/.{record}"),
        format!("/v1/x/..{record}"),
        format!("/v1/%2e%2E{record}"),
        format!("/v1\\{record}"),
        format!("/v1{record}%"),
        format!("/v1{record}%zz"),
        format!("/v1{record}%ff"),
        format!("/v1{record}%00"),
        format!("/v1{record}é"),
        format!("/v1{bucket}/collections/c/records%0a"),
        "/v1/buckets/default%0a".to_owned(),
        "/v1/batch%0a".to_owned(),
        "//v1/batch".to_owned(),
        "*".to_owned(),
    ] {
        recorder.clear();
        for method in ["PUT", "POST", "PATCH", "DELETE"] {
            let body = if target.contains("batch") { &*batch } else { r#"{"data":{"id":"r"}}"# };
            let answer = send(&sidecar, method, target.as_bytes(), body);
            assert_eq!(answer.status(), 400, "{method} {target}");
            let is_kintos = answer.body.is_empty() || answer.json()["errno"] == 107;
            assert!(is_kintos, "{method} {target}: {}", answer.text());
        }
        let writes = recorder.count(|request| {
            // The sidecar itself asks for timestamps.
            !matches!(request.method.as_str(), "GET" | "HEAD") && !contains(&request.body, "HEAD")
        });
        assert_eq!(writes, 0, "{target}");
    }
    // What the default bucket makes for a read is written, too.
    for target in ["//v1/buckets/default/collections/c", "/v1/./buckets/%64efault", "/v1//buckets/default"] {
        assert_eq!(send(&sidecar, "GET", target.as_bytes(), "").status(), 400, "{target}");
    }
    let read = send(&sidecar, "GET", format!("//v1{bucket}").as_bytes(), "");
    assert_eq!((read.status(), read.json()["data"]["id"].as_str()), (200, bucket.rsplit('/').next()));
}

/// The answer to a batch, as alice.
async fn post(client: &Client, batch: &str) -> crate::support::Response {
    client
        .user("alice")
        .post("/batch")
        .header("content-type", "application/json")
        .body(batch.to_owned())
        .await
}

#[tokio::test]
async fn sub_requests_are_recorded_as_kinto_reads_them() {
    let recorder = Recorder::before(Kinto::shared().url());
    let (sidecar, bucket) = world(&recorder).await;
    let client = sidecar.client();
    let bob = format!("Basic {}", BASE64_STANDARD.encode("bob:secret"));
    let records = format!("{bucket}/collections/c/records");
    let open = json!({"permissions": {"write": ["system.Authenticated"]}});
    client.user("alice").put(&bucket).json(open).await.expect(200);
    for (id, batch) in [
        ("slash", json!({"requests": [{"method": "PUT", "path": format!("{records}/slash/")}]}).to_string()),
        ("escape", json!({"requests": [{"method": "PUT", "path": format!("{records}%2Fescape%2f")}]}).to_string()),
        ("feed%0A", json!({"requests": [{"method": "PUT", "path": format!("{records}/feed\n")}]}).to_string()),
        ("lower", json!({"requests": [{"method": "PUT", "path": format!("{records}/lower"), "headers": {"authorization": bob}}]}).to_string()),
        (
            "twice",
            format!(r#"{{"requests":[],"requests":[{{"method":"GET","m\u0065thod":"PUT","path":"{records}/twice"}}]}}"#),
        ),
        (
            "deep",
            format!(
                r#"{{"requests":[{{"method":"PUT","path":"{records}/deep","body":{{"data":{{"x":{}{}}}}}}}]}}"#,
                "[".repeat(400),
                "]".repeat(400)
            ),
        ),
    ] {
        let answer = post(&client, &batch).await.expect(200);
        assert_eq!(answer.text().matches("\"status\":201").count(), 1, "{answer}");
        let recorded = entries_text(&client, &bucket).await;
        let uri = format!("\"uri\":\"{records}/{id}\"");
        assert_eq!(recorded.matches(&uri).count(), 1, "{id}: {recorded}");
    }
    let recorded =
        client.user("alice").get(&format!("{bucket}/history?record_id=lower")).await.expect(200).data();
    let identity = client.user("bob").get("/").await.expect(200).json();
    assert_eq!(recorded[0]["user_id"], identity["user"]["id"]);
    // Neither a default nor what stood there before makes a write of a method that is empty.
    let empty = json!({"defaults": {"method": "PUT"}, "requests": [{"method": "", "path": format!("{records}/slash")}]});
    let answer = post(&client, &empty.to_string()).await.expect(200);
    assert_eq!(answer.json()["responses"][0]["status"], 200);
    let recorded = entries_text(&client, &bucket).await;
    assert_eq!(recorded.matches("/records/slash\"").count(), 1, "{recorded}");
}

async fn entries_text(client: &Client, bucket: &str) -> String {
    client.user("alice").get(&format!("{bucket}/history")).await.expect(200).text()
}

#[tokio::test]
async fn a_batch_that_writes_and_is_not_read_exactly_goes_nowhere() {
    let recorder = Recorder::before(Kinto::shared().url());
    let (sidecar, bucket) = world(&recorder).await;
    let client = sidecar.client();
    let record = format!("{bucket}/collections/c/records/r");
    let bob = BASE64_STANDARD.encode("bob:secret");
    let with_headers = |headers: &str| {
        format!(r#"{{"requests":[{{"path":"/"}},{{"method":"PUT","path":"{record}","headers":{headers}}}]}}"#)
    };
    for batch in [
        with_headers(&format!(r#"{{"Authorization":"Basic {bob}\n"}}"#)),
        with_headers(&format!(r#"{{"Authorization":" Basic {bob}"}}"#)),
        with_headers(&format!(r#"{{"Authorization":"Basic {bob}é"}}"#)),
        with_headers(&format!(r#"{{"Authorızation":"Basic {bob}"}}"#)),
        with_headers(&format!(r#"{{"Authorization":"Basic {bob}","authorization":"x"}}"#)),
        with_headers(r#"{"content-length":"0"}"#),
        with_headers(r#"{"Host":"h/v1/buckets/b"}"#),
        format!(r#"{{"requests":[{{"method":"PUT","path":"{record}/?x=/v1{record}/x"}}]}}"#),
        format!(r#"{{"requests":[{{"method":"PUT","path":"{record}%ff"}}]}}"#),
        format!(r#"{{"requests":[{{"method":"PUT","path":"/.{record}"}}]}}"#),
        format!("{{\"requests\":[{{\"method\":\"PUT\",\"path\":\"{record}\"}}]}}\0"),
        format!(r#"{{"requests":[{{"method":"PUT","path":"{record}"}}],"x":1}}"#),
    ] {
        recorder.clear();
        let answer = post(&client, &batch).await.expect(400);
        assert_eq!(answer.json()["errno"], 107, "{batch}");
        assert_eq!(recorder.count(|request| contains(&request.body, "PUT")), 0, "{batch}");
    }
    for content_type in ["application/json;\u{a0}charset=utf-16", "application/json; a=b; charset=utf-16"] {
        let body: Vec<u8> = json!({"requests": [{"method": "PUT", "path": record}]})
            .to_string()
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect();
        let latin1: Vec<u8> = content_type.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect();
        let head = format!(
            "POST /v1/batch HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\nAuthorization: Basic {bob}\r\nContent-Type: ",
            body.len()
        );
        let mut socket = sidecar.connect();
        let answer = socket.send([head.as_bytes(), &latin1, b"\r\n\r\n", &body].concat()).read().unwrap();
        assert_eq!(answer.status(), 400, "{content_type}");
    }
    assert_eq!(entries(&client.user("alice"), &bucket).await.len(), 2);
    // What only reads is Kinto's to judge.
    let read =
        format!(r#"{{"requests":[{{"path":"{bucket}","headers":{{"Authorization":"Basic {bob}\n"}}}}]}}"#);
    assert_eq!(post(&client, &read).await.expect(200).json()["responses"][0]["status"], 403);
}

#[tokio::test]
async fn names_that_only_look_like_a_header_are_not_passed_on() {
    let recorder = Recorder::before(Kinto::shared().url());
    let (sidecar, bucket) = world(&recorder).await;
    let record = format!("{bucket}/collections/c/records/r");
    let alice = sidecar.client().user("alice");
    alice.put(&record).header("Content_Length", "0").header("If_None_Match", "*").await.expect(201);
    let requests = recorder.requests();
    let put = requests.iter().find(|request| request.path() == format!("/v1{record}")).unwrap();
    assert!(put.headers.keys().all(|name| !name.as_str().contains('_')), "{:?}", put.headers);
}

#[tokio::test]
async fn what_nests_deep_is_found_by_filters_and_fields() {
    let recorder = Recorder::before(Kinto::shared().url());
    let (sidecar, bucket) = world(&recorder).await;
    let alice = sidecar.client().user("alice");
    for levels in [124, 125, 128, 400] {
        let record = format!("{bucket}/collections/c/records/deep{levels}");
        let nested = format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
        let body = format!(r#"{{"data":{{"title":"t{levels}","nested":{nested}}}}}"#);
        alice.put(&record).header("content-type", "application/json").body(body).await.expect(201);
        let query = format!("{bucket}/history?target.data.title=t{levels}&_fields=target.data");
        let found = alice.get(&query).await.expect(200).text();
        assert!(found.contains(&format!("\"nested\":{nested}")), "{levels}: {found}");
        let query =
            format!("{bucket}/history?like_target.data.title=*{levels}&_fields=target.data.title,uri");
        let found = alice.get(&query).await.expect(200).data();
        assert_eq!(found[0]["target"]["data"], json!({"title": format!("t{levels}")}));
        assert_eq!(found[0]["uri"], record);
    }
}

fn contains(body: &[u8], text: &str) -> bool {
    String::from_utf8_lossy(body).contains(text)
}
