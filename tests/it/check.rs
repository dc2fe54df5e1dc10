//! What `kinto-sidecar check` finds, and what it says mends it.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use serde_json::{Value, json};

use crate::support::stub::Stub;
use crate::support::{Kinto, SERVICE_ACCOUNT, Sidecar, unique};

/// `check` in front of an upstream, with these settings; a free port and no journal where they say nothing else.
pub fn check(upstream: &str, settings: &[(&str, &str)], flags: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kinto-sidecar"));
    command.arg("check").args(flags).args(["--upstream", upstream]).env_remove("KINTO_INI");
    let usual = [("sidecar.listen", "127.0.0.1:0"), ("sidecar.history", "off")];
    for (key, value) in usual.iter().chain(settings) {
        command.args(["--set", &format!("{key}={value}")]);
    }
    command.output().unwrap()
}

/// What it says as JSON, and its exit status.
pub fn examined(upstream: &str, settings: &[(&str, &str)]) -> (Value, Option<i32>) {
    let output = check(upstream, settings, &["--json"]);
    let said = serde_json::from_slice(&output.stdout);
    let said = said.unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    (said, output.status.code())
}

/// The level of the finding that contains `words`, and how to mend it.
fn finding(said: &Value, words: &str) -> (String, String) {
    let findings = said["findings"].as_array().unwrap();
    let found = findings.iter().find(|finding| finding["finding"].as_str().unwrap().contains(words));
    let found = found.unwrap_or_else(|| panic!("no {words:?} in {said:#}"));
    let text = |name: &str| found[name].as_str().unwrap().to_owned();
    (text("level"), text("mend"))
}

