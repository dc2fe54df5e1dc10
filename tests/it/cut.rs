//! Bodies over HTTP/2 that end or are cut, wherever and however: what is cut is whole for nobody.
//!
//! All follows from a seed: `SEED=7 cargo test --test it cut` replays one, `SEEDS=1000` tries more.

use std::collections::HashMap;
use std::io::{BufRead, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http::{HeaderMap, HeaderValue, Request, Response};
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::yield_now;

use crate::support::dice::Dice;
use crate::support::stub::{HELLO, Proxy, Stub, Upstream};
use crate::support::{eventually, number};

/// Streams of one connection.
const STREAMS: usize = 12;

/// How a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// With its last piece, with an empty one, or with trailers.
    Piece,
    Empty,
    Trailers,
    Reset(Reason),
}

/// A body that is sent.
#[derive(Debug, Clone)]
struct Plan {
    /// Whether its length is said first.
    is_declared: bool,
    pieces: Vec<Bytes>,
    /// How many of these are sent.
    sent: usize,
    end: End,
}

/// What somebody heard of a body.
#[derive(Debug, Clone)]
struct Heard {
    body: Vec<u8>,
    is_whole: bool,
}

fn seeds(default: u64) -> std::ops::RangeInclusive<u64> {
    match number("SEED", 0) {
        0 => 1..=number("SEEDS", default),
        seed => seed..=seed,
    }
}

impl Plan {
    fn new(dice: &mut Dice) -> Self {
        // Empty ones on the way are too many for h2 after a while.
        let lengths = [1, 2, 5, 100, 1000, 16_384, 20_000];
        let pieces: Vec<Bytes> = (0..dice.below(5))
            .map(|_| Bytes::from(vec![b'a' + u8::try_from(dice.below(26)).unwrap(); lengths[dice.below(7)]]))
            .collect();
        let reasons = [
            Reason::NO_ERROR,
            Reason::NO_ERROR,
            Reason::CANCEL,
            Reason::INTERNAL_ERROR,
            Reason::PROTOCOL_ERROR,
        ];
        let end = match dice.below(7) {
            0 => End::Piece,
            1 => End::Empty,
            2 => End::Trailers,
            _ => End::Reset(reasons[dice.below(reasons.len())]),
        };
        let is_cut = matches!(end, End::Reset(_));
        let sent = if is_cut { dice.below(pieces.len() + 1) } else { pieces.len() };
        Self { is_declared: dice.below(2) == 0, pieces, sent, end }
    }

    fn all(&self) -> Vec<u8> {
        self.pieces.concat()
    }

    fn length(&self) -> Option<HeaderValue> {
        self.is_declared.then(|| HeaderValue::from(self.all().len()))
    }

    /// Whether all of it comes; `None` where it is cut behind the last byte of those that were announced.
    fn is_whole(&self) -> Option<bool> {
        if !matches!(self.end, End::Reset(_)) {
            return Some(true);
        }
        let has_all = self.pieces[..self.sent].concat().len() == self.all().len();
        if self.is_declared && has_all { None } else { Some(false) }
    }

    async fn send(&self, stream: &mut SendStream<Bytes>, dice: &mut Dice) {
        for (index, piece) in self.pieces[..self.sent].iter().enumerate() {
            let is_last = self.end == End::Piece && index + 1 == self.pieces.len();
            // Whoever hears nothing more of it is told so below.
            if stream.send_data(piece.clone(), is_last).is_err() {
                return;
            }
            for _ in 0..dice.below(30) {
                yield_now().await;
            }
        }
        let _ = match self.end {
            End::Piece if !self.pieces.is_empty() => Ok(()),
            End::Piece | End::Empty => stream.send_data(Bytes::new(), true),
            End::Trailers => {
                let sum = [(http::HeaderName::from_static("x-sum"), HeaderValue::from_static("7"))];
                stream.send_trailers(HeaderMap::from_iter(sum))
            }
            End::Reset(reason) => {
                stream.send_reset(reason);
                Ok(())
            }
        };
    }

    #[track_caller]
    fn check(&self, heard: Option<&Heard>, what: &str) {
        let all = self.all();
        match (self.is_whole(), heard) {
            (Some(true), Some(heard)) => assert!(heard.is_whole && heard.body == all, "{what}: {self:?}"),
            (Some(true), None) => panic!("{what}: nothing was heard of it: {self:?}"),
            (Some(false), Some(heard)) => {
                assert!(!heard.is_whole && all.starts_with(&heard.body), "{what}: {self:?} {heard:?}");
            }
            (None, Some(heard)) => assert!(all.starts_with(&heard.body), "{what}: {self:?} {heard:?}"),
            (_, None) => {}
        }
    }
}

