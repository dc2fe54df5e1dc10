//! What an upstream over HTTP/2 says that it did not begin is sent again, whatever its method; nothing else is.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::support::frames::{self, DATA, END_STREAM, Frame, GOAWAY, HEADERS, RST_STREAM, frame};
use crate::support::stub::{Proxy, Stub, Upstream};

const NO_ERROR: u32 = 0;
const INTERNAL_ERROR: u32 = 2;
const REFUSED_STREAM: u32 = 7;
const CANCEL: u32 = 8;
const ENHANCE_YOUR_CALM: u32 = 11;

const METHODS: [&str; 4] = ["GET", "PUT", "POST", "DELETE"];

/// A sidecar before an upstream that does this on each connection, with the number of requests that it has begun.
fn before(serve: impl Fn(Upstream, &AtomicUsize) + Send + Sync + 'static) -> (Proxy, Arc<AtomicUsize>) {
    let begun = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&begun);
    let stub = Stub::start(move |mut upstream| {
        frames::greet(&mut upstream);
        serve(upstream, &count);
    });
    (Proxy::start(&stub.url(), &["sidecar.upstream_http2=true"]), begun)
}

fn request(method: &str, body: &str) -> String {
    let length = body.len();
    format!("{method} /v1/x HTTP/1.1\r\nHost: sidecar.test\r\nContent-Length: {length}\r\n\r\n{body}")
}

/// Answers the first three requests of a connection with their own bodies, and says with the third that no others are begun.
fn three_each(mut upstream: Upstream, begun: &AtomicUsize) {
    let mut bodies = HashMap::new();
    let (mut taken, mut answered) = (0, 0);
    while answered < 3 {
        let Some(Frame { kind, flags, id, payload }) = frames::next(&mut upstream) else { return };
        if kind == HEADERS && taken < 3 {
            taken += 1;
            begun.fetch_add(1, Ordering::Relaxed);
            bodies.insert(id, Vec::new());
            if taken == 3 {
                upstream.write(frames::goaway(id, NO_ERROR));
            }
        }
        let Some(body) = bodies.get_mut(&id) else { continue };
        if kind == DATA {
            body.extend(payload);
        }
        if matches!(kind, HEADERS | DATA) && flags & END_STREAM != 0 {
            answered += 1;
            upstream.write([frames::ok(id), frame(DATA, END_STREAM, id, body)].concat());
        }
    }
    upstream.finish();
}

#[test]
fn what_was_not_begun_before_a_connection_ended_is_sent_again() {
    const CLIENTS: usize = 6;
    const EACH: usize = 10;
    let (proxy, begun) = before(three_each);
    for method in METHODS {
        thread::scope(|scope| {
            for client in 0..CLIENTS {
                let proxy = &proxy;
                scope.spawn(move || {
                    let mut connection = proxy.connect();
                    for number in 0..EACH {
                        let body = match method {
                            "GET" | "DELETE" => String::new(),
                            _ => format!("{client}/{number}"),
                        };
                        let answer = connection.send(request(method, &body)).read().unwrap();
                        assert_eq!((answer.status(), answer.text()), (200, &*body), "{method}");
                    }
                });
            }
        });
        assert_eq!(begun.swap(0, Ordering::Relaxed), CLIENTS * EACH, "{method}");
    }
}

/// Refuses each second stream once its body is there, and echoes the others.
fn every_second(mut upstream: Upstream, begun: &AtomicUsize) {
    let mut bodies: HashMap<u32, Vec<u8>> = HashMap::new();
    while let Some(Frame { kind, flags, id, payload }) = frames::next(&mut upstream) {
        if kind == DATA {
            bodies.entry(id).or_default().extend(payload);
        }
        if !matches!(kind, HEADERS | DATA) || flags & END_STREAM == 0 {
            continue;
        }
        let body = bodies.remove(&id).unwrap_or_default();
        if id % 4 == 1 {
            upstream.write(frame(RST_STREAM, 0, id, &REFUSED_STREAM.to_be_bytes()));
        } else {
            begun.fetch_add(1, Ordering::Relaxed);
            upstream.write([frames::ok(id), frame(DATA, END_STREAM, id, &body)].concat());
        }
    }
}

#[test]
fn a_stream_that_was_refused_is_sent_again_with_its_body() {
    let (proxy, begun) = before(every_second);
    let mut connection = proxy.connect();
    for method in METHODS {
        let body = if matches!(method, "GET" | "DELETE") { "" } else { "body" };
        for _ in 0..4 {
            let answer = connection.send(request(method, body)).read().unwrap();
            assert_eq!((answer.status(), answer.text()), (200, body), "{method}");
        }
        assert_eq!(begun.swap(0, Ordering::Relaxed), 4, "{method}");
    }
}

#[test]
fn who_refuses_every_stream_is_not_asked_for_ever() {
    let (proxy, asked) = before(|mut upstream, asked| {
        while let Some(Frame { kind, id, .. }) = frames::next(&mut upstream) {
            if kind == HEADERS {
                asked.fetch_add(1, Ordering::Relaxed);
                upstream.write(frame(RST_STREAM, 0, id, &REFUSED_STREAM.to_be_bytes()));
            }
        }
    });
    assert_eq!(proxy.ask(request("PUT", "body")).status(), 502);
    assert!((2..20).contains(&asked.load(Ordering::Relaxed)), "{asked:?}");
}

#[test]
fn a_write_that_may_have_been_begun_is_not_sent_again() {
    /// What the upstream does with a request once it has all of it.
    type End = fn(u32) -> Vec<u8>;
    let ends: [(&str, End); 5] = [
        ("it names the request's stream as the last, and closes", |id| frames::goaway(id, NO_ERROR)),
        ("it names a later one", |_| frames::goaway(u32::MAX >> 1, NO_ERROR)),
        ("an error of its own", |id| frame(RST_STREAM, 0, id, &INTERNAL_ERROR.to_be_bytes())),
        ("it gives up", |id| frame(RST_STREAM, 0, id, &CANCEL.to_be_bytes())),
        ("an error of the connection", |_| frames::goaway(0, ENHANCE_YOUR_CALM)),
    ];
    for (what, end) in ends {
        let (proxy, begun) = before(move |mut upstream, begun| {
            while let Some(Frame { kind, flags, id, .. }) = frames::next(&mut upstream) {
                if matches!(kind, HEADERS | DATA) && flags & END_STREAM != 0 {
                    begun.fetch_add(1, Ordering::Relaxed);
                    let end = end(id);
                    upstream.write(&end);
                    if end[3] == GOAWAY {
                        return upstream.finish();
                    }
                }
            }
        });
        for method in ["PUT", "POST", "DELETE"] {
            let body = if method == "DELETE" { "" } else { "body" };
            assert_eq!(proxy.ask(request(method, body)).status(), 502, "{what}: {method}");
            assert_eq!(begun.swap(0, Ordering::Relaxed), 1, "{what}: {method}");
        }
    }
}
