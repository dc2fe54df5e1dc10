//! How the binary takes its settings, and what `check` says.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use kinto_sidecar::settings::KEYS;

use crate::support::{Kinto, PATIENCE};

/// Runs the binary in a folder of its own, in which no journal lies about.
fn sidecar(arguments: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_kinto-sidecar"));
    command.args(arguments).current_dir(&folder).env_remove("KINTO_INI").env_remove("STATE_DIRECTORY");
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn the_chapters_table_is_that_of_the_code() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/chapters/settings.md");
    let chapter = std::fs::read_to_string(path).unwrap();
    let (start, end) = ("<!-- settings -->\n", "<!-- /settings -->");
    let (before, rest) = chapter.split_once(start).unwrap();
    let (table, after) = rest.split_once(end).unwrap();
    let sections = KEYS.chunk_by(|one, next| one.section == next.section).map(|keys| {
        let rows: String = keys.iter().map(|key| key.markdown_row() + "\n").collect();
        format!("| **{}** | | | | |\n{rows}", keys[0].section)
    });
    let rows: String = sections.collect();
    let expected = format!(
        "| key | flag | default | while it runs | meaning |\n| --- | --- | --- | --- | --- |\n{rows}"
    );
    if table != expected && std::env::var_os("WRITE_SETTINGS").is_some() {
        std::fs::write(path, format!("{before}{start}{expected}{end}{after}")).unwrap();
        return;
    }
    assert_eq!(table, expected, "run this test with WRITE_SETTINGS=1 to write the table anew");
}

#[test]
fn what_cannot_be_read_ends_with_status_2_and_one_line_that_says_why() {
    for (arguments, complaint) in [
        (&["--overlap", "soon"][..], "sidecar.overlap = \"soon\" (from --overlap): expected a duration"),
        (&["--set", "sidecar.overlab=1s"], "did you mean sidecar.overlap?"),
        (&["--settings", "/nowhere/kinto.ini"], "/nowhere/kinto.ini"),
        (&["--compat", "other"], "expected kinto-changes or remote-settings"),
    ] {
        let output = sidecar(arguments);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(complaint) && said.lines().count() == 1, "{said}");
    }
    assert_eq!(sidecar(&["--lisen", "h:1"]).status.code(), Some(2));
}

