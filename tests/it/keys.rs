//! What an answer depends on is in its URL, its `Vary` and its `ETag`: each header that the code reads is sent with each URL
//! of the sidecar's own, and nothing that a cache may keep is another answer unless it says so.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;

use regex::Regex;
use serde_json::json;

use crate::support::{Kinto, Response, SERVICE_ACCOUNT, Sidecar, unique};

/// Headers that the code reads or that others give a meaning to, with values that might make a difference; `{etag}` is the
/// URL's own.
const HEADERS: &[(&str, &[&str])] = &[
    ("accept", &["text/html", "application/json", "*/*;q=0"]),
    ("accept-encoding", &["gzip", "br", "zstd", "identity", "gzip;q=0, *;q=0.1"]),
    ("accept-language", &["fr"]),
    ("access-control-request-headers", &["x"]),
    ("access-control-request-method", &["POST"]),
    ("available-dictionary", &[":47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:", "x"]),
    ("authorization", &["Basic YWxpY2U6c2VjcmV0", "Basic Ym9iOnNlY3JldA==", "", "x"]),
    ("cache-control", &["no-cache", "only-if-cached"]),
    ("content-encoding", &["gzip"]),
    ("content-type", &["text/plain"]),
    ("cookie", &["auth=1"]),
    ("forwarded", &["for=6.6.6.6;host=evil.example;proto=https"]),
    ("host", &["evil.example", "evil.example:80"]),
    ("if-match", &["\"1\"", "*", "x"]),
    ("if-modified-since", &["Thu, 01 Jan 2099 00:00:00 GMT"]),
    ("if-none-match", &["{etag}", "W/{etag}", "\"1\"", "*", "x"]),
    ("if-range", &["{etag}"]),
    ("if-unmodified-since", &["Thu, 01 Jan 1970 00:00:00 GMT"]),
    ("last-event-id", &["1", "99999999999999", "now"]),
    ("origin", &["https://page.example", "https://evil.example", "null"]),
    ("prefer", &["return=minimal"]),
    ("range", &["bytes=0-1"]),
    ("response-behavior", &["light"]),
    ("sec-fetch-site", &["cross-site", "same-origin"]),
    ("te", &["trailers"]),
    ("user-agent", &["one", "another"]),
    ("via", &["1.1 proxy.example", "1.1 kinto-sidecar, 1.0 x"]),
    ("x-forwarded-for", &["6.6.6.6", "7.7.7.7"]),
    ("x-forwarded-host", &["evil.example"]),
    ("x-forwarded-proto", &["https"]),
    ("x-http-method-override", &["DELETE"]),
    ("x-original-url", &["/v1/"]),
    ("x-real-ip", &["6.6.6.6"]),
    ("x-request-id", &["0123456789abcdef"]),
];

/// Headers that are read of answers, or that say how a message is sent; and members of JSON, which are read alike.
const OTHERS: &[&str] = &[
    "connection",
    "content-length",
    "expect",
    "etag",
    "retry-after",
    "backoff",
    "alert",
    "date",
    "location",
    "next-page",
    "total-objects",
    "cache-status",
    "www-authenticate",
    "transfer-encoding",
    "upgrade",
    "vary",
    "attachments",
    "conflicts",
    "entries",
    "reason",
    "total-records",
    "changes",
    "defaults",
    "headers",
    "method",
    "requests",
    "data",
    "docs",
    "filters",
    "id",
    "rev",
    "access-control-allow-credentials",
    "access-control-allow-origin",
    "use-as-dictionary",
];

/// What a client is given, whatever way it was sent.
fn meaning(answer: &Response) -> (u16, Vec<u8>, Option<String>, Option<String>) {
    let coded = &answer.body[..];
    let mut body = Vec::new();
    match answer.header("content-encoding") {
        None => body.extend_from_slice(coded),
        Some("gzip") => _ = flate2::read::GzDecoder::new(coded).read_to_end(&mut body).unwrap(),
        Some("br") => _ = brotli::Decompressor::new(coded, 4096).read_to_end(&mut body).unwrap(),
        Some("zstd") => body = zstd::decode_all(coded).unwrap(),
        Some(other) => panic!("an encoding of nobody's: {other}"),
    }
    let header = |name: &str| answer.header(name).map(str::to_owned);
    (answer.status, body, header("location"), header("next-page"))
}

fn has(answer: &Response, header: &'static str, token: &str) -> bool {
    answer.headers.get_all(header).iter().any(|value| {
        let tokens = value.to_str().unwrap().split(',');
        tokens.map(|token| token.trim().to_ascii_lowercase()).any(|given| given == token)
    })
}

/// Whether a cache that many share may keep an answer.
fn may_be_kept(answer: &Response) -> bool {
    let is_forbidden =
        ["cache-control", "cdn-cache-control"].into_iter().any(|header| has(answer, header, "no-store"));
    // RFC 9110, and what CDNs keep of their own accord.
    let is_kind =
        matches!(answer.status, 200 | 203 | 204 | 206 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501);
    !is_forbidden && (is_kind || says_so(answer))
}

