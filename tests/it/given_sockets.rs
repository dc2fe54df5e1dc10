//! Sockets that a service manager has opened, as `systemd-socket-activate` gives them.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::stub::{HELLO, Stub};
use crate::support::{eventually, undertaker};

fn ask(path: &Path, target: &str) -> Option<String> {
    let mut client = UnixStream::connect(path).ok()?;
    let request = format!("GET {target} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    client.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    Some(answer)
}

#[tokio::test]
async fn sockets_of_the_service_manager_are_used_by_their_names() {
    if Command::new("systemd-socket-activate").arg("--version").stdout(Stdio::null()).status().is_err() {
        println!("systemd-socket-activate is not there");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let [clients, admin] = ["clients.sock", "admin.sock"].map(|name| folder.path().join(name));
    let stub = Stub::answering(HELLO);
    let mut process = Command::new("systemd-socket-activate")
        .args(["--fdname=kinto-sidecar.socket:admin", "-l"])
        .arg(&clients)
        .arg("-l")
        .arg(&admin)
        .arg(env!("CARGO_BIN_EXE_kinto-sidecar"))
        .args(["--upstream", &stub.url(), "--admin-listen", "127.0.0.1:0", "--set", "sidecar.threads=3"])
        .args(["--changes", "off", "--history", "off"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    undertaker::watch(&process);
    // The first connection starts the process, and waits in the queue until it is there.
    let answer = eventually("the socket", async || ask(&clients, "/v1/x")).await;
    assert!(answer.ends_with("hello"), "{answer}");
    for _ in 0..6 {
        assert!(ask(&clients, "/v1/x").unwrap().ends_with("hello"));
    }
    assert!(ask(&admin, "/health/live").unwrap().ends_with("{\"live\":true}"));
    process.kill().unwrap();
    process.wait().unwrap();
    undertaker::release(&process);
}
