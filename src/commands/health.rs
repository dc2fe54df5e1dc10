//! `kinto-sidecar health`: asks a running sidecar how it is, where there is no other program to ask with.

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use http::header::HOST;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};

use super::complain;
use crate::cli::Health;
use crate::settings::{ListenAddr, Settings};
use crate::wire::body::Body;
use crate::wire::duplex::Stream;

/// How long the answer may take: whoever asks will ask again.
const PATIENCE: Duration = Duration::from_secs(5);
/// More than it ever says.
const ANSWER_BYTES: usize = 1 << 20;

pub(super) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Prints what the sidecar says of itself. Fails where nobody was named who could be asked.
pub fn run(settings: &Settings, health: &Health) -> io::Result<ExitCode> {
    let place = match (&health.url, &settings.admin_listen) {
        (Some(url), _) => Place::named(url).ok_or_else(|| {
            io::Error::other(format!("{url:?} is no place to ask at: expected http://HOST:PORT or unix:PATH"))
        })?,
        (None, Some(address)) => Place::listening(address),
        (None, None) => {
            return Err(io::Error::other(
                "no sidecar to ask: set sidecar.admin_listen as the running one has it, or name its URL",
            ));
        }
    };
    let path = if health.ready { "/health/ready" } else { "/health/live" };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answer = runtime.block_on(async { tokio::time::timeout(PATIENCE, place.ask(path)).await });
    match answer {
        Ok(Ok((status, body))) => {
            let code = if status == StatusCode::OK { ExitCode::SUCCESS } else { ExitCode::FAILURE };
            Ok(super::report(&format!("{}\n", body.trim_end())).err().unwrap_or(code))
        }
        Ok(Err(error)) => {
            complain(&format!("{place} does not answer: {error}"));
            Ok(ExitCode::FAILURE)
        }
        Err(_elapsed) => {
            complain(&format!("{place} does not answer within {} s", PATIENCE.as_secs()));
            Ok(ExitCode::FAILURE)
        }
    }
}

/// Where a sidecar can be asked.
pub(super) struct Place(ListenAddr);

impl Place {
    /// As an operator writes it.
    fn named(url: &str) -> Option<Self> {
        let address = match url.strip_prefix("http://") {
            Some(address) => address.strip_suffix('/').unwrap_or(address),
            None => url.strip_prefix("unix:").map(|_| url)?,
        };
        ListenAddr::parse(address).map(Self)
    }

    /// Where a process that listens there can be reached: every address is this machine's, too.
    pub(super) fn listening(address: &ListenAddr) -> Self {
        Self(match address {
            ListenAddr::Tcp(address) => match address.rsplit_once(':') {
                Some(("0.0.0.0" | "[::]", port)) => ListenAddr::Tcp(format!("127.0.0.1:{port}")),
                _ => ListenAddr::Tcp(address.clone()),
            },
            ListenAddr::Unix(path) => ListenAddr::Unix(path.clone()),
        })
    }

    pub(super) async fn ask(&self, path: &str) -> Result<(StatusCode, String), Failure> {
        match &self.0 {
            ListenAddr::Tcp(address) => {
                ask(Box::new(TcpStream::connect(address).await?), address, path).await
            }
            ListenAddr::Unix(socket) => {
                ask(Box::new(UnixStream::connect(socket).await?), "localhost", path).await
            }
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            ListenAddr::Tcp(address) => write!(f, "http://{address}"),
            socket @ ListenAddr::Unix(_) => socket.fmt(f),
        }
    }
}

async fn ask(stream: Stream, host: &str, path: &str) -> Result<(StatusCode, String), Failure> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::get(path).header(HOST, host).body(Body::empty())?;
    let answer = sender.send_request(request).await?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), ANSWER_BYTES).collect().await?.to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_an_address_or_a_socket() {
        let place = |url| Place::named(url).map(|place| place.to_string());
        assert_eq!(place("http://h:1/").as_deref(), Some("http://h:1"));
        assert_eq!(place("http://[::1]:1").as_deref(), Some("http://[::1]:1"));
        assert_eq!(place("unix:/run/admin").as_deref(), Some("unix:/run/admin"));
        for none in ["https://h:1", "h:1", "http://h", "http://h:1/metrics", ""] {
            assert_eq!(place(none), None, "{none}");
        }
    }

    #[test]
    fn who_listens_everywhere_is_reached_here() {
        for (listening, reached) in
            [("0.0.0.0:1", "127.0.0.1:1"), ("[::]:1", "127.0.0.1:1"), ("10.0.0.1:1", "10.0.0.1:1")]
        {
            let address = ListenAddr::Tcp(listening.to_owned());
            assert_eq!(Place::listening(&address).0, ListenAddr::Tcp(reached.to_owned()));
        }
    }
}
