//! Settings that are read again at `SIGHUP`.

use std::fs;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::feeds::follower::Follower;
use crate::support::stub::{HELLO, Stub};
use crate::support::{Client, Kinto, Sidecar, eventually, unique};

/// A sidecar with its settings in a file.
pub(crate) struct Reloaded {
    pub(crate) sidecar: Sidecar,
    folder: tempfile::TempDir,
}

impl Reloaded {
    pub(crate) fn start(upstream: &str, settings: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        write(&folder, settings);
        let file = folder.path().join("sidecar.ini").display().to_string();
        let starter = vec!["env".to_owned(), format!("KINTO_INI={file}")];
        Self { sidecar: Sidecar::start_by(starter, upstream, &[]), folder }
    }

    /// Has other settings be read; returns when the log says `word` once more than before.
    pub(crate) async fn read(&self, settings: &[&str], word: &str) {
        let said = || self.sidecar.log().matches(word).count();
        let before = said();
        write(&self.folder, settings);
        self.sidecar.signal(Signal::HUP);
        eventually(word, async || (said() > before).then_some(())).await;
    }
}

fn write(folder: &tempfile::TempDir, settings: &[&str]) {
    let text = format!("[app:main]\n{}\n", settings.join("\n"));
    fs::write(folder.path().join("sidecar.ini"), text).unwrap();
}

/// The names of the collections in the list of timestamps.
async fn listed(client: &Client) -> Result<Vec<String>, u16> {
    let list = client.get("/buckets/monitor/collections/changes/records").await;
    if list.status != 200 {
        return Err(list.status);
    }
    let data = list.data();
    let rows = data.as_array().unwrap().iter();
    Ok(rows.map(|row| row["bucket"].as_str().unwrap().to_owned()).collect())
}

/// The status of a write with this many bytes.
async fn written(client: &Client, record: &str, bytes: usize) -> u16 {
    let body = format!("{{\"data\":{{}}}}{}", " ".repeat(bytes - 11));
    client.put(record).header("content-type", "application/json").body(body).await.status
}

#[tokio::test]
async fn what_can_change_changes_and_the_rest_is_named_and_left() {
    let direct = Kinto::shared().client().user("alice");
    let [one, two] = [unique("reload-one"), unique("reload-two")];
    for bucket in [&one, &two] {
        direct.put(&format!("/buckets/{bucket}")).await.expect(201);
        direct.put(&format!("/buckets/{bucket}/collections/c")).await.expect(201);
        direct.put(&format!("/buckets/{bucket}/collections/c/records/first")).await.expect(201);
    }
    let of = |bucket: &str| format!("/buckets/{bucket}/collections/c");
    let resources = |buckets: &[&str]| {
        let lines: Vec<_> = buckets.iter().map(|bucket| format!("    /buckets/{bucket}")).collect();
        format!("changes.resources =\n{}", lines.join("\n"))
    };
    let history = "sidecar.history = off";
    let before = [history, "sidecar.auth = sidecar:wrong", &resources(&[&one])];
    let reloaded = Reloaded::start(&Kinto::shared().url(), &before);
    let sidecar = &reloaded.sidecar;
    let (reader, alice) = (sidecar.client(), sidecar.client().user("alice"));
    assert_eq!(listed(&reader).await, Err(503), "nothing can be read");

    // Another password.
    let auth = "sidecar.auth = sidecar:secret";
    reloaded.read(&[history, auth, &resources(&[&one])], "sidecar.auth = ").await;
    eventually("the account reads", async || (listed(&reader).await == Ok(vec![one.clone()])).then_some(()))
        .await;
    assert!(!sidecar.log().contains("secret"), "{}", sidecar.log());

    let feed = format!("{}/_changes?feed=eventsource&since=now", of(&one));
    let credentials = [("authorization", "Basic YWxpY2U6c2VjcmV0")];
    let mut follower = Follower::open(sidecar, &feed, &credentials).await;
    follower.event().await.unwrap();

    // Another collection, a lower limit, other origins; and what only a new process can do.
    let both = resources(&[&one, &two]);
    let next = [
        auth,
        &both,
        "sidecar.max_body = 2000",
        "cors_origins = https://page.example",
        "sidecar.threads = 7",
    ];
    reloaded.read(&next, "sidecar.history = ").await;
    let log = sidecar.log();
    let named: Vec<_> = log.lines().filter(|line| line.contains("needs a restart")).collect();
    assert!(named.len() == 2 && named[0].contains("sidecar.threads = \\\"7\\\""), "{named:?}");
    assert!(named[1].contains("sidecar.history = \\\"auto\\\""), "{named:?}");
    eventually("the new collection is listed", async || {
        let mut listed = listed(&reader).await.unwrap();
        listed.sort();
        (listed == [one.clone(), two.clone()]).then_some(())
    })
    .await;
    let record = |name: &str| format!("{}/records/{name}", of(&one));
    assert_eq!(written(&alice, &record("large"), 2100).await, 413);
    assert_eq!(written(&alice, &record("small"), 2000).await, 201);
    let list = reader.get("/buckets/monitor/collections/changes/records");
    list.header("origin", "https://other.example").await.expect(400);

    // A file that cannot be read changes nothing, be it right in parts.
    let broken = [auth, "cors_origins = *", "sidecar.max_body = many"];
    reloaded.read(&broken, "settings are what they were, as they cannot be read again").await;
    assert!(sidecar.log().contains("sidecar.max_body = \\\"many\\\" (in "), "{}", sidecar.log());
    assert_eq!(written(&alice, &record("large"), 2100).await, 413);
    assert_eq!(listed(&reader).await.unwrap().len(), 2);

    // What is not named any more is not listed any more, and is what it is by default.
    reloaded.read(&[auth, history, &resources(&[&two])], "sidecar.max_body").await;
    assert_eq!(listed(&reader).await, Ok(vec![two.clone()]));
    assert_eq!(written(&alice, &record("larger"), 2100).await, 201);

    // Whoever reads live has been told of everything meanwhile.
    for expected in ["small", "larger"] {
        let data = loop {
            let event = follower.event().await.unwrap();
            if let Some(data) = event.data.filter(|data| !data.is_empty()) {
                break data;
            }
        };
        let row: Value = serde_json::from_str(&data).unwrap();
        assert_eq!(row["id"], json!(expected));
    }
}

