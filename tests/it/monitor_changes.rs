//! monitor/changes and what is made of it, beyond what the plugin does.

use std::io::Read;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Empty;
use hyper::client::conn::http2::handshake;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::net::TcpStream;

use crate::support::stub::Answer;
use crate::support::{Kinto, KintoOptions, Recorder, SERVICE_ACCOUNT, Sidecar, unique};

const MONITOR: &str = "/buckets/monitor/collections/changes";

#[tokio::test]
async fn what_needs_no_list_costs_the_upstream_nothing() {
    let recorder = Recorder::before(Kinto::shared().url());
    let settings = [
        SERVICE_ACCOUNT,
        ("changes.resources", "/buckets/a"),
        ("sidecar.timestamps_ttl", "3600s"),
        // Which would be watched.
        ("sidecar.history", "off"),
    ];
    let sidecar = Sidecar::start(recorder.url(), &settings);
    let client = sidecar.client();
    // The list is looked at once, and good for an hour.
    client.get(&format!("{MONITOR}/records")).await.expect(200);
    recorder.clear();
    for (method, path, status) in [
        (Method::GET, "/records?_since=1", 307),
        (Method::GET, "/changeset?_expected=1&_since=%221%22", 307),
        (Method::GET, "/records?_limit=x", 400),
        (Method::GET, "/changeset", 400),
        (Method::POST, "/records", 405),
        (Method::DELETE, "/changeset?_expected=1", 405),
        (Method::OPTIONS, "/records", 400),
        (Method::GET, "/records?bucket=a", 200),
        (Method::HEAD, "/records", 200),
        (Method::GET, "/changeset?_expected=0", 200),
    ] {
        client.request(method, &format!("{MONITOR}{path}")).await.expect(status);
    }
    let asked: Vec<_> = recorder.requests().iter().map(|request| request.target.clone()).collect();
    assert!(asked.is_empty(), "{asked:?}");
}

#[tokio::test]
async fn nothing_monitored_is_an_empty_list() {
    let begun = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis();
    let sidecar = Sidecar::start(Kinto::shared().url(), &[]);
    let client = sidecar.client();
    let list = client.get(&format!("{MONITOR}/records")).await.expect(200);
    assert_eq!(list.data(), json!([]));
    let changeset = client.get(&format!("{MONITOR}/changeset?_expected=0")).await.expect(200).json();
    assert_eq!((&changeset["changes"], &changeset["metadata"]), (&json!([]), &json!({})));
    // It is of the present.
    for timestamp in [list.timestamp(), changeset["timestamp"].as_u64().unwrap()] {
        assert!(u128::from(timestamp) >= begun, "{timestamp}");
    }
    let broadcasts = client.get("/__broadcasts__").await.expect(200);
    assert_eq!(broadcasts.json(), json!({"broadcasts": {}, "code": 200}));
}

#[tokio::test]
async fn each_endpoint_has_the_same_manners() {
    let settings = [("changes.principals", "system.Authenticated"), ("cors_origins", "https://page.example")];
    let sidecar = Sidecar::start(Kinto::shared().url(), &settings);
    let client = sidecar.client();
    let (list, changeset) = (format!("{MONITOR}/records"), format!("{MONITOR}/changeset?_expected=0"));
    client.get(&list).await.expect(401);
    for (path, methods) in [
        (&*list, "GET,HEAD,OPTIONS"),
        (&*changeset, "GET,HEAD,OPTIONS"),
        ("/__broadcasts__", "GET,HEAD,OPTIONS"),
        ("/buckets/a/collections/b/changeset", "GET,HEAD,OPTIONS"),
        ("/buckets/a/collections/b/_changes", "GET,HEAD,POST,OPTIONS"),
    ] {
        // A browser asks without credentials.
        let ask = || client.request(Method::OPTIONS, path).header("access-control-request-method", "GET");
        let preflight = ask().header("origin", "https://page.example").await.expect(200);
        assert_eq!(preflight.header("access-control-allow-methods"), Some(methods), "{path}");
        assert_eq!(preflight.header("access-control-allow-origin"), Some("https://page.example"), "{path}");
        ask().header("origin", "https://evil.example").await.expect(400);
        client.get(path).header("origin", "https://evil.example").await.expect(400);
        let refused = client.request(Method::PATCH, path).await.expect(405);
        assert_eq!(refused.header("allow").unwrap().replace(", ", ","), methods, "{path}");
    }
}

