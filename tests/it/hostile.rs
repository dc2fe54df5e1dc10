//! What somebody can make the sidecar hold, or make it do instead of answering others.
//!
//! Each input is sent to a process of its own, whose memory at its peak is compared with what it had before, while a second
//! client goes on asking for little things and notes how long it waits. Beside each input, some that look like it are made
//! from a seed: `SEEDS=200 cargo test --release --test it hostile -- --nocapture` makes more of them, `MINUTES=10` goes on with
//! the neighbours for so long.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use socket2::{Domain, Socket, Type};

use crate::support::dice::Dice;
use crate::support::{Client, Kinto, SERVICE_ACCOUNT, Sidecar, commit, unique};

mod bodies;
mod connections;
mod copies;
mod credentials;
mod large;
mod places;
mod refused;
mod selectors;
mod snapshots;
mod upstreams;

const MIB: u64 = 1 << 20;

/// How much the process may have above what it had, in bytes.
const ROOM: u64 = 150 * MIB;

/// How much longer than before somebody else may wait.
const LONGER: Duration = Duration::from_millis(if cfg!(debug_assertions) { 250 } else { 100 });

/// How many times a wait is measured: that of a machine which is busy passes, that for a busy thread does not.
const TRIES: usize = 3;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|number| number.parse().ok())
}

/// How many inputs of a kind there are: a few, or as many as are asked for.
fn inputs(default: u64) -> usize {
    usize::try_from(number("SEEDS").unwrap_or(default)).unwrap()
}

/// Tries neighbours of an input: a few, or as many as are asked for, or for as long; and says how many there were.
fn neighbours(kind: &str, default: u64, hostile: impl Fn(u64)) {
    let until = number("MINUTES").map(|minutes| Instant::now() + Duration::from_secs(60 * minutes));
    let last = if until.is_some() { u64::MAX } else { number("SEEDS").unwrap_or(default) };
    let seeds = (1..=last).take_while(|_| until.is_none_or(|until| Instant::now() < until));
    let tried = seeds.inspect(|seed| hostile(*seed)).count();
    println!("{tried} {kind} at {}, seeds from 1: bounded", commit());
}

/// A number of the process, in bytes.
fn memory(sidecar: &Sidecar, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", sidecar.process_id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// Runs something, and gives how much more the process had at the peak than before.
fn peak(sidecar: &Sidecar, hostile: impl FnOnce()) -> u64 {
    let before = memory(sidecar, "VmRSS");
    // The peak begins anew.
    std::fs::write(format!("/proc/{}/clear_refs", sidecar.process_id()), "5").unwrap();
    hostile();
    memory(sidecar, "VmHWM").saturating_sub(before)
}

/// Asks for something on a connection of its own; gives the status.
fn ask(address: &str, request: &str, body: &[u8]) -> Option<u16> {
    exchange(TcpStream::connect(address).ok()?, request, body)
}

/// The same as somebody else, at another address of this machine.
fn ask_as_other(address: &str, request: &str) -> Option<u16> {
    exchange(connect_as(2, address)?, request, b"")
}

/// A connection from one of the addresses of this machine.
fn connect_as(last: u8, address: &str) -> Option<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).ok()?;
    socket.bind(&SocketAddr::from(([127, 0, 0, last], 0)).into()).ok()?;
    socket.connect(&address.parse::<SocketAddr>().ok()?.into()).ok()?;
    Some(socket.into())
}

fn exchange(stream: TcpStream, request: &str, body: &[u8]) -> Option<u16> {
    Some(exchanged(stream, request, body)?.0)
}

/// Asks for something on a connection of its own; gives the status and the head.
fn answer(address: &str, request: &str, body: &[u8]) -> Option<(u16, String)> {
    exchanged(TcpStream::connect(address).ok()?, request, body)
}

