//! The second listener, for operators: beside those that serve clients, with the same manners.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;

use futures_util::future::{Either, try_join_all};
use http::Request;
use hyper::body::Incoming;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{mpsc, watch};

use super::connection::{self, Answering, Serving};
use super::listener::{Listener, Sockets};
use super::places::{Bounds, Places};
use super::{Accepting, accept};
use crate::endpoints::admin::Admin;
use crate::handler::Answered;
use crate::phase::Phase;
use crate::settings::{ListenAddr, Settings};
use crate::wire::duplex::Stream;

/// How many connections it has at once. They are not those of clients: whoever looks after a full process gets in.
const CONNECTIONS: usize = 256;

/// The admin listener, open.
#[derive(Debug)]
pub struct AdminServer(Sockets);

/// What serves its connections.
struct Serves {
    admin: Admin,
    places: Arc<Places>,
    phase: watch::Receiver<Phase>,
    under_way: mpsc::Sender<()>,
}

impl AdminServer {
    /// Opens the socket, unless there is one.
    pub fn open(address: &ListenAddr, sockets: Option<Sockets>) -> io::Result<Self> {
        sockets.map_or_else(|| Sockets::open(address, 1), Ok).map(Self)
    }

    /// Where to ask: `http://127.0.0.1:8890`.
    pub fn address(&self) -> String {
        self.0.names(false)
    }

    /// Whether only this machine reaches it.
    pub fn is_loopback(&self) -> bool {
        self.0.listeners().iter().all(Listener::is_loopback)
    }

    /// The sockets.
    pub fn sockets(&self) -> &Sockets {
        &self.0
    }

    /// Answers until this phase, which is not that of clients' connections, says that the process is at its end, and all
    /// is answered.
    pub async fn run(self, admin: Admin, phase: watch::Receiver<Phase>) -> io::Result<()> {
        let (under_way, mut all_done) = mpsc::channel(1);
        let serves = Serves { admin, places: Places::new(Bounds::Operators(CONNECTIONS)), phase, under_way };
        for listeners in self.0.spread(1)? {
            let accepted =
                listeners.into_iter().map(|listener| accept(listener, &serves, serves.phase.clone()));
            try_join_all(accepted).await?;
        }
        drop(serves);
        // Each connection holds a sender, and nothing is sent.
        let _: Option<()> = all_done.recv().await;
        Ok(())
    }
}

impl Accepting for Serves {
    async fn accepted_tcp(&self, stream: TcpStream, _: SocketAddr) {
        self.serve(Box::new(stream)).await;
    }

    async fn accepted_unix(&self, stream: UnixStream) {
        self.serve(Box::new(stream)).await;
    }
}

impl Serves {
    async fn serve(&self, stream: Stream) {
        let Some(seated) = self.places.take(None).await else { return };
        let place = Arc::clone(&seated.place);
        let answering = Arc::new(self.admin.clone());
        let serving = Serving { answering, place, phase: self.phase.clone(), awaited: None };
        let under_way = self.under_way.clone();
        tokio::spawn(async move {
            seated.place.serve(pin!(connection::serve_plain(stream, serving))).await;
            drop(under_way);
        });
    }
}

impl Answering for Admin {
    fn settings(&self) -> Arc<Settings> {
        self.settings()
    }

    fn answer(&self, request: Request<Incoming>) -> Answered<'_> {
        Either::Right(Box::pin(self.answer(request)))
    }
}
