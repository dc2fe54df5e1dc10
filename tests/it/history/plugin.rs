//! What Kinto's own history plugin recorded, taken over by `history import --from`.

use std::process::Command;

use serde_json::{Value, json};

use super::transfer::{outcome, sqlite};
use crate::support::{Client, Kinto, KintoOptions, Plugin, SERVICE_ACCOUNT, Sidecar, database};

fn import(journal: &str, from: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kinto-sidecar"));
    command.args(["history", "import", "--from", from, "--journal", journal]).args(arguments);
    outcome(&command.output().unwrap())
}

/// Entries of buckets, of which some were deleted; and of a bucket that was deleted and made again.
async fn fill(alice: &Client) {
    for bucket in ["/buckets/a", "/buckets/gone", "/buckets/again", "/buckets/purged"] {
        alice.put(bucket).await.expect(201);
        alice.put(&format!("{bucket}/collections/c")).await.expect(201);
        for index in 0..6 {
            let record = format!("{bucket}/collections/c/records/r{index}");
            alice.put(&record).data(json!({"n": index})).await.expect(201);
            alice.patch(&record).data(json!({"n": -1})).await.expect(200);
        }
        alice.delete(&format!("{bucket}/collections/c/records/r0")).await.expect(200);
    }
    alice.delete("/buckets/gone").await.expect(200);
    alice.delete("/buckets/again").await.expect(200);
    alice.put("/buckets/again").await.expect(201);
    alice.delete("/buckets/a/history?record_id=r1").await.expect(200);
    // Kinto deletes no more than a page at once.
    for _ in 0..4 {
        alice.delete("/buckets/purged/history").await.expect(200);
    }
}

/// All that a list has, tombstones included, and its timestamp.
async fn listed(client: &Client, bucket: &str) -> (Vec<Value>, u64) {
    let list = format!("{bucket}/history");
    let timestamp = client.head(&list).await.expect(200).timestamp();
    (client.all(&format!("{list}?_since=1")).await, timestamp)
}

#[tokio::test]
async fn histories_of_all_buckets_are_taken_over_page_by_page_and_once() {
    let options = KintoOptions::memory().plugin(Plugin::History).setting("kinto.paginate_by", "4");
    // Kinto: who may read all buckets by settings may not read their histories.
    let kinto = Kinto::start(options.setting("kinto.history_read_principals", "system.Authenticated"));
    let direct = kinto.client().user("alice");
    fill(&direct).await;
    let folder = tempfile::tempdir().unwrap();
    let account = folder.path().join("auth");
    std::fs::write(&account, SERVICE_ACCOUNT.1).unwrap();
    let account = ["--auth-file", account.to_str().unwrap()];
    for journal in [sqlite(&folder.path().join("journal.db")), database()] {
        let (code, told) = import(&journal, &kinto.url(), &account);
        assert!(code == Some(1) && told.contains("there is no journal at"), "{told}");
        let (code, told) = import(&journal, &kinto.url(), &[&account[..], &["--new"]].concat());
        let mut number = 0;
        for bucket in ["/buckets/a", "/buckets/again"] {
            number += direct.all(&format!("{bucket}/history")).await.len();
        }
        assert_eq!(code, Some(0), "{told}");
        let counts = format!("{number} entries were imported, 0 were there already, of 3 buckets");
        assert!(told.contains(&counts), "{told}, not {counts}");
        let (code, told) = import(&journal, &kinto.url(), &account);
        assert!(
            code == Some(0) && told.contains(&format!("0 entries were imported, {number} were")),
            "{told}"
        );

        let settings = [SERVICE_ACCOUNT, ("sidecar.journal", &*journal), ("sidecar.history", "journal")];
        let sidecar = Sidecar::start(kinto.url(), &settings);
        let alice = sidecar.client().user("alice");
        for bucket in ["/buckets/a", "/buckets/again", "/buckets/purged"] {
            assert_eq!(listed(&alice, bucket).await, listed(&direct, bucket).await, "{bucket}");
        }
        let record = "/buckets/a/collections/c/records/r2";
        alice.patch(record).data(json!({"n": 5})).await.expect(200);
        let newest = alice.get("/buckets/a/history?_limit=1").await.expect(200).json()["data"][0].clone();
        assert_eq!((&newest["uri"], &newest["target"]["data"]["n"]), (&json!(record), &json!(5)));
        drop(sidecar);
        // The plugin recorded that write, too.
        let (code, told) = import(&journal, &kinto.url(), &account);
        assert!(code == Some(0) && told.contains("0 entries were imported"), "{told}");
    }
}

#[tokio::test]
async fn what_cannot_be_taken_over_is_said() {
    let kinto = Kinto::start(KintoOptions::memory().plugin(Plugin::History));
    let folder = tempfile::tempdir().unwrap();
    let journal = sqlite(&folder.path().join("journal.db"));
    kinto.client().user("alice").put("/buckets/a").await.expect(201);
    for (from, arguments, code, expected) in [
        (kinto.url(), &["--auth", "mallory:x"][..], 1, "lists no bucket"),
        (
            kinto.url(),
            &["--auth", SERVICE_ACCOUNT.1],
            1,
            "may not read the history of 1 buckets (a): give it",
        ),
        (Kinto::shared().url(), &[], 1, "has no history"),
        ("http://127.0.0.1:1/v1".to_owned(), &[], 1, "cannot be read"),
        ("http://127.0.0.1:1/".to_owned(), &[], 2, "http://127.0.0.1:1/"),
    ] {
        let (ended, told) = import(&journal, &from, &[arguments, &["--new"]].concat());
        assert!(ended == Some(code) && told.contains(expected), "{from}: {ended:?} {told}");
    }
}
