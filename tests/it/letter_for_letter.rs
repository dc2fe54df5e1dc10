//! Connections that are used in odd ways, to real Kintos behind real servers: what the server says alone it says through
//! the sidecar, and through nginx and the sidecar, to the letter. What is refused on the way, and not by each server, is
//! the same before all of them.

use std::fmt;
use std::net::Shutdown;

use crate::deploy::{Cache, Kind, free_port};
use crate::support::stub::{Answer, Raw};
use crate::support::{Kinto, KintoOptions, Server, Sidecar};

/// What the server takes in one body.
const LIMIT: usize = 100_000;
const LARGE: usize = 4 << 20;
const RECORD: &str = r#"{"data":{"a":1}}"#;
const ALICE: &str = "Authorization: Basic YWxpY2U6c2VjcmV0\r\n";
/// Where each one who is asked has records of its own.
const COLLECTION: &str = "/v1/buckets/b/collections/@";
/// Asked after everything else, where the connection is still there.
const LAST: &str = "GET /v1/__lbheartbeat__ HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";

/// What a client does.
enum Step {
    /// Text, each letter one byte.
    Send(String),
    /// More than fits into what the system keeps for a socket.
    SendLarge,
    /// Waits for an answer.
    Wait,
    /// Sends no more.
    Half,
}

use Step::{Half, Send, SendLarge, Wait};

/// What it is called, what the client does, and the statuses that it gets through the sidecar before each server.
type Case = (&'static str, Vec<Step>, &'static [u16]);

/// What stands in the way to Kinto.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Alone,
    Sidecar,
    Nginx,
}

fn head(method: &str, path: &str, fields: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: h\r\n{ALICE}Content-Type: application/json\r\n{fields}\r\n")
}

fn put(id: &str, fields: &str) -> String {
    head("PUT", &format!("{COLLECTION}/records/{id}"), fields)
}

fn sized(id: &str) -> String {
    put(id, &format!("Content-Length: {}\r\n", RECORD.len())) + RECORD
}

fn chunked(id: &str, chunks: &str) -> String {
    put(id, "Transfer-Encoding: chunked\r\n") + chunks
}

fn get(id: &str) -> String {
    head("GET", &format!("{COLLECTION}/records/{id}"), "")
}

fn fields(number: usize) -> String {
    let fields: Vec<String> = (0..number).map(|n| format!("X-{n}: {n}\r\n")).collect();
    fields.concat()
}

/// What is answered alike.
fn alike(server: Server) -> Vec<Case> {
    let length = format!("Content-Length: {LARGE}\r\n");
    let short = format!("Content-Length: {}\r\n", RECORD.len());
    let nobodys = |body: &str| {
        format!("PUT /v1/buckets/z HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n{body}\r\n")
    };
    let each: Vec<String> = RECORD.chars().map(|letter| format!("1\r\n{letter}\r\n")).collect();
    let mut alike: Vec<Case> = vec![
        ("a write", vec![Send(sized("a"))], &[201]),
        (
            "a read with a body",
            vec![Send(head("GET", &format!("{COLLECTION}/records"), &short) + RECORD)],
            &[200],
        ),
        (
            "a deletion with a body",
            vec![Send(head("DELETE", &format!("{COLLECTION}/records/none"), &short) + RECORD)],
            &[404],
        ),
        ("404 to a large body", vec![Send(head("PUT", "/v1/nothing", &length)), SendLarge], &[404]),
        (
            "405 to a large body",
            vec![Send(head("PATCH", &format!("{COLLECTION}/records"), &length)), SendLarge],
            &[405],
        ),
        ("401 to a large body", vec![Send(nobodys(&length)), SendLarge], &[401]),
        ("401 to a small body", vec![Send(nobodys(&short) + RECORD)], &[401]),
        ("400 to a large body", vec![Send(put("b", &length)), SendLarge], &[400]),
        (
            "a body that waits to be wanted",
            vec![Send(put("f", &(short.clone() + "Expect: 100-continue\r\n"))), Send(RECORD.to_owned())],
            &[201],
        ),
        (
            "a body that is not wanted",
            vec![Send(nobodys(&(short.clone() + "Expect: 100-continue\r\n"))), Send(RECORD.to_owned())],
            &[401],
        ),
        (
            "chunks that wait to be wanted",
            vec![
                Send(put("g", "Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n")),
                Send(format!("10\r\n{RECORD}\r\n0\r\n\r\n")),
            ],
            &[201],
        ),
        ("chunks", vec![Send(chunked("h", &(each.concat() + "0\r\n\r\n")))], &[201]),
        (
            "chunks with names",
            vec![Send(chunked("i", &format!("10;a=\"<\"\r\n{RECORD}\r\n0;b\r\n\r\n")))],
            &[201],
        ),
        ("no chunks", vec![Send(chunked("j", "0\r\n\r\n"))], &[201]),
        ("no body", vec![Send(put("k", ""))], &[201]),
        ("150 fields", vec![Send(head("GET", "/v1/buckets/b", &fields(150)))], &[]),
        (
            "requests in one",
            vec![Send(
                [&*sized("l"), &get("l"), &sized("m"), &head("GET", "/v1/nothing", ""), &get("m")].concat(),
            )],
            &[201, 200, 201, 404, 200],
        ),
        (
            "requests in one behind chunks",
            vec![Send(
                [&*chunked("n", &format!("10\r\n{RECORD}\r\n0\r\n\r\n")), &get("n"), &sized("n")].concat(),
            )],
            &[201, 200, 200],
        ),
        (
            "the last of a connection",
            vec![Send(head("GET", "/v1/buckets/b", "Connection: close\r\n"))],
            &[200],
        ),
        ("no UTF-8", vec![Send(put("o", "Content-Length: 3\r\n") + "\"\u{ff}\"")], &[400]),
        ("a write and no more", vec![Send(sized("q")), Half], &[201]),
        (
            "chunks and no more",
            vec![Send(chunked("r", &format!("10\r\n{RECORD}\r\n0\r\n\r\n"))), Half],
            &[201],
        ),
        (
            "requests in one and no more",
            vec![Send([sized("s"), get("s"), sized("s")].concat()), Half],
            &[201, 200, 200],
        ),
    ];
    if server != Server::Waitress {
        // waitress wants all of a body before anybody looks at its request.
        alike.push((
            "404 to a body that comes later",
            vec![Send(head("PUT", "/v1/nothing", &short)), Wait, Send(RECORD.to_owned())],
            &[404],
        ));
    }
    alike
}

