//! The newcomer's command shows a change arrive, stays up, and leaves nothing behind.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};

/// A shell cannot trap what was ignored when it was started, as everything that runs in the background ignores Ctrl-C.
const WITH_CTRL_C: &str = "import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])";

/// The running quickstart; stopped by Ctrl-C when dropped.
pub struct Quickstart {
    process: Child,
    /// All that it has said.
    pub shown: String,
    /// `host:port` of Kinto.
    pub kinto: String,
    /// `host:port` of the sidecar.
    pub sidecar: String,
    /// `host:port` of its second listener.
    pub admin: String,
    /// Where its logs and its journal are.
    pub folder: PathBuf,
}

impl Quickstart {
    /// Starts it with the binary that is tested, and waits until it has shown what it does.
    pub fn start() -> Self {
        let mut process = Command::new("python3")
            .args(["-c", WITH_CTRL_C])
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/quickstart"))
            .args(["--binary", env!("CARGO_BIN_EXE_kinto-sidecar")])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(process.stdout.take().unwrap());
        let mut shown = String::new();
        while !shown.contains("until Ctrl-C") && stdout.read_line(&mut shown).unwrap() > 0 {}
        if !shown.contains("until Ctrl-C") {
            let mut complaints = String::new();
            process.stderr.take().unwrap().read_to_string(&mut complaints).unwrap();
            panic!("{shown}\n{complaints}");
        }
        let address = |before: &str| {
            let (_, after) = shown.split_once(before).unwrap();
            let port: String = after.chars().take_while(char::is_ascii_digit).collect();
            format!("127.0.0.1:{port}")
        };
        let kinto = address("Starting a Kinto without plugins on port ");
        let sidecar = address("The sidecar listens at http://127.0.0.1:");
        let admin = address("Its health and metrics are at http://127.0.0.1:");
        let folder = shown.split_once("Logs: ").unwrap().1.split('\u{1b}').next().unwrap();
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        Self { process, shown, kinto, sidecar, admin, folder }
    }

    /// Presses Ctrl-C, and waits until it has ended.
    fn stop(&mut self) -> Option<ExitStatus> {
        let process = i32::try_from(self.process.id()).ok().and_then(Pid::from_raw)?;
        kill_process(process, Signal::INT).ok()?;
        self.process.wait().ok()
    }
}

impl Drop for Quickstart {
    fn drop(&mut self) {
        if let Ok(None) = self.process.try_wait() {
            self.stop();
        }
    }
}

#[test]
fn quickstart_shows_a_change_arrive_and_stops_both_servers() {
    let mut quickstart = Quickstart::start();
    let shown = &quickstart.shown;
    assert!(shown.contains(r#""collection": "notes""#), "{shown}");
    assert!(shown.contains("Hello from quickstart"), "{shown}");

    let addresses = [&quickstart.kinto, &quickstart.sidecar, &quickstart.admin].map(Clone::clone);
    for address in &addresses {
        TcpStream::connect(address).unwrap();
    }
    assert_eq!(quickstart.stop().unwrap().code(), Some(130));
    for address in &addresses {
        TcpStream::connect(address).unwrap_err();
    }
}
