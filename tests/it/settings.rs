//! How the binary takes its settings, and what `check` says.

use std::process::{Command, Output};

use kinto_sidecar::settings::KEYS;

use crate::support::Kinto;

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
