//! The second listener, for operators: a plain HTTP/1.1 server beside those that serve clients.

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use super::listener::Listeners;
use crate::endpoints::admin::Admin;
use crate::settings::ListenAddr;

/// How long a head may take, and how long a connection may stay idle.
const PATIENCE: Duration = Duration::from_secs(30);

/// The admin listener, open.
#[derive(Debug)]
pub struct AdminServer(Listeners);

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
        match self.0 {
            Listeners::Tcp(_, listeners) => {
                let Some(listener) = listeners.into_iter().next() else { return Ok(()) };
                let listener = tokio::net::TcpListener::from_std(listener)?;
                loop {
                    match listener.accept().await {
                        Ok((stream, _)) => serve(stream, admin.clone()),
                        Err(error) => super::wait_out(&error).await,
                    }
                }
            }
            Listeners::Unix(_, listener) => {
                let listener = tokio::net::UnixListener::from_std(listener)?;
                loop {
                    match listener.accept().await {
                        Ok((stream, _)) => serve(stream, admin.clone()),
                        Err(error) => super::wait_out(&error).await,
                    }
                }
            }
        }
    }
}

fn serve<S>(stream: S, admin: Admin)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let answer = service_fn(move |request| {
        let admin = admin.clone();
        async move { Ok::<_, Infallible>(admin.answer(request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .serve_connection(TokioIo::new(stream), answer);
    // A connection that ends with an error has nobody left to tell.
    tokio::spawn(async { drop(connection.await) });
}
