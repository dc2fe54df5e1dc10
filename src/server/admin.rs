//! The second listener, for operators: beside those that serve clients, with the same manners.

use std::io;
use std::sync::Arc;

use futures_util::future::try_join_all;
use http::Request;
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

use super::connection::{self, Answering, Serving};
use super::listener::{Listener, Sockets};
use super::places::Places;
use crate::endpoints::admin::Admin;
use crate::phase::Phase;
use crate::settings::{Limits, ListenAddr};
use crate::wire::body::Response;

/// How many connections it has at once. They are not those of clients: whoever looks after a full process gets in.
const CONNECTIONS: usize = 256;

/// The admin listener, open.
#[derive(Debug)]
pub struct AdminServer(Sockets);

/// What serves its connections.
struct Serves {
    admin: Admin,
    places: Arc<Places>,
    /// Never moves: it answers until the process ends.
    phase: watch::Receiver<Phase>,
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

    /// The sockets.
    pub fn sockets(&self) -> &Sockets {
        &self.0
    }

    /// Answers for as long as the runtime runs.
    pub async fn run(self, admin: Admin) -> io::Result<()> {
        let limits = Limits {
            connections: CONNECTIONS,
            connections_per_client: CONNECTIONS,
            ..admin.limits().clone()
        };
        let (_never, phase) = watch::channel(Phase::Serving);
        let serves = Serves { admin, places: Places::new(&limits), phase };
        for listeners in self.0.spread(1)? {
            try_join_all(listeners.into_iter().map(|listener| serves.accept(listener))).await?;
        }
        Ok(())
    }
}

impl Serves {
    async fn accept(&self, listener: Listener) -> io::Result<()> {
        match listener {
            Listener::Tcp(listener) => {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                loop {
                    match listener.accept().await {
                        Ok((stream, _)) => {
                            let _ = stream.set_nodelay(true);
                            self.serve(stream).await;
                        }
                        Err(error) => super::wait_out(&error).await,
                    }
                }
            }
            Listener::Unix(listener) => {
                let listener = tokio::net::UnixListener::from_std(listener)?;
                loop {
                    match listener.accept().await {
                        Ok((stream, _)) => self.serve(stream).await,
                        Err(error) => super::wait_out(&error).await,
                    }
                }
            }
        }
    }

    async fn serve<S>(&self, stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Some(seated) = self.places.take(None).await else { return };
        let place = Arc::clone(&seated.place);
        let serving = Serving { answering: self.admin.clone(), place, phase: self.phase.clone() };
        tokio::spawn(async move {
            tokio::select! {
                () = connection::serve_plain(stream, serving) => {}
                () = seated.place.given_up() => {}
            }
        });
    }
}

impl Answering for Admin {
    fn limits(&self) -> &Limits {
        self.limits()
    }

    fn answer(&self, request: Request<Incoming>) -> impl Future<Output = Response> + Send {
        self.answer(request)
    }
}