/// What a process says that does not start.
fn refused(arguments: &[&str], environment: &[(&str, &OsStr)]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_kinto-sidecar"));
    command.args(arguments).current_dir(&folder).stdout(Stdio::null()).stderr(Stdio::piped());
    command.env_remove("KINTO_INI").env_remove("STATE_DIRECTORY").envs(environment.iter().copied());
    let mut child = command.spawn().unwrap();
    let begun = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if begun.elapsed() > PATIENCE {
            child.kill().unwrap();
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let output = child.wait_with_output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{arguments:?} {environment:?}: {said}");
    said
}

/// The same beside an address that is free.
fn refused_beside(arguments: &[&str]) -> String {
    refused(&[&["--set", "sidecar.listen=127.0.0.1:0"], arguments].concat(), &[])
}

/// That this can be in force.
fn is_taken(assignment: &str) -> bool {
    sidecar(&["check", "--print-settings", "--set", assignment]).status.success()
}

#[test]
fn what_nobody_can_mean_is_refused_with_the_setting_and_its_source() {
    let long = format!("{}", u64::MAX);
    for (key, values) in [
        ("sidecar.upstream", &["http://:1/v1", "http://h:0/v1", "http://h/v1#a", "http://h//v1"][..]),
        ("sidecar.upstream_timeout", &["0", "-1s", "40000d", "5 minutes"]),
        ("sidecar.upstream_connect_timeout", &["0s"]),
        ("sidecar.header_timeout", &["0ms"]),
        ("sidecar.body_timeout", &["0"]),
        ("sidecar.idle_timeout", &["0"]),
        ("sidecar.verify_every", &["0"]),
        ("feeds.max_timeout", &["0"]),
        ("sidecar.stale_if_error", &["36501d"]),
        ("sidecar.max_header", &["0", "1", "-1", "9000000GiB"]),
        ("sidecar.max_batch_body", &["0"]),
        ("sidecar.max_buffered", &["1000"]),
        ("sidecar.cache_size", &["9000000GiB", "many", "1TB1"]),
        ("sidecar.threads", &["0", "1000000"]),
        ("sidecar.max_connections", &["0", "-1", &long]),
        ("feeds.max_readers", &["0", &long]),
        ("batch_max_requests", &["0", &long]),
        ("retry_after_seconds", &["-1", &long, "3s"]),
        ("history.keep_days", &["forever", &long]),
        ("changes.since_max_age_days", &["21d", &long]),
        ("a.b.record_cache_expires_seconds", &["1h"]),
        ("sidecar.public_url", &["http://h:99999/", "http://h/?a=b", "http://h/#a", "http://:80/", "h"]),
        ("sidecar.attachments_base_url", &["http://h/a?b", "ftp://h/"]),
        ("sidecar.attachments_upstream", &["http://h:0/"]),
        ("sidecar.purge_url", &["http://h:/", "http://u:p@h/"]),
        ("sidecar.otlp_traces", &["http://h:65536/v1/traces"]),
        ("http_host", &["https://h", "h/a", "a b", "h:99999", "h:", "u@h"]),
        ("changes.http_host", &["https://h"]),
        ("http_scheme", &["ftp", "https://", "HTTPS"]),
        ("changes.bucket", &["a b", "a/b", "*", "a,b", "a?", ".."]),
        ("changes.collection", &["a#b"]),
        ("changes.resources", &["/buckets/*", "/buckets/a,", "/v1/buckets/a", "buckets/a", "/buckets/a b"]),
        ("changes.excluded_collections", &["/buckets/a/collections/"]),
        ("history.resources", &["/buckets/a/groups/g", "/buckets/a/collections/b/records/c"]),
        ("history.exclude_resources", &["/buckets/a,/buckets/b"]),
        ("changes.principals", &["account:a, account:b", "everyone", "system.everyone"]),
        ("history_read_principals", &["account:a ,account:b"]),
        ("history.exclude_user_ids", &["account:a, account:b"]),
        ("cors_origins", &["https://a, https://b", "a.example", "https://a.example/"]),
        ("sidecar.signature_name", &["a b"]),
        ("sidecar.signature_hosts", &["a,b", "https://a", "a/b", "a:443"]),
        ("sidecar.trusted_proxies", &["10.0.0.0/8,::1", "proxy", "10.0.0.0/33"]),
        ("sidecar.listen", &["127.0.0.1:65536", "127.0.0.1", "http://127.0.0.1:1"]),
        ("sidecar.journal", &["sqlite::memory", "sqlite://:memory:", "sqlite:a.db?mode=ro", "kinto.db"]),
        ("sidecar.log", &["inof"]),
        ("sidecar.auth", &[":", "alice", "Bearer "]),
    ] {
        for value in values {
            let said = refused_beside(&["--set", &format!("{key}={value}")]);
            let name = if key.ends_with("expires_seconds") { "expires_seconds" } else { key };
            assert!(said.contains(name) && said.contains("from --set"), "{key} = {value}: {said}");
            assert_eq!(said.lines().count(), 1, "{said}");
        }
    }
}

#[test]
fn what_is_meant_by_somebody_is_taken() {
    for assignment in [
        "record_cache_expires_seconds=-1",
        "changes.since_max_age_days=-1",
        "changes.since_max_age_redirect_ttl_seconds=-1",
        "history.auto_trim_max_count=-1",
        "history.keep_days=-1",
        "sidecar.max_body=0",
        "sidecar.cache_size=0",
        "sidecar.timestamps_ttl=0",
        "sidecar.permission_ttl=0",
        "sidecar.overlap=0",
        "changes.resources=/buckets/a/ /buckets/b.c/collections/d_e-f",
        "changes.principals=",
        "changes.principals=system.Authenticated account:alice /buckets/a/groups/g",
        "cors_origins=* null https://*.example.org http://localhost:8080",
        "http_host=[::1]:8888",
        "sidecar.purge_url=http://varnish/?x=1",
        "sidecar.attachments_base_url=https://cdn.example.org/my/files/",
        "sidecar.upstream=http://h/some/path/v1/",
        "sidecar.signature_name=",
        "sidecar.signature_hosts=autograph.internal 10.1.2.3 [::1]",
    ] {
        assert!(is_taken(assignment), "{assignment}");
    }
}

#[test]
fn places_that_speak_against_each_other_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let ini = folder.path().join("k.ini");
    let in_file = |text: &str| {
        std::fs::write(&ini, text).unwrap();
        refused(&["--settings", ini.to_str().unwrap()], &[])
    };
    for (text, words) in [
        ("[app:main]\n[DEFAULT]\nsidecar.overlap = 1s\n", "sidecar.overlap is in [DEFAULT]"),
        ("[app:main]\n[server:main]\nkinto.sidecar.overlap = 1s\n", "is in [server:main]"),
        ("[app:main]\nSidecar.Overlap = 1s\n", "did you mean sidecar.overlap?"),
        ("[app:main]\nsidecar_overlap = 1s\n", "did you mean sidecar.overlap?"),
        ("[app:main]\nsidecar.overlap = 1s ; a comment\n", "k.ini:2"),
    ] {
        let said = in_file(text);
        assert!(said.contains(words) && said.contains("k.ini"), "{text}: {said}");
    }
    for (arguments, words) in [
        (&["--set", "overlap=1s"][..], "did you mean sidecar.overlap?"),
        (&["--set", "kinto.http_hots=a"], "did you mean http_host?"),
        (&["--upstream", ""], "--upstream has no value"),
        (&["--auth-file", " "], "--auth-file has no value"),
        (&["--admin-listen", "h:1", "--set", "sidecar.listen=h:1"], "sidecar.listen = h:1"),
        (&["--set", "sidecar.tls_key=k.pem"], "needs sidecar.tls_certificate"),
    ] {
        let said = refused(arguments, &[]);
        assert!(said.contains(words) && said.lines().count() == 1, "{arguments:?}: {said}");
    }
    for (listen, admin) in [
        ("127.0.0.1:1", "127.0.0.1:1"),
        ("0.0.0.0:1", "127.0.0.1:1"),
        ("127.0.0.1:1", "[::]:1"),
        ("unix:s", "unix:s"),
    ] {
        let said = refused(&["--listen", listen, "--admin-listen", admin], &[]);
        assert!(said.contains("sidecar.admin_listen") && said.contains("sidecar.listen"), "{said}");
    }
    for [one, other] in [
        ["--admin-listen=127.0.0.1:1", "--upstream=http://127.0.0.1:1/v1"],
        ["--admin-listen=unix:/nowhere/s", "--upstream=http+unix://%2Fnowhere%2Fs/v1"],
    ] {
        let said = refused_beside(&[one, other]);
        assert!(said.contains("sidecar.upstream") && said.contains("sidecar.admin_listen"), "{said}");
    }
    let said = refused(&[], &[("SIDECAR_UPSTREAM", OsStr::from_bytes(b"http://\xff/v1"))]);
    assert!(said.contains("SIDECAR_UPSTREAM is not UTF-8"), "{said}");
}

