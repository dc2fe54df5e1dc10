//! Random conversations on one connection: what the upstream hears is what a plain model reads, requests and bodies, and each
//! request gets its own answer. Some answers come early, and the bytes come in pieces.
//!
//! `SEEDS=12..` begins with another seed, `MINUTES=60` goes on for so long.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use model::{BROKEN, CODED, Conversation, EAGER, FIELDS, HASTY, Heard, Meant};

use crate::deploy::{Cache, Kind, free_port};
use crate::support::stub::{Answer, PATIENCE, Proxy, Raw};
use crate::support::tests_folder;

#[path = "../fuzz/src/conversation.rs"]
mod model;

/// The target of a request that ends a connection.
const LAST_TARGET: &str = "/v1/last";
/// How many conversations are had where nobody says for how long.
const FEW: u64 = 120;

/// An upstream that notes what it hears and answers with the target, early where the path says so.
struct Listener {
    address: SocketAddr,
    heard: Receiver<Heard>,
}

impl Listener {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (note, heard) = channel();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let note = note.clone();
                std::thread::spawn(move || {
                    let mut bytes = Vec::new();
                    while listen(&stream, &mut bytes, &note).is_some() {}
                });
            }
        });
        Self { address, heard }
    }

    fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }
}

/// Hears one request, of which `bytes` are there already; none where the connection is not used again.
fn listen(mut stream: &TcpStream, bytes: &mut Vec<u8>, note: &Sender<Heard>) -> Option<()> {
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let (mut is_answered, mut has_ended) = (false, false);
    loop {
        if let Some((said, behind)) = model::read_first(bytes) {
            let (is_hasty, is_early) = (said.target.starts_with(HASTY), said.target.starts_with(EAGER));
            let is_over = said.is_whole || has_ended || is_hasty;
            if is_over {
                // Before its client can know of it.
                let Meant { method, target, body, is_whole } = said.clone();
                let _ = note.send(Heard { method, target, body, is_whole });
            }
            if !is_answered && (is_over || is_early) {
                is_answered = true;
                stream.write_all(answer(&said.target).as_bytes()).ok()?;
            }
            if is_over {
                let rest = behind.filter(|_| said.is_whole && !is_hasty)?.to_vec();
                *bytes = rest;
                return Some(());
            }
        }
        if has_ended {
            return None;
        }
        let mut piece = [0; 4_096];
        let read = stream.read(&mut piece).unwrap_or(0);
        has_ended = read == 0;
        bytes.extend_from_slice(&piece[..read]);
    }
}

/// What the upstream answers to a target.
fn answer(target: &str) -> String {
    let is = |path| target.starts_with(path);
    if is(BROKEN) {
        return format!("HTTP/1.1 200 Said\r\nTransfer-Encoding: chunked\r\n\r\nz\r\n{target}\r\n0\r\n\r\n");
    }
    let mut head = match () {
        () if is(HASTY) => "HTTP/1.1 413 Said\r\nConnection: close\r\n",
        () if is(EAGER) => "HTTP/1.1 404 Said\r\n",
        () => "HTTP/1.1 200 Said\r\n",
    }
    .to_owned();
    if is(FIELDS) {
        head.extend((0..300).map(|number| format!("X-{number}: {number}\r\n")));
    }
    let length = target.len();
    if is(CODED) {
        return format!("{head}Transfer-Encoding: gzip, chunked\r\n\r\n{length:x}\r\n{target}\r\n0\r\n\r\n");
    }
    format!("{head}Content-Length: {length}\r\n\r\n{target}")
}

/// Has a conversation with the server at `address`; what is wrong with it. What an earlier one broke off may be heard late.
fn converse(
    address: SocketAddr,
    conversation: &Conversation,
    upstream: &Listener,
    is_late: impl Fn(&Heard) -> bool,
) -> Option<String> {
    let mut client = Raw::connect(address);
    let mut is_taken = true;
    for piece in conversation.pieces() {
        is_taken &= client.0.get_mut().write_all(piece).is_ok();
        std::thread::sleep(Duration::from_micros(300));
    }
    let awaited = if conversation.is_patient { conversation.statuses.len() } else { 0 };
    let mut answers: Vec<_> = (0..awaited).map_while(|_| client.read()).collect();
    let said = model::read(&conversation.bytes);
    if said.last().is_none_or(|last| last.target != LAST_TARGET) {
        // nginx takes it for a client that went away.
        let _ = client.0.get_ref().shutdown(Shutdown::Write);
    }
    answers.extend(std::iter::from_fn(|| client.read()));
    answers.retain(|answer| answer.status() >= 200);
    let heard: Vec<Heard> = upstream.heard.try_iter().filter(|heard| !is_late(heard)).collect();
    if let Some(difference) = model::difference(&said, &heard) {
        return Some(difference);
    }
    for (said, answer) in said.iter().zip(&answers) {
        let is_upstreams =
            !answer.text().starts_with('{') && !answer.text().starts_with('<') && !answer.body.is_empty();
        if is_upstreams && model::escaped(answer.text()) != said.target {
            return Some(format!("{} was answered with {}", said.target, answer.text()));
        }
    }
    let statuses: Vec<u16> = answers.iter().map(Answer::status).collect();
    if !statuses.starts_with(&conversation.statuses) || answers.len() > said.len() + 1 {
        return Some(format!("answered {statuses:?}, and not {:?}", conversation.statuses));
    }
    if conversation.statuses.is_empty() {
        return None;
    }
    // Many clients do not look for an answer once they cannot send.
    if !is_taken {
        return Some(format!("reset while it was sending, and answered {statuses:?}"));
    }
    let is_told = |answer: &Answer| answer.header("connection") == ["close"];
    let is_closed = answers.len() < said.len();
    (is_closed && !answers.last().is_some_and(is_told))
        .then(|| format!("closed after {statuses:?} without a word"))
}

