//! Accepts connections and serves them, one thread and one runtime for each core.
//!
//! A connection lives and dies on the thread that accepted it, and what it forwards goes over that thread's own
//! connections to the upstream: nothing is shared on the way of a request. When the process ends, no more is accepted
//! and what is under way gets `sidecar.shutdown_grace` to finish; how is said by [`Phase`].

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::thread::JoinHandle;

use bytes::BytesMut;
use futures_util::future::join_all;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{mpsc, watch};

use crate::app::{App, Core};
use crate::metrics::{OpenConnection, tasks};
use crate::phase::Phase;
use crate::upstream::Upstream;
use crate::wire::duplex::Stream;
use crate::wire::peer::Peer;

mod activity;
mod admin;
mod connection;
mod framing;
mod latest_core;
mod linger;
mod listener;
pub(crate) mod places;
mod pulse;
mod refusals;
mod streams;
mod target;
mod tls;
mod watched;

pub use admin::AdminServer;
pub use listener::{Listener, Sockets};
pub use pulse::Pulse;
pub use tls::Certificates;

use connection::{Proxying, Serving};
use latest_core::LatestCore;
use places::{Bounds, Places, Seated};
use refusals::Refusals;

/// A server whose sockets are open.
#[expect(missing_debug_implementations, reason = "it holds the private key")]
pub struct Server {
    sockets: Sockets,
    threads: usize,
    tls: Option<Arc<Certificates>>,
    upstream: Upstream,
    app: Arc<App>,
}

/// What the threads of one process have in common.
#[derive(Clone)]
struct Shared {
    tls: Option<Arc<Certificates>>,
    places: Arc<Places>,
    app: Arc<App>,
    /// See [`Expected`].
    awaited: mpsc::Sender<()>,
}

/// A server whose threads run.
#[derive(Debug)]
pub struct Running {
    /// They end after the process began to ([`App::phase`]).
    pub threads: Vec<JoinHandle<()>>,
    /// Whether they do what they are there for.
    pub pulse: Pulse,
    /// Who may still ask.
    pub expected: Expected,
}

/// The connections that may still bring a request: those that are open or come, and, when the process stops
/// ([`Phase::Stopping`]), those whose request has come and has no answer yet. Each holds a sender, and nothing is sent.
#[derive(Debug)]
pub struct Expected(mpsc::Receiver<()>);

impl Expected {
    /// Waits until nobody is expected any more.
    pub async fn nobody(&mut self) {
        let _: Option<()> = self.0.recv().await;
    }
}

impl Server {
    /// Reads the certificates and opens the sockets, unless there are some.
    pub fn open(app: Arc<App>, upstream: Upstream, sockets: Option<Sockets>) -> io::Result<Self> {
        let settings = &app.settings;
        let cores = std::thread::available_parallelism().map_or(1, Into::into);
        let threads = settings.threads.unwrap_or(cores).max(1);
        let tls = settings.tls.as_ref().map(Certificates::open).transpose()?;
        let sockets = match sockets {
            Some(sockets) => sockets,
            None => Sockets::open(&settings.listen, threads)?,
        };
        Ok(Self { sockets, threads, tls, upstream, app })
    }

    /// Where clients can connect: `http://127.0.0.1:8889`.
    pub fn address(&self) -> String {
        self.sockets.names(self.tls.is_some())
    }

    /// The sockets.
    pub fn sockets(&self) -> &Sockets {
        &self.sockets
    }

    /// What clients are shown, where the listener speaks TLS.
    pub fn certificates(&self) -> Option<Arc<Certificates>> {
        self.tls.clone()
    }

    /// Starts the threads.
    pub fn start(self) -> io::Result<Running> {
        let places = Places::new(Bounds::Clients(self.app.in_force().clone()));
        let (awaited, expected) = mpsc::channel(1);
        let shared = Shared { tls: self.tls, places, app: self.app, awaited };
        let (mut threads, mut pulse) = (Vec::new(), Pulse::default());
        for (number, listeners) in self.sockets.spread(self.threads)?.into_iter().enumerate() {
            let core = Core::new(Arc::clone(&shared.app), self.upstream.sibling());
            let core = Arc::new(LatestCore::new(core));
            let shared = shared.clone();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let thread = std::thread::Builder::new().name(format!("serve-{number}"));
            tasks::count_those_of(runtime.handle());
            runtime.spawn(pulse.of_thread());
            threads.push(thread.spawn(move || runtime.block_on(run(listeners, core, shared)))?);
        }
        Ok(Running { threads, pulse, expected: Expected(expected) })
    }
}