#[test]
fn files_that_cannot_be_used_are_refused_and_left_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let [plain, missing] =
        ["plain", "missing/file"].map(|name| folder.path().join(name).display().to_string());
    std::fs::write(&plain, "hello").unwrap();
    let inside = folder.path().display().to_string();
    for (key, beside, paths) in [
        ("sidecar.upstream_ca", None, &[&plain, &missing, &inside][..]),
        ("sidecar.auth_file", None, &[&plain, &missing, &inside]),
        ("sidecar.admin_token_file", None, &[&missing, &inside]),
        ("sidecar.tls_certificate", Some("sidecar.tls_key"), &[&plain, &missing, &inside]),
        ("sidecar.signature_key", None, &[&plain, &missing, &inside]),
        ("sidecar.handover", None, &[&plain, &inside]),
        ("sidecar.state_dir", None, &[&plain]),
    ] {
        for path in paths {
            let assigned = [Some(key), beside].map(|key| key.map(|key| format!("{key}={path}")));
            let mut arguments: Vec<&str> = assigned.iter().flatten().flat_map(|one| ["--set", one]).collect();
            // Authorities matter to an upstream with TLS alone.
            arguments.extend(["--upstream", "https://127.0.0.1:1/v1"]);
            let said = refused_beside(&arguments);
            assert!(said.contains(key) && said.contains(path.as_str()), "{arguments:?}: {said}");
        }
    }
    for place in [&plain, &inside] {
        let said = refused_beside(&["--journal", &format!("sqlite:{place}")]);
        assert!(said.contains("journal") && said.contains(place.as_str()), "{said}");
    }
    assert_eq!(std::fs::read_to_string(&plain).unwrap(), "hello");
}

#[test]
fn help_shows_flags_by_section() {
    let help = text(&sidecar(&["--help"]).stdout);
    let place = |what: &str| help.find(what).unwrap_or_else(|| panic!("no {what} in {help}"));
    let sections = ["The upstream:", "--upstream", "Listening:", "--listen", "The log:", "--log-format"];
    assert!(sections.map(place).is_sorted(), "{help}");
}

#[test]
fn check_says_what_is_there_and_names_what_is_missing() {
    let upstream = Kinto::shared().url();
    let output = sidecar(&["check", "--upstream", &upstream]);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}{}", text(&output.stderr));
    assert!(said.contains("26.5.0") && said.contains("basicauth"), "{said}");

    let resources = "changes.resources=/buckets/of-somebody-else";
    let output = sidecar(&["check", "--upstream", &upstream, "--set", resources]);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("/buckets/of-somebody-else") && said.contains("bucket_read_principals"), "{said}");

    let output = sidecar(&["check", "--upstream", "http://127.0.0.1:1/v1"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("is Kinto running"), "{}", text(&output.stdout));
}
