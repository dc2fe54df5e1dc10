//! Accepts connections and serves them, one thread and one runtime for each core.
//!
//! A connection lives and dies on the thread that accepted it, and what it forwards goes over that thread's own
//! connections to the upstream: nothing is shared on the way of a request. When the process stops, no more is accepted
//! and what is under way gets `sidecar.shutdown_grace` to finish.

use std::io;
use std::net::TcpListener;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

use crate::app::{App, Core};
use crate::metrics::OpenConnection;
use crate::upstream::Upstream;
use crate::wire::peer::Peer;

mod activity;
mod admin;
mod connection;
mod framing;
mod linger;
mod listener;
pub(crate) mod places;
mod target;
mod tls;
mod watched;

pub use admin::AdminServer;

use connection::{Proxying, Serving};
use listener::Listeners;
use places::{Places, Seated};

/// How long to leave the machine alone when it has no more descriptors.
const BREATHER: Duration = Duration::from_millis(50);

/// A server whose sockets are open.
#[expect(missing_debug_implementations, reason = "it holds the private key")]
pub struct Server {
    listeners: Listeners,
    threads: usize,
    tls: Option<TlsAcceptor>,
    upstream: Upstream,
    app: Arc<App>,
}

/// What the threads of one process have in common.
#[derive(Clone)]
struct Shared {
    tls: Option<TlsAcceptor>,
    places: Arc<Places>,
    app: Arc<App>,
}

/// What one thread accepts from.
enum Source {
    Tcp(TcpListener),
    /// The listener that hands its connections round.
    Unix(UnixListener, Vec<mpsc::Sender<UnixStream>>),
    Handed,
}

impl Server {
    /// Reads the certificates and opens the sockets.
    pub fn open(app: Arc<App>, upstream: Upstream) -> io::Result<Self> {
        let settings = &app.settings;
        let cores = std::thread::available_parallelism().map_or(1, Into::into);
        let threads = settings.threads.unwrap_or(cores).max(1);
        let tls = settings.tls.as_ref().map(tls::acceptor).transpose()?;
        let listeners = Listeners::open(&settings.listen, threads).map_err(|error| {
            io::Error::new(error.kind(), format!("cannot listen on {}: {error}", settings.listen))
        })?;
        Ok(Self { listeners, threads, tls, upstream, app })
    }

    /// Where clients can connect: `http://127.0.0.1:8889`.
    pub fn address(&self) -> String {
        self.listeners.describe(self.tls.is_some())
    }

    /// Starts the threads. They end after the process began to stop ([`App::stopping`]).
    pub fn start(self) -> io::Result<Vec<JoinHandle<()>>> {
        let shared = Shared { tls: self.tls, places: Places::new(&self.app.settings.limits), app: self.app };
        let (sources, mut handed) = match self.listeners {
            Listeners::Tcp(_, listeners) => (listeners.into_iter().map(Source::Tcp).collect(), Vec::new()),
            Listeners::Unix(_, listener) => {
                let (senders, receivers): (Vec<_>, Vec<_>) =
                    (0..self.threads).map(|_| mpsc::channel(64)).unzip();
                let mut sources: Vec<_> = (1..self.threads).map(|_| Source::Handed).collect();
                sources.push(Source::Unix(listener, senders));
                (sources, receivers)
            }
        };
        let mut threads = Vec::new();
        for (number, source) in sources.into_iter().enumerate() {
            let core = Arc::new(Core { app: Arc::clone(&shared.app), upstream: self.upstream.sibling() });
            let (shared, handed) = (shared.clone(), handed.pop());
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let thread = std::thread::Builder::new().name(format!("serve-{number}"));
            threads.push(thread.spawn(move || runtime.block_on(run(source, handed, core, shared)))?);
        }
        Ok(threads)
    }
}

/// Serves what one thread accepts, until the process stops.
async fn run(source: Source, handed: Option<mpsc::Receiver<UnixStream>>, core: Arc<Core>, shared: Shared) {
    let mut stopping = shared.app.stopping.clone();
    let grace = shared.app.settings.limits.shutdown_grace;
    // Each connection holds a sender: when the last is gone, all is answered.
    let (under_way, mut all_done) = mpsc::channel::<()>(1);
    let thread = Thread { core, shared, under_way };
    tokio::select! {
        () = accept(source, &thread) => {}
        () = take_handed(handed, &thread) => {}
        _ = stopping.wait_for(|stopping| *stopping) => {}
    }
    drop(thread);
    let _ = tokio::time::timeout(grace, all_done.recv()).await;
}