/// Whether caches are told to keep an answer.
fn says_so(answer: &Response) -> bool {
    answer.header("cache-control").is_some_and(|value| value.contains("max-age="))
}

struct World {
    sidecar: Sidecar,
    paths: Vec<String>,
}

impl World {
    async fn new(more: &[(&str, &str)]) -> Self {
        let bucket = unique("keys");
        let uri = format!("/buckets/{bucket}");
        let mut settings = vec![
            SERVICE_ACCOUNT,
            ("changes.resources", uri.as_str()),
            ("record_cache_expires_seconds", "60"),
            ("monitor.changes.record_cache_maximum_expires_seconds", "3600"),
            ("sidecar.trusted_proxies", "127.0.0.0/8"),
        ];
        settings.extend_from_slice(more);
        let sidecar = Sidecar::start(Kinto::shared().url(), &settings);
        let alice = sidecar.client().user("alice");
        let everybody =
            json!({"permissions": {"read": ["system.Everyone"]}, "data": {"filters": {"f/g": {"n": 1}}}});
        alice.put(&uri).json(everybody).await.expect(201);
        let mut paths = Vec::new();
        for collection in ["one", "two"].map(|id| format!("{uri}/collections/{id}")) {
            alice.put(&collection).await.expect(201);
            for n in 0..30 {
                let data = json!({"n": n, "padding": "x".repeat(40)});
                alice.put(&format!("{collection}/records/r{n}")).data(data).await.expect(201);
            }
        }
        // A list that is long enough to be compressed.
        for n in 0..8 {
            alice.put(&format!("{uri}/collections/more{n}")).await.expect(201);
        }
        // Nobody knows in which order these became visible.
        let elsewhere = format!("{uri}/collections/elsewhere");
        let direct = Kinto::shared().client().user("alice");
        direct.put(&elsewhere).await.expect(201);
        for id in ["a", "b", "c"] {
            direct.put(&format!("{elsewhere}/records/{id}")).await.expect(201);
        }
        let seq = direct.head(&format!("{elsewhere}/records")).await.expect(200).timestamp();
        paths.push(format!("{elsewhere}/_changes?since={seq}"));
        let private = format!("/buckets/{bucket}-private");
        alice.put(&private).await.expect(201);
        alice.put(&format!("{private}/collections/one")).await.expect(201);
        let monitor = "/buckets/monitor/collections/changes";
        let newest = alice.head(&format!("{uri}/collections/one/records")).await.expect(200).timestamp();
        let middle = newest - 1;
        for collection in [format!("{uri}/collections/one"), format!("{private}/collections/one")] {
            for leaf in [
                "/changeset?_expected=0".to_owned(),
                format!("/changeset?_expected={newest}&_since=%22{middle}%22"),
                "/_changes".to_owned(),
                format!("/_changes?since={middle}&limit=3&include_docs=true"),
                "/_changes?since=now".to_owned(),
                "/_changes?descending=true".to_owned(),
                // The cursor is ahead of time, so that the next one is always the same.
                format!("/_changes?feed=longpoll&since={middle}&cursor=9000000000&timeout=1"),
                format!("/_changes?feed=longpoll&since={newest}&cursor=9000000000&timeout=1"),
                format!(
                    "/_changes?feed=longpoll&since={middle}&until={newest}&include_previous=true&timeout=1"
                ),
                "/_changes?filter=f/g".to_owned(),
                "/".to_owned(),
            ] {
                paths.push(format!("{collection}{leaf}"));
            }
        }
        for path in ["/records", "/records?_limit=1", "/records?_since=1", "/records?_sort=bucket"] {
            paths.push(format!("{monitor}{path}"));
        }
        for path in [
            "/changeset?_expected=0",
            "/changeset?_expected=0&_since=%221%22",
            "/changeset?_expected=%22x%22",
        ] {
            paths.push(format!("{monitor}{path}"));
        }
        paths.extend(["/_changes".to_owned(), format!("{uri}/_changes"), "/__broadcasts__".to_owned()]);
        paths.extend([format!("{uri}/history?_limit=2"), format!("{uri}/snapshot/collections/one@{middle}")]);
        paths.push(format!("{uri}/collections/missing/changeset?_expected=0"));
        Self { sidecar, paths }
    }

    /// What is wrong, each on a line.
    async fn faults(&self) -> String {
        let mut faults = String::new();
        let client = self.sidecar.client();
        for path in &self.paths {
            let plain = client.get(path).await;
            for (name, values) in HEADERS {
                for value in *values {
                    let value = value.replace("{etag}", plain.header("etag").unwrap_or("\"x\""));
                    let other = client.get(path).header(name, &value).await;
                    faults.push_str(&fault(path, name, &value, &plain, &other));
                }
            }
            // Nothing of what others asked has stayed behind.
            let again = client.get(path).await;
            if may_be_kept(&again) && meaning(&again) != meaning(&plain) {
                faults.push_str(&format!("{path} is not what it was: {again}\n"));
            }
        }
        faults
    }
}