#[tokio::test]
async fn the_log_changes_its_filter_its_form_and_what_it_says_of_requests() {
    let stub = Stub::answering(HELLO);
    let quiet = ["sidecar.changes = off", "sidecar.history = off"];
    let reloaded = Reloaded::start(&stub.url(), &[&quiet[..], &["sidecar.access_log = off"]].concat());
    let sidecar = &reloaded.sidecar;
    let ask = |path: &str| {
        let request = format!("GET /v1/{path} HTTP/1.1\r\nHost: h\r\n\r\n");
        assert_eq!(sidecar.connect().send(&request).read().unwrap().text(), "hello");
    };
    ask("silent");
    let text = ["sidecar.log_format = text", "sidecar.log = debug"];
    reloaded.read(&[&quiet[..], &text].concat(), "sidecar.log_format = ").await;
    ask("spoken");
    eventually("a line", async || sidecar.log().contains("path=\"/v1/spoken\"").then_some(())).await;
    reloaded.read(&quiet, "sidecar.log_format = ").await;
    ask("json");
    eventually("a line", async || sidecar.log().contains("\"path\":\"/v1/json\"").then_some(())).await;
    assert!(!sidecar.log().contains("silent"), "{}", sidecar.log());
    reloaded.read(&quiet, "settings were read again, and are what they were").await;
}

