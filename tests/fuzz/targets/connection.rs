//! A client's connection, byte by byte: heads, bodies, chunks and HTTP/2 as hyper takes them, escapes of the target, what is
//! stripped from a request and added to it.
//!
//! The upstream sees nothing that is not a request of the sidecar's own making (see [`support::Heard`]), of what an
//! untrusted client claims about itself nothing, and no request or body that a plain model does not find in the bytes too
//! ([`support::conversation`]), in whatever pieces they come.

#![no_main]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::net::Shutdown;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use kinto_sidecar::server::Server;
use libfuzzer_sys::fuzz_target;
use support::conversation::{self, Dice};
use support::{Answer, Heard, Kinto, Sidecar};

/// How long is waited for the end of a connection, which has to come.
const PATIENCE: Duration = Duration::from_secs(5);
/// Ends a connection on which nothing is left open.
const LAST: &[u8] = b"GET /v1/last HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";

/// What the upstream heard of clients.
static HEARD: Mutex<Vec<conversation::Heard>> = Mutex::new(Vec::new());

fuzz_target!(|input: &[u8]| {
    static SOCKET: OnceLock<PathBuf> = OnceLock::new();
    let mut stream = UnixStream::connect(SOCKET.get_or_init(serve)).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("it is more than nothing");
    HEARD.lock().expect("nobody panics").clear();
    let bytes = [input, LAST].concat();
    let seed = bytes.iter().fold(0_u64, |seed, byte| seed.wrapping_mul(31) + u64::from(*byte));
    let mut dice = Dice::new(seed);
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        let length = if dice.one_in(2) { rest.len() } else { 1 + dice.below(rest.len()) };
        let (piece, behind) = rest.split_at(length);
        // The sidecar may hang up at any byte.
        if stream.write_all(piece).is_err() {
            break;
        }
        rest = behind;
        if !rest.is_empty() {
            std::thread::sleep(Duration::from_micros(100));
        }
    }
    let _ = stream.shutdown(Shutdown::Write);
    let mut answers = Vec::new();
    let _ = stream.read_to_end(&mut answers);
    if input.starts_with(b"PRI") {
        return;
    }
    assert!(answers.is_empty() || answers.starts_with(b"HTTP/1."), "no answer");
    let heard = HEARD.lock().expect("nobody panics");
    if let Some(difference) = conversation::difference(&conversation::read(&bytes), &heard) {
        panic!("{difference}");
    }
});

/// A server for the rest of the process.
fn serve() -> PathBuf {
    let kinto = Kinto::start(|heard| {
        // What the sidecar asks itself is of nobody.
        if heard.all("forwarded").next().is_some() {
            claims(heard);
            note(heard);
        }
        Answer { status: 200, body: b"{}".to_vec(), ..Answer::default() }
    });
    let socket = std::env::temp_dir().join(format!("kinto-sidecar-fuzz-{}", std::process::id()));
    let listen = format!("sidecar.listen=unix:{}", socket.display());
    let short = ["sidecar.threads=1", "sidecar.upstream_timeout=1s", "sidecar.max_body=64k"];
    let assignments: Vec<&str> = short.into_iter().chain([listen.as_str()]).collect();
    let sidecar = Sidecar::before(&kinto, &assignments);
    let server = Server::open(Arc::clone(&sidecar.core.app), sidecar.core.upstream.sibling(), None);
    server.and_then(Server::start).expect("the socket can be opened");
    std::mem::forget(sidecar);
    socket
}

fn claims(heard: &Heard) {
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

/// Notes what was heard. What a batch holds is the sidecar's own wording.
fn note(heard: &Heard) {
    let path = heard.target.split('?').next().unwrap_or_default();
    if percent_encoding::percent_decode_str(path).decode_utf8_lossy().contains("/batch") {
        return;
    }
    let Heard { method, target, body, .. } = heard;
    let (method, target, body) = (method.clone(), target.clone(), body.clone());
    HEARD.lock().expect("nobody panics").push(conversation::Heard { method, target, body, is_whole: true });
}
