//! Bundles and attachments, read as their clients read them.

use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::Method;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::signatures::Signer;
use super::{changeset_of, public_bucket, sidecar_of, v2};
use crate::support::stub::Stub;
use crate::support::{Client, Environment, Kinto, environment, eventually, tests_folder, unique};

/// What Python's lz4 and zipfile find in a bundle.
fn read(name: &str, body: &[u8]) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, body).unwrap();
    let script = tests_folder().join("clients/read_bundle.py");
    let output =
        Command::new(environment(Environment::Readers).python()).arg(script).arg(path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

async fn bundle(client: &Client, name: &str) -> Value {
    let answer = v2(client, &format!("/attachments/bundles/{name}")).await.expect(200);
    read(name, &answer.body)
}

/// A server that has one attachment.
pub(super) fn attachments(body: &'static [u8]) -> Stub {
    Stub::start(move |mut upstream| {
        while let Some(seen) = upstream.read() {
            let (status, body) = if seen.line().contains("/files/a/b.bin") {
                ("200 OK", body)
            } else {
                ("404 Not Found", &b""[..])
            };
            let length = body.len();
            let head = format!(
                "HTTP/1.1 {status}\r\ncontent-type: text/x-odd\r\netag: \"e\"\r\nset-cookie: x=1\r\ncontent-length: {length}\r\n\r\n"
            );
            upstream.write(head);
            if !seen.line().starts_with("HEAD") {
                upstream.write(body);
            }
        }
    })
}

#[tokio::test]
async fn bundles_have_whole_changesets_as_they_are_now() {
    let bucket = unique("bundled");
    let preview = format!("{bucket}-preview");
    let owner = Kinto::shared().client().user("owner");
    public_bucket(&owner, &bucket, &["plain", "flagged"]).await;
    public_bucket(&owner, &preview, &["flagged"]).await;
    for bucket in [&bucket, &preview] {
        let flags = json!({"flags": ["startup", 1], "signature": {"signature": "s", "x5u": ""}});
        owner.patch(&format!("/buckets/{bucket}/collections/flagged")).data(flags).await.expect(200);
    }
    let sidecar = sidecar_of(&[&bucket, &preview], &[]);
    let (client, owner) = (sidecar.client(), sidecar.client().user("owner"));
    let whole = async |bucket: &str, collection: &str| {
        v2(&client, &format!("{}?_expected=0", changeset_of(bucket, collection))).await.expect(200).json()
    };
    let startup = bundle(&client, "startup.json.mozlz4").await;
    let flagged = whole(&bucket, "flagged").await;
    assert_eq!(startup, json!([flagged]));
    assert_eq!(
        flagged["metadata"]["signatures"],
        json!([{"signature": "s", "x5u": "", "mode": "p384ecdsa"}])
    );
    let list = v2(&client, "/buckets/monitor/collections/changes/changeset?_expected=0").await.json();
    let order: Vec<&Value> =
        list["changes"].as_array().unwrap().iter().map(|row| &row["collection"]).collect();
    let changesets = bundle(&client, "changesets.json.mozlz4").await;
    let bundled: Vec<&Value> =
        changesets.as_array().unwrap().iter().map(|changeset| &changeset["metadata"]["id"]).collect();
    let order: Vec<&Value> = order.into_iter().skip(1).collect();
    assert_eq!(bundled, order, "those of the preview bucket, the newest, are left out");

    // They are tagged and dated, and made anew when something changed.
    let path = "/attachments/bundles/changesets.json.mozlz4";
    let first = v2(&client, path).await.expect(200);
    assert_eq!(first.header("content-type"), Some("application/x-mozlz4"));
    assert_eq!(first.header("cache-control"), Some("max-age=60"));
    let newest = bundled_newest(&changesets);
    assert_eq!(first.header("last-modified"), Some(&*http_date(newest)));
    let known = v2(&client, path).header("if-none-match", first.header("etag").unwrap()).await.expect(304);
    assert!(known.body.is_empty());
    let head = client.request_target(Method::HEAD, &format!("/v2{path}")).await.expect(200);
    assert_eq!(head.header("content-length"), first.header("content-length"));
    owner.put(&format!("/buckets/{bucket}/collections/plain/records/new")).await.expect(201);
    let expected = whole(&bucket, "plain").await;
    let second = eventually("a bundle with the new record", async || {
        let answer = v2(&client, path).await.expect(200);
        read("x.mozlz4", &answer.body).as_array().unwrap().contains(&expected).then_some(answer)
    })
    .await;
    assert_ne!(second.header("etag"), first.header("etag"));
    assert_eq!(second.header("last-modified"), Some(&*http_date(expected["timestamp"].as_u64().unwrap())));
}

/// The newest timestamp of the changesets in a bundle.
fn bundled_newest(changesets: &Value) -> u64 {
    changesets
        .as_array()
        .unwrap()
        .iter()
        .map(|changeset| changeset["timestamp"].as_u64().unwrap())
        .max()
        .unwrap()
}

fn http_date(milliseconds: u64) -> String {
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_millis(milliseconds))
}