/// What is too large for a server that has a limit.
fn too_large() -> Vec<Case> {
    let length = format!("Content-Length: {LARGE}\r\n");
    vec![
        ("a large body", vec![Send(put("c", &length)), SendLarge], &[]),
        ("a large body that comes later", vec![Send(put("d", &length)), Wait, SendLarge], &[]),
        (
            "chunks",
            vec![Send(chunked("e", &format!("{LARGE:x}\r\n"))), SendLarge, Send("\r\n0\r\n\r\n".to_owned())],
            &[],
        ),
    ]
}

/// What servers answer in their own ways, if at all: what the sidecar says.
fn own() -> Vec<(&'static str, String, u16)> {
    let record = format!("10\r\n{RECORD}\r\n");
    let coded = |coding: &str| put("p", &format!("Transfer-Encoding: {coding}\r\n")) + &record + "0\r\n\r\n";
    let length = |lengths: &str| put("p", lengths) + RECORD;
    vec![
        ("half a body", put("p", "Content-Length: 16\r\n") + "{\"data", 400),
        ("half a chunk", chunked("p", "10\r\n{\"data"), 400),
        ("no last chunk", chunked("p", &record), 400),
        ("a broken chunk", chunked("p", "zz\r\nhello\r\n0\r\n\r\n"), 400),
        ("a broken chunk behind another", chunked("p", &(record.clone() + "zz\r\n\r\n")), 400),
        ("a chunk that ends early", chunked("p", &format!("11\r\n{RECORD}\r\n0\r\n\r\n")), 400),
        ("a chunk of less than nothing", chunked("p", &format!("-1\r\n{RECORD}\r\n0\r\n\r\n")), 400),
        ("a chunk of too much", chunked("p", "ffffffffffffffffff\r\nx"), 400),
        ("another coding", coded("gzip, chunked"), 501),
        ("chunks that are not the last coding", coded("chunked, gzip"), 400),
        ("no coding", put("p", "Transfer-Encoding: identity\r\nContent-Length: 16\r\n") + RECORD, 400),
        ("two lengths", length("Content-Length: 16\r\nContent-Length: 17\r\n"), 400),
        ("a length that is none", length("Content-Length: +16\r\n"), 400),
        ("no host", "GET /v1/ HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("a field that goes on", head("GET", "/v1/", "X-A: b\r\n c\r\n"), 400),
        ("a space behind a name", head("GET", "/v1/", "X-A : b\r\n"), 400),
        ("a large head", head("GET", "/v1/", &format!("X-A: {}\r\n", "a".repeat(100_000))), 431),
    ]
}

/// Some of the answers that a client gets, in order, without those that only say that it may go on.
fn play(address: &str, way: Way, steps: &[Step]) -> Vec<Said> {
    let collection = format!("{way:?}").to_lowercase();
    let collection = format!("{collection:0>7}");
    let mut client = Raw::connect(address.parse().unwrap());
    let mut said = Vec::new();
    let mut next = |client: &mut Raw| loop {
        let Some(answer) = client.read() else { return false };
        if answer.status() >= 200 {
            said.push(Said::from(answer));
            return true;
        }
    };
    for step in steps {
        match step {
            Send(text) => {
                let text = text.replace('@', &collection);
                let bytes: Vec<u8> = text.chars().map(|letter| u8::try_from(letter).unwrap()).collect();
                client.send(bytes);
            }
            SendLarge => {
                let sent = std::io::Write::write_all(client.0.get_mut(), &vec![b'x'; LARGE]);
                // Many clients do not look for an answer once they cannot send.
                assert!(sent.is_ok() || way != Way::Sidecar, "reset while it was sending: {sent:?}");
            }
            Wait => _ = next(&mut client),
            Half => _ = client.0.get_ref().shutdown(Shutdown::Write),
        }
    }
    client.send(LAST);
    while next(&mut client) {}
    said
}

/// An answer, without what is of its moment or of the connection.
#[derive(PartialEq, Eq)]
struct Said {
    status: u16,
    fields: Vec<(String, String)>,
    body: String,
    is_last: bool,
}

impl From<Answer> for Said {
    fn from(answer: Answer) -> Self {
        const LEFT_OUT: [&str; 11] = [
            "date", "server", "via", "etag", "last-modified", "connection", "keep-alive", "cache-status",
            "transfer-encoding", "content-length", "x-request-id",
        ];
        let mut fields: Vec<(String, String)> = answer
            .head
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .filter(|(name, _)| !LEFT_OUT.contains(&&**name))
            .collect();
        fields.sort();
        let body = String::from_utf8_lossy(&answer.body).into_owned();
        let moment = body.split_once("\"last_modified\":").map(|(_, moment)| moment.chars());
        let moment: String = moment.into_iter().flatten().take_while(char::is_ascii_digit).collect();
        let body = if moment.is_empty() { body } else { body.replace(&moment, "0") };
        let is_last = answer.header("connection").iter().any(|value| value.eq_ignore_ascii_case("close"));
        Self { status: answer.status(), fields, body, is_last }
    }
}

impl fmt::Debug for Said {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { status, fields, body, is_last } = self;
        let body: String = body.chars().take(200).collect();
        writeln!(formatter, "{status} {body:?} {fields:?} (last: {is_last})")
    }
}

