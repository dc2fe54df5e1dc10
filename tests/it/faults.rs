//! What goes wrong is told in five places: the line at start, the log, the metrics, the second listener and `check`. For each
//! fault, each of them that can know says so; the table says why another cannot. It stands in the chapter on operating.

use std::fmt::Write as _;
use std::fs;
use std::time::{Duration, SystemTime};

use http::Method;
use serde_json::json;

use crate::check::{certificate, check};
use crate::history::full::Disk;
use crate::polling::hanging::is_about;
use crate::support::stub::Stub;
use crate::support::{
    Chaos, Client, Fate, Kinto, KintoOptions, Recorder, SERVICE_ACCOUNT, Sidecar, eventually, unique,
};

/// What is looked for, or why it cannot be there.
#[derive(Clone, Copy)]
enum Cell {
    /// These words are there.
    Words(&'static str),
    /// This metric is there, and above zero.
    Above(&'static str),
    Cannot(&'static str),
}

use Cell::{Above, Cannot, Words};

const PLACES: [&str; 5] = ["start", "log", "metrics", "health", "check"];

const UNKNOWN: Cell = Words("the upstream does not know the service account");
const ABSENT: Cell = Words("does not exist: make it, or take it out of changes.resources");
const REFUSED: Cell = Words("cannot be listed");
const DOWN: Cell = Words("is Kinto running at");
const NO_KINTO: Cell = Words("name Kinto's API root in sidecar.upstream");
const ENDS: Cell = Words("have it renewed: the files are read again when they change");
const CLOCK: Cell = Words("have both follow a time server (NTP)");
const HANGS: Cell = Words("Kinto fails, or says nothing, where it is asked for the records of");
const KEPT: Cell = Words("let the sidecar's user write there, or name another folder in sidecar.state_dir");
const CROWD: Cell = Words("connections are open, and sidecar.max_connections = 2");

const TABLE: [(&str, [Cell; 5]); 12] = [
    (
        "wrong password",
        [Words("\"account\":\"nobody\""), UNKNOWN, Above("kinto_sidecar_unreadable"), UNKNOWN, UNKNOWN],
    ),
    ("missing resource", [Words("\"missing\":1"), ABSENT, Above("kinto_sidecar_missing"), ABSENT, ABSENT]),
    (
        "no permission",
        [Words("\"unreadable\":1"), REFUSED, Above("kinto_sidecar_unreadable"), REFUSED, REFUSED],
    ),
    (
        "Kinto is down",
        [
            Words("\"kinto\":\"not known: "),
            DOWN,
            Above("kinto_sidecar_upstream_requests_total{outcome=\"connect\"}"),
            DOWN,
            DOWN,
        ],
    ),
    (
        "what answers is no Kinto",
        [Words("\"kinto\":\"not known: "), NO_KINTO, Above("kinto_sidecar_missing"), NO_KINTO, NO_KINTO],
    ),
    ("one collection hangs", [Words("\"failing\":1"), HANGS, Above("kinto_sidecar_failing"), HANGS, HANGS]),
    (
        "the journal's disk is full",
        [
            Cannot("nothing has to be written yet"),
            Words("the journal failed"),
            Above("kinto_sidecar_journal_failures_total"),
            Words("there is no room for what has to be written"),
            Cannot("it writes nothing"),
        ],
    ),
    (
        "the journal is gone",
        [
            Cannot("a journal that is not there is made; the line says where it is"),
            Words("the journal failed"),
            Above("kinto_sidecar_journal_failures_total"),
            Words("was removed under the running process"),
            Words("which is not there yet"),
        ],
    ),
    (
        "nothing can be kept for a restart",
        [KEPT, KEPT, Above("kinto_sidecar_state_failures_total"), KEPT, KEPT],
    ),
    (
        "certificate about to end",
        [ENDS, ENDS, Above("kinto_sidecar_tls_certificate_expiration_timestamp_seconds"), ENDS, ENDS],
    ),
    ("clock off", [CLOCK, CLOCK, Above("kinto_sidecar_clock_ahead_seconds"), CLOCK, CLOCK]),
    (
        "everybody is connected",
        [
            Cannot("nobody is connected yet"),
            CROWD,
            Above("kinto_sidecar_connections"),
            CROWD,
            Cannot("it asks no running sidecar"),
        ],
    ),
];

/// What the five places say.
#[derive(Default)]
struct Told {
    start: String,
    log: String,
    metrics: String,
    health: String,
    check: String,
}

/// Asks a running sidecar in which there is a fault, and `check` with the same settings, until all of them say so.
async fn all_tell(
    fault: &str,
    started: &Sidecar,
    running: &Sidecar,
    upstream: &str,
    settings: &[(&str, &str)],
) {
    let (_, cells) = TABLE.iter().find(|(name, _)| *name == fault).unwrap();
    let output = check(upstream, settings, &[]);
    let checked = String::from_utf8(output.stdout).unwrap();
    let mut told = Told { check: checked, ..Told::default() };
    let admin = Client::new(&running.admin().unwrap());
    let until = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        let asked = async |path: &str| {
            let answer = admin.request_target(Method::GET, path).await;
            String::from_utf8(answer.body.to_vec()).unwrap()
        };
        told.health = asked("/health/ready").await;
        told.metrics = asked("/metrics").await;
        (told.start, told.log) = (started.log(), running.log());
        let said = [&told.start, &told.log, &told.metrics, &told.health, &told.check];
        let silent = PLACES.iter().zip(said).zip(cells).find(|((_, said), cell)| !is_said(said, **cell));
        let Some(((place, said), _)) = silent else { break };
        assert!(std::time::Instant::now() < until, "{fault}: {place} does not say so: {said}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn is_said(said: &str, cell: Cell) -> bool {
    match cell {
        Words(words) => said.contains(words) || said.contains(&words.replace('"', "\\\"")),
        Above(metric) => said.lines().any(|line| {
            let value = line.strip_prefix(metric).and_then(|rest| rest.strip_prefix(' '));
            value.is_some_and(|value| value.parse::<f64>().unwrap() > 0.0)
        }),
        Cannot(_) => true,
    }
}

fn started(upstream: &str, settings: &[(&str, &str)]) -> Sidecar {
    let settings = [&[("sidecar.admin_listen", "127.0.0.1:0")], settings].concat();
    Sidecar::start(upstream, &settings)
}

#[test]
fn the_chapter_has_the_table_of_faults() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/chapters/operating.md");
    let chapter = fs::read_to_string(path).unwrap();
    let (start, end) = ("<!-- faults -->\n", "<!-- /faults -->");
    let (before, rest) = chapter.split_once(start).unwrap();
    let (table, after) = rest.split_once(end).unwrap();
    let mut expected = format!("| fault | {} |\n| --- | --- | --- | --- | --- | --- |\n", PLACES.join(" | "));
    for (fault, cells) in TABLE {
        let cells = cells.map(|cell| match cell {
            Words(words) => format!("`{words}`"),
            Above(metric) => format!("`{metric}`"),
            Cannot(why) => format!("cannot: {why}"),
        });
        _ = writeln!(expected, "| {fault} | {} |", cells.join(" | "));
    }
    if table != expected && std::env::var_os("WRITE_README").is_some() {
        fs::write(path, format!("{before}{start}{expected}{end}{after}")).unwrap();
        return;
    }
    assert_eq!(table, expected, "run this test with WRITE_README=1 to write the table anew");
}

#[tokio::test]
async fn a_wrong_password_is_told() {
    let kinto = Kinto::start(KintoOptions::memory().accounts());
    let account = json!({"data": {"password": "secret"}});
    kinto.client().put("/accounts/owner").json(account).await.expect(201);
    let bucket = format!("/buckets/{}", unique("accounts"));
    kinto.client().user("owner").put(&bucket).await.expect(201);
    let settings = [("sidecar.auth", "owner:wrong"), ("changes.resources", bucket.as_str())];
    let sidecar = started(&kinto.url(), &settings);
    all_tell("wrong password", &sidecar, &sidecar, &kinto.url(), &settings).await;
}

#[tokio::test]
async fn what_is_missing_is_told() {
    let bucket = format!("/buckets/{}", unique("missing"));
    let (upstream, settings) = (Kinto::shared().url(), [SERVICE_ACCOUNT, ("changes.resources", &*bucket)]);
    let sidecar = started(&upstream, &settings);
    all_tell("missing resource", &sidecar, &sidecar, &upstream, &settings).await;
}

#[tokio::test]
async fn what_may_not_be_read_is_told() {
    let bucket = format!("/buckets/{}", unique("private"));
    Kinto::shared().client().user("alice").put(&bucket).await.expect(201);
    let (upstream, settings) = (Kinto::shared().url(), [("changes.resources", &*bucket)]);
    let sidecar = started(&upstream, &settings);
    all_tell("no permission", &sidecar, &sidecar, &upstream, &settings).await;
}

#[tokio::test]
async fn a_kinto_that_is_down_is_told() {
    let bucket = crate::health::bucket("down").await;
    let chaos = Chaos::before(Kinto::shared().url());
    let settings = [SERVICE_ACCOUNT, ("changes.resources", &*bucket)];
    let running = started(&chaos.url(), &settings);
    eventually("a start", async || running.log().contains("\"started\"").then_some(())).await;
    let url = chaos.url();
    // Nobody listens there any more.
    drop(chaos);
    let later = started(&url, &settings);
    all_tell("Kinto is down", &later, &running, &url, &settings).await;
}

#[tokio::test]
async fn what_is_no_kinto_is_told() {
    let stub = Stub::answering("HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nnone");
    let settings = [("changes.resources", "/buckets/main"), ("sidecar.journal", "sqlite::memory:")];
    let sidecar = started(&stub.url(), &settings);
    all_tell("what answers is no Kinto", &sidecar, &sidecar, &stub.url(), &settings).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collection_that_hangs_is_told() {
    let (bucket, owner) = (format!("/buckets/{}", unique("hangs")), Kinto::shared().client().user("alice"));
    owner.put(&bucket).await.expect(201);
    for collection in ["answers", "hangs"] {
        owner.put(&format!("{bucket}/collections/{collection}")).await.expect(201);
        owner.put(&format!("{bucket}/collections/{collection}/records/r")).await.expect(201);
    }
    let recorder = Recorder::before(Kinto::shared().url());
    let hangs = format!("{bucket}/collections/hangs");
    recorder.intercept(move |request| if is_about(request, &hangs) { Fate::Hold } else { Fate::Pass });
    let upstream = recorder.url();
    let settings = [SERVICE_ACCOUNT, ("changes.resources", &*bucket), ("sidecar.upstream_timeout", "2s")];
    let sidecar = started(&upstream, &settings);
    all_tell("one collection hangs", &sidecar, &sidecar, &upstream, &settings).await;
    recorder.release();
}

#[tokio::test]
async fn a_full_disk_is_told() {
    let Some(disk) = Disk::small() else {
        crate::support::skip("nothing can be mounted here, so no disk was full");
        return;
    };
    let settings =
        [SERVICE_ACCOUNT, ("sidecar.history", "journal"), ("sidecar.journal", "sqlite:/mnt/journal.db")];
    let upstream = Kinto::shared().url();
    let admin = [&[("sidecar.admin_listen", "127.0.0.1:0")][..], &settings].concat();
    let sidecar = Sidecar::start_by(disk.beside(), &upstream, &admin);
    disk.fill(0);
    sidecar.client().user("alice").put(&format!("/buckets/{}", unique("full"))).await.expect(503);
    all_tell("the journal's disk is full", &sidecar, &sidecar, &upstream, &[SERVICE_ACCOUNT]).await;
}

#[tokio::test]
async fn a_journal_that_is_gone_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("j.db");
    let journal = format!("sqlite:{}", path.display());
    let settings = [SERVICE_ACCOUNT, ("sidecar.history", "journal"), ("sidecar.journal", &*journal)];
    let upstream = Kinto::shared().url();
    let sidecar = started(&upstream, &settings);
    let alice = sidecar.client().user("alice");
    // It is in use.
    alice.put(&format!("/buckets/{}", unique("gone"))).await.expect(201);
    fs::remove_file(&path).unwrap();
    alice.put(&format!("/buckets/{}", unique("gone"))).await.expect(503);
    all_tell("the journal is gone", &sidecar, &sidecar, &upstream, &settings).await;
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    fs::write(&path, "no folder").unwrap();
    let below = path.join("below");
    let settings = [SERVICE_ACCOUNT, ("sidecar.state_dir", below.to_str().unwrap())];
    let upstream = Kinto::shared().url();
    let sidecar = started(&upstream, &settings);
    all_tell("nothing can be kept for a restart", &sidecar, &sidecar, &upstream, &settings).await;
}

#[tokio::test]
async fn a_certificate_that_is_about_to_end_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let [one, other] = certificate(folder.path(), SystemTime::now() + Duration::from_secs(86_400));
    let settings = [SERVICE_ACCOUNT, (one.0, &*one.1), (other.0, &*other.1)];
    let upstream = Kinto::shared().url();
    let sidecar = started(&upstream, &settings);
    all_tell("certificate about to end", &sidecar, &sidecar, &upstream, &settings).await;
}

#[tokio::test]
async fn clocks_that_are_apart_are_told() {
    let body = json!({"http_api_version": "1.22", "capabilities": {}, "user": {"id": "x"}}).to_string();
    let date = httpdate::fmt_http_date(SystemTime::now() - Duration::from_secs(3600));
    let stub = Stub::answering(format!(
        "HTTP/1.1 200 OK\r\nDate: {date}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ));
    let settings = [SERVICE_ACCOUNT, ("sidecar.history", "journal"), ("sidecar.journal", "sqlite::memory:")];
    let sidecar = started(&stub.url(), &settings);
    all_tell("clock off", &sidecar, &sidecar, &stub.url(), &settings).await;
}

#[tokio::test]
async fn connections_that_are_all_taken_are_told() {
    let (upstream, settings) = (Kinto::shared().url(), [SERVICE_ACCOUNT, ("sidecar.max_connections", "2")]);
    let sidecar = started(&upstream, &settings);
    let mut crowd: Vec<_> = (0..2).map(|_| sidecar.connect()).collect();
    for client in &mut crowd {
        client.send("GET /v1/__lbheartbeat__ HTTP/1.1\r\nHost: h\r\n\r\n").read().unwrap();
    }
    all_tell("everybody is connected", &sidecar, &sidecar, &upstream, &settings).await;
}
