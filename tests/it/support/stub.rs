//! Raw sockets on both sides of a sidecar: an upstream that behaves as no Kinto would, and a client that sends what no
//! HTTP library would.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

/// No answer in a test takes this long unless something hangs.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A complete answer of the stub.
pub const HELLO: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

/// An upstream whose every byte is the test's.
pub struct Stub {
    pub address: SocketAddr,
    requests: Receiver<Seen>,
}

/// A request that the stub has read.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Which connection it came on, counted from 0.
    pub connection: usize,
    /// The head as it was written, without the empty line.
    pub head: String,
    pub body: Vec<u8>,
}

/// One connection to the stub.
pub struct Upstream {
    pub stream: BufReader<TcpStream>,
    number: usize,
    seen: Sender<Seen>,
}

/// A client on a raw socket.
pub struct Raw(pub BufReader<TcpStream>);

/// An answer as the client read it.
#[derive(Debug, Clone)]
pub struct Answer {
    pub head: String,
    pub body: Vec<u8>,
    /// Whether the body ended as its framing says it should.
    pub is_whole: bool,
}

/// A sidecar in front of a stub; killed when dropped.
pub struct Proxy {
    pub address: SocketAddr,
    pub child: Child,
}

impl Stub {
    /// Runs `serve` on a thread for each connection.
    pub fn start(serve: impl Fn(Upstream) + Send + Sync + 'static) -> Self {
        Self::start_on(TcpListener::bind("127.0.0.1:0").unwrap(), serve)
    }

    /// The same on a socket that is open already.
    pub fn start_on(listener: TcpListener, serve: impl Fn(Upstream) + Send + Sync + 'static) -> Self {
        let address = listener.local_addr().unwrap();
        let (seen, requests) = channel();
        let serve = Arc::new(serve);
        thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                let Ok(stream) = stream else { return };
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                stream.set_nodelay(true).unwrap();
                let upstream = Upstream { stream: BufReader::new(stream), number, seen: seen.clone() };
                let serve = Arc::clone(&serve);
                thread::spawn(move || serve(upstream));
            }
        });
        Self { address, requests }
    }

    /// Answers every request on every connection with these bytes.
    pub fn answering(answer: impl Into<Vec<u8>>) -> Self {
        Self::answering_on(TcpListener::bind("127.0.0.1:0").unwrap(), answer)
    }

    /// The same on a socket that is open already.
    pub fn answering_on(listener: TcpListener, answer: impl Into<Vec<u8>>) -> Self {
        let answer = answer.into();
        Self::start_on(listener, move |mut upstream| {
            while upstream.read().is_some() {
                upstream.write(&answer);
            }
        })
    }

    /// The next request that reached the stub.
    pub fn next(&self) -> Seen {
        self.requests.recv_timeout(PATIENCE).expect("a request reaches the upstream")
    }

    /// Whether a request has reached the stub that was not taken yet.
    pub fn has_next(&self) -> bool {
        self.requests.try_recv().is_ok()
    }

    /// The next request that has reached the stub and was not taken yet.
    pub fn seen(&self) -> Option<Seen> {
        self.requests.try_recv().ok()
    }

    /// The stub's address as an API root.
    pub fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }
}

impl Seen {
    /// The first line: method, target, version.
    pub fn line(&self) -> &str {
        self.head.lines().next().unwrap()
    }

    /// The values of a header, in order.
    pub fn header(&self, name: &str) -> Vec<&str> {
        header(&self.head, name)
    }
}

impl Upstream {
    /// Reads a whole request, which the test then finds in [`Stub::next`]. `None` where the connection ends.
    pub fn read(&mut self) -> Option<Seen> {
        let head = read_head(&mut self.stream)?;
        let body = read_body(&mut self.stream, &head, false).0;
        let seen = Seen { connection: self.number, head, body };
        let _ = self.seen.send(seen.clone());
        Some(seen)
    }

    /// Reads a request's head only.
    pub fn read_head(&mut self) -> Option<Seen> {
        let seen = Seen { connection: self.number, head: read_head(&mut self.stream)?, body: Vec::new() };
        let _ = self.seen.send(seen.clone());
        Some(seen)
    }

    /// Writes bytes; that nobody reads them is not the stub's affair.
    pub fn write(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.get_mut().write_all(bytes.as_ref());
    }

    /// Tells the test that it came to this, as if it were a request.
    pub fn tell(&mut self, what: &str) {
        let _ = self.seen.send(Seen { connection: self.number, head: what.to_owned(), body: Vec::new() });
    }

    /// Waits until the other side closes.
    pub fn wait_for_close(&mut self) {
        let _ = self.stream.read_to_end(&mut Vec::new());
    }

    /// Writes nothing more, and waits until the other side closes.
    pub fn finish(mut self) {
        let _ = self.stream.get_ref().shutdown(Shutdown::Write);
        self.wait_for_close();
    }

    pub fn number(&self) -> usize {
        self.number
    }
}