/// One who is asked for Kinto, who has a collection of its own there.
fn prepare(kinto: &Kinto, way: Way) {
    for path in ["/v1/buckets/b", COLLECTION] {
        play(&kinto.address(), way, &[Send(head("PUT", path, ""))]);
    }
}

fn compare(server: Server, options: KintoOptions, cases: &[Case]) {
    let kinto = Kinto::start(options.server(server));
    let sidecar = Sidecar::start(kinto.url(), &[("sidecar.history", "journal")]);
    // uWSGI reads no chunks, and gunicorn counts fields: what nginx makes of a request matters there.
    let nginx = (server == Server::Waitress)
        .then(|| Cache::start(Kind::Nginx, free_port(), sidecar.address()))
        .flatten();
    let mut ways = vec![(Way::Sidecar, sidecar.address().to_owned())];
    ways.extend(nginx.as_ref().map(|nginx| (Way::Nginx, nginx.address())));
    prepare(&kinto, Way::Alone);
    let alone: Vec<_> = cases.iter().map(|(_, steps, _)| play(&kinto.address(), Way::Alone, steps)).collect();
    for (way, address) in &ways {
        prepare(&kinto, *way);
        for ((name, steps, statuses), alone) in cases.iter().zip(&alone) {
            let is_half = steps.iter().any(|step| matches!(step, Half));
            if is_half && *way == Way::Nginx {
                // nginx takes it for a client that went away.
                continue;
            }
            let through = play(address, *way, steps);
            let both = || format!("{server:?}, {way:?}: {name}: alone\n{alone:?}\nthrough\n{through:?}");
            let said: Vec<u16> = through.iter().map(|said| said.status).collect();
            assert!(said.starts_with(statuses), "{}", both());
            assert!(!said.is_empty() || alone.is_empty(), "{}", both());
            // A server may end the connection, or lose its answer in a reset; so may we, but say so before.
            for (alone, through) in alone.iter().zip(&through) {
                let (is_same, both) = (alone.body == through.body && alone.fields == through.fields, both());
                assert!(alone.status == through.status && is_same, "{both}");
            }
            // nginx ends connections without a word.
            let is_told = through.last().is_some_and(|last| last.is_last) || *way == Way::Nginx;
            assert!(is_half || is_told || through.last().is_some_and(|last| last.body == "{}"), "{}", both());
        }
    }
    for (name, request, status) in own() {
        let said = play(sidecar.address(), Way::Sidecar, &[Send(request), Half]);
        assert_eq!(said.first().map(|said| said.status), Some(status), "{server:?}: {name}: {said:?}");
    }
}

#[test]
fn what_waitress_says_is_said_through_the_sidecar() {
    compare(Server::Waitress, KintoOptions::memory(), &alike(Server::Waitress));
}

#[test]
fn what_gunicorn_says_is_said_through_the_sidecar() {
    compare(Server::Gunicorn, KintoOptions::memory(), &alike(Server::Gunicorn));
}

#[test]
fn what_uwsgi_says_is_said_through_the_sidecar() {
    compare(Server::Uwsgi, KintoOptions::memory(), &alike(Server::Uwsgi));
}

#[test]
fn what_a_server_with_a_limit_says_is_said_through_the_sidecar() {
    compare(Server::Waitress, KintoOptions::memory().max_body(LIMIT), &too_large());
}
