//! A pass-through in front of Kinto that notes each request, and can hold some of them back or answer in Kinto's place.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It goes on to Kinto.
    Pass,
    /// It waits.
    Hold,
    /// It is answered with this status.
    Answer(u16),
    /// It is answered with this body, and 200.
    Say(&'static str),
    /// It goes on to Kinto, whose answer waits.
    Late,
    /// It goes on to Kinto, whose answer is lost with the connection.
    Lose,
}

type Decide = Arc<dyn Fn(&Recorded) -> Fate + Send + Sync>;

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

impl Recorded {
    /// The paths of its sub-requests, where it is a batch.
    pub fn sub_requests(&self) -> Vec<String> {
        let body: serde_json::Value = serde_json::from_slice(&self.body).unwrap_or_default();
        let requests = body["requests"].as_array().cloned().unwrap_or_default();
        requests.iter().map(|request| request["path"].as_str().unwrap_or_default().to_owned()).collect()
    }
}

#[derive(Debug, Default)]
struct Notes {
    requests: Mutex<Vec<Recorded>>,
    /// How long Kinto took to answer, altogether.
    busy: Mutex<Duration>,
}

/// The pass-through; ends when dropped. It runs on threads of its own.
pub struct Recorder {
    address: SocketAddr,
    notes: Arc<Notes>,
    fates: watch::Sender<Decide>,
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
        let pass: Decide = Arc::new(|_| Fate::Pass);
        let (fates, deciding) = watch::channel(pass);
        let noted = Arc::clone(&notes);
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(connection(client, upstream.clone(), Arc::clone(&noted), deciding.clone()));
            }
        });
        Self { address, notes, fates, runtime: Some(runtime) }
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

    /// For how long Kinto was busy with answers, altogether.
    pub fn busy(&self) -> Duration {
        *self.notes.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets what it has noted.
    pub fn clear(&self) {
        self.notes.requests.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Notes requests from now on, but lets none through.
    pub fn hold(&self) {
        self.intercept(|_| Fate::Hold);
    }

    /// Decides of each request from now on, and of those that are held.
    pub fn intercept(&self, decide: impl Fn(&Recorded) -> Fate + Send + Sync + 'static) {
        self.fates.send_replace(Arc::new(decide));
    }

    /// Lets through what is held, and what comes.
    pub fn release(&self) {
        self.intercept(|_| Fate::Pass);
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
async fn connection(
    client: TcpStream,
    upstream: String,
    notes: Arc<Notes>,
    deciding: watch::Receiver<Decide>,
) {
    let Ok(server) = TcpStream::connect(&upstream).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let Ok((sender, driver)) = hyper::client::conn::http1::handshake(TokioIo::new(server)).await else {
        return;
    };
    tokio::spawn(driver);
    let sender = Arc::new(tokio::sync::Mutex::new(sender));
    let service = service_fn(move |request: http::Request<Incoming>| {
        let (sender, notes, mut deciding) = (Arc::clone(&sender), Arc::clone(&notes), deciding.clone());
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
            let recorded = Recorded {
                method: head.method.to_string(),
                target: head.uri.to_string(),
                headers: head.headers.clone(),
                body: body.clone(),
            };
            notes.requests.lock().unwrap_or_else(PoisonError::into_inner).push(recorded.clone());
            let answer = |status: u16, body: &'static str| {
                let body = Full::new(Bytes::from_static(body.as_bytes())).map_err(|never| match never {});
                let answer =
                    http::Response::builder().status(status).header("Content-Type", "application/json");
                Ok(answer.body(body.boxed()).unwrap())
            };
            let fate = loop {
                let decide = Arc::clone(&deciding.borrow_and_update());
                match decide(&recorded) {
                    Fate::Answer(status) => return answer(status, "{}"),
                    Fate::Say(body) => return answer(200, body),
                    Fate::Hold => drop(deciding.changed().await),
                    fate => break fate,
                }
            };
            let request = http::Request::from_parts(head, Full::new(body));
            let (mut sender, begun) = (sender.lock().await, Instant::now());
            let answer = sender.send_request(request).await.map_err(io::Error::other)?;
            *notes.busy.lock().unwrap_or_else(PoisonError::into_inner) += begun.elapsed();
            if fate == Fate::Lose {
                return Err(io::Error::other("lost"));
            }
            let decides_late = |decide: &Decide| decide(&recorded) == Fate::Late;
            let _ = deciding.wait_for(|decide| fate != Fate::Late || !decides_late(decide)).await;
            Ok(answer.map(BodyExt::boxed))
        }
    });
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(client), service).await;
}
