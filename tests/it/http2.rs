//! HTTP/2 with prior knowledge on the same port, and to the upstream.

use std::convert::Infallible;
use std::io::Read;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2::{Builder, SendRequest, handshake};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};

use crate::support::frames::{self, frame};
use crate::support::stub::{HELLO, PATIENCE, Proxy, Stub, Upstream};
use crate::support::{Kinto, SERVICE_ACCOUNT, Sidecar, eventually, unique};

async fn connect(address: SocketAddr) -> SendRequest<Full<Bytes>> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// Polls once.
async fn is_pending(mut future: Pin<&mut impl Future>) -> bool {
    std::future::poll_fn(|context| Poll::Ready(future.as_mut().poll(context).is_pending())).await
}

fn get(path: &str) -> Request<Full<Bytes>> {
    Request::builder().uri(format!("http://kinto.test{path}")).body(Full::default()).unwrap()
}

/// An upstream that speaks HTTP/2 only, counts its connections, and echoes what it was asked.
async fn http2_upstream() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::Relaxed);
            let serve = http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service_fn(echo));
            tokio::spawn(serve);
        }
    });
    (address, connections)
}

async fn echo(request: Request<Incoming>) -> Result<Response<BoxedBody>, Infallible> {
    let asked = request.uri().to_string();
    let forwarded = request.headers().get("x-forwarded-proto").cloned();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("7"));
    let pieces = [Frame::data(Bytes::from(asked)), Frame::data(body), Frame::trailers(trailers)];
    let body = StreamBody::new(futures_util::stream::iter(pieces.map(Ok)));
    let mut response = Response::new(BodyExt::boxed(body));
    response.headers_mut().insert("x-scheme", forwarded.unwrap());
    Ok(response)
}

type BoxedBody = http_body_util::combinators::BoxBody<Bytes, Infallible>;

#[tokio::test]
async fn clients_may_speak_http2_with_prior_knowledge() {
    let (stub, proxy) = Proxy::greeted();
    let mut sender = connect(proxy.address).await;
    let mut request = get("/v1/a%2fb/../c?d=%22e%22");
    request.headers_mut().append("cookie", HeaderValue::from_static("a=1"));
    request.headers_mut().append("cookie", HeaderValue::from_static("b=2"));
    let response = sender.send_request(request).await.unwrap();
    assert_eq!((response.status(), response.version()), (StatusCode::OK, Version::HTTP_2));
    assert!(response.headers().get("connection").is_none());
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello");
    let seen = stub.next();
    assert_eq!(seen.line(), "GET /v1/a%2fb/../c?d=%22e%22 HTTP/1.1");
    assert_eq!(seen.header("host"), ["kinto.test"]);
    assert_eq!(seen.header("cookie"), ["a=1; b=2"]);
    assert!(seen.header("via")[0].starts_with("2 kinto-sidecar-"), "{:?}", seen.header("via"));
}

#[tokio::test]
async fn requests_on_one_http2_connection_do_not_wait_for_each_other() {
    let stub = Stub::start(|mut upstream| {
        // The slow one is answered when the quick one was.
        while let Some(seen) = upstream.read() {
            if seen.line().contains("/quick") {
                upstream.write(HELLO);
            }
        }
    });
    let proxy = Proxy::before(&stub);
    let mut sender = connect(proxy.address).await;
    let slow = sender.send_request(get("/slow"));
    tokio::pin!(slow);
    assert!(is_pending(slow.as_mut()).await);
    let quick = sender.send_request(get("/quick")).await.unwrap();
    assert_eq!(quick.status(), StatusCode::OK);
    assert!(is_pending(slow.as_mut()).await);
}