#[tokio::test]
async fn a_bundle_of_nothing_is_there_and_one_that_is_too_large_is_not() {
    let bucket = unique("bounded");
    let owner = Kinto::shared().client().user("owner");
    public_bucket(&owner, &bucket, &["c"]).await;
    let sidecar = sidecar_of(&[&bucket], &[("sidecar.bundle_size", "1KiB")]);
    let (client, owner) = (sidecar.client(), sidecar.client().user("owner"));
    assert_eq!(bundle(&client, "startup.json.mozlz4").await, json!([]));
    assert_eq!(bundle(&client, "changesets.json.mozlz4").await.as_array().unwrap().len(), 1);
    let record = format!("/buckets/{bucket}/collections/c/records/large");
    owner.put(&record).data(json!({"text": "x".repeat(1 << 10)})).await.expect(201);
    eventually("the bundle to be too large", async || {
        let answer = v2(&client, "/attachments/bundles/changesets.json.mozlz4").await;
        (answer.status == 404).then_some(())
    })
    .await;
    eventually("the log to say so", async || {
        sidecar.log().contains("larger than sidecar.bundle_size").then_some(())
    })
    .await;
    assert_eq!(bundle(&client, "startup.json.mozlz4").await, json!([]));
}

#[tokio::test]
async fn what_does_not_verify_is_in_no_bundle_while_nothing_better_is_kept() {
    let mut signer = Signer::start();
    let (bucket, uri, direct) = signer.bucket("bundle-signed", "").await;
    let other = format!("/buckets/{bucket}/collections/other");
    direct.put(&other).await.expect(201);
    direct.put(&format!("{other}/records/r")).await.expect(201);
    for uri in [&uri, &other] {
        direct.patch(uri).data(json!({"flags": ["startup"]})).await.expect(200);
    }
    let public = signer.public();
    let settings = [("sidecar.verify_signatures", "true"), ("sidecar.signature_key", &*public)];
    let sidecar = sidecar_of(&[&bucket], &settings);
    let (client, owner) = (sidecar.client(), sidecar.client().user("owner"));
    let bundled =
        async |name: &str| -> Vec<Value> { bundle(&client, name).await.as_array().unwrap().clone() };
    let mut good = None;
    for name in ["startup.json.mozlz4", "changesets.json.mozlz4"] {
        let changesets = bundled(name).await;
        assert_eq!(changesets.len(), 1, "{changesets:?}");
        assert!(signer.is_good(&changesets[0]));
        good = Some(changesets[0].clone());
    }
    // What nobody has signed yet is not in it: what was good is.
    owner.put(&format!("{uri}/records/unsigned")).await.expect(201);
    signer.sign(&owner, &other, "").await;
    let changesets = eventually("the other changeset", async || {
        Some(bundled("changesets.json.mozlz4").await).filter(|changesets| changesets.len() == 2)
    })
    .await;
    assert!(
        changesets.contains(&good.unwrap()) && changesets.iter().all(|changeset| signer.is_good(changeset))
    );
}

