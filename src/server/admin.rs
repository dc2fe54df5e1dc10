//! The second listener, for operators: beside those that serve clients, with the same manners.

use std::io;
use std::sync::Arc;

use http::Request;
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

use super::connection::{self, Answering, Serving};
use super::listener::Listeners;
use super::places::Places;
use crate::endpoints::admin::Admin;
use crate::settings::{Limits, ListenAddr};
use crate::wire::body::Response;

/// How many connections it has at once. They are not those of clients: whoever looks after a full process gets in.
const CONNECTIONS: usize = 256;

/// The admin listener, open.
#[derive(Debug)]
pub struct AdminServer(Listeners);

/// What serves its connections.
struct Serves {
    admin: Admin,
    places: Arc<Places>,
    /// Never told: it answers until the process ends.
    stopping: watch::Receiver<bool>,
}

impl AdminServer {
    /// Opens the socket.
    pub fn open(address: &ListenAddr) -> io::Result<Self> {
        Listeners::open(address, 1)
            .map(Self)
            .map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {address}: {error}")))
    }

    /// Where to ask: `http://127.0.0.1:8890`.
    pub fn address(&self) -> String {
        self.0.describe(false)
    }

    /// Answers for as long as the runtime runs.
    pub async fn run(self, admin: Admin) -> io::Result<()> {
        let limits = Limits {
            connections: CONNECTIONS,
            connections_per_client: CONNECTIONS,
            ..admin.limits().clone()
        };
        let (_never, stopping) = watch::channel(false);
        let serves = Serves { admin, places: Places::new(&limits), stopping };
        match self.0 {
            Listeners::Tcp(_, listeners) => {
                let Some(listener) = listeners.into_iter().next() else { return Ok(()) };
                let listener = tokio::net::TcpListener::from_std(listener)?;
                loop {
                    match listener.accept().await {
                        Ok((stream, _)) => {
                            let _ = stream.set_nodelay(true);
                            serves.serve(stream).await;
                        }
                        Err(error) => super::wait_out(&error).await,
                    }
                }
            }
            Listeners::Unix(_, listener) => {
                let listener = tokio::net::UnixListener::from_std(listener)?;
                loop {
                    match listener.accept().await {
                        Ok((stream, _)) => serves.serve(stream).await,
                        Err(error) => super::wait_out(&error).await,
                    }
                }
            }
        }
    }
}

impl Serves {
    async fn serve<S>(&self, stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Some(seated) = self.places.take(None).await else { return };
        let place = Arc::clone(&seated.place);
        let serving = Serving { answering: self.admin.clone(), place, stopping: self.stopping.clone() };
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
