//! Writes that the upstream refuses.

use serde_json::json;

use super::{ask, at_once, inputs};
use crate::support::{Kinto, SERVICE_ACCOUNT, Sidecar, eventually};

#[tokio::test]
async fn of_a_refused_write_nothing_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let journal = format!("sqlite:{}", directory.path().join("journal.db").display());
    let sidecar = Sidecar::start(Kinto::shared().url(), &[SERVICE_ACCOUNT, ("sidecar.journal", &journal)]);
    let alice = sidecar.client().user("alice");
    eventually("the history is kept", async || {
        let made = alice.put("/buckets/default/collections/c").await;
        (made.status < 300).then_some(())
    })
    .await;
    let written = || {
        let io = std::fs::read_to_string(format!("/proc/{}/io", sidecar.process_id())).unwrap();
        let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).unwrap();
        line.parse::<u64>().unwrap()
    };
    let size = || -> u64 {
        let files = std::fs::read_dir(directory.path()).unwrap();
        files.map(|file| file.unwrap().metadata().unwrap().len()).sum()
    };
    let body = json!({"data": {"text": "x".repeat(60_000)}}).to_string();
    let put = |number: usize| {
        let target = format!("/v1/buckets/nobodys-{number}/collections/c/records/r");
        let request = format!("PUT {target} HTTP/1.1\r\nContent-Type: application/json\r\n");
        let status = ask(sidecar.address(), &request, body.as_bytes());
        assert!(matches!(status, Some(401 | 403 | 404)), "{status:?}");
    };
    (0..10).for_each(put);
    let (before, had) = (written(), size());
    let number = inputs(40);
    at_once(4, |index| (0..number / 4).for_each(|turn| put(100 + turn * 4 + index)));
    // Of a refusal, its intent was on the disk for a moment: some pages, whatever was sent.
    let each = (written() - before) / number as u64;
    assert!(each < 48 * 1024, "{each} bytes were written for each");
    assert!(size() < had + 20_000_000, "{} bytes more", size() - had);
    assert!(
        !String::from_utf8_lossy(&std::fs::read(directory.path().join("journal.db-wal")).unwrap())
            .contains("xxxxxxxx")
    );
}