#[tokio::test]
async fn attachments_of_a_collection_are_zipped_where_it_wishes_so() {
    const BODY: &[u8] = b"an attachment";
    let bucket = unique("zipped--odd");
    let owner = Kinto::shared().client().user("owner");
    public_bucket(&owner, &bucket, &["files", "none", "large", "unwished"]).await;
    let hash = format!("{:x}", Sha256::digest(BODY));
    let attachment = |size: u64| json!({"attachment": {"location": "a/b.bin", "size": size, "hash": hash, "filename": "b.bin", "mimetype": "text/x-odd"}});
    for collection in ["files", "none", "large"] {
        let uri = format!("/buckets/{bucket}/collections/{collection}");
        owner.patch(&uri).data(json!({"attachment": {"bundle": true}})).await.expect(200);
    }
    for (collection, size) in
        [("files", BODY.len() as u64), ("large", 20_000_001), ("unwished", BODY.len() as u64)]
    {
        let uri = format!("/buckets/{bucket}/collections/{collection}/records/with");
        owner.put(&uri).data(attachment(size)).await.expect(201);
    }
    let also = format!("/buckets/{bucket}/collections/files/records/also");
    owner.put(&also).data(attachment(BODY.len() as u64)).await.expect(201);
    let preview = format!("{bucket}-preview");
    public_bucket(&owner, &preview, &["files"]).await;
    let uri = format!("/buckets/{preview}/collections/files");
    owner.patch(&uri).data(json!({"attachment": {"bundle": true}})).await.expect(200);
    owner.put(&format!("{uri}/records/with")).data(attachment(BODY.len() as u64)).await.expect(201);
    let stub = attachments(BODY);
    let place = format!("{}/files", stub.url().trim_end_matches("/v1"));
    let sidecar = sidecar_of(&[&bucket, &preview], &[("sidecar.attachments_upstream", &place)]);
    let client = sidecar.client();
    let name = format!("{bucket}--files.zip");
    let files = bundle(&client, &name).await;
    let record =
        owner.get(&format!("/buckets/{bucket}/collections/files/records/with")).await.expect(200).data();
    let files: Vec<(String, String)> = serde_json::from_value(files).unwrap();
    let decoded = |place: usize| BASE64_STANDARD.decode(&files[place].1).unwrap();
    let names: Vec<&str> = files.iter().map(|file| &*file.0).collect();
    assert_eq!(names, ["also.meta.json", "with.meta.json", "also", "with"], "records first");
    assert_eq!(serde_json::from_slice::<Value>(&decoded(1)).unwrap(), record);
    assert_eq!((&*decoded(2), &*decoded(3)), (BODY, BODY));
    let answer = v2(&client, &format!("/attachments/bundles/{name}")).await.expect(200);
    assert_eq!(answer.header("content-type"), Some("application/zip"));
    let modified = owner.get(&also).await.expect(200).timestamp();
    assert_eq!(answer.header("last-modified"), Some(&*http_date(modified)));
    assert_eq!(bundle(&client, &format!("{preview}--files.zip")).await.as_array().unwrap().len(), 2);
    for collection in ["none", "large", "unwished", "missing"] {
        v2(&client, &format!("/attachments/bundles/{bucket}--{collection}.zip")).await.expect(404);
    }
    v2(&client, "/attachments/bundles/other.json").await.expect(404);
}

#[tokio::test]
async fn other_attachments_are_where_they_are_or_are_fetched() {
    const BODY: &[u8] = b"an attachment";
    let stub = attachments(BODY);
    let place = format!("{}/files", stub.url().trim_end_matches("/v1"));
    let redirecting = sidecar_of(&["none"], &[("sidecar.attachments_upstream", &place)]);
    let client = redirecting.client();
    let answer = v2(&client, "/attachments/a/b.bin?x=%20").await.expect(307);
    assert_eq!(answer.header("location"), Some(&*format!("{place}/a/b.bin?x=%20")));
    for path in ["/attachments/", "/attachments/../x", "/attachments/a/%2e%2e/x", "/attachments/a%5c..%5cx"] {
        v2(&client, path).await.expect(404);
    }
    let settings = [
        ("sidecar.attachments_upstream", &*place),
        ("sidecar.attachments", "forward"),
        ("sidecar.attachments_base_url", "https://cdn.example.org/my/files"),
    ];
    let forwarding = sidecar_of(&["none"], &settings);
    let client = forwarding.client();
    for path in ["/v2/attachments/a/b.bin", "/my/files/a/b.bin"] {
        let whole = client.request_target(Method::GET, path).await.expect(200);
        assert_eq!((&*whole.body, whole.header("content-type")), (BODY, Some("text/x-odd")));
        assert_eq!(whole.header("cache-control"), Some("max-age=604800"));
        assert_eq!(whole.header("set-cookie"), None);
        let head = client.request_target(Method::HEAD, path).await.expect(200);
        assert_eq!((head.header("content-length"), head.body.len()), (whole.header("content-length"), 0));
    }
    let missing = client.request_target(Method::GET, "/v2/attachments/a/c.bin").await.expect(404);
    assert_eq!(missing.json(), json!({"detail": "Not Found"}));
    // Clients of /v1 look for them there, too.
    let base_url = |root: &Value| root["capabilities"]["attachments"]["base_url"].clone();
    assert_eq!(base_url(&client.get("/").await.expect(200).json()), "https://cdn.example.org/my/files/");
    assert_eq!(base_url(&v2(&client, "/").await.expect(200).json()), "https://cdn.example.org/my/files/");
    // Nobody has any.
    let alone = sidecar_of(&["none"], &[]);
    v2(&alone.client(), "/attachments/a/b.bin").await.expect(404);
}