/// Has conversations, beginning with the seed and for as long as the environment says.
fn converse_all(name: &str, address: SocketAddr, upstream: &Listener, expected: impl Fn(&mut Conversation)) {
    let first = std::env::var("SEEDS").ok().and_then(|seeds| seeds.trim_end_matches("..").parse().ok());
    let minutes: Option<u64> = std::env::var("MINUTES").ok().and_then(|minutes| minutes.parse().ok());
    let begun = Instant::now();
    let mut seed = first.unwrap_or(0);
    loop {
        let is_over = match minutes {
            Some(minutes) => begun.elapsed() >= Duration::from_secs(60 * minutes),
            None => seed >= first.unwrap_or(0) + FEW,
        };
        if is_over {
            break;
        }
        let mut conversation = Conversation::of(seed);
        expected(&mut conversation);
        if let Some(fault) = converse(address, &conversation, upstream, |heard| heard.is_of_another(seed)) {
            let text = String::from_utf8_lossy(&conversation.bytes).into_owned();
            let text: String = text.chars().take(2_000).collect();
            let (commit, elapsed, cuts) = (commit(), begun.elapsed(), &conversation.cuts);
            panic!("{name} at {commit}: SEEDS={seed}.. after {elapsed:?}: {fault}\n{cuts:?}\n{text:?}");
        }
        seed += 1;
    }
    let (number, elapsed) = (seed - first.unwrap_or(0), begun.elapsed());
    println!("{name} at {}: {number} conversations in {elapsed:?}, the last seed is {}", commit(), seed - 1);
}

/// Plays what the fuzz target `connection` begins with, whole and in pieces.
fn play_corpus(name: &str, address: SocketAddr, upstream: &Listener) {
    let last = format!("GET {LAST_TARGET} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    let mut paths: Vec<_> = std::fs::read_dir(tests_folder().join("fuzz/corpus/connection"))
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    paths.sort();
    let mut earlier: Vec<Meant> = Vec::new();
    for path in paths {
        let seed = std::fs::read(&path).unwrap();
        let is_batch = seed.windows(6).any(|word| word == b"/batch");
        if is_batch || seed.starts_with(b"PRI") {
            // What a batch holds is the sidecar's own wording, and the model reads HTTP/1 only.
            continue;
        }
        let bytes = [&*seed, last.as_bytes()].concat();
        for cuts in [1, 2, 3, 7] {
            let cuts: Vec<usize> = (1..=cuts).map(|cut| bytes.len() * cut / cuts).collect();
            let conversation =
                Conversation { bytes: bytes.clone(), cuts, statuses: Vec::new(), is_patient: false };
            let is_late =
                |heard: &Heard| !heard.is_whole && earlier.iter().any(|said| said.target == heard.target);
            if let Some(fault) = converse(address, &conversation, upstream, is_late) {
                panic!("{name}: {} in {} pieces: {fault}", path.display(), conversation.cuts.len());
            }
        }
        earlier.extend(model::read(&bytes));
    }
}

/// What was tried.
fn commit() -> String {
    let commit = std::process::Command::new("git").args(["rev-parse", "--short", "HEAD"]).output();
    commit.map(|commit| String::from_utf8_lossy(&commit.stdout).trim().to_owned()).unwrap_or_default()
}

#[test]
fn the_upstream_hears_what_was_said() {
    let upstream = Listener::start();
    let proxy = Proxy::start(&upstream.url(), &["sidecar.changes=auto"]);
    play_corpus("sidecar", proxy.address, &upstream);
    converse_all("sidecar", proxy.address, &upstream, |_| {});
}

#[test]
fn the_upstream_hears_what_was_said_through_nginx() {
    let upstream = Listener::start();
    let proxy = Proxy::start(&upstream.url(), &["sidecar.changes=auto"]);
    let Some(cache) = Cache::start(Kind::Nginx, free_port(), &proxy.address.to_string()) else { return };
    let address = cache.address().parse().unwrap();
    play_corpus("nginx and sidecar", address, &upstream);
    // nginx has its own word in which answers there are.
    converse_all("nginx and sidecar", address, &upstream, |said| {
        said.statuses.clear();
    });
}

#[test]
fn nginx_hears_what_the_model_hears() {
    let upstream = Listener::start();
    let Some(cache) = Cache::start(Kind::Nginx, free_port(), &upstream.address.to_string()) else { return };
    let address = cache.address().parse().unwrap();
    play_corpus("nginx", address, &upstream);
    converse_all("nginx", address, &upstream, |said| {
        said.statuses.clear();
    });
}