/// Serves what one thread accepts, until the process ends.
async fn run(listeners: Vec<Listener>, core: Arc<LatestCore>, shared: Shared) {
    let app = Arc::clone(&shared.app);
    // Each connection holds a sender: when the last is gone, all is answered.
    let (under_way, mut all_done) = mpsc::channel::<()>(1);
    let thread = Thread { core, shared, under_way };
    join_all(listeners.into_iter().map(|listener| thread.accept(listener))).await;
    drop(thread);
    let grace = app.now().settings.limits.shutdown_grace;
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
    core: Arc<LatestCore>,
    shared: Shared,
    under_way: mpsc::Sender<()>,
}

/// Who serves what a listener accepts.
trait Accepting {
    fn accepted_tcp(&self, stream: TcpStream, address: SocketAddr) -> impl Future<Output = ()> + Send;

    fn accepted_unix(&self, stream: UnixStream) -> impl Future<Output = ()> + Send;
}

/// Accepts connections until the process leaves. What is accepted is served, be it that it has to wait for a place.
async fn accept(
    listener: Listener,
    accepting: &impl Accepting,
    mut phase: watch::Receiver<Phase>,
) -> io::Result<()> {
    let mut refusals = Refusals::default();
    let mut leaving = pin!(async move { drop(phase.wait_for(|phase| *phase >= Phase::Leaving).await) });
    match listener {
        Listener::Tcp(listener) => {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            loop {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    () = &mut leaving => return Ok(()),
                };
                match accepted {
                    Ok((stream, address)) => {
                        // Without it small answers wait for the client's acknowledgement of the last one.
                        let _ = stream.set_nodelay(true);
                        accepting.accepted_tcp(stream, address).await;
                    }
                    Err(error) => refusals.wait_out(&error).await,
                }
            }
        }
        Listener::Unix(listener) => {
            let listener = tokio::net::UnixListener::from_std(listener)?;
            loop {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    () = &mut leaving => return Ok(()),
                };
                match accepted {
                    Ok((stream, _)) => accepting.accepted_unix(stream).await,
                    Err(error) => refusals.wait_out(&error).await,
                }
            }
        }
    }
}

impl Accepting for Thread {
    async fn accepted_tcp(&self, stream: TcpStream, address: SocketAddr) {
        let peer = Peer::new(Some(address.ip()), self.shared.tls.is_some(), &self.core.get().app.settings);
        let peer = peer.at(stream.local_addr().ok());
        self.serve_tcp(stream, peer).await;
    }

    async fn accepted_unix(&self, stream: UnixStream) {
        let peer = Peer::new(None, false, &self.core.get().app.settings);
        self.serve(Box::new(stream), peer).await;
    }
}

impl Thread {
    async fn accept(&self, listener: Listener) {
        if let Err(error) = accept(listener, self, self.shared.app.phase.clone()).await {
            tracing::error!(%error, "cannot accept connections any more");
        }
    }

    /// Serves a connection in a task of its own, once there is room for it.
    async fn serve(&self, stream: Stream, peer: Peer) {
        let Some((serving, held)) = self.admit(peer).await else { return };
        tokio::spawn(async move {
            held.seated.place.serve(pin!(connection::serve_plain(stream, serving))).await;
            drop(held);
        });
    }

    async fn serve_tcp(&self, stream: TcpStream, peer: Peer) {
        let Some(certificates) = &self.shared.tls else { return self.serve(Box::new(stream), peer).await };
        let acceptor = certificates.acceptor();
        let Some((serving, held)) = self.admit(peer).await else { return };
        let patience = self.core.get().app.settings.limits.header_timeout;
        tokio::spawn(async move {
            let served = async {
                let accepted = tokio::time::timeout(patience, acceptor.accept(stream));
                let accepted = tokio::select! {
                    // What has arrived by then is answered.
                    biased;
                    accepted = accepted => accepted,
                    () = connection::last_look(serving.phase.clone()) => return,
                };
                if let Ok(Ok(stream)) = accepted {
                    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                    connection::serve(Box::new(stream), BytesMut::new(), is_http2, serving).await;
                }
            };
            held.seated.place.serve(pin!(served)).await;
            drop(held);
        });
    }

    /// Waits until the process has room for one more connection; meanwhile this thread accepts none. `None` where its client
    /// has too many, or the process stops first.
    async fn admit(&self, peer: Peer) -> Option<(Serving, Held)> {
        // A trusted proxy has the connections of many.
        let client = peer.address.filter(|_| !peer.is_trusted);
        let mut phase = self.shared.app.phase.clone();
        let seated = tokio::select! {
            biased;
            seated = self.shared.places.take(client) => seated?,
            _ = phase.wait_for(|phase| *phase == Phase::Stopping) => return None,
        };
        let serving = Serving {
            answering: Arc::new(Proxying { core: Arc::clone(&self.core), peer }),
            place: Arc::clone(&seated.place),
            phase: self.shared.app.phase.clone(),
            awaited: Some(self.shared.awaited.clone()),
        };
        let held = Held { _open: OpenConnection::new(), seated, _under_way: self.under_way.clone() };
        Some((serving, held))
    }
}
