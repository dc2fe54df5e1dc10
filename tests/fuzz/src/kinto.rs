//! An upstream that answers what it is told to, and does not put up with what no gateway may send.
//!
//! It reads requests as carelessly as a server may: a bare line feed ends a line, and white space before a colon is none.
//! So what the sidecar takes for one request and others for two is seen here as two.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

/// A request as it came.
#[derive(Debug, Default)]
pub struct Heard {
    /// Its method.
    pub method: String,
    /// Its target, with the query.
    pub target: String,
    /// Its headers in their order, names in lower case.
    pub headers: Vec<(String, Vec<u8>)>,
    /// Its body.
    pub body: Vec<u8>,
}

/// What is answered.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Headers beside the length.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Vec<u8>,
}

/// The upstream.
#[derive(Debug)]
pub struct Kinto {
    address: SocketAddr,
}

type Respond = Arc<dyn Fn(&Heard) -> Answer + Send + Sync>;

impl Kinto {
    /// An upstream that answers this.
    pub fn start(respond: impl Fn(&Heard) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let respond: Respond = Arc::new(respond);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let respond = Arc::clone(&respond);
                thread::spawn(move || serve(&stream, &respond));
            }
        });
        Self { address }
    }

    /// Its API root.
    pub fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }
}

impl Heard {
    /// The values of a header.
    pub fn all<'h>(&'h self, name: &'h str) -> impl Iterator<Item = &'h [u8]> {
        self.headers.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_slice())
    }

    /// The only value of a header.
    pub fn only<'h>(&'h self, name: &'h str) -> Option<&'h [u8]> {
        let mut values = self.all(name);
        let value = values.next()?;
        assert!(values.next().is_none(), "{name} is there twice: {self:?}");
        Some(value)
    }

    /// Holds what every request of a gateway is held to.
    fn check(&self) {
        assert!(self.only("host").is_some(), "no host: {self:?}");
        let is_chunked = self.only("transfer-encoding").is_some();
        assert!(!(is_chunked && self.only("content-length").is_some()), "two lengths: {self:?}");
        for name in ["keep-alive", "proxy-connection", "upgrade", "proxy-authorization", "expect"] {
            assert!(self.only(name).is_none(), "{name} is not the upstream's: {self:?}");
        }
        assert!(self.only("connection").is_none_or(|named| named == b"te"), "{self:?}");
        // What a client hid within its request has neither.
        let is_passed_on = self.all("via").last().is_some_and(|via| via.windows(15).any(|part| part == b" kinto-sidecar-"));
        let is_asked = self.only("user-agent").is_some_and(|name| name.starts_with(b"kinto-sidecar/"));
        assert!(is_passed_on || is_asked, "the sidecar made no such request: {self:?}");
    }
}

fn serve(stream: &TcpStream, respond: &Respond) {
    let mut reader = BufReader::new(stream);
    while let Some(heard) = hear(&mut reader) {
        heard.check();
        let Answer { status, headers, body } = respond(&heard);
        let mut text = format!("HTTP/1.1 {status} Answer\r\ncontent-length: {}\r\n", body.len()).into_bytes();
        for (name, value) in headers {
            text.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        text.extend_from_slice(b"\r\n");
        if heard.method != "HEAD" && status != 304 {
            text.extend_from_slice(&body);
        }
        let mut stream = stream;
        if stream.write_all(&text).is_err() {
            return;
        }
    }
}

/// Reads a request; none where the connection ended, also within one.
fn hear(reader: &mut impl BufRead) -> Option<Heard> {
    let first = String::from_utf8_lossy(&line(reader)?).into_owned();
    let (method, rest) = first.split_once(' ').unwrap_or_else(|| panic!("no request line: {first:?}"));
    let (target, version) = rest.rsplit_once(' ').unwrap_or_else(|| panic!("no version: {first:?}"));
    assert_eq!(version, "HTTP/1.1", "{first:?}");
    let mut heard = Heard { method: method.to_owned(), target: target.to_owned(), ..Heard::default() };
    loop {
        let line = line(reader)?;
        if line.is_empty() {
            break;
        }
        let colon = line.iter().position(|byte| *byte == b':');
        let (name, value) = line.split_at(colon.unwrap_or_else(|| panic!("no header: {line:?}")));
        let name = String::from_utf8_lossy(name).trim().to_ascii_lowercase();
        heard.headers.push((name, value[1..].trim_ascii().to_vec()));
    }
    if let Some(encoding) = heard.only("transfer-encoding") {
        assert_eq!(encoding, b"chunked");
        heard.body = chunks(reader)?;
    } else if let Some(length) = heard.only("content-length") {
        let length = std::str::from_utf8(length).ok().and_then(|length| length.parse().ok());
        let length: u64 = length.unwrap_or_else(|| panic!("no length: {heard:?}"));
        let read = reader.take(length).read_to_end(&mut heard.body).ok()?;
        if read as u64 != length {
            return None;
        }
    }
    Some(heard)
}

fn chunks(reader: &mut impl BufRead) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let size = String::from_utf8_lossy(&line(reader)?).into_owned();
        let size = u64::from_str_radix(&size, 16).unwrap_or_else(|_| panic!("no size: {size:?}"));
        if size == 0 {
            while !line(reader)?.is_empty() {}
            return Some(body);
        }
        let begun = body.len() as u64;
        let mut chunk = reader.take(size);
        chunk.read_to_end(&mut body).ok()?;
        if body.len() as u64 - begun != size {
            return None;
        }
        line(reader)?;
    }
}

fn line(reader: &mut impl BufRead) -> Option<Vec<u8>> {
    let mut line = Vec::new();
    reader.read_until(b'\n', &mut line).ok()?;
    // Without its end, the connection broke off within it.
    let line = line.strip_suffix(b"\n")?;
    Some(line.strip_suffix(b"\r").unwrap_or(line).to_vec())
}