/// An upstream that says this of itself, at that time.
fn upstream(root: &Value, date: SystemTime) -> Stub {
    let body = root.to_string();
    let date = httpdate::fmt_http_date(date);
    Stub::answering(format!(
        "HTTP/1.1 200 OK\r\nDate: {date}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ))
}

/// Writes a certificate for `localhost` that ends then, and its key; gives the settings.
pub fn certificate(folder: &Path, end: SystemTime) -> [(&'static str, String); 2] {
    let mut params = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    params.not_after = date_time_ymd(1970, 1, 1) + end.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let key = KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    let [certificate_file, key_file] = ["certificate.pem", "key.pem"].map(|name| folder.join(name));
    fs::write(&certificate_file, pem).unwrap();
    fs::write(&key_file, key.serialize_pem()).unwrap();
    [
        ("sidecar.tls_certificate", certificate_file.display().to_string()),
        ("sidecar.tls_key", key_file.display().to_string()),
    ]
}

#[test]
fn a_good_setup_is_good_and_has_a_note_for_a_cdn() {
    let (said, code) = examined(&Kinto::shared().url(), &[SERVICE_ACCOUNT]);
    assert_eq!((code, &said["ok"]), (Some(0), &json!(true)), "{said:#}");
    assert!(said["facts"]["account"].as_str().unwrap().starts_with("basicauth:"), "{said:#}");
    let (level, mend) = finding(&said, "no setting lets a CDN");
    assert!(level == "note" && mend.contains("record_cache_expires_seconds"));
    assert_eq!(said["findings"].as_array().unwrap().len(), 1, "{said:#}");
    let (said, _) =
        examined(&Kinto::shared().url(), &[SERVICE_ACCOUNT, ("record_cache_expires_seconds", "60")]);
    assert_eq!(said["findings"], json!([]));
}

#[test]
fn what_is_missing_is_a_warning_and_what_cannot_be_read_a_problem() {
    let bucket = format!("/buckets/{}", unique("nowhere"));
    let resources = format!("{bucket} {bucket}/collections/c");
    let (said, code) =
        examined(&Kinto::shared().url(), &[SERVICE_ACCOUNT, ("changes.resources", &resources)]);
    assert_eq!(code, Some(0));
    for missing in [format!("{bucket} does not exist"), format!("{bucket}/collections/c does not exist")] {
        let (level, mend) = finding(&said, &missing);
        assert!(level == "warning" && mend.contains("changes.resources"));
    }
    let (said, code) = examined(&Kinto::shared().url(), &[("changes.resources", &resources)]);
    let (level, mend) = finding(&said, "cannot be listed");
    assert!(code == Some(1) && level == "problem" && mend.contains("bucket_read_principals"), "{said:#}");
}

#[test]
fn an_account_that_the_upstream_does_not_know_is_a_problem() {
    let stub = upstream(&json!({"project_version": "26", "capabilities": {}}), SystemTime::now());
    let (said, code) = examined(&stub.url(), &[SERVICE_ACCOUNT]);
    let (level, mend) = finding(&said, "does not know the service account");
    assert!(code == Some(1) && level == "problem" && mend.contains("password"));
}

#[test]
fn an_upstream_that_is_away_or_no_kinto_is_a_problem() {
    let (said, code) = examined("http://127.0.0.1:1/v1", &[]);
    assert!(code == Some(1) && finding(&said, "cannot connect").1.contains("is Kinto running"));
    let stub = Stub::answering("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    let (said, code) = examined(&stub.url(), &[]);
    assert!(code == Some(1) && finding(&said, "answers 404").1.contains("sidecar.upstream"));
}

#[test]
fn clocks_that_are_apart_and_plugins_on_both_sides_are_warnings() {
    let root = json!({"capabilities": {"history": {}, "changes": {}}});
    let stub = upstream(&root, SystemTime::now() - Duration::from_secs(3600));
    let settings = [("sidecar.history", "journal"), ("sidecar.journal", "sqlite::memory:")];
    let (said, _) = examined(&stub.url(), &settings);
    let (level, mend) = finding(&said, "clock is 3600 s ahead of the upstream's");
    assert!(level == "warning" && mend.contains("NTP"));
    for (plugin, setting) in
        [("history", "sidecar.history = upstream"), ("changes", "sidecar.changes = upstream")]
    {
        let (level, mend) = finding(&said, &format!("the upstream's {plugin} plugin"));
        assert!(level == "warning" && mend.contains(setting), "{mend}");
    }
    let settings = [("sidecar.history", "auto"), ("sidecar.changes", "upstream")];
    let (said, _) = examined(&upstream(&root, SystemTime::now()).url(), &settings);
    assert_eq!(said["findings"].as_array().unwrap().len(), 1, "{said:#}");
}

#[test]
fn an_address_that_is_taken_is_a_problem_unless_a_sidecar_has_it() {
    let stub = Kinto::shared();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (said, code) = examined(&stub.url(), &[("sidecar.admin_listen", &address)]);
    let (level, mend) = finding(&said, "sidecar.admin_listen");
    assert!(code == Some(1) && level == "problem" && mend.contains("another address"), "{said:#}");

    let sidecar = Sidecar::start(stub.url(), &[SERVICE_ACCOUNT]);
    let (said, code) = examined(&stub.url(), &[("sidecar.listen", sidecar.address())]);
    assert_eq!((code, &*finding(&said, "sidecar.listen").0), (Some(0), "warning"), "{said:#}");
}

#[test]
fn a_journal_that_is_not_there_is_not_made() {
    let folder = tempfile::tempdir().unwrap();
    let place = format!("sqlite:{}", folder.path().join("j.db").display());
    let settings = [SERVICE_ACCOUNT, ("sidecar.history", "journal"), ("sidecar.journal", &place)];
    let (said, code) = examined(&Kinto::shared().url(), &settings);
    assert!(code == Some(0) && said["facts"]["history"].as_str().unwrap().contains("not there yet"));
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
    let place = format!("sqlite:{}", folder.path().join("none/j.db").display());
    let settings = [SERVICE_ACCOUNT, ("sidecar.history", "journal"), ("sidecar.journal", &place)];
    let (said, code) = examined(&Kinto::shared().url(), &settings);
    assert!(code == Some(1) && finding(&said, "none").1.contains("make the folder"), "{said:#}");
}

#[test]
fn certificates_and_authorities_are_looked_at() {
    let upstream = Kinto::shared().url();
    let folder = tempfile::tempdir().unwrap();
    let checked = |settings: &[(&'static str, String)]| {
        let settings: Vec<_> = settings.iter().map(|(key, value)| (*key, value.as_str())).collect();
        examined(&upstream, &settings)
    };
    let now = SystemTime::now();
    let later = now + Duration::from_secs(100 * 86_400);
    let good = certificate(folder.path(), later);
    let (said, code) = checked(&good);
    assert!(
        code == Some(0) && said["facts"]["certificate"].as_str().unwrap().contains(" until "),
        "{said:#}"
    );
    let soon = certificate(folder.path(), now + Duration::from_secs(13 * 86_400 + 3600));
    let (said, code) = checked(&soon);
    assert!(code == Some(0) && finding(&said, "ends in 13 days").0 == "warning", "{said:#}");
    let (said, code) = checked(&certificate(folder.path(), now - Duration::from_secs(60)));
    let (level, mend) = finding(&said, "has ended");
    assert!(code == Some(1) && level == "problem" && mend.contains("renewed"));
    fs::write(folder.path().join("key.pem"), KeyPair::generate().unwrap().serialize_pem()).unwrap();
    let (said, code) = checked(&good);
    assert!(code == Some(1) && finding(&said, "certificate.pem").1.contains("sidecar.tls_key"), "{said:#}");

    let (said, code) = checked(&[("sidecar.upstream_ca", "/nowhere/ca.pem".to_owned())]);
    // It matters to an upstream with TLS alone.
    assert_eq!(code, Some(0), "{said:#}");
    let [one, other] = certificate(folder.path(), later);
    let front = Sidecar::start(&upstream, &[(one.0, &one.1), (other.0, &other.1)]);
    let url = format!("https://{}/v1", front.address());
    let (said, code) = examined(&url, &[]);
    assert!(
        code == Some(1) && finding(&said, "not known here").1.contains("sidecar.upstream_ca"),
        "{said:#}"
    );
    let (said, code) = examined(&url, &[("sidecar.upstream_ca", "/nowhere/ca.pem")]);
    assert!(
        code == Some(1) && finding(&said, "/nowhere/ca.pem").1.contains("sidecar.upstream_ca"),
        "{said:#}"
    );
    let (said, code) = examined(&url, &[("sidecar.upstream_ca", &one.1)]);
    assert_eq!(code, Some(0), "{said:#}");
}

#[test]
fn a_loop_onto_itself_is_found_and_refused_at_start() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (url, listen) = (format!("http://localhost:{}/v1", free.port()), free.to_string());
    let (said, code) = examined(&url, &[("sidecar.listen", &listen)]);
    assert!(code == Some(1) && finding(&said, "is where sidecar.listen").1.contains("Kinto's own address"));
    let output = Command::new(env!("CARGO_BIN_EXE_kinto-sidecar"))
        .args(["--upstream", &url, "--listen", &listen])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && said.contains("is where sidecar.listen"), "{said}");
}

#[test]
fn settings_are_printed_with_their_origin_and_without_secrets() {
    let flags = ["--print-settings", "--overlap", "7s"];
    let output = check("http://127.0.0.1:1/v1", &[SERVICE_ACCOUNT], &flags);
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "nothing is contacted");
    for line in [
        "# The upstream",
        "sidecar.upstream = http://127.0.0.1:1/v1  (from --upstream) [at start only]",
        "sidecar.auth = …  (from --set)",
        "sidecar.overlap = 7s  (from --overlap)",
        "sidecar.verify_every = 10m  (default)",
    ] {
        assert!(said.lines().any(|given| given == line), "no {line:?} in {said}");
    }
    assert!(!said.contains("secret"), "{said}");
    let output = check("http://127.0.0.1:1/v1", &[SERVICE_ACCOUNT], &["--print-settings", "--json"]);
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    let auth = said["settings"].as_array().unwrap().iter().find(|one| one["name"] == "sidecar.auth").unwrap();
    assert_eq!(
        *auth,
        json!({"name": "sidecar.auth", "section": "The upstream", "value": "…", "origin": "from --set", "live": true})
    );
}

#[test]
fn a_folder_for_restarts_that_cannot_be_written_is_a_warning_and_nothing_is_made() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let state = |path: &Path| {
        let settings = [SERVICE_ACCOUNT, ("sidecar.state_dir", path.to_str().unwrap())];
        examined(&Kinto::shared().url(), &settings)
    };
    let (said, code) = state(&file.join("below"));
    let (level, mend) = finding(&said, "nothing can be kept for a restart in");
    assert!(level == "warning" && mend.contains("sidecar.state_dir"), "{said:#}");
    assert_eq!(code, Some(0));
    let (said, _) = state(&directory.path().join("not/there/yet"));
    assert!(!said.to_string().contains("kept for a restart"), "{said:#}");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}
