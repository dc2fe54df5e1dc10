//! A client's connection, byte by byte: heads, bodies, chunks and HTTP/2 as hyper takes them, escapes of the target, what is
//! stripped from a request and added to it.
//!
//! The upstream sees nothing that is not a request of the sidecar's own making (see [`support::Heard`]), and of what an
//! untrusted client claims about itself nothing.

#![no_main]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use kinto_sidecar::server::Server;
use libfuzzer_sys::fuzz_target;
use support::{Answer, Heard, Kinto, Sidecar};

/// How long is waited for more: an input that leaves something open is not answered to its end.
const PATIENCE: Duration = Duration::from_millis(3);
/// Ends a connection on which nothing is left open.
const LAST: &[u8] = b"GET /v1/last HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";

fuzz_target!(|input: &[u8]| {
    static SOCKET: OnceLock<PathBuf> = OnceLock::new();
    let mut stream = UnixStream::connect(SOCKET.get_or_init(serve)).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("it is more than nothing");
    // The sidecar may hang up at any byte.
    if stream.write_all(input).and_then(|()| stream.write_all(LAST)).is_err() {
        return;
    }
    let mut answers = Vec::new();
    let _ = stream.read_to_end(&mut answers);
    let is_http1 = !input.starts_with(b"PRI");
    assert!(!is_http1 || answers.is_empty() || answers.starts_with(b"HTTP/1."), "no answer");
});

/// A server for the rest of the process.
fn serve() -> PathBuf {
    let kinto = Kinto::start(|heard| {
        claims(heard);
        Answer { status: 200, body: b"{}".to_vec(), ..Answer::default() }
    });
    let socket = std::env::temp_dir().join(format!("kinto-sidecar-fuzz-{}", std::process::id()));
    let listen = format!("sidecar.listen=unix:{}", socket.display());
    let short = ["sidecar.threads=1", "sidecar.upstream_timeout=1s", "sidecar.max_body=64k"];
    let assignments: Vec<&str> = short.into_iter().chain([listen.as_str()]).collect();
    let sidecar = Sidecar::before(&kinto, &assignments);
    let server = Server::open(Arc::clone(&sidecar.core.app), sidecar.core.upstream.sibling());
    server.and_then(Server::start).expect("the socket can be opened");
    std::mem::forget(sidecar);
    socket
}

fn claims(heard: &Heard) {
    if heard.all("via").next().is_none() {
        return;
    }
    assert_eq!(heard.only("x-forwarded-for"), Some(&b"unknown"[..]), "{heard:?}");
    assert!(heard.only("forwarded").is_some_and(|node| node.starts_with(b"for=unknown;")), "{heard:?}");
    // HTTP/1.0 may name no host.
    let host = heard.only("x-forwarded-host");
    assert!(host.is_none() || host == heard.only("host"), "{heard:?}");
    assert!(heard.only("x-real-ip").is_none(), "{heard:?}");
    let is_claim = |name: &str| name.starts_with("x-forwarded-");
    assert_eq!(
        heard.headers.iter().filter(|(name, _)| is_claim(name)).count(),
        2 + usize::from(host.is_some()),
        "{heard:?}"
    );
    let id = heard.only("x-request-id").expect("each request has one");
    assert!((1..=128).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic), "{heard:?}");
}
