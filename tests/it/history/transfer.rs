//! Journals that move: exports, imports, and what is said when they are not whole.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::json;

use super::entries;
use crate::support::{Kinto, SERVICE_ACCOUNT, Sidecar, database, unique};

/// The program with these arguments, beside a journal.
pub(super) fn history(journal: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kinto-sidecar"));
    command.env_remove("KINTO_SIDECAR_TEST_ENV").arg("history").args(arguments).args(["--journal", journal]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

pub(super) fn outcome(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// What it says, once it has ended with this code.
pub(super) fn said(code: i32, journal: &str, arguments: &[&str]) -> String {
    let output = history(journal, arguments).output().unwrap();
    let (ended, said) = outcome(&output);
    assert_eq!(ended, Some(code), "{arguments:?}: {said}");
    said
}

/// An import that is given this text.
fn import(journal: &str, arguments: &[&str], text: &[u8]) -> (Option<i32>, String) {
    let mut process = history(journal, arguments).stdin(Stdio::piped()).spawn().unwrap();
    // Where it refuses something, it does not read the rest.
    let _ = process.stdin.take().unwrap().write_all(text);
    outcome(&process.wait_with_output().unwrap())
}

pub(super) fn sqlite(path: &Path) -> String {
    format!("sqlite:{}", path.display())
}

pub(super) fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// A sidecar with a journal in which a bucket has some entries.
pub(super) async fn used(journal: &str) -> (Sidecar, String, usize) {
    let sidecar = Sidecar::start(Kinto::shared().url(), &[SERVICE_ACCOUNT, ("sidecar.journal", journal)]);
    let (alice, bucket) = (sidecar.client().user("alice"), format!("/buckets/{}", unique("moved")));
    alice.put(&bucket).await.expect(201);
    for index in 0..5 {
        alice.put(&format!("{bucket}/groups/g{index}")).data(json!({"members": []})).await.expect(201);
    }
    (sidecar, bucket, 6)
}

#[tokio::test]
async fn a_journal_that_is_in_use_moves_through_a_pipe() {
    let folder = tempfile::tempdir().unwrap();
    for journal in [sqlite(&folder.path().join("from.db")), database()] {
        let (sidecar, bucket, number) = used(&journal).await;
        let target = sqlite(&folder.path().join(format!("{}.db", unique("to"))));
        let mut export = history(&journal, &["export"]).spawn().unwrap();
        let mut import = history(&target, &["import", "--new"]);
        let imported = import.stdin(export.stdout.take().unwrap()).output().unwrap();
        let (code, told) = outcome(&imported);
        assert!(
            code == Some(0) && told.contains(&format!("{number} entries were imported, 0 were")),
            "{told}"
        );
        assert_eq!(export.wait().unwrap().code(), Some(0));
        let alice = sidecar.client().user("alice");
        alice.put(&format!("{bucket}/groups/later")).data(json!({"members": []})).await.expect(201);
        let moved = Sidecar::start(Kinto::shared().url(), &[SERVICE_ACCOUNT, ("sidecar.journal", &target)]);
        let (before, after) =
            (entries(&alice, &bucket).await, entries(&moved.client().user("alice"), &bucket).await);
        assert_eq!(after[..number], before[..number]);
    }
}

#[tokio::test]
async fn an_import_says_what_did_not_arrive() {
    let folder = tempfile::tempdir().unwrap();
    let journal = sqlite(&folder.path().join("from.db"));
    let (sidecar, bucket, number) = used(&journal).await;
    let file = folder.path().join("export.ndjson");
    let name = file.to_str().unwrap();
    let umask = "umask 0777; exec \"$0\" \"$@\"";
    let program = env!("CARGO_BIN_EXE_kinto-sidecar");
    let shell = Command::new("sh")
        .args(["-c", umask, program, "history", "export", name, "--journal", &journal])
        .output()
        .unwrap();
    assert_eq!(shell.status.code(), Some(0), "{shell:?}");
    assert_eq!(mode(&file), 0o600);
    let told = said(1, &journal, &["export", name]);
    assert!(told.contains(&format!("{name} is there already: remove it")), "{told}");
    let told = said(1, &journal, &["import", name]);
    assert!(told.contains("is in use by another process: stop it first"), "{told}");
    let target = sqlite(&folder.path().join("to.db"));
    assert_eq!(
        import(&target, &["import", "--new"], b""),
        (
            Some(1),
            String::from(
                "kinto-sidecar: nothing arrived: an export has one line at least; up to there 0 entries were imported, 0 were there already\n"
            )
        )
    );
    let mut text = Vec::new();
    std::fs::File::open(&file).unwrap().read_to_end(&mut text).unwrap();
    let lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
    let (end, without_end) = lines.split_last().unwrap();
    assert_eq!(*end, format!("{{\"end\":{}}}\n", lines.len() - 1).as_bytes());
    let (code, told) = import(&target, &["import"], &without_end.concat());
    assert!(code == Some(1) && told.contains("the export is not whole"), "{told}");
    assert!(told.contains(&format!("{number} entries were imported, 0 were")), "{told}");
    let (code, told) = import(&target, &["import"], &[without_end[1..].concat(), end.to_vec()].concat());
    assert!(code == Some(1) && told.contains("the export is not whole"), "{told}");
    let (code, told) = import(&target, &["import"], &[&text, &b"{\"entry\""[..]].concat());
    assert!(
        code == Some(1) && told.contains(&format!("line {} cannot be imported", lines.len() + 1)),
        "{told}"
    );
    let told = said(0, &target, &["import", name]);
    assert!(told.contains(&format!("0 entries were imported, {number} were")), "{told}");
    // As Kinto's plugin serves them.
    let served: Vec<String> =
        entries(&sidecar.client().user("alice"), &bucket).await.iter().map(ToString::to_string).collect();
    assert_eq!(import(&target, &["import"], served.join("\n").as_bytes()).0, Some(0));
}

#[tokio::test]
async fn odd_versions_are_moved_as_they_are_and_a_line_that_cannot_be_read_costs_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let journal = sqlite(&folder.path().join("from.db"));
    let (sidecar, bucket, _) = used(&journal).await;
    let alice = sidecar.client().user("alice");
    let collection = format!("{bucket}/collections/c");
    alice.put(&collection).await.expect(201);
    for (id, version) in [("true", json!(true)), ("below", json!(-5)), ("zero", json!(0)), ("old", json!(7))]
    {
        let record = alice.put(&format!("{collection}/records/{id}"));
        record.data(json!({"last_modified": version})).await.expect(201);
    }
    alice.put(&format!("{bucket}/groups/after")).data(json!({"members": []})).await.expect(201);
    let number = entries(&alice, &bucket).await.len();
    drop(sidecar);
    said(0, &journal, &["verify"]);
    let exported = history(&journal, &["export"]).output().unwrap().stdout;
    let (moved, partly) = (folder.path().join("to.db"), folder.path().join("partly.db"));
    let (code, told) = import(&sqlite(&moved), &["import", "--new"], &exported);
    assert!(code == Some(0) && told.contains(&format!("{number} entries were imported")), "{told}");
    said(0, &sqlite(&moved), &["verify"]);
    assert_eq!(history(&sqlite(&moved), &["export"]).output().unwrap().stdout, exported);

    let mut lines: Vec<&[u8]> = exported.split_inclusive(|byte| *byte == b'\n').collect();
    let place = lines.iter().position(|line| line.starts_with(b"{\"entry\"")).unwrap();
    lines[place] = b"{\"entry\": cut\n";
    let (code, told) = import(&sqlite(&partly), &["import", "--new"], &lines.concat());
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains(&format!("1 were left out: line {} cannot be imported", place + 1)), "{told}");
    assert!(told.contains(&format!("{} entries were imported", number - 1)), "{told}");
}

#[test]
fn a_journal_that_is_not_there_is_an_error_and_not_made() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("none.db");
    let empty = database();
    for journal in [&sqlite(&path), &empty] {
        for arguments in [&["export"][..], &["import"]] {
            let told = said(1, journal, arguments);
            assert!(told.contains("there is no journal at"), "{told}");
        }
    }
    assert!(said(1, &sqlite(&path), &["export"]).contains(&*path.to_string_lossy()));
    let program = || Command::new(env!("CARGO_BIN_EXE_kinto-sidecar"));
    let upstream = Kinto::shared().url();
    let checked =
        program().args(["check", "--upstream", &upstream, "--journal", &sqlite(&path)]).output().unwrap();
    let report = String::from_utf8(checked.stdout).unwrap();
    assert!(report.contains("none.db, which is not there yet"), "{report}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing was made");
    assert_eq!(said(2, "sqlite::memory:", &["export"]).lines().count(), 1);
    assert_eq!(history(&empty, &["exprot"]).output().unwrap().status.code(), Some(2));
    assert_eq!(history("mysql://x", &["export"]).output().unwrap().status.code(), Some(2));
}

#[tokio::test]
async fn whoever_stops_reading_is_told_by_the_exit_code_alone() {
    let folder = tempfile::tempdir().unwrap();
    let journal = sqlite(&folder.path().join("journal.db"));
    let (_sidecar, _, _) = used(&journal).await;
    let upstream = Kinto::shared().url();
    let mut check = Command::new(env!("CARGO_BIN_EXE_kinto-sidecar"));
    check
        .env_remove("KINTO_SIDECAR_TEST_ENV")
        .args(["check", "--upstream", &upstream, "--journal", &journal]);
    for mut command in [history(&journal, &["export"]), check] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = command.stdout(writer).stderr(Stdio::piped()).output().unwrap();
        assert_eq!(outcome(&output), (Some(1), String::new()));
    }
}