/// Reads the body behind a head over HTTP/1.1.
fn body_of(reader: &mut impl BufRead, lengths: &[&str], is_chunked: bool) -> Heard {
    let mut heard = Heard { body: Vec::new(), is_whole: false };
    if !is_chunked {
        let length = lengths.first().map_or(0, |length| length.parse().unwrap());
        let _ = reader.take(length).read_to_end(&mut heard.body);
        heard.is_whole = heard.body.len() as u64 == length;
        return heard;
    }
    loop {
        let mut line = String::new();
        let _ = reader.read_line(&mut line);
        let Ok(length) = u64::from_str_radix(line.trim_end(), 16) else { return heard };
        if length == 0 {
            while reader.read_line(&mut line).is_ok_and(|read| read > 2) {}
            heard.is_whole = line.ends_with("\r\n");
            return heard;
        }
        let read = reader.take(length).read_to_end(&mut heard.body);
        if !read.is_ok_and(|read| read as u64 == length) || reader.read_exact(&mut [0; 2]).is_err() {
            return heard;
        }
    }
}

/// Notes what is heard of each request, by its target.
fn listening(heard: &Mutex<HashMap<String, Heard>>, under_way: &AtomicUsize, mut upstream: Upstream) {
    while let Some(seen) = upstream.read_head() {
        under_way.fetch_add(1, Ordering::SeqCst);
        let is_chunked = seen.header("transfer-encoding") == ["chunked"];
        let body = body_of(&mut upstream.stream, &seen.header("content-length"), is_chunked);
        let is_whole = body.is_whole;
        let target = seen.line().split(' ').nth(1).unwrap().to_owned();
        heard.lock().insert(target, body);
        under_way.fetch_sub(1, Ordering::SeqCst);
        if !is_whole {
            return;
        }
        upstream.write(HELLO);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_upload_that_is_cut_is_whole_for_the_upstream() {
    let heard: Arc<Mutex<HashMap<String, Heard>>> = Arc::default();
    let under_way = Arc::new(AtomicUsize::new(0));
    let stub = {
        let (heard, under_way) = (Arc::clone(&heard), Arc::clone(&under_way));
        Stub::start(move |upstream| listening(&heard, &under_way, upstream))
    };
    let proxy = Proxy::before(&stub);
    for seed in seeds(12) {
        let mut dice = Dice(seed);
        let stream = TcpStream::connect(proxy.address).await.unwrap();
        let (client, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let requests = (0..STREAMS).map(|number| {
            let (plan, mut dice, client) =
                (Plan::new(&mut dice), Dice(seed * 1000 + number as u64), client.clone());
            tokio::spawn(async move {
                // Many that are reset at once end their connection.
                let mut client = client.ready().await.ok()?;
                let method = ["PUT", "POST", "PATCH", "DELETE"][dice.below(4)];
                let target = format!("/v1/{seed}-{number}");
                let request = Request::builder().method(method).uri(format!("http://kinto.test{target}"));
                let mut request = request.body(()).unwrap();
                request
                    .headers_mut()
                    .extend(plan.length().map(|length| (http::header::CONTENT_LENGTH, length)));
                let (answer, mut body) = client.send_request(request, false).ok()?;
                plan.send(&mut body, &mut dice).await;
                if plan.is_whole() == Some(true) {
                    match answer.await {
                        Ok(answer) => assert_eq!(answer.status(), 200, "SEED={seed} {plan:?}"),
                        Err(error) if error.is_io() || error.is_go_away() => return None,
                        Err(error) => panic!("SEED={seed} {plan:?}: {error}"),
                    }
                }
                Some((target, plan))
            })
        });
        let requests: Vec<_> = requests.collect();
        let mut plans = Vec::new();
        for request in requests {
            plans.extend(request.await.unwrap());
        }
        eventually("all that was begun is over", async || {
            (under_way.load(Ordering::SeqCst) == 0).then_some(())
        })
        .await;
        for (target, plan) in plans {
            plan.check(heard.lock().get(&target), &format!("SEED={seed} {target}"));
        }
    }
}

/// Answers over HTTP/2 as the target says: with the plan that follows from its number.
async fn answer_as_planned(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let Ok(mut connection) = h2::server::handshake(stream).await else { return };
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                tokio::spawn(async move {
                    let target = request.uri().path().to_owned();
                    let seed = target.rsplit('/').next().and_then(|seed| seed.parse().ok());
                    let mut dice = Dice(seed.unwrap_or_default());
                    let mut response = Response::new(());
                    let plan = Plan::new(&mut dice);
                    let length = plan.length().map(|length| (http::header::CONTENT_LENGTH, length));
                    response.headers_mut().extend(length);
                    let mut body = respond.send_response(response, false).unwrap();
                    plan.send(&mut body, &mut dice).await;
                });
            }
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_answer_that_is_cut_is_whole_for_the_client() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = format!("http://{}/v1", listener.local_addr().unwrap());
    tokio::spawn(answer_as_planned(listener));
    let proxy = Proxy::start(&upstream, &["sidecar.upstream_http2=true"]);
    let asked = tokio::task::spawn_blocking(move || {
        for seed in seeds(12) {
            for number in seed * 1000..seed * 1000 + STREAMS as u64 {
                let plan = Plan::new(&mut Dice(number));
                let answer =
                    proxy.connect().send(format!("GET /v1/{number} HTTP/1.1\r\nHost: x\r\n\r\n")).read();
                let heard = answer.filter(|answer| answer.status() == 200);
                let heard = heard.map(|answer| Heard { body: answer.body, is_whole: answer.is_whole });
                plan.check(heard.as_ref(), &format!("SEED={seed} {number}"));
            }
        }
    });
    asked.await.unwrap();
}
