//! What `/v2` says beside changesets, and how it speaks.

use http::Method;
use serde_json::{Value, json};

use super::{changeset_of, public_bucket, sidecar_before, sidecar_of, v2};
use crate::support::{Chaos, Kinto, SERVICE_ACCOUNT, Sidecar, eventually, unique};

#[tokio::test]
async fn the_service_names_its_state_and_where_attachments_are() {
    let bucket = unique("hello");
    let owner = Kinto::shared().client().user("owner");
    public_bucket(&owner, &bucket, &["c"]).await;
    let sidecar = sidecar_of(&[&bucket], &[("sidecar.public_url", "https://settings.example.org/")]);
    let (client, owner) = (sidecar.client(), sidecar.client().user("owner"));
    let hello = async || v2(&client, "/").header("host", "evil.example").await.expect(200);
    let first = hello().await;
    let service = first.json();
    let places = ["{\"project_version\":", "\"git\":{\"common\":{\"id\":", "\"timestamp\":", "\"datetime\":"]
        .map(|member| first.text().find(member).unwrap());
    assert!(places.is_sorted(), "the members stand as git-reader's do: {}", first.text());
    let attachments = &service["capabilities"]["attachments"];
    assert_eq!(attachments["base_url"], "https://settings.example.org/v2/attachments/");
    for member in ["description", "url", "version"] {
        assert!(attachments[member].is_string(), "{attachments}");
    }
    assert!(service["project_version"].is_string());
    let common = |service: &Value| service["git"]["common"].clone();
    let id = |service: &Value| common(service)["id"].as_str().unwrap().to_owned();
    assert!(id(&service).len() == 40 && id(&service).bytes().all(|byte| byte.is_ascii_hexdigit()));
    let list =
        v2(&client, "/buckets/monitor/collections/changes/changeset?_expected=0").await.expect(200).json();
    assert_eq!(common(&service)["timestamp"], list["timestamp"].as_u64().unwrap() / 1000);
    let date = common(&service)["datetime"].as_str().unwrap().to_owned();
    assert_eq!((date.len(), date.contains('T'), date.contains(['Z', '+'])), (19, true, false), "{date}");
    assert_eq!(id(&hello().await.json()), id(&service), "the same state");
    let etag = first.header("etag").unwrap().to_owned();
    v2(&client, "/").header("if-none-match", &etag).await.expect(304);
    // Another process names it alike. Without a URL of its own, it is known by its host.
    let other = sidecar_of(&[&bucket], &[("http_host", "rs.example.org"), ("http_scheme", "http")]);
    let of_other = v2(&other.client(), "/").header("host", "evil.example").await.expect(200).json();
    assert_eq!(id(&of_other), id(&service));
    let base_url = &of_other["capabilities"]["attachments"]["base_url"];
    assert_eq!(base_url, "http://rs.example.org/v2/attachments/");

    let collection = format!("/buckets/{bucket}/collections/c");
    owner.patch(&collection).data(json!({"signature": {"x5u": ""}})).await.expect(200);
    let with_metadata = hello().await.json();
    assert_ne!(id(&with_metadata), id(&service), "metadata is part of the state");
    owner.put(&format!("{collection}/records/new")).await.expect(201);
    assert_ne!(id(&hello().await.json()), id(&with_metadata));
}

