//! Whoever still has an earlier changeset is sent what is new against it (RFC 9842), and gets the same to the byte.

use std::io::Read;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::support::browser::Browser;
use crate::support::{Client, Kinto, Response, SERVICE_ACCOUNT, Sidecar, eventually, unique};

const LIST: &str = "/buckets/monitor/collections/changes/records";

/// How many records the collection has. In the long form as many as Remote Settings' largest: `RECORDS=10000`.
fn records() -> usize {
    std::env::var("RECORDS").map_or(400, |records| records.parse().unwrap())
}

/// A collection that everybody may read, of records that have little in common.
async fn collection(sidecar: &Sidecar, bucket: &str) -> String {
    let alice = sidecar.client().user("alice");
    let everybody = json!({"permissions": {"read": ["system.Everyone"]}});
    alice.put(bucket).json(everybody).await.expect(201);
    let collection = format!("{bucket}/collections/c");
    alice.put(&collection).await.expect(201);
    for begin in (0..records()).step_by(25) {
        let requests: Vec<_> = (begin..begin + 25)
            .map(|n| {
                let noise = STANDARD.encode(Sha256::digest(n.to_string()));
                json!({"path": format!("{collection}/records/r{n}"), "body": {"data": {"noise": noise, "n": n, "text": "x".repeat(300)}}})
            })
            .collect();
        alice
            .post("/batch")
            .json(json!({"defaults": {"method": "PUT"}, "requests": requests}))
            .await
            .expect(200);
    }
    collection
}

/// The name of a dictionary, as a browser sends it.
fn named(body: &[u8]) -> String {
    format!(":{}:", STANDARD.encode(Sha256::digest(body)))
}

async fn ask(client: &Client, path: &str, dictionary: Option<&[u8]>) -> Response {
    let request = client.get(path).header("accept-encoding", "gzip, br, zstd, dcb, dcz");
    match dictionary {
        Some(dictionary) => request.header("available-dictionary", &named(dictionary)).await.expect(200),
        None => request.await.expect(200),
    }
}

/// What a client that has the dictionary makes of an answer.
fn read(answer: &Response, dictionary: &[u8]) -> Vec<u8> {
    assert_eq!(answer.header("content-encoding"), Some("dcz"), "{answer}");
    let (head, frame) = answer.body.split_at(40);
    assert_eq!(head[..8], [0x5e, 0x2a, 0x4d, 0x18, 0x20, 0, 0, 0]);
    assert_eq!(head[8..], Sha256::digest(dictionary)[..]);
    let mut decoder = zstd::Decoder::with_ref_prefix(frame, dictionary).unwrap();
    // What browsers allow.
    decoder.window_log_max(23).unwrap();
    let mut body = Vec::new();
    decoder.read_to_end(&mut body).unwrap();
    body
}

/// The answer that is coded with the dictionary, which is kept beside the answer that it was.
async fn coded(client: &Client, path: &str, dictionary: &[u8]) -> Response {
    eventually("a dictionary is kept", async || {
        let answer = ask(client, path, Some(dictionary)).await;
        (answer.header("content-encoding") == Some("dcz")).then_some(answer)
    })
    .await
}

async fn plain(client: &Client, path: &str) -> Bytes {
    client.get(path).await.expect(200).body.clone()
}

