//! A real Prometheus, and its promtool: what is installed, or else Debian's package, unpacked beside the other environments.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Client, PATIENCE, debian, skip, undertaker};

/// The folder that has the programs. Says what is left out where it cannot be had.
pub fn programs() -> Option<&'static Path> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    let found = FOUND.get_or_init(|| installed().or_else(|| unpacked().map_err(without).ok()));
    found.as_deref()
}

fn without(trouble: String) {
    skip(&format!("there is no Prometheus, so nothing was run in it: {trouble}"));
}

fn unpacked() -> Result<PathBuf, String> {
    Ok(debian::unpacked("prometheus")?.join("usr/bin"))
}

fn installed() -> Option<PathBuf> {
    let folders = std::env::var_os("PATH")?;
    std::env::split_paths(&folders)
        .find(|folder| ["prometheus", "promtool"].iter().all(|name| folder.join(name).is_file()))
}

/// A running Prometheus; stopped when dropped.
pub struct Prometheus {
    process: Child,
    client: Client,
}

impl Prometheus {
    /// Starts it with a configuration file, keeping its data in `folder`; waits until it answers.
    pub fn start(programs: &Path, configuration: &Path, folder: &Path, port: u16) -> Self {
        let address = format!("127.0.0.1:{port}");
        let process = Command::new(programs.join("prometheus"))
            .arg(format!("--config.file={}", configuration.display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(folder.join("log")).unwrap())
            .spawn()
            .unwrap();
        undertaker::watch(&process);
        let until = Instant::now() + PATIENCE;
        while std::net::TcpStream::connect(&address).is_err() {
            let log = || fs::read_to_string(folder.join("log")).unwrap();
            assert!(Instant::now() < until, "Prometheus did not start:\n{}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { process, client: Client::new(&address) }
    }

    /// What a path of its API answers, where it is ready to.
    pub async fn get(&self, path: &str) -> Option<Value> {
        let answer = self.client.request_target(http::Method::GET, path).await;
        (answer.status == 200).then(|| answer.json())
    }

    /// What a query comes to now: a list of series. Fails the test where it is none.
    pub async fn query(&self, query: &str) -> Vec<Value> {
        let query: String = form_urlencoded::byte_serialize(query.as_bytes()).collect();
        let answer = self.client.request_target(http::Method::GET, &format!("/api/v1/query?query={query}"));
        answer.await.expect(200).json()["data"]["result"].as_array().unwrap().clone()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        undertaker::release(&self.process);
    }
}
