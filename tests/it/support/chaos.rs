//! A TCP proxy between sidecar and Kinto, or PostgreSQL, that breaks the connection in the ways that networks do.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;

use super::storm::{self, Fate, Storm};

/// What happens to bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weather {
    /// They pass.
    Fair,
    /// Connections are reset, old and new ones.
    Cut,
    /// Connections are reset, and no new ones are taken, for ever.
    Gone,
    /// Connections are taken, and nothing passes.
    Stalled,
    /// Answers are noise.
    Garbled,
    /// Now and then something happens to a piece.
    Stormy(Storm),
}

/// The proxy; ends when dropped. It runs on a thread of its own.
#[derive(Debug)]
pub struct Chaos {
    address: SocketAddr,
    upstream: watch::Sender<String>,
    weather: watch::Sender<Weather>,
    runtime: Option<Runtime>,
}

impl Chaos {
    /// Stands in front of the server whose API root this is, or whose Unix socket; everything passes at first.
    pub fn before(url: impl AsRef<str>) -> Self {
        let (upstream, leads) = watch::channel(address_of(url.as_ref()));
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (weather, seen) = watch::channel(Weather::Fair);
        let mut gone = seen.clone();
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            let accepting = async {
                while let Ok((client, _)) = listener.accept().await {
                    let upstream = leads.borrow().clone();
                    tokio::spawn(connection(client, upstream, seen.clone()));
                }
            };
            tokio::select! {
                () = accepting => {}
                _ = gone.wait_for(|weather| *weather == Weather::Gone) => {}
            }
            drop(listener);
            // The port stays taken, so that nobody else listens there.
            let taken = TcpSocket::new_v4().unwrap();
            taken.set_reuseaddr(true).unwrap();
            taken.bind(address).unwrap();
            std::future::pending::<()>().await;
        });
        Self { address, upstream, weather, runtime: Some(runtime) }
    }

    /// Stands in front of a database of [`super::database`]; gives the URL that leads through it.
    pub fn before_database(url: &str) -> (Self, String) {
        let (database, server) = url.split_once("?host=").unwrap();
        let chaos = Self::before(format!("{server}/.s.PGSQL.5432"));
        let through = database.replacen("localhost", &chaos.address.to_string(), 1);
        (chaos, format!("{through}?sslmode=disable"))
    }

    /// The API root behind this proxy.
    pub fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// Stands in front of another server from now on; connections stay as they are.
    pub fn lead_to(&self, url: impl AsRef<str>) {
        self.upstream.send_replace(address_of(url.as_ref()));
    }

    /// Resets all connections, and each new one.
    pub fn cut(&self) {
        self.weather.send_replace(Weather::Cut);
    }

    /// Resets all connections, and waits until new ones are refused; nothing brings it back.
    pub fn leave(&self) {
        self.weather.send_replace(Weather::Gone);
        while std::net::TcpStream::connect(self.address).is_ok() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Takes connections and bytes, and passes nothing on.
    pub fn stall(&self) {
        self.weather.send_replace(Weather::Stalled);
    }

    /// Answers with bytes that are no HTTP.
    pub fn garble(&self) {
        self.weather.send_replace(Weather::Garbled);
    }

    /// Does something to pieces now and then.
    pub fn storm(&self, storm: Storm) {
        self.weather.send_replace(Weather::Stormy(storm));
    }

    /// Lets everything pass again; connections that were stalled go on where they stood.
    pub fn restore(&self) {
        self.weather.send_replace(Weather::Fair);
    }
}

impl Drop for Chaos {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// `host:port` of an API root; the path of a Unix socket as it is.
pub fn address_of(url: &str) -> String {
    if url.starts_with('/') {
        return url.to_owned();
    }
    let host = url.trim_start_matches("http://");
    host.split('/').next().unwrap_or_default().to_owned()
}

async fn connection(client: TcpStream, upstream: String, weather: watch::Receiver<Weather>) {
    // Whatever ends this function resets the connection: no orderly close that could pass for the end of an answer.
    let _ = client.set_zero_linger();
    let is_refused = match *weather.borrow() {
        Weather::Cut | Weather::Gone => true,
        Weather::Stormy(storm) => storm.refuses(),
        _ => false,
    };
    if is_refused {
        return;
    }
    let _ = client.set_nodelay(true);
    if upstream.starts_with('/') {
        let Ok(server) = UnixStream::connect(&upstream).await else { return };
        pass(client, server, weather).await;
    } else {
        let Ok(server) = TcpStream::connect(&upstream).await else { return };
        let _ = server.set_nodelay(true);
        pass(client, server, weather).await;
    }
}

/// Passes what comes from either side on to the other.
async fn pass(client: TcpStream, server: impl AsyncRead + AsyncWrite, mut weather: watch::Receiver<Weather>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = tokio::io::split(server);
    let upward = weather.clone();
    let up = async move {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = from_client.read(&mut buffer).await {
            let fate = fate(&upward, Storm::upward).await;
            if !storm::pass_on(&mut to_server, &mut buffer[..read], fate).await {
                break;
            }
        }
        let _ = to_server.shutdown().await;
        // The answer may still be on its way.
        std::future::pending::<()>().await;
    };
    let downward = weather.clone();
    let down = async move {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(read) = from_server.read(&mut buffer).await {
            let fate = fate(&downward, Storm::downward).await;
            if read == 0 {
                break;
            }
            if *downward.borrow() == Weather::Garbled {
                buffer[..read].fill(b'#');
            }
            match fate {
                Fate::Cut(_) => {
                    storm::pass_on(&mut to_client, &mut buffer[..read], fate).await;
                    return;
                }
                _ if storm::pass_on(&mut to_client, &mut buffer[..read], fate).await => {}
                _ => break,
            }
        }
        // An orderly end of the upstream's stays one; the reset of dropping comes only after it has been read.
        let _ = to_client.shutdown().await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let is_over = |weather: &Weather| matches!(weather, Weather::Cut | Weather::Gone);
    tokio::select! {
        () = up => {}
        () = down => {}
        _ = weather.wait_for(is_over) => {}
    }
}

/// What becomes of a piece, once pieces pass.
async fn fate(weather: &watch::Receiver<Weather>, of: impl Fn(&Storm) -> Fate) -> Fate {
    let _ = weather.clone().wait_for(|weather| *weather != Weather::Stalled).await;
    match &*weather.borrow() {
        Weather::Stormy(storm) => of(storm),
        _ => Fate::Pass,
    }
}