/// A collection that wishes a bundle of one attachment, in a bucket of its own.
async fn with_one_attachment(location: &str) -> (String, String) {
    let bucket = unique("attached");
    let owner = Kinto::shared().client().user("owner");
    public_bucket(&owner, &bucket, &["files"]).await;
    let uri = format!("/buckets/{bucket}/collections/files");
    owner.patch(&uri).data(json!({"attachment": {"bundle": true}})).await.expect(200);
    let attachment = json!({"attachment": {"location": location, "size": 13}});
    owner.put(&format!("{uri}/records/r")).data(attachment).await.expect(201);
    let zip = format!("/attachments/bundles/{bucket}--files.zip");
    (bucket, zip)
}

#[tokio::test]
async fn a_record_leads_nobody_out_of_the_folder_of_attachments() {
    for location in ["../files/a/b.bin", "a/%2e%2e/a/b.bin", "a\\..\\a/b.bin", "a/b.bin?x", "a/b.bin#x", ""] {
        let (bucket, zip) = with_one_attachment(location).await;
        let stub = attachments(b"an attachment");
        let place = format!("{}/files", stub.url().trim_end_matches("/v1"));
        let sidecar = sidecar_of(&[&bucket], &[("sidecar.attachments_upstream", &place)]);
        v2(&sidecar.client(), &zip).await.expect(404);
        assert!(!stub.has_next(), "{location} was asked for");
    }
}

#[tokio::test]
async fn attachments_that_do_not_come_are_asked_for_once_and_keep_no_other_bundle_waiting() {
    let (bucket, zip) = with_one_attachment("a/b.bin").await;
    let stub = Stub::start(|mut upstream| {
        upstream.read();
        upstream.read();
    });
    let place = format!("{}/files", stub.url().trim_end_matches("/v1"));
    let sidecar = sidecar_of(&[&bucket], &[("sidecar.attachments_upstream", &place)]);
    let client = sidecar.client();
    v2(&client, "/attachments/bundles/startup.json.mozlz4").await.expect(200);
    let impatient = (0..40).map(|_| {
        let request = format!("GET /v2{zip} HTTP/1.1\r\nHost: h\r\n\r\n");
        let mut stream = std::net::TcpStream::connect(sidecar.address()).unwrap();
        std::io::Write::write_all(&mut stream, request.as_bytes()).unwrap();
        stream
    });
    let impatient: Vec<_> = impatient.collect();
    let first = stub.next();
    assert!(first.line().contains("/files/a/b.bin"), "{}", first.line());
    let owner = Kinto::shared().client().user("owner");
    let record = format!("/buckets/{bucket}/collections/files/records/later");
    let version = owner.put(&record).await.expect(201).timestamp();
    eventually("a bundle with what is new", async || {
        let all = v2(&client, "/attachments/bundles/changesets.json.mozlz4").await.expect(200);
        (all.header("last-modified").is_some() && read("x.json.mozlz4", &all.body)[0]["timestamp"] == version)
            .then_some(())
    })
    .await;
    drop(impatient);
    assert!(!stub.has_next(), "the attachment was asked for again");
}