#[tokio::test]
async fn a_list_is_compressed_for_those_who_take_it() {
    let bucket = unique("compressed");
    let sidecar = Sidecar::start(
        Kinto::shared().url(),
        &[SERVICE_ACCOUNT, ("changes.resources", &format!("/buckets/{bucket}"))],
    );
    let owner = sidecar.client().user("owner");
    owner.put(&format!("/buckets/{bucket}")).await.expect(201);
    for n in 0..10 {
        let collection = format!("/buckets/{bucket}/collections/c{n}");
        owner.put(&collection).await.expect(201);
        owner.put(&format!("{collection}/records/r")).await.expect(201);
    }
    let client = sidecar.client();
    for leaf in ["records", "changeset?_expected=0"] {
        let path = format!("{MONITOR}/{leaf}");
        let plain = client.get(&path).await.expect(200);
        assert_eq!((plain.header("content-encoding"), plain.header("vary")), (None, Some("Accept-Encoding")));
        let compressed = client.get(&path).header("accept-encoding", "gzip").await.expect(200);
        assert_eq!(compressed.header("content-encoding"), Some("gzip"));
        let mut text = Vec::new();
        flate2::read::GzDecoder::new(&*compressed.body).read_to_end(&mut text).unwrap();
        assert_eq!(text, plain.body);
        assert!(compressed.body.len() * 2 < text.len());
        // The changeset has a tag for each encoding, and the list's is its timestamp.
        let (tag, own) = (compressed.header("etag").unwrap(), plain.header("etag").unwrap());
        assert_eq!(tag != own, leaf.starts_with("changeset"), "{tag} {own}");
        client.get(&path).header("if-none-match", tag).await.expect(304);
        client.get(&path).header("if-match", "\"1\"").await.expect(412);
    }
}

#[tokio::test]
async fn a_burst_of_changes_is_broadcast_once() {
    let bucket = unique("broadcast");
    let resources = format!("/buckets/{bucket} /buckets/{bucket}-preview");
    let sidecar =
        Sidecar::start(Kinto::shared().url(), &[SERVICE_ACCOUNT, ("changes.resources", &resources)]);
    let owner = sidecar.client().user("owner");
    let write = async |bucket: &str, record: &str| {
        let path = format!("/buckets/{bucket}/collections/c/records/{record}");
        owner.put(&path).await.expect(201).timestamp()
    };
    for bucket in [&*bucket, &format!("{bucket}-preview")] {
        owner.put(&format!("/buckets/{bucket}")).await.expect(201);
        owner.put(&format!("/buckets/{bucket}/collections/c")).await.expect(201);
    }
    let first = write(&bucket, "r1").await;
    write(&format!("{bucket}-preview"), "r1").await;
    let broadcast = async || {
        let broadcasts = sidecar.client().get("/__broadcasts__").await.expect(200).json();
        broadcasts["broadcasts"]["remote-settings/monitor_changes"].clone()
    };
    assert_eq!(broadcast().await, format!("\"{first}\""), "previews are nobody's business");
    let second = write(&bucket, "r2").await;
    let list = sidecar.client().get(&format!("{MONITOR}/records?bucket={bucket}")).await.expect(200);
    assert_eq!(list.data()[0]["last_modified"], second);
    assert_eq!(broadcast().await, format!("\"{first}\""), "the second change is held back");
}

#[tokio::test]
async fn the_next_page_is_at_the_host_that_was_asked() {
    let kinto = Kinto::start(KintoOptions::memory());
    let client = kinto.client().user("alice");
    for bucket in ["/buckets/a", "/buckets/b"] {
        client.put(bucket).await.expect(201);
        client.put(&format!("{bucket}/collections/c")).await.expect(201);
    }
    let resources = [SERVICE_ACCOUNT, ("changes.resources", "/buckets/a /buckets/b")];
    let sidecar = Sidecar::start(kinto.url(), &resources);
    let list = "/v1/buckets/monitor/collections/changes/records?_limit=1";
    let ask = |target: String, hosts: &str| {
        sidecar.connect().send(format!("GET {target} HTTP/1.1\r\n{hosts}\r\n")).read().unwrap()
    };
    let next = |answer: &Answer| {
        answer.header("next-page").first().map(|next| next.split("/v1").next().unwrap().to_owned())
    };
    for (target, hosts, named) in [
        (list.to_owned(), "Host: asked.test:80\r\n", "http://asked.test:80"),
        (format!("http://target.test{list}"), "Host: other.test\r\n", "http://target.test"),
        (list.to_owned(), "Host: asked.test:80\r\n", "http://asked.test:80"),
    ] {
        let answer = ask(target, hosts);
        assert_eq!((answer.status(), next(&answer)), (200, Some(named.to_owned())));
    }
    for hosts in ["", "Host: a\r\nHost: a\r\n", "Host: a/evil?x\r\n"] {
        assert_eq!(ask(list.to_owned(), hosts).status(), 400, "{hosts:?}");
    }
    let stream = TcpStream::connect(sidecar.address()).await.unwrap();
    let (mut sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    for host in ["http://two.test", "http://three.test"] {
        let request = Request::get(format!("{host}{list}")).body(Empty::<Bytes>::new()).unwrap();
        let answer = sender.send_request(request).await.unwrap();
        let next = answer.headers().get("next-page").unwrap().to_str().unwrap();
        assert!(next.starts_with(&format!("{host}/v1/")), "{next}");
    }
}