fn exchanged(mut stream: TcpStream, request: &str, body: &[u8]) -> Option<(u16, String)> {
    stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
    stream.set_nodelay(true).ok()?;
    let head = format!("{request}Host: h\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
    // Whoever refuses it may not read all of it.
    let _ = stream.write_all(&[head.as_bytes(), body].concat());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap_or(answer.len());
    let head = String::from_utf8_lossy(answer.get(..end)?).into_owned();
    Some((head.get(9..12)?.parse().ok()?, head))
}

/// Sends requests without reading what is answered; the sockets keep it waiting.
fn unread(address: &str, number: usize, request: &str, body: &str) -> Vec<TcpStream> {
    unread_as(1, address, number, request, body)
}

/// The same from one of the addresses of this machine.
fn unread_as(last: u8, address: &str, number: usize, request: &str, body: &str) -> Vec<TcpStream> {
    let head = format!("{request}Host: h\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let connections = (0..number).map(|_| {
        let mut stream = connect_as(last, address).unwrap();
        // Whoever has too many is not let in.
        let _ = stream.write_all(head.as_bytes());
        stream
    });
    connections.collect()
}

/// Runs something for several at once.
fn at_once(number: usize, work: impl Fn(usize) + Sync) {
    let work = &work;
    thread::scope(|scope| (0..number).for_each(|index| _ = scope.spawn(move || work(index))));
}

/// The longest that other clients waited for an answer.
#[derive(Debug, Clone, Copy)]
struct Waited {
    /// Of the sidecar.
    there: Duration,
    /// Of a server that does nothing else: what the machine itself keeps everybody waiting.
    elsewhere: Duration,
}

/// Answers every connection at once.
fn idle_server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
    });
    address
}

/// Runs something, and gives how long others waited meanwhile.
fn longest_wait(address: &str, hostile: impl FnOnce()) -> Waited {
    static IDLE: LazyLock<String> = LazyLock::new(idle_server);
    let stop = Arc::new(AtomicBool::new(false));
    // Connections are spread over all threads.
    let others: Vec<_> = [&**IDLE, address, address, address]
        .into_iter()
        .map(|address| {
            let (address, stop) = (address.to_owned(), Arc::clone(&stop));
            thread::spawn(move || {
                let mut longest = Duration::ZERO;
                loop {
                    let begun = Instant::now();
                    let status = ask_as_other(&address, "GET /v1/__broadcasts__ HTTP/1.1\r\n");
                    assert_eq!(status, Some(200), "somebody else is answered");
                    longest = longest.max(begun.elapsed());
                    if stop.load(Ordering::Relaxed) {
                        return longest;
                    }
                }
            })
        })
        .collect();
    hostile();
    stop.store(true, Ordering::Relaxed);
    let mut waits = others.into_iter().map(|other| other.join().unwrap());
    Waited { elsewhere: waits.next().unwrap(), there: waits.max().unwrap() }
}

/// Holds an input to both budgets.
#[track_caller]
fn bounded(sidecar: &Sidecar, what: &str, hostile: impl Fn()) {
    let address = sidecar.address();
    let mut waits = Vec::new();
    for _ in 0..TRIES {
        let without = longest_wait(address, || thread::sleep(Duration::from_millis(100)));
        let mut with = without;
        let grown = peak(sidecar, || with = longest_wait(address, &hostile));
        assert!(grown <= ROOM, "{what}: {} MiB more than idle", grown / MIB);
        if with.there <= without.there.max(with.elsewhere) + LONGER {
            return;
        }
        waits.push((without, with));
    }
    panic!("{what}: others waited: {waits:?}");
}

/// A sidecar in front of the Kinto that tests share, and a bucket with a collection that everybody may read.
async fn public(settings: &[(&str, &str)]) -> (Sidecar, String) {
    let settings = [&[SERVICE_ACCOUNT], settings].concat();
    let sidecar = Sidecar::start(Kinto::shared().url(), &settings);
    let bucket = format!("/buckets/{}", unique("hostile"));
    let alice: Client = sidecar.client().user("alice");
    let everybody = json!({"permissions": {"read": ["system.Everyone"]}});
    alice.put(&bucket).json(everybody).await.expect(201);
    alice.put(&format!("{bucket}/collections/c")).await.expect(201);
    (sidecar, format!("{bucket}/collections/c"))
}