#[tokio::test]
async fn paths_and_methods_are_those_of_git_reader_and_each_knows_head() {
    let bucket = unique("paths");
    public_bucket(&Kinto::shared().client().user("owner"), &bucket, &["c"]).await;
    let sidecar = sidecar_of(&[&bucket], &[]);
    let client = sidecar.client().strict();
    let changeset = format!("/v2{}", changeset_of(&bucket, "c"));
    for (path, location) in [
        ("/v2".to_owned(), "/v2/".to_owned()),
        ("/v2?x=1".to_owned(), "/v2/".to_owned()),
        ("/v2/__broadcasts__/?a=b".to_owned(), "/v2/__broadcasts__?a=b".to_owned()),
        (format!("{changeset}/?_expected=0"), format!("{changeset}?_expected=0")),
        (format!("{changeset}//"), changeset.clone()),
    ] {
        let answer =
            client.request_target(Method::GET, &path).header("host", "evil.example").await.expect(307);
        assert_eq!(answer.header("location"), Some(&*location), "{path}");
    }
    for method in [Method::POST, Method::DELETE, Method::OPTIONS] {
        let answer = client.request_target(method.clone(), "/v2").await.expect(405);
        assert_eq!(answer.header("allow"), Some("GET, HEAD"));
        client.request_target(method, "/v2/__broadcasts__/").await.expect(307);
    }
    let broadcasts = v2(&client, "/__broadcasts__").await.expect(200);
    assert_eq!(broadcasts.body, client.get("/__broadcasts__").await.expect(200).body);
    let root = client.request_target(Method::GET, "/").await.expect(307);
    assert!(root.header("location").unwrap().ends_with("/v1/"), "the root is Kinto's");
    assert_eq!(v2(&client, "/%5F_broadcasts__").await.expect(200).body, broadcasts.body);
    for path in ["/v2/x", "/v2/buckets", "/v2/buckets/a/collections/b/records", "/v2/batch", "/v2/%2e%2e/v1/"]
    {
        for method in [Method::GET, Method::PUT] {
            let answer = client.request_target(method, path).await.expect(404);
            assert_eq!(answer.json(), json!({"detail": "Not Found"}), "{path}");
        }
    }
    for path in [
        "/v2/",
        &format!("{changeset}?_expected=0"),
        "/v2/__broadcasts__",
        "/v2/__lbheartbeat__",
        "/v2/__heartbeat__",
        "/v2/__version__",
        "/v2/buckets/monitor/collections/changes/changeset?_expected=0",
    ] {
        let whole = client.request_target(Method::GET, path).await.expect(200);
        let head = client.request_target(Method::HEAD, path).await.expect(200);
        assert_eq!(
            (head.header("content-length"), head.body.len()),
            (whole.header("content-length"), 0),
            "{path}"
        );
        for method in [Method::POST, Method::DELETE, Method::OPTIONS] {
            let answer = client.request_target(method, path).await.expect(405);
            assert_eq!(answer.json(), json!({"detail": "Method Not Allowed"}));
            assert_eq!(answer.header("allow"), Some("GET, HEAD"));
        }
        // A page of another origin may read it.
        let asked = client.request_target(Method::GET, path).header("origin", "https://page.example").await;
        assert_eq!(asked.header("access-control-allow-origin"), Some("*"), "{path}");
        let preflight = client.request_target(Method::OPTIONS, path).header("origin", "https://page.example");
        preflight.header("access-control-request-method", "GET").await.expect(200);
    }
    // Without that mode, /v2 is Kinto's like any other path.
    let plain = Sidecar::start(Kinto::shared().url(), &[SERVICE_ACCOUNT]);
    assert!(plain.client().request_target(Method::GET, "/v2/").await.expect(404).json()["errno"].is_number());
}

#[tokio::test]
async fn heartbeats_tell_what_is_there_and_readers_are_answered_while_kinto_is_down() {
    let bucket = unique("heartbeat");
    public_bucket(&Kinto::shared().client().user("owner"), &bucket, &["c", "unread"]).await;
    let chaos = Chaos::before(Kinto::shared().url());
    let sidecar = sidecar_before(chaos.url(), &[&bucket], &[]);
    let client = sidecar.client();
    assert_eq!(v2(&client, "/__lbheartbeat__").await.expect(200).json(), json!({"status": "ok"}));
    let well = v2(&client, "/__heartbeat__").await.expect(200);
    assert_eq!(
        well.json(),
        json!({"status": "ok", "checks": {"upstream": "ok", "journal": "ok"}, "details": {}})
    );
    assert!(well.text().starts_with("{\"status\":\"ok\",\"checks\":{"), "{}", well.text());
    assert_eq!(well.header("cache-control"), Some("no-store"));
    for member in ["commit", "version", "source", "build"] {
        assert!(v2(&client, "/__version__").await.expect(200).json()[member].is_string(), "{member}");
    }
    let list = "/buckets/monitor/collections/changes/changeset?_expected=0";
    let changeset = format!("{}?_expected=0", changeset_of(&bucket, "c"));
    v2(&client, list).await.expect(200);
    let whole = v2(&client, &changeset).await.expect(200);
    chaos.cut();
    let ill = eventually("the heartbeat to fail", async || {
        let answer = v2(&client, "/__heartbeat__").await;
        (answer.status == 500).then_some(answer)
    })
    .await;
    let ill = ill.json();
    assert_eq!((&ill["status"], &ill["checks"]["upstream"]), (&json!("error"), &json!("error")));
    assert!(ill["details"]["upstream"]["messages"].is_object());
    assert_eq!(v2(&client, &changeset).await.expect(200).body, whole.body);
    assert_eq!(v2(&client, list).await.expect(200).json()["changes"].as_array().unwrap().len(), 2);
    let unread = v2(&client, &format!("{}?_expected=0", changeset_of(&bucket, "unread"))).await.expect(503);
    assert_eq!(unread.json(), json!({"detail": "Service Unavailable"}));
    assert_eq!(unread.header("cache-control"), Some("no-store"));
    assert!(unread.header("retry-after").is_some());
    let unknown = v2(&client, "/__lbheartbeat__").await.expect(200);
    assert_eq!(unknown.header("cache-control"), Some("no-store"));
}