/// Another value for each setting that can change while the process runs.
const OTHERS: [(&str, &str); 54] = [
    ("sidecar.auth", "sidecar:secret"),
    ("sidecar.auth_file", ""),
    ("sidecar.trusted_proxies", "10.1.0.0/16"),
    ("sidecar.timestamps_ttl", "2s"),
    ("sidecar.poll_budget", "7%"),
    ("sidecar.permission_ttl", "6s"),
    ("sidecar.mirror", "full"),
    ("sidecar.overlap", "11s"),
    ("sidecar.verify_every", "11m"),
    ("sidecar.stale_if_error", "2h"),
    ("sidecar.cache_size", "300MiB"),
    ("sidecar.purge_url", "http://127.0.0.1:1/"),
    ("sidecar.purge_method", "BAN"),
    ("sidecar.log", "debug"),
    ("sidecar.access_log", "off"),
    ("sidecar.log_format", "text"),
    ("sidecar.max_header", "65KiB"),
    ("sidecar.max_body", "3000"),
    ("sidecar.max_batch_body", "2000"),
    ("sidecar.max_buffered", "100MiB"),
    ("sidecar.max_connections", "123"),
    ("sidecar.max_connections_per_client", "99"),
    ("sidecar.max_upstream_requests", "511"),
    ("sidecar.header_timeout", "11s"),
    ("sidecar.body_timeout", "61s"),
    ("sidecar.idle_timeout", "76s"),
    ("sidecar.upstream_connect_timeout", "6s"),
    ("sidecar.upstream_timeout", "59s"),
    ("sidecar.drain_delay", "300ms"),
    ("sidecar.shutdown_grace", "2s"),
    ("changes.resources", "/buckets/changed"),
    ("changes.excluded_collections", "/buckets/changed/collections/x"),
    ("changes.http_host", "changed.example"),
    ("changes.since_max_age_days", "5"),
    ("changes.since_max_age_redirect_ttl_seconds", "77"),
    ("changes.principals", "system.Authenticated"),
    ("sidecar.v2_max_age", "2h"),
    ("sidecar.v2_short_max_age", "61s"),
    ("sidecar.v2_static_max_age", "8d"),
    ("sidecar.v2_bundle_max_age", "62s"),
    ("history.resources", "/buckets/changed"),
    ("history.on_journal_failure", "forward"),
    ("feeds.max_timeout", "4m"),
    ("feeds.max_readers", "19999"),
    ("feeds.max_readers_per_client", "999"),
    ("project_name", "changed"),
    ("paginate_by", "17"),
    ("storage_max_fetch_size", "9999"),
    ("batch_max_requests", "24"),
    ("retry_after_seconds", "9"),
    ("cors_origins", "https://page.example"),
    ("trailing_slash_redirect_enabled", "false"),
    ("history_read_principals", "system.Authenticated"),
    ("push_broadcast_min_debounce_interval_seconds", "301"),
];

#[tokio::test]
async fn every_setting_that_can_change_does_and_goes_back() {
    // The table in the docs is compared with the code by another test.
    let chapter = include_str!("../../src/chapters/settings.md");
    let live: Vec<&str> = chapter
        .lines()
        .filter(|line| line.contains(" | yes | "))
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .collect();
    let others: Vec<_> = OTHERS.iter().filter(|(name, _)| live.contains(name)).collect();
    assert_eq!(others.iter().map(|(name, _)| *name).collect::<Vec<_>>(), live, "each has a value here");
    let stub = Stub::answering(HELLO);
    let fixed = ["sidecar.admin_listen = 127.0.0.1:0", "sidecar.changes = off", "sidecar.history = off"];
    let reloaded = Reloaded::start(&stub.url(), &fixed);
    let admin = Client::new(&reloaded.sidecar.admin().unwrap());
    let in_force = async || {
        let state = admin.request_target(http::Method::GET, "/page/state").await.expect(200).json();
        let settings = state["settings"].as_array().unwrap().clone();
        move |name: &str| settings.iter().find(|setting| setting["name"] == name).unwrap()["value"].clone()
    };
    let before = in_force().await;
    let changed: Vec<String> = others
        .iter()
        .filter(|(_, value)| !value.is_empty())
        // A percent sign begins a name in such a file.
        .map(|(name, value)| format!("{name} = {}", value.replace('%', "%%")))
        .collect();
    let lines: Vec<&str> = fixed.iter().copied().chain(changed.iter().map(String::as_str)).collect();
    reloaded.read(&lines, "push_broadcast_min_debounce_interval_seconds = ").await;
    let during = in_force().await;
    for (name, value) in others.iter().filter(|(_, value)| !value.is_empty()) {
        let shown = if *name == "sidecar.auth" { "…" } else { value };
        assert_eq!(during(name), json!(shown), "{name}");
        assert_ne!(during(name), before(name), "{name}");
    }
    assert!(!reloaded.sidecar.log().contains("needs a restart"), "{}", reloaded.sidecar.log());
    reloaded.read(&fixed, "push_broadcast_min_debounce_interval_seconds").await;
    let after = in_force().await;
    for name in live {
        assert_eq!(after(name), before(name), "{name}");
    }
}
