//! An answer is given again, unless anything moved or somebody says more.

use bytes::Bytes;
use http::Method;
use serde_json::json;

use crate::support::{Kinto, Response, SERVICE_ACCOUNT, Sidecar, eventually, unique};

#[tokio::test]
async fn what_was_given_a_moment_ago_is_given_again_only_while_it_stands() {
    let bucket = format!("/buckets/{}", unique("recent"));
    let collection = format!("{bucket}/collections/c");
    let sidecar = Sidecar::start(Kinto::shared().url(), &[SERVICE_ACCOUNT, ("changes.resources", &bucket)]);
    let (alice, anybody) = (sidecar.client().user("alice"), sidecar.client());
    alice.put(&bucket).await.expect(201);
    let open = json!({"permissions": {"read": ["system.Everyone"]}});
    alice.put(&collection).json(open).await.expect(201);
    let list = "/buckets/monitor/collections/changes/records";
    let changeset = format!("{collection}/changeset?_expected=0");
    for n in 0..20 {
        let written =
            alice.put(&format!("{collection}/records/r{n}")).data(json!({"n": n})).await.timestamp();
        let mut ids = Vec::new();
        for path in [&*changeset, list] {
            for _ in 0..3 {
                let answer = anybody.get(path).await.expect(200);
                let newest = answer.json()["timestamp"].as_u64();
                assert_eq!(newest.unwrap_or_else(|| answer.timestamp()), written, "{path} after {n}");
                ids.push(answer.header("x-request-id").unwrap().to_owned());
            }
        }
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 6, "each answer has the id of its own request");
    }
    let given = anybody.get(&changeset).await.expect(200);
    let etag = given.header("etag").unwrap().to_owned();
    anybody.get(&changeset).header("if-none-match", &etag).await.expect(304);
    let named = alice.get(&changeset).await.expect(200);
    assert_eq!(named.header("cdn-cache-control"), Some("no-store"), "{named}");
    let head = anybody.head(&changeset).await.expect(200);
    assert!(head.body.is_empty());
    assert_eq!(anybody.get(&changeset).await.expect(200).body, given.body);
    let closed = json!({"permissions": {"read": []}});
    alice.patch(&collection).json(closed).await.expect(200);
    anybody.get(&changeset).await.expect(401);
}