/// What a connection holds while it is open.
struct Held {
    _open: OpenConnection,
    seated: Seated,
    _under_way: mpsc::Sender<()>,
}

/// One serving thread.
struct Thread {
    core: Arc<Core>,
    shared: Shared,
    under_way: mpsc::Sender<()>,
}

async fn accept(source: Source, thread: &Thread) {
    let outcome = match source {
        Source::Tcp(listener) => accept_tcp(listener, thread).await,
        Source::Unix(listener, threads) => hand_round(listener, &threads).await,
        Source::Handed => std::future::pending().await,
    };
    if let Err(error) = outcome {
        tracing::error!(%error, "cannot accept connections any more");
    }
}

async fn accept_tcp(listener: TcpListener, thread: &Thread) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        match listener.accept().await {
            Ok((stream, address)) => {
                let peer =
                    Peer::new(Some(address.ip()), thread.shared.tls.is_some(), &thread.core.app.settings);
                thread.serve_tcp(stream, peer).await;
            }
            Err(error) => wait_out(&error).await,
        }
    }
}

async fn hand_round(listener: UnixListener, threads: &[mpsc::Sender<UnixStream>]) -> io::Result<()> {
    let listener = tokio::net::UnixListener::from_std(listener)?;
    for thread in threads.iter().cycle() {
        match listener.accept().await {
            // A connection belongs to the runtime that registered it, so it changes hands as a bare socket.
            Ok((stream, _)) => {
                if let Ok(stream) = stream.into_std() {
                    drop(thread.send(stream).await);
                }
            }
            Err(error) => wait_out(&error).await,
        }
    }
    Ok(())
}

async fn take_handed(handed: Option<mpsc::Receiver<UnixStream>>, thread: &Thread) {
    let Some(mut handed) = handed else { return std::future::pending().await };
    while let Some(stream) = handed.recv().await {
        if let Ok(stream) = tokio::net::UnixStream::from_std(stream) {
            let peer = Peer::new(None, false, &thread.core.app.settings);
            thread.serve(stream, peer).await;
        }
    }
}

/// A failed accept is the client's (it went away) or the machine's (it is out of descriptors); neither ends the server.
async fn wait_out(error: &io::Error) {
    if !matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
        tracing::warn!(%error, "cannot accept a connection");
        tokio::time::sleep(BREATHER).await;
    }
}

impl Thread {
    /// Serves a connection in a task of its own, once there is room for it.
    async fn serve<S>(&self, stream: S, peer: Peer)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Some((serving, held)) = self.admit(peer).await else { return };
        tokio::spawn(async move {
            tokio::select! {
                () = connection::serve_plain(stream, serving) => {}
                () = held.seated.place.given_up() => {}
            }
            drop(held);
        });
    }

    async fn serve_tcp(&self, stream: TcpStream, peer: Peer) {
        // Without it small answers wait for the client's acknowledgement of the last one.
        let _ = stream.set_nodelay(true);
        let Some(acceptor) = self.shared.tls.clone() else { return self.serve(stream, peer).await };
        let Some((serving, held)) = self.admit(peer).await else { return };
        let patience = self.core.app.settings.limits.header_timeout;
        tokio::spawn(async move {
            let served = async {
                if let Ok(Ok(stream)) = tokio::time::timeout(patience, acceptor.accept(stream)).await {
                    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                    connection::serve(stream, BytesMut::new(), is_http2, serving).await;
                }
            };
            tokio::select! {
                () = served => {}
                () = held.seated.place.given_up() => {}
            }
            drop(held);
        });
    }

    /// Waits until the process has room for one more connection; meanwhile this thread accepts none. `None` where its client
    /// has too many.
    async fn admit(&self, peer: Peer) -> Option<(Serving<Proxying>, Held)> {
        // A trusted proxy has the connections of many.
        let client = peer.address.filter(|_| !peer.is_trusted);
        let seated = self.shared.places.take(client).await?;
        let serving = Serving {
            answering: Proxying { core: Arc::clone(&self.core), peer: Arc::new(peer) },
            place: Arc::clone(&seated.place),
            stopping: self.shared.app.stopping.clone(),
        };
        let held = Held { _open: OpenConnection::new(), seated, _under_way: self.under_way.clone() };
        Some((serving, held))
    }
}
