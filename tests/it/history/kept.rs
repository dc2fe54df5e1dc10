//! The journal in an operator's hands: copied while it is in use, read from end to end, made smaller.

use std::os::unix::fs::FileExt;

use http::Method;
use serde_json::json;

use super::entries;
use super::transfer::{history, mode, said, sqlite, used};
use crate::support::{Client, Kinto, SERVICE_ACCOUNT, Sidecar, database, unique};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_is_made_while_writes_pass_is_a_journal() {
    let folder = tempfile::tempdir().unwrap();
    let journal = sqlite(&folder.path().join("journal.db"));
    let (sidecar, bucket, number) = used(&journal).await;
    let alice = sidecar.client().user("alice");
    let writer = tokio::spawn({
        let (alice, bucket) = (sidecar.client().user("alice"), bucket.clone());
        async move {
            for index in 0..40 {
                let group = format!("{bucket}/groups/more{index}");
                alice.put(&group).data(json!({"members": []})).await.expect(201);
            }
        }
    });
    let copy = folder.path().join("copy.db");
    let name = copy.to_str().unwrap().to_owned();
    tokio::task::spawn_blocking(move || said(0, &journal, &["backup", &name])).await.unwrap();
    writer.await.unwrap();
    assert_eq!(mode(&copy), 0o600);
    let mut files: Vec<_> =
        std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    // What is kept for a restart is beside the journal.
    files.retain(|name| name != "kinto-sidecar.warm");
    assert_eq!(files.len(), 5, "nothing else is left: {files:?}");
    let copied = sqlite(&copy);
    let verified = history(&copied, &["verify"]).output().unwrap();
    assert_eq!(verified.status.code(), Some(0), "{verified:?}");
    let moved = Sidecar::start(Kinto::shared().url(), &[SERVICE_ACCOUNT, ("sidecar.journal", &copied)]);
    let (all, copied) =
        (entries(&alice, &bucket).await, entries(&moved.client().user("alice"), &bucket).await);
    assert!(copied.len() >= number && all.len() == number + 40);
    assert_eq!(copied[..number], all[..number]);
}

#[tokio::test]
async fn each_command_says_how_it_ended() {
    let folder = tempfile::tempdir().unwrap();
    let (path, copy) = (folder.path().join("journal.db"), folder.path().join("copy.db"));
    let (journal, name) = (sqlite(&path), copy.to_str().unwrap());
    let (sidecar, ..) = used(&journal).await;
    assert!(said(1, &journal, &["compact"]).contains("in use by another process"));
    said(0, &journal, &["verify"]);
    said(0, &journal, &["backup", name]);
    assert!(said(1, &journal, &["backup", name]).contains("copy.db"));
    said(1, &journal, &["backup", folder.path().join("none/copy.db").to_str().unwrap()]);
    drop(sidecar);
    assert!(said(0, &journal, &["compact"]).contains("bytes"));
    said(0, &journal, &["verify"]);

    let postgres = database();
    assert!(said(2, &postgres, &["backup", name]).contains("pg_dump"));
    assert!(said(2, &postgres, &["compact"]).contains("VACUUM"));
    let none = folder.path().join("none.db");
    for arguments in [&["backup", "x.db"][..], &["verify"], &["compact"]] {
        assert!(said(1, &sqlite(&none), arguments).contains("there is no journal at"));
    }
    assert!(!none.exists());

    // Some page in the middle.
    let file = std::fs::File::options().write(true).open(&copy).unwrap();
    file.write_all_at(&[0xff; 4096], 4096 * 9).unwrap();
    let damaged = sqlite(&copy);
    let output = history(&damaged, &["verify"]).output().unwrap();
    let (report, told) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(1), "{report}{told}");
    assert!(report.contains("problem       the file is damaged") && told.contains(name), "{report}{told}");
    let text = "no journal at all, but something that somebody wants to keep".repeat(100);
    std::fs::write(&none, text).unwrap();
    assert!(said(1, &sqlite(&none), &["verify"]).contains("none.db is a file that is not a database"));
}

#[tokio::test]
async fn numbers_about_the_journal_are_there_from_0_with_their_meaning() {
    let folder = tempfile::tempdir().unwrap();
    for journal in [sqlite(&folder.path().join("journal.db")), database()] {
        let settings =
            [SERVICE_ACCOUNT, ("sidecar.journal", &*journal), ("sidecar.admin_listen", "127.0.0.1:0")];
        let sidecar = Sidecar::start(Kinto::shared().url(), &settings);
        let admin = Client::new(&sidecar.admin().unwrap());
        let number = async |name: &str| {
            let text = admin.request_target(Method::GET, "/metrics").await.expect(200).text();
            let family = name.split("_count").next().unwrap();
            for word in ["HELP", "TYPE"] {
                let head = format!("# {word} kinto_sidecar_journal_{family} ");
                assert_eq!(text.matches(&head).count(), 1, "{head}: {text}");
            }
            let name = format!("kinto_sidecar_journal_{name} ");
            let value = text
                .lines()
                .find_map(|line| line.strip_prefix(&name))
                .unwrap_or_else(|| panic!("{name}: {text}"));
            value.parse::<u64>().unwrap()
        };
        for name in
            ["entries", "open_intents", "failures_total", "left_out_changes_total", "trimmed_entries_total"]
        {
            assert_eq!(number(name).await, 0, "{name}");
        }
        let bucket = format!("/buckets/{}", unique("counted"));
        sidecar.client().user("alice").put(&bucket).await.expect(201);
        assert_eq!(number("entries").await, 1);
        assert!(number("commit_duration_seconds_count").await >= 2);
        assert!(number("size_bytes").await > 4096);
    }
}
