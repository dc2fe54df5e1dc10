//! The log's stream may stand still, be closed or be full: the sidecar goes on, and ends as it is told to.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::Sidecar;
use crate::support::stub::{HELLO, PATIENCE, Stub};

/// An upstream that can be told to give no more answers.
fn upstream() -> (Stub, Arc<AtomicBool>) {
    let fails = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&fails);
    let stub = Stub::start(move |mut upstream| {
        while upstream.read().is_some() && !told.load(Relaxed) {
            upstream.write(HELLO);
        }
    });
    (stub, fails)
}

/// A sidecar whose log goes to `log`, before an upstream.
struct Logging {
    process: Child,
    socket: PathBuf,
    _folder: tempfile::TempDir,
}

impl Logging {
    fn start(stub: &Stub, log: impl Into<Stdio>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let process = Command::new(env!("CARGO_BIN_EXE_kinto-sidecar"))
            .arg("--listen")
            .arg(format!("unix:{}", socket.display()))
            .args(["--upstream", &stub.url(), "--history", "off", "--set", "sidecar.state_dir=none"])
            .args(["--set", "sidecar.access_log=true"])
            .stderr(log)
            .spawn()
            .unwrap();
        let logging = Self { process, socket, _folder: folder };
        let until = Instant::now() + PATIENCE;
        while UnixStream::connect(&logging.socket).is_err() {
            assert!(Instant::now() < until, "it does not listen");
            std::thread::yield_now();
        }
        logging
    }

    fn status(&self, path: &str) -> String {
        ask(&self.socket, path)
    }

    /// Tells it to end, and how it ended.
    fn end(mut self) -> Option<i32> {
        let process = i32::try_from(self.process.id()).ok().and_then(Pid::from_raw).unwrap();
        kill_process(process, Signal::TERM).unwrap();
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < until, "it does not end");
            std::thread::yield_now();
        }
    }
}

impl Drop for Logging {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The status of what is asked for.
fn ask(socket: &Path, path: &str) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split(' ').nth(1).unwrap_or_default().to_owned()
}

#[test]
fn who_stops_reading_the_log_stops_nothing() {
    let (stub, fails) = upstream();
    let (reading, writing) = std::io::pipe().unwrap();
    let sidecar = Logging::start(&stub, writing);
    // More than a pipe takes.
    let long = "x".repeat(4000);
    for _ in 0..40 {
        assert_eq!(sidecar.status(&format!("/v1/{long}")), "200");
    }
    fails.store(true, Relaxed);
    // Each of these is told of by whoever serves.
    for _ in 0..40 {
        assert_eq!(sidecar.status(&format!("/v1/{long}")), "502");
    }
    assert_eq!(sidecar.end(), Some(0));
    drop(reading);
}

#[test]
fn a_log_that_cannot_be_written_ends_nothing() {
    let full = || Stdio::from(File::options().write(true).open("/dev/full").unwrap());
    let closed = || {
        let (reading, writing) = std::io::pipe().unwrap();
        drop(reading);
        Stdio::from(writing)
    };
    for log in [full(), closed()] {
        let (stub, fails) = upstream();
        let sidecar = Logging::start(&stub, log);
        assert_eq!(sidecar.status("/v1/x"), "200");
        fails.store(true, Relaxed);
        for _ in 0..3 {
            assert_eq!(sidecar.status("/v1/x"), "502");
        }
        assert_eq!(sidecar.end(), Some(0));
    }
}

#[test]
fn a_parameter_of_the_journals_url_is_not_told_with_its_value() {
    // Nothing answers there; the URL is read all the same.
    let url = "postgres://user@127.0.0.1:9/journal?sslpassword=hunter2";
    for log in ["info", "sqlx_postgres::options=debug,info"] {
        let settings = [("sidecar.journal", url), ("sidecar.log", log), ("sidecar.state_dir", "none")];
        let sidecar = Sidecar::start("http://127.0.0.1:9/v1", &settings);
        assert!(!sidecar.log().contains("hunter2"), "{}", sidecar.log());
    }
}