/// The heads that clients and what stands in front of them send, without `Host`; `{etag}` and `{modified}` are those of what
/// is asked for.
const CLIENTS: &[(&str, &[(&str, &str)])] = &[
    ("curl", &[("user-agent", "curl/8.14.1"), ("accept", "*/*")]),
    (
        "a script in Chromium",
        &[
            ("sec-ch-ua-platform", "\"Linux\""),
            (
                "user-agent",
                "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/156.0.0.0 Safari/537.36",
            ),
            ("sec-ch-ua", "\"Chromium\";v=\"156\", \"Not)A;Brand\";v=\"24\""),
            ("dnt", "1"),
            ("sec-ch-ua-mobile", "?0"),
            ("accept", "*/*"),
            ("origin", "https://page.example"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-mode", "cors"),
            ("sec-fetch-dest", "empty"),
            ("sec-fetch-storage-access", "active"),
            ("referer", "https://page.example/"),
            ("accept-encoding", "gzip, deflate, br, zstd"),
            ("accept-language", "en-GB,en;q=0.9"),
            ("priority", "u=1, i"),
        ],
    ),
    (
        "Chromium, once more",
        &[
            ("cache-control", "max-age=0"),
            ("upgrade-insecure-requests", "1"),
            (
                "accept",
                "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
            ),
            ("sec-fetch-site", "none"),
            ("sec-fetch-mode", "navigate"),
            ("sec-fetch-user", "?1"),
            ("sec-fetch-dest", "document"),
            ("accept-encoding", "gzip, deflate, br, zstd"),
            ("if-none-match", "{etag}"),
            ("if-modified-since", "{modified}"),
        ],
    ),
    (
        "Remote Settings in Firefox",
        &[
            ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0"),
            ("accept", "application/json"),
            ("accept-language", "en-US,en;q=0.5"),
            ("accept-encoding", "gzip, deflate, br, zstd"),
            ("content-type", "application/json"),
            ("sec-fetch-dest", "empty"),
            ("sec-fetch-mode", "cors"),
            ("sec-fetch-site", "cross-site"),
            ("sec-gpc", "1"),
            ("pragma", "no-cache"),
            ("cache-control", "no-cache"),
            ("te", "trailers"),
        ],
    ),
    (
        "kinto-http.py",
        &[
            ("user-agent", "kinto_http/11.11.0 requests/2.34.2 python/3.14.0"),
            ("accept-encoding", "gzip, deflate"),
            ("accept", "*/*"),
            ("connection", "keep-alive"),
        ],
    ),
    (
        "kinto-http.js in Node",
        &[
            ("accept", "application/json"),
            ("content-type", "application/json"),
            ("accept-language", "*"),
            ("sec-fetch-mode", "cors"),
            ("accept-encoding", "gzip, deflate"),
        ],
    ),
    (
        "Varnish, for a part of what it has",
        &[
            ("accept-encoding", "gzip"),
            ("x-forwarded-for", "192.0.2.1, 10.0.0.1"),
            ("via", "1.1 cache (Varnish/7.7)"),
            ("x-varnish", "32770"),
            ("range", "bytes=0-99"),
        ],
    ),
    (
        "Varnish, of what it has",
        &[
            ("accept-encoding", "gzip"),
            ("x-forwarded-for", "192.0.2.2"),
            ("x-varnish", "32771"),
            ("if-none-match", "{etag}"),
            ("if-modified-since", "{modified}"),
        ],
    ),
    (
        "nginx",
        &[
            ("x-real-ip", "192.0.2.3"),
            ("x-forwarded-for", "192.0.2.3"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "kinto.example"),
            ("x-forwarded-port", "443"),
            ("forwarded", "for=192.0.2.3;host=kinto.example;proto=https"),
        ],
    ),
    (
        "CloudFront",
        &[
            ("user-agent", "Amazon CloudFront"),
            ("via", "2.0 0123456789abcdef.cloudfront.net (CloudFront)"),
            ("x-amz-cf-id", "q1w2e3r4t5y6u7i8o9p0"),
            ("x-forwarded-for", "192.0.2.4"),
            ("cloudfront-viewer-country", "FR"),
            ("x-amzn-trace-id", "Root=1-67891233-abcdef012345678912345678"),
            ("accept-encoding", "br,gzip"),
        ],
    ),
    (
        "Cloudflare",
        &[
            ("cf-ray", "8f0c5d2e3b4a5c6d-CDG"),
            ("cf-connecting-ip", "192.0.2.5"),
            ("cf-ipcountry", "FR"),
            ("cf-visitor", "{\"scheme\":\"https\"}"),
            ("cdn-loop", "cloudflare; loops=1"),
            ("x-forwarded-for", "192.0.2.5"),
            ("accept-encoding", "gzip, br"),
        ],
    ),
    (
        "Google's load balancer",
        &[
            ("via", "1.1 google"),
            ("x-cloud-trace-context", "105445aa7843bc8bf206b12000100000/1;o=1"),
            ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
            ("tracestate", "vendor=1"),
            ("baggage", "a=1"),
            ("x-forwarded-for", "192.0.2.6,198.51.100.1"),
            ("x-request-id", "0af76519-16cd-43dd-8448-eb211c80319c"),
        ],
    ),
];

/// What is said of an answer, but for what is another each time or each second, and for what is offered only once it is kept.
fn said(answer: &Response) -> (u16, Vec<(String, String)>, Bytes) {
    const OTHERS: [&str; 4] = ["date", "expires", "use-as-dictionary", "x-request-id"];
    let headers = answer.headers.iter().filter(|(name, _)| !OTHERS.contains(&name.as_str()));
    let mut headers: Vec<_> =
        headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect();
    headers.sort_unstable();
    (answer.status, headers, answer.body.clone())
}

#[tokio::test]
async fn what_browsers_libraries_and_caches_ask_for_is_given_again_and_is_no_other_answer() {
    const GIVEN_AGAIN: &str = "kinto_sidecar_answers_given_again_total";
    let bucket = format!("/buckets/{}", unique("recent"));
    let settings = [
        SERVICE_ACCOUNT,
        ("changes.resources", &*bucket),
        ("sidecar.compat", "remote-settings"),
        ("sidecar.trusted_proxies", "127.0.0.0/8"),
        ("sidecar.threads", "1"),
        ("sidecar.admin_listen", "127.0.0.1:0"),
    ];
    let sidecar = Sidecar::start(Kinto::shared().url(), &settings);
    let alice = sidecar.client().user("alice");
    alice.put(&bucket).json(json!({"permissions": {"read": ["system.Everyone"]}})).await.expect(201);
    let collection = format!("{bucket}/collections/c");
    alice.put(&collection).await.expect(201);
    for n in 0..20 {
        let data = json!({"padding": "x".repeat(100)});
        alice.put(&format!("{collection}/records/r{n}")).data(data).await.expect(201);
    }
    let changeset = format!("{collection}/changeset?_expected=0");
    let monitor = "/buckets/monitor/collections/changes";
    let targets = [
        format!("/v1{changeset}"),
        format!("/v2{changeset}"),
        format!("/v1{monitor}/records"),
        format!("/v1{monitor}/changeset?_expected=0"),
        format!("/v2{monitor}/changeset?_expected=0"),
        "/v2/".to_owned(),
        "/v1/__broadcasts__".to_owned(),
    ];
    for target in &targets {
        let plain = sidecar.client().request_target(Method::GET, target).await.expect(200);
        let etag = plain.header("etag").unwrap_or("\"x\"").to_owned();
        let modified = plain.header("last-modified").unwrap_or_default().to_owned();
        for (name, head) in CLIENTS {
            let ask = || {
                let asked = sidecar.client().request_target(Method::GET, target);
                head.iter().fold(asked, |asked, (name, value)| {
                    asked.header(name, &value.replace("{etag}", &etag).replace("{modified}", &modified))
                })
            };
            let before = sidecar.metric(GIVEN_AGAIN).await.unwrap();
            eventually(&format!("{name} is given {target} again"), async || {
                let alone = ask().header("if-match", &etag).await;
                for _ in 0..3 {
                    assert_eq!(said(&ask().await), said(&alone), "{target} for {name}");
                }
                (sidecar.metric(GIVEN_AGAIN).await.unwrap() > before).then_some(())
            })
            .await;
        }
    }
}
