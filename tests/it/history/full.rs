//! A disk that is really full.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::json;

use super::entries;
use crate::support::{Client, Kinto, SERVICE_ACCOUNT, Sidecar, eventually, undertaker, unique};

/// A small file system of a process's own, and of those who are started beside it; others see it through that process.
pub struct Disk {
    process: Child,
    folder: PathBuf,
}

impl Disk {
    /// One of 8 MiB; `None` where this machine lets nobody mount anything.
    pub fn small() -> Option<Self> {
        let script = "mount -t tmpfs -o size=8m none /mnt && echo ready && exec cat";
        let mut process = Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "sh", "-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        undertaker::watch(&process);
        let mut ready = String::new();
        BufReader::new(process.stdout.as_mut()?).read_line(&mut ready).ok()?;
        let folder = PathBuf::from(format!("/proc/{}/root/mnt", process.id()));
        let disk = Self { process, folder };
        (ready == "ready\n").then_some(disk)
    }

    /// What starts a program that has it at `/mnt`.
    pub fn beside(&self) -> Vec<String> {
        let process = self.process.id().to_string();
        ["nsenter", "--user", "--preserve-credentials", "--mount", "--target", &process]
            .map(str::to_owned)
            .to_vec()
    }

    /// Fills it but for so many bytes.
    pub fn fill(&self, left: u64) {
        let mut file = File::options().create(true).append(true).open(self.folder.join("filling")).unwrap();
        for size in [64 << 10, 4096, 1] {
            while file.write_all(&vec![b'x'; size]).is_ok() {}
        }
        file.set_len(file.metadata().unwrap().len() - left).unwrap();
    }

    fn relieve(&self) {
        std::fs::remove_file(self.folder.join("filling")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        undertaker::release(&self.process);
    }
}

#[tokio::test]
async fn what_went_upstream_has_its_entry_though_the_disk_is_full() {
    let Some(disk) = Disk::small() else {
        println!("no file system can be mounted here");
        return;
    };
    let kinto = Kinto::shared();
    let bucket = format!("/buckets/{}", unique("brim"));
    let settings = [SERVICE_ACCOUNT, ("sidecar.journal", "sqlite:/mnt/journal.db")];
    let sidecar = Sidecar::start_by(disk.beside(), kinto.url(), &settings);
    // Not so strict: where a body was not read, the connection ends.
    let alice = Client::new(sidecar.address()).user("alice");
    let direct = kinto.client().user("alice");
    alice.put(&bucket).await.expect(201);
    alice.put(&format!("{bucket}/collections/c")).await.expect(201);
    let record = |n: usize| format!("{bucket}/collections/c/records/r{n}");
    let (mut written, mut refused) = (Vec::new(), Vec::new());
    for n in 0..60 {
        if n % 4 == 0 {
            // Enough for an intent, at times, and not for its entry.
            disk.fill(n as u64 / 4 * (12 << 10));
        }
        let text = "x".repeat(100_000 - n * 1000);
        match alice.put(&record(n)).data(json!({"text": text})).await.status {
            201 => written.push(n),
            503 => refused.push(n),
            status => panic!("{status}"),
        }
    }
    assert!(refused.len() > 5, "{} were written", written.len());
    for n in refused {
        direct.get(&record(n)).await.expect(404);
    }
    disk.relieve();
    eventually("writes again", async || (alice.put(&record(99)).await.status < 300).then_some(())).await;
    written.push(99);
    let recorded = entries(&alice, &bucket).await;
    for n in written {
        let id = format!("r{n}");
        assert_eq!(recorded.iter().filter(|entry| entry["record_id"] == id.as_str()).count(), 1, "{id}");
    }
}
