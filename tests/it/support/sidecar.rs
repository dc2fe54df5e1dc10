//! The sidecar's own binary, as a user starts it.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use http::Method;
use rustix::process::{Pid, Signal, kill_process};

use super::client::Client;
use super::stub::Raw;
use super::{PATIENCE, undertaker};

/// A running sidecar; stopped when dropped.
#[derive(Debug)]
pub struct Sidecar {
    process: Child,
    /// What starts it, where it is not started as it is.
    starter: Vec<String>,
    address: String,
    arguments: Vec<OsString>,
    log: Arc<Mutex<String>>,
}

impl Sidecar {
    /// Starts a sidecar in front of `upstream` (the API root, with `/v1`) with these settings; waits until it listens.
    pub fn start(upstream: impl AsRef<str>, settings: &[(&str, &str)]) -> Self {
        Self::start_by(Vec::new(), upstream, settings)
    }

    /// The same by a program that starts others, with its arguments.
    pub fn start_by(starter: Vec<String>, upstream: impl AsRef<str>, settings: &[(&str, &str)]) -> Self {
        let mut arguments: Vec<OsString> = vec!["--upstream".into(), upstream.as_ref().into()];
        for (key, value) in settings {
            arguments.extend(["--set".into(), format!("{key}={value}").into()]);
        }
        let log = Arc::new(Mutex::new(String::new()));
        let (process, address) = started(spawn(&starter, &arguments, "127.0.0.1:0", &log), &log);
        Self { process, starter, address, arguments, log }
    }

    /// `host:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The root of its API, as clients take it.
    pub fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// `host:port` of its second listener, where it has one.
    pub fn admin(&self) -> Option<String> {
        let log = self.log();
        // A restart may take another port.
        let (_, after) = log.rsplit_once("metrics and health on http://")?;
        Some(after.split(|letter: char| letter.is_whitespace() || letter == '"').next()?.to_owned())
    }

    /// A number from its second listener, by the metric's name and labels.
    pub async fn metric(&self, name: &str) -> Option<u64> {
        let admin = Client::new(&self.admin().expect("sidecar.admin_listen"));
        let metrics = admin.request_target(Method::GET, "/metrics").await.expect(200).text();
        metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
    }

    /// Sends a signal, such as `HUP`.
    pub fn signal(&self, signal: Signal) {
        let process = i32::try_from(self.process.id()).ok().and_then(Pid::from_raw);
        kill_process(process.unwrap(), signal).unwrap();
    }

    /// The number of its process.
    pub fn process_id(&self) -> u32 {
        self.process.id()
    }

    /// A client that fails the test on a header which the sidecar has no business to send.
    pub fn client(&self) -> Client {
        Client::new(&self.address).strict()
    }

    /// A bare socket to it.
    pub fn connect(&self) -> Raw {
        Raw::connect(self.address.parse().unwrap())
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sends `SIGTERM`, without waiting.
    pub fn terminate(&self) {
        if let Some(process) = i32::try_from(self.process.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(process, Signal::TERM);
        }
    }

    /// Waits until it has ended by itself; `None` when it has not in `limit`.
    pub fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let until = Instant::now() + limit;
        loop {
            if let Ok(Some(status)) = self.process.try_wait() {
                return Some(status);
            }
            if Instant::now() > until {
                return None;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// Stops it in order, if it runs, and starts it with the same settings at the same address.
    pub fn restart(&mut self) {
        if let Err(ended) = self.try_restart() {
            panic!("the sidecar did not start, {ended:?}:\n{}", self.log());
        }
    }

    /// The same, where what it needs may not be there: how it ended, if it did.
    pub fn try_restart(&mut self) -> Result<(), Option<ExitStatus>> {
        self.stop();
        (self.process, self.address) = spawn(&self.starter, &self.arguments, &self.address, &self.log)?;
        Ok(())
    }

    /// Starts it again with more settings, which may name its address.
    pub fn restart_with(&mut self, settings: &[(&str, &str)]) {
        for (key, value) in settings {
            self.arguments.extend(["--set".into(), format!("{key}={value}").into()]);
        }
        self.restart();
    }

    /// How it ended, if it did by itself.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.process.try_wait().ok().flatten()
    }

    /// Starts another with the same settings at the same address, and waits until it listens. It is this version, whatever
    /// the one before it was started by.
    pub fn successor(&self) -> Self {
        let log = Arc::new(Mutex::new(String::new()));
        let (process, address) = started(spawn(&[], &self.arguments, &self.address, &log), &log);
        Self { process, starter: Vec::new(), address, arguments: self.arguments.clone(), log }
    }

    fn stop(&mut self) {
        self.terminate();
        if self.wait(Duration::from_secs(5)).is_none() {
            self.kill();
        }
        undertaker::release(&self.process);
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        self.stop();
        if std::thread::panicking() {
            println!("--- log of the sidecar at {} ---\n{}", self.address, self.log());
        }
    }
}

fn spawn(
    starter: &[String],
    arguments: &[OsString],
    listen: &str,
    log: &Arc<Mutex<String>>,
) -> Result<(Child, String), Option<ExitStatus>> {
    let mut programs = starter.iter().map(String::as_str).chain([env!("CARGO_BIN_EXE_kinto-sidecar")]);
    let mut process = Command::new(programs.next().unwrap())
        .args(programs)
        .args(["--listen", listen])
        // Whoever wants a journal that lasts names one.
        .env("SIDECAR_JOURNAL", "sqlite::memory:")
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    undertaker::watch(&process);
    let (ready, address) = mpsc::channel();
    let lines = Arc::clone(log);
    let mut stderr = BufReader::new(process.stderr.take().unwrap());
    std::thread::spawn(move || {
        let mut line = String::new();
        while stderr.read_line(&mut line).is_ok_and(|read| read > 0) {
            if let Some((_, url)) = line.split_once("listening on ") {
                let url = url.split(|letter: char| letter.is_whitespace() || letter == '"').next().unwrap();
                let host = url.trim_start_matches("http://").trim_start_matches("https://");
                let _ = ready.send(host.to_owned());
            }
            lines.lock().unwrap_or_else(PoisonError::into_inner).push_str(&line);
            line.clear();
        }
    });
    if let Ok(address) = address.recv_timeout(PATIENCE) {
        return Ok((process, address));
    }
    // It closed its log and is about to end, or it hangs.
    let until = Instant::now() + Duration::from_secs(1);
    let ended = loop {
        match process.try_wait() {
            Ok(None) if Instant::now() < until => std::thread::sleep(Duration::from_millis(5)),
            ended => break ended.ok().flatten(),
        }
    };
    let _ = process.kill();
    let _ = process.wait();
    Err(ended)
}

fn started(
    spawned: Result<(Child, String), Option<ExitStatus>>,
    log: &Arc<Mutex<String>>,
) -> (Child, String) {
    spawned.unwrap_or_else(|ended| {
        let log = log.lock().unwrap_or_else(PoisonError::into_inner);
        panic!("the sidecar did not start, {ended:?}:\n{log}")
    })
}
