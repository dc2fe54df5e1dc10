//! A real Prometheus, and its promtool: what is installed, or else Debian's package, unpacked beside the other environments.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Client, PATIENCE, environment, skip, undertaker};

/// The folder that has the programs. Says what is left out where it cannot be had.
pub fn programs() -> Option<&'static Path> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    let found = FOUND.get_or_init(|| installed().or_else(|| unpacked().map_err(without).ok()));
    found.as_deref()
}

fn without(trouble: String) {
    skip(&format!("there is no Prometheus, so nothing was run in it: {trouble}"));
}

fn installed() -> Option<PathBuf> {
    let folders = std::env::var_os("PATH")?;
    std::env::split_paths(&folders)
        .find(|folder| ["prometheus", "promtool"].iter().all(|name| folder.join(name).is_file()))
}

/// Debian's package needs nothing else to run, nor to be installed.
fn unpacked() -> Result<PathBuf, String> {
    let root = environment::root();
    let folder = root.join("prometheus");
    let programs = folder.join("usr/bin");
    if folder.exists() {
        return Ok(programs);
    }
    let trouble = |error: std::io::Error| error.to_string();
    fs::create_dir_all(&root).map_err(trouble)?;
    let lock = File::create(root.join("prometheus.lock")).map_err(trouble)?;
    lock.lock().map_err(trouble)?;
    if folder.exists() {
        return Ok(programs);
    }
    let downloads = tempfile::tempdir().map_err(trouble)?;
    let download =
        || run(Command::new("apt-get").args(["download", "-qq", "prometheus"]).current_dir(&downloads));
    // A machine that was just made has no list of packages yet.
    download().or_else(|_| run(Command::new("apt-get").args(["update", "-qq"])).and_then(|()| download()))?;
    let package = fs::read_dir(&downloads).map_err(trouble)?.next();
    let package = package.ok_or("nothing was downloaded")?.map_err(trouble)?.path();
    let partial = folder.with_extension("partial");
    let _ = fs::remove_dir_all(&partial);
    run(Command::new("dpkg-deb").arg("--extract").arg(package).arg(&partial))?;
    fs::rename(&partial, &folder).map_err(trouble)?;
    Ok(programs)
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("{command:?}: {complaint}")) }
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