fn varies(answer: &Response) -> bool {
    let values = answer.headers.get_all("vary").iter();
    values
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.to_ascii_lowercase().contains("available-dictionary"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_an_earlier_changeset_is_sent_what_is_new_against_it() {
    let bucket = format!("/buckets/{}", unique("dictionaries"));
    let sidecar = Sidecar::start(Kinto::shared().url(), &[SERVICE_ACCOUNT, ("changes.resources", &bucket)]);
    let collection = collection(&sidecar, &bucket).await;
    let (alice, anybody) = (sidecar.client().user("alice"), sidecar.client());
    for n in 0..20 {
        alice.put(&format!("{bucket}/collections/other{n}")).await.expect(201);
        alice.put(&format!("{bucket}/collections/other{n}/records/r")).await.expect(201);
    }
    let path = format!("{collection}/changeset?_expected=0");
    for (path, bound) in [(&*path, 2_000), (LIST, 500)] {
        let before = plain(&anybody, path).await;
        let answer = ask(&anybody, path, None).await;
        let (url, _) = path.split_once('?').unwrap_or((path, ""));
        assert_eq!(answer.header("use-as-dictionary"), Some(&*format!("match=\"/v1{url}*\"")));
        assert!(varies(&answer));
        let other = anybody.get(path).header("accept-encoding", "gzip").await.expect(200);
        assert!(!varies(&other), "who takes none is not told of any");
        let changed = json!({"n": -1, "text": "changed"});
        alice.put(&format!("{collection}/records/r7")).data(changed).await.expect(200);
        let answer = coded(&anybody, path, &before).await;
        let now = plain(&anybody, path).await;
        assert_ne!(now, before);
        assert_eq!(read(&answer, &before), now);
        println!("{}: {} bytes for {}", url, answer.body.len(), now.len());
        assert!(answer.body.len() <= bound, "{} bytes", answer.body.len());
        assert!(varies(&answer));
        let unknown = ask(&anybody, path, Some(b"of nobody")).await;
        assert_eq!(unknown.header("content-encoding"), Some("zstd"));
        if path != LIST {
            let etag = answer.header("etag").unwrap();
            assert_ne!(unknown.header("etag"), Some(etag), "each coding has its own");
            anybody.get(path).header("if-none-match", etag).await.expect(304);
        }
    }
    let whole = plain(&anybody, &path).await;
    ask(&anybody, &path, None).await;
    alice.put(&format!("{collection}/records/r9")).data(json!({"n": "last"})).await.expect(200);
    let since = format!("{path}&_since=%221%22");
    let answer = coded(&anybody, &since, &whole).await;
    assert_eq!(read(&answer, &whole), plain(&anybody, &since).await);
    assert_eq!(answer.header("use-as-dictionary"), None, "a part is no dictionary");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_loads_a_change_in_less_than_two_kilobytes() {
    let Some(mut browser) = Browser::start() else { return };
    let bucket = format!("/buckets/{}", unique("browser"));
    let settings = [SERVICE_ACCOUNT, ("changes.resources", &*bucket), ("record_cache_expires_seconds", "60")];
    let sidecar = Sidecar::start(Kinto::shared().url(), &settings);
    let collection = collection(&sidecar, &bucket).await;
    let alice = sidecar.client().user("alice");
    let url = format!(
        "http://localhost:{}/v1{collection}/changeset",
        sidecar.address().rsplit_once(':').unwrap().1
    );
    // Kinto forbids its answers to load anything.
    browser.call("Page.enable", json!({}));
    browser.call("Page.setBypassCSP", json!({"enabled": true}));
    browser.open(&format!("{url}?_expected=0"));
    let load = |browser: &mut Browser, expected: u64| {
        let url = format!("{url}?_expected={expected}");
        let script = format!(
            "window.loaded = null; fetch('{url}').then(answer => answer.text()).then(text => {{ window.loaded = text; }})"
        );
        browser.evaluate(&format!("{{ {script}; 0 }}"));
        browser.wait("window.loaded !== null");
        let size = browser.evaluate(&format!("performance.getEntriesByName('{url}').at(-1).encodedBodySize"));
        (browser.evaluate("window.loaded").as_str().unwrap().to_owned(), size.as_u64().unwrap())
    };
    let mut least = u64::MAX;
    for round in 1..=20 {
        let written =
            alice.put(&format!("{collection}/records/r3")).data(json!({"round": round})).await.timestamp();
        let (text, size) = load(&mut browser, written);
        let whole = plain(&sidecar.client(), &format!("{collection}/changeset?_expected={written}")).await;
        assert_eq!(text.as_bytes(), &whole[..]);
        least = least.min(size);
        if round > 1 && least < 2_000 {
            break;
        }
    }
    assert!(least < 2_000, "{least} bytes");
}