#[tokio::test]
async fn an_http2_body_is_held_to_its_limit() {
    let stub = Stub::answering(HELLO);
    let proxy = Proxy::start(&stub.url(), &["sidecar.max_body=1KiB"]);
    let mut sender = connect(proxy.address).await;
    let mut request = get("/").map(|_| Full::new(Bytes::from(vec![b'x'; 2_000])));
    *request.method_mut() = http::Method::PUT;
    assert_eq!(sender.send_request(request).await.unwrap().status(), StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn an_http2_header_bomb_does_not_reach_the_upstream() {
    let (stub, proxy) = Proxy::greeted();
    let mut sender = connect(proxy.address).await;
    let mut request = get("/");
    for number in 0..100 {
        let name = http::HeaderName::try_from(format!("x-{number}")).unwrap();
        request.headers_mut().insert(name, HeaderValue::try_from("a".repeat(1_000)).unwrap());
    }
    let refused = match sender.send_request(request).await {
        Ok(response) => response.status() == StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        Err(_) => true,
    };
    assert!(refused && !stub.has_next());
}

#[tokio::test]
async fn streams_that_are_opened_and_reset_in_a_flood_end_the_connection() {
    let stub = Stub::start(|mut upstream| {
        upstream.read();
        upstream.wait_for_close();
    });
    let proxy = Proxy::before(&stub);
    let mut sender = connect(proxy.address).await;
    for _ in 0..100_000 {
        if sender.is_closed() {
            break;
        }
        // Polled once, it is sent; dropped, it is reset.
        let request = sender.send_request(get("/"));
        tokio::pin!(request);
        is_pending(request.as_mut()).await;
        tokio::task::yield_now().await;
    }
    assert!(sender.is_closed());
    // The others do not notice.
    assert!(connect(proxy.address).await.ready().await.is_ok());
}

#[tokio::test]
async fn a_stream_whose_reader_takes_nothing_is_reset_and_its_connection_goes_on() {
    let stub = Stub::answering(HELLO);
    let proxy = Proxy::start(&stub.url(), &["sidecar.body_timeout=500ms"]);
    let stream = TcpStream::connect(proxy.address).await.unwrap();
    let mut client = Builder::new(TokioExecutor::new());
    client.initial_stream_window_size(0);
    let (mut sender, connection) = client.handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    for _ in 0..2 {
        let answer = sender.send_request(get("/")).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        let body = tokio::time::timeout(PATIENCE, answer.into_body().collect()).await;
        assert!(body.expect("the stream is reset").is_err());
    }
}

#[tokio::test]
async fn a_reader_who_takes_a_large_answer_slowly_gets_all_of_it() {
    let bucket = format!("/buckets/{}", unique("slowly"));
    let settings = [SERVICE_ACCOUNT, ("sidecar.body_timeout", "500ms"), ("sidecar.history", "off")];
    let sidecar = Sidecar::start(Kinto::shared().url(), &settings);
    let alice = sidecar.client().user("alice");
    let everybody = json!({"permissions": {"read": ["system.Everyone"]}});
    alice.put(&bucket).json(everybody).await.expect(201);
    alice.put(&format!("{bucket}/collections/c")).await.expect(201);
    let text = "x".repeat(1 << 20);
    for number in 0..3 {
        let record = format!("{bucket}/collections/c/records/r{number}");
        alice.put(&record).data(json!({"text": text})).await.expect(201);
    }
    let stream = TcpStream::connect(sidecar.address()).await.unwrap();
    let mut client = Builder::new(TokioExecutor::new());
    client.initial_stream_window_size(64 << 10);
    let (mut sender, connection) = client.handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let path = format!("/v1{bucket}/collections/c/changeset?_expected=0");
    let mut body = sender.send_request(get(&path)).await.unwrap().into_body();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        length += frame.expect("more of it").into_data().map_or(0, |piece| piece.len());
        tokio::time::sleep(Duration::from_millis(8)).await;
    }
    assert!(length > 3 << 20, "{length}");
}

#[tokio::test]
async fn streams_of_one_client_are_bounded_over_its_connections() {
    let stub = Stub::start(|mut upstream| {
        while let Some(seen) = upstream.read() {
            if seen.line().contains("/quick") {
                upstream.write(HELLO);
            }
        }
    });
    let settings = ["sidecar.max_connections_per_client=2", "feeds.max_readers_per_client=1"];
    let proxy = Proxy::start(&stub.url(), &settings);
    let (mut one, mut two) = (connect(proxy.address).await, connect(proxy.address).await);
    let mut slow: Vec<_> = (0..3).map(|_| Box::pin(one.send_request(get("/slow")))).collect();
    for request in &mut slow {
        assert!(is_pending(request.as_mut()).await);
    }
    tokio::task::yield_now().await;
    let (stub, seen) = tokio::task::spawn_blocking(move || {
        let seen: Vec<_> = (0..3).map(|_| stub.next()).collect();
        (stub, seen)
    })
    .await
    .unwrap();
    assert_eq!(seen.len(), 3);
    // One of each connection is free, and two are the client's share.
    let refused = one.send_request(get("/quick")).await.unwrap_err();
    let reason = std::error::Error::source(&refused).and_then(|cause| cause.downcast_ref::<h2::Error>());
    assert_eq!(reason.and_then(h2::Error::reason), Some(h2::Reason::REFUSED_STREAM), "{refused:?}");
    assert_eq!(two.send_request(get("/quick")).await.unwrap().status(), StatusCode::OK);
    drop(slow);
    eventually("streams that ended are free", async || {
        one.clone().send_request(get("/quick")).await.is_ok().then_some(())
    })
    .await;
    drop(stub);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_whose_stream_is_reset_without_an_error_does_not_end_for_the_upstream() {
    let stub = Stub::start(|mut upstream| {
        upstream.read_head();
        let mut body = String::new();
        let _ = upstream.stream.read_to_string(&mut body);
        upstream.tell(&body);
    });
    let proxy = Proxy::before(&stub);
    let stream = TcpStream::connect(proxy.address).await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    for method in ["PUT", "POST", "DELETE"] {
        let request = Request::builder().method(method).uri("http://kinto.test/v1/x").body(()).unwrap();
        let (_answer, mut body) = client.send_request(request, false).unwrap();
        body.send_data(Bytes::from("half"), false).unwrap();
        assert_eq!(stub.next().header("transfer-encoding"), ["chunked"]);
        body.send_reset(h2::Reason::NO_ERROR);
        let sent = stub.next().head;
        assert!(!sent.ends_with("0\r\n\r\n"), "{method}: {sent:?}");
    }
}

/// Answers each request over HTTP/2 with half a body, and resets its stream without an error.
fn answer_by_halves(mut upstream: Upstream) {
    frames::greet(&mut upstream);
    while let Some(frames::Frame { kind, id, .. }) = frames::next(&mut upstream) {
        if kind == frames::HEADERS {
            let half = frame(frames::DATA, 0, id, b"half");
            upstream.write([frames::ok(id), half, frame(frames::RST_STREAM, 0, id, &[0; 4])].concat());
        }
    }
}

#[test]
fn an_answer_whose_stream_is_reset_without_an_error_does_not_end_for_the_client() {
    let stub = Stub::start(answer_by_halves);
    let proxy = Proxy::start(&stub.url(), &["sidecar.upstream_http2=true"]);
    for _ in 0..5 {
        // Where nothing was sent yet, the connection is closed.
        let answer = proxy.connect().send("GET /v1/x HTTP/1.1\r\nHost: x\r\n\r\n").read();
        assert!(answer.as_ref().is_none_or(|answer| !answer.is_whole), "{answer:?}");
    }
}

#[tokio::test]
async fn trailers_that_http2_has_not_are_left_out() {
    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n4\r\nbody\r\n0\r\nX-Sum: 7\r\n\
                  Connection: close\r\nTransfer-Encoding: x\r\n\r\n";
    let stub = Stub::answering(answer);
    let proxy = Proxy::before(&stub);
    let mut sender = connect(proxy.address).await;
    let mut request = get("/v1/x");
    request.headers_mut().insert("te", HeaderValue::from_static("trailers"));
    let body = sender.send_request(request).await.unwrap().into_body().collect().await.unwrap();
    assert_eq!(body.trailers().map(HeaderMap::len), Some(1));
    assert_eq!(body.to_bytes(), "body");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_length_that_is_said_twice_over_http2_is_said_once_to_the_upstream() {
    let stub = Stub::answering(HELLO);
    let proxy = Proxy::before(&stub);
    let stream = TcpStream::connect(proxy.address).await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let request = Request::put("http://kinto.test/v1/x").header("content-length", "4");
    let request = request.header("content-length", "4").body(()).unwrap();
    let (answer, mut body) = client.send_request(request, false).unwrap();
    body.send_data(Bytes::from("body"), true).unwrap();
    assert_eq!(answer.await.unwrap().status(), StatusCode::OK);
    let seen = stub.next();
    assert_eq!((seen.header("content-length"), &seen.body[..]), (vec!["4"], &b"body"[..]));
}

#[tokio::test]
async fn the_upstream_may_speak_http2_with_prior_knowledge() {
    let (address, connections) = http2_upstream().await;
    let proxy = Proxy::start(&format!("http://{address}/v1"), &["sidecar.upstream_http2=true"]);
    let mut sender = connect(proxy.address).await;
    for _ in 0..20 {
        let mut request = get("/v1/x?y").map(|_| Full::new(Bytes::from("body")));
        *request.method_mut() = http::Method::POST;
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.headers()["x-scheme"], "http");
        let body = response.into_body().collect().await.unwrap();
        assert_eq!(body.trailers().unwrap()["x-sum"], "7");
        assert_eq!(body.to_bytes(), "http://kinto.test/v1/x?ybody");
    }
    assert_eq!(connections.load(Ordering::Relaxed), 1);
}