impl Raw {
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self(BufReader::new(stream))
    }

    /// Sends bytes; a server that has closed is found out by reading.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        let _ = self.0.get_mut().write_all(bytes.as_ref());
        self
    }

    /// Reads one answer to a request that was not `HEAD`.
    pub fn read(&mut self) -> Option<Answer> {
        let head = read_head(&mut self.0)?;
        let (body, is_whole) = read_body(&mut self.0, &head, true);
        Some(Answer { head, body, is_whole })
    }

    /// Reads the head of one answer.
    pub fn read_head(&mut self) -> Option<String> {
        read_head(&mut self.0)
    }

    /// Whether the server closes without another byte.
    pub fn is_closed(&mut self) -> bool {
        matches!(self.0.read(&mut [0]), Ok(0) | Err(_))
    }

    pub fn close(self) {
        let _ = self.0.get_ref().shutdown(Shutdown::Both);
    }
}

impl Answer {
    pub fn status(&self) -> u16 {
        status(&self.head)
    }

    pub fn header(&self, name: &str) -> Vec<&str> {
        header(&self.head, name)
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

impl Proxy {
    /// A sidecar in front of a stub that answers everything with [`HELLO`].
    pub fn greeted() -> (Stub, Self) {
        let stub = Stub::answering(HELLO);
        let proxy = Self::before(&stub);
        (stub, proxy)
    }

    /// Starts a sidecar in front of an API root, with `--set` for each of `settings`.
    pub fn start(upstream: &str, settings: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kinto-sidecar"));
        command.args(["--listen", "127.0.0.1:0", "--upstream", upstream, "--set", "sidecar.threads=2"]);
        // What the sidecar answers itself is not what these tests are about.
        command.args(["--set", "sidecar.changes=off", "--set", "sidecar.history=off"]);
        for setting in settings {
            command.args(["--set", setting]);
        }
        let mut child = command.env_clear().stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let address = lines.by_ref().find_map(|line| {
            let address = line.split_once("listening on ")?.1.split_once("://")?.1;
            Some(address.split('"').next()?.parse().unwrap())
        });
        // What it logs is taken off its hands, so that it never waits for a reader.
        thread::spawn(move || lines.for_each(drop));
        Self { address: address.expect("the sidecar starts"), child }
    }

    /// A sidecar in front of a stub.
    pub fn before(stub: &Stub) -> Self {
        Self::start(&stub.url(), &[])
    }

    pub fn connect(&self) -> Raw {
        Raw::connect(self.address)
    }

    /// Sends one request on a connection of its own and reads the answer.
    pub fn ask(&self, request: impl AsRef<[u8]>) -> Answer {
        self.connect().send(request).read().expect("an answer")
    }

    /// `GET`s a path.
    pub fn get(&self, path: &str) -> Answer {
        self.ask(format!("GET {path} HTTP/1.1\r\nHost: sidecar.test\r\n\r\n"))
    }

    /// Sends a signal to the process.
    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn status(head: &str) -> u16 {
    head.split(' ').nth(1).unwrap().parse().unwrap()
}

/// The values of a header in a head, in order.
pub fn header<'a>(head: &'a str, name: &str) -> Vec<&'a str> {
    head.lines()
        .skip(1)
        .filter_map(|line| line.split_once(':'))
        .filter(|(given, _)| given.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
        .collect()
}

fn read_head(stream: &mut impl BufRead) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read_until(b'\n', &mut head).ok()? == 0 {
            return None;
        }
    }
    head.truncate(head.len() - 4);
    Some(String::from_utf8_lossy(&head).into_owned())
}

/// Reads a body by its framing; the second value tells whether it was whole.
fn read_body(stream: &mut impl BufRead, head: &str, is_answer: bool) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    if header(head, "transfer-encoding").iter().any(|value| value.eq_ignore_ascii_case("chunked")) {
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).unwrap_or(0) == 0 {
                return (body, false);
            }
            let Ok(length) = usize::from_str_radix(line.trim().split(';').next().unwrap(), 16) else {
                return (body, false);
            };
            if length == 0 {
                let mut trailers = String::new();
                while !trailers.ends_with("\r\n\r\n") && trailers != "\r\n" {
                    if stream.read_line(&mut trailers).unwrap_or(0) == 0 {
                        return (body, false);
                    }
                }
                // The test finds them after the body.
                body.extend_from_slice(trailers.trim_end().as_bytes());
                return (body, true);
            }
            let mut chunk = vec![0; length + 2];
            if stream.read_exact(&mut chunk).is_err() {
                return (body, false);
            }
            body.extend_from_slice(&chunk[..length]);
        }
    }
    if let Some(length) = header(head, "content-length").first() {
        let length: u64 = length.parse().unwrap();
        let _ = stream.take(length).read_to_end(&mut body);
        let is_whole = body.len() as u64 == length;
        return (body, is_whole);
    }
    if is_answer && !matches!(status(head), 100..=199 | 204 | 304) {
        let is_whole = stream.read_to_end(&mut body).is_ok();
        return (body, is_whole);
    }
    (body, true)
}
