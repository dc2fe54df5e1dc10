//! A pass-through in front of Kinto that notes each request, and can hold them back.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// A request that came by.
#[derive(Clone, Debug)]
pub struct Recorded {
    pub method: String,
    /// Path and query as sent.
    pub target: String,
    pub headers: http::HeaderMap,
    pub body: Bytes,
}

impl Recorded {
    /// The path without the query.
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// Whether it reads records of this collection's list (a `GET` of `…/records`).
    pub fn reads_records_of(&self, bucket: &str, collection: &str) -> bool {
        self.method == "GET"
            && self.path() == format!("/v1/buckets/{bucket}/collections/{collection}/records")
    }
}

#[derive(Debug, Default)]
struct Notes {
    requests: Mutex<Vec<Recorded>>,
}

/// The pass-through; ends when dropped. It runs on threads of its own.
#[derive(Debug)]
pub struct Recorder {
    address: SocketAddr,
    notes: Arc<Notes>,
    held: watch::Sender<bool>,
    runtime: Option<Runtime>,
}

impl Recorder {
    /// Stands in front of the server whose API root this is.
    pub fn before(url: impl AsRef<str>) -> Self {
        let upstream = super::chaos::address_of(url.as_ref());
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let notes = Arc::new(Notes::default());
        let (held, holding) = watch::channel(false);
        let noted = Arc::clone(&notes);
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(connection(client, upstream.clone(), Arc::clone(&noted), holding.clone()));
            }
        });
        Self { address, notes, held, runtime: Some(runtime) }
    }

    /// The API root behind this pass-through.
    pub fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// All requests so far, in the order of their arrival.
    pub fn requests(&self) -> Vec<Recorded> {
        self.notes.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many requests satisfy this.
    pub fn count(&self, which: impl Fn(&Recorded) -> bool) -> usize {
        self.requests().iter().filter(|request| which(request)).count()
    }

    /// Forgets what it has noted.
    pub fn clear(&self) {
        self.notes.requests.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Notes requests from now on, but lets none through.
    pub fn hold(&self) {
        self.held.send_replace(true);
    }

    /// Lets through what is held, and what comes.
    pub fn release(&self) {
        self.held.send_replace(false);
    }

    /// Waits until so many such requests have come.
    pub async fn wait_for(&self, number: usize, which: impl Fn(&Recorded) -> bool) {
        super::eventually("requests at the recorder", async || (self.count(&which) >= number).then_some(()))
            .await;
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Serves one connection over one connection to the upstream, so that what happens to one happens to the other.
async fn connection(client: TcpStream, upstream: String, notes: Arc<Notes>, holding: watch::Receiver<bool>) {
    let Ok(server) = TcpStream::connect(&upstream).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let Ok((sender, driver)) = hyper::client::conn::http1::handshake(TokioIo::new(server)).await else {
        return;
    };
    tokio::spawn(driver);
    let sender = Arc::new(tokio::sync::Mutex::new(sender));
    let service = service_fn(move |request: http::Request<Incoming>| {
        let (sender, notes, holding) = (Arc::clone(&sender), Arc::clone(&notes), holding.clone());
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            let recorded = Recorded {
                method: head.method.to_string(),
                target: head.uri.to_string(),
                headers: head.headers.clone(),
                body: body.clone(),
            };
            notes.requests.lock().unwrap_or_else(PoisonError::into_inner).push(recorded);
            let mut holding = holding;
            let _ = holding.wait_for(|held| !held).await;
            sender.lock().await.send_request(http::Request::from_parts(head, Full::new(body))).await
        }
    });
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(client), service).await;
}
