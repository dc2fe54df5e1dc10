//! The newcomer's command shows a change arrive, stays up, and leaves nothing behind.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

/// A shell cannot trap what was ignored when it was started, as everything that runs in the background ignores Ctrl-C.
const WITH_CTRL_C: &str = "import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])";

#[test]
fn quickstart_shows_a_change_arrive_and_stops_both_servers() {
    let mut quickstart = Command::new("python3")
        .args(["-c", WITH_CTRL_C])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/quickstart"))
        .args(["--binary", env!("CARGO_BIN_EXE_kinto-sidecar")])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(quickstart.stdout.take().unwrap());
    let mut shown = String::new();
    while !shown.contains("until Ctrl-C") && stdout.read_line(&mut shown).unwrap() > 0 {}
    if !shown.contains("until Ctrl-C") {
        let mut complaints = String::new();
        quickstart.stderr.take().unwrap().read_to_string(&mut complaints).unwrap();
        panic!("{shown}\n{complaints}");
    }
    assert!(shown.contains(r#""collection": "notes""#), "{shown}");
    assert!(shown.contains("Hello from quickstart"), "{shown}");

    let addresses = ["Starting a Kinto without plugins on port ", "The sidecar listens at http://127.0.0.1:"]
        .map(|before| {
            let (_, after) = shown.split_once(before).unwrap();
            let port: String = after.chars().take_while(char::is_ascii_digit).collect();
            format!("127.0.0.1:{port}")
        });
    for address in &addresses {
        TcpStream::connect(address).unwrap();
    }
    let process = i32::try_from(quickstart.id()).ok().and_then(Pid::from_raw).unwrap();
    kill_process(process, Signal::INT).unwrap();
    assert_eq!(quickstart.wait().unwrap().code(), Some(130));
    for address in &addresses {
        TcpStream::connect(address).unwrap_err();
    }
}