fn fault(path: &str, name: &'static str, value: &str, plain: &Response, other: &Response) -> String {
    // Some caches heed one line of several.
    if other.headers.get_all("vary").iter().count() > 1 {
        return format!("{path} with {name}: {value} has several lines of Vary:\n{other}\n\n");
    }
    // What is kept of an answer to somebody on no page is given to pages.
    let allowed = |answer: &Response| answer.header("access-control-allow-origin").map(str::to_owned);
    if name == "origin" && says_so(plain) && allowed(plain) != allowed(other) && !has(plain, "vary", "origin")
    {
        return format!("{path} keeps the page {value} out:\n{plain}\n\n");
    }
    // Preconditions that do not hold are answered without a content, and are kept by nobody.
    if matches!(other.status, 304 | 412) || meaning(plain) == meaning(other) {
        let is_coded = other.header("content-encoding").is_some() && !has(other, "vary", "accept-encoding");
        return if is_coded { format!("{path}: an encoding without Vary\n") } else { String::new() };
    }
    // What nobody keeps is given to nobody else; caches know themselves what preconditions are.
    let is_kept = may_be_kept(other);
    let is_silent =
        is_kept && [plain, other].iter().any(|answer| may_be_kept(answer) && !has(answer, "vary", name));
    let etag = plain.header("etag");
    // A page's links are no part of its content.
    let is_content = plain.status == 200 && other.status == 200 && plain.body != other.body;
    let is_same_tag = is_content && may_be_kept(other) && etag.is_some() && etag == other.header("etag");
    if is_silent || is_same_tag {
        return format!("{path} with {name}: {value} is another answer:\n{plain}\n{other}\n\n");
    }
    String::new()
}

#[tokio::test]
async fn nothing_that_a_cache_may_keep_depends_on_what_it_does_not_name() {
    for settings in [
        &[("sidecar.compat", "kinto-changes")][..],
        &[("sidecar.compat", "remote-settings"), ("cors_origins", "https://page.example")],
    ] {
        let faults = World::new(settings).await.faults().await;
        assert!(faults.is_empty(), "{faults}");
    }
}

#[tokio::test]
async fn a_feed_that_depends_on_what_its_reader_was_shown_is_for_no_cache() {
    let bucket = format!("/buckets/{}", unique("keys"));
    let collection = format!("{bucket}/collections/c");
    let direct = Kinto::shared().client().user("alice");
    direct.put(&bucket).json(json!({"permissions": {"read": ["system.Everyone"]}})).await.expect(201);
    direct.put(&collection).await.expect(201);
    for id in ["a", "b", "c"] {
        direct.put(&format!("{collection}/records/{id}")).await.expect(201);
    }
    let settings =
        [SERVICE_ACCOUNT, ("changes.resources", bucket.as_str()), ("record_cache_expires_seconds", "60")];
    let sidecar = Sidecar::start(Kinto::shared().url(), &settings);
    let one = sidecar.client().with("user-agent", "one");
    let other = sidecar.client().with("user-agent", "other");
    let path = format!("{collection}/_changes");
    let last = one.get(&path).await.expect(200).json()["last_seq"].clone();
    let path = format!("{path}?since={last}");
    let everybodys = other.get(&path).await.expect(200);
    let tag = everybodys.header("etag").unwrap();
    assert!(may_be_kept(&everybodys), "{everybodys}");
    for condition in ["\"x\"", tag] {
        let own = one.get(&path).header("if-none-match", condition).await.expect(200);
        assert_ne!(meaning(&own), meaning(&everybodys), "nothing was left out");
        assert!(own.header("etag").is_none() && !may_be_kept(&own), "{own}");
    }
}

/// The names of all headers that some code asks a map of headers for.
fn names_in(folder: &Path, names: &mut BTreeSet<String>) {
    let asked = Regex::new(
        r#"\.(?:get|get_all|contains_key|remove)\(\s*&?(?:(?:http::)?header::)?(?:"([a-z0-9-]+)"|([A-Z][A-Z_]+))\s*\)"#,
    );
    let asked = asked.unwrap();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            names_in(&path, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            for found in asked.captures_iter(&text) {
                let name = found.get(1).or(found.get(2)).unwrap().as_str();
                names.insert(name.to_ascii_lowercase().replace('_', "-"));
            }
        }
    }
}

#[test]
fn each_header_that_the_code_reads_is_tried() {
    let mut names = BTreeSet::new();
    for folder in ["endpoints", "feeds", "server", "access", "forward", "wire"] {
        names_in(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(folder), &mut names);
    }
    let folder = tempfile::tempdir().unwrap();
    let handler = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/handler.rs");
    std::fs::copy(handler, folder.path().join("handler.rs")).unwrap();
    names_in(folder.path(), &mut names);
    assert!(names.contains("last-event-id") && names.contains("host") && names.len() > 8, "{names:?}");
    let is_known =
        |name: &String| HEADERS.iter().any(|(known, _)| known == name) || OTHERS.contains(&name.as_str());
    names.retain(|name| !is_known(name));
    assert!(names.is_empty(), "headers that no test sends: {names:?}");
}
