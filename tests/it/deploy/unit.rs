//! The systemd unit, and what it rests on: exit statuses that tell what mends itself, and a `health` for those without `curl`.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

use super::deploy_folder;
use crate::support::skip;
use crate::support::stub::{HELLO, Stub};

fn sidecar(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kinto-sidecar")).args(arguments).env_clear().output().unwrap()
}

#[test]
fn systemd_takes_the_units_and_finds_the_service_well_locked_up() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        skip("systemd-analyze is not installed, so the unit was not verified");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let unit = fs::read_to_string(deploy_folder().join("kinto-sidecar.service")).unwrap();
    // Neither the program nor the page of the manual is installed here.
    let installed = "ExecStart=kinto-sidecar ";
    assert!(unit.contains(installed));
    let built = format!("ExecStart={} ", env!("CARGO_BIN_EXE_kinto-sidecar"));
    let unit = unit.replace(installed, &built).replace("Documentation=", "#");
    let path = folder.path().join("kinto-sidecar.service");
    fs::write(&path, unit).unwrap();
    let sockets = folder.path().join("kinto-sidecar.socket");
    fs::copy(deploy_folder().join("kinto-sidecar.socket"), &sockets).unwrap();
    let analyze = |arguments: &[&str], units: &[&Path]| {
        let output = Command::new("systemd-analyze").args(arguments).args(units).output().unwrap();
        let said =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{said}");
        said
    };
    let complaints = analyze(&["verify", "--man=no"], &[&path, &sockets]);
    // What it says of other units of this machine is not ours.
    assert!(!complaints.contains("kinto-sidecar"), "{complaints}");
    // Tenths of the exposure that is allowed: an unprotected service has 96.
    analyze(&["security", "--offline=true", "--threshold=15", "--no-pager"], &[&path]);
}

#[test]
fn the_units_and_their_settings_name_the_same_address() {
    let read = |name: &str| fs::read_to_string(deploy_folder().join(name)).unwrap();
    let value = |text: &str, key: &str| {
        let mut lines = text.lines();
        lines.find_map(|line| line.strip_prefix(key)).map(|value| value.trim_start_matches(" = ").to_owned())
    };
    let listen = value(&read("kinto-sidecar.ini"), "sidecar.listen").unwrap();
    assert_eq!(value(&read("kinto-sidecar.socket"), "ListenStream="), Some(listen));
    // A process that takes over tells systemd of itself, and is found where the setting looks by itself.
    let service = read("kinto-sidecar.service");
    for line in
        ["Type=notify", "NotifyAccess=all", "RuntimeDirectory=kinto-sidecar", "RestartPreventExitStatus=2"]
    {
        assert!(service.lines().any(|given| given == line), "{line}");
    }
}

#[test]
fn the_exit_status_says_whether_to_try_again() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let journal = |name: &str| format!("sqlite:{}", folder.path().join(name).display());
    let status = |arguments: &[&str]| {
        let output = sidecar(arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), said)
    };
    // Somebody else has the address still, or the address or name is not there yet.
    for listen in [address.as_str(), "192.0.2.1:8889", "nobody.invalid:8889"] {
        for listening in [&["--listen", listen][..], &["--listen", "127.0.0.1:0", "--admin-listen", listen]] {
            let (code, said) = status(&[&["--journal", &journal("a.db")], listening].concat());
            assert_eq!(code, Some(1), "{said}");
            assert!(said.contains(&format!("cannot listen on {listen}")), "{said}");
        }
    }
    // A journal that is none stays none.
    fs::write(folder.path().join("other.db"), "not a database, whatever its name says").unwrap();
    let (code, said) = status(&["--journal", &journal("other.db"), "--listen", "127.0.0.1:0"]);
    assert_eq!(code, Some(2), "{said}");
}

#[test]
fn health_says_by_its_exit_status_how_a_sidecar_is() {
    let is_well = |answer: &str, arguments: &[&str]| {
        let stub = Stub::answering(answer);
        let url = format!("http://{}", stub.address);
        let output = sidecar(&[arguments, &[url.as_str()]].concat());
        (
            output.status.code(),
            stub.next().line().to_owned(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
        )
    };
    assert_eq!(
        is_well(HELLO, &["health"]),
        (Some(0), "GET /health/live HTTP/1.1".to_owned(), "hello\n".to_owned())
    );
    let unready = "HTTP/1.1 503 Not Yet\r\nContent-Length: 2\r\n\r\nno";
    assert_eq!(
        is_well(unready, &["health", "--ready"]),
        (Some(1), "GET /health/ready HTTP/1.1".to_owned(), "no\n".to_owned())
    );
    // By the settings that the running one has.
    let stub = Stub::answering(HELLO);
    let port = stub.address.port();
    assert_eq!(sidecar(&["health", "--admin-listen", &format!("0.0.0.0:{port}")]).status.code(), Some(0));
    // Nobody there, and nobody named.
    assert_eq!(sidecar(&["health", "unix:/nowhere"]).status.code(), Some(1));
    assert_eq!(sidecar(&["health"]).status.code(), Some(2));
}
