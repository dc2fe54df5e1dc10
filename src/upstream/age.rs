//! How long a connection to the upstream takes requests.
//!
//! The upstream's name may lead elsewhere than it did, while what it led to lives on and answers. Nothing else ends a
//! connection that is never idle.

use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

/// How long at least, in milliseconds.
const LEAST: u64 = 60_000;
/// By how much they differ, so that not all end at once; in milliseconds.
const SPREAD: u64 = 15_000;

/// Until when a connection takes requests that is made now.
pub(super) fn end_of_use() -> Instant {
    let (random, _) = Uuid::new_v4().as_u64_pair();
    Instant::now() + Duration::from_millis(LEAST + random % SPREAD)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use bytes::Bytes;
    use http::{HeaderMap, Method, Request, Response};
    use http_body_util::Full;
    use hyper::body::Incoming;
    use hyper::server::conn::{http1, http2};
    use hyper::service::service_fn;
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use tokio::net::TcpListener;

    use super::*;
    use crate::settings::{InForce, Settings};
    use crate::upstream::Upstream;

    /// An upstream that counts its connections.
    async fn server(is_http2: bool) -> (Upstream, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let mut settings = Settings::default();
        settings.upstream.port = listener.local_addr().unwrap().port();
        settings.upstream_http2 = is_http2;
        let count = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                let answer = service_fn(async |_: Request<Incoming>| {
                    Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::from_static(b"{}"))))
                });
                let stream = TokioIo::new(stream);
                if is_http2 {
                    tokio::spawn(http2::Builder::new(TokioExecutor::new()).serve_connection(stream, answer));
                } else {
                    tokio::spawn(http1::Builder::new().serve_connection(stream, answer));
                }
            }
        });
        (Upstream::new(&InForce::from(settings)).unwrap(), connections)
    }

    async fn ask(upstream: &Upstream) {
        let question = upstream.ask(Method::GET, "/", HeaderMap::new(), Bytes::new());
        assert_eq!(question.await.unwrap().body(), "{}");
    }

    async fn passes(time: Duration) {
        tokio::time::pause();
        tokio::time::advance(time).await;
        tokio::time::resume();
    }

    #[tokio::test]
    async fn a_connection_that_is_never_idle_takes_no_requests_after_a_while() {
        for is_http2 in [false, true] {
            let (upstream, connections) = server(is_http2).await;
            let mut seen = Vec::new();
            for _ in 0..32 {
                ask(&upstream).await;
                seen.push(connections.load(Ordering::Relaxed));
                passes(Duration::from_secs(5)).await;
            }
            // Of 155 s, each has 60 to 75.
            assert_eq!((seen.first(), seen.get(11), seen.last()), (Some(&1), Some(&1), Some(&3)), "{seen:?}");
        }
    }

    #[tokio::test]
    async fn nor_does_one_that_was_idle_meanwhile() {
        let (upstream, connections) = server(false).await;
        ask(&upstream).await;
        passes(Duration::from_secs(80)).await;
        ask(&upstream).await;
        assert_eq!(connections.load(Ordering::Relaxed), 2);
    }
}
