//! Makes connections to the upstream: TCP or a Unix socket, TLS where it is `https`, and HTTP/1.1 or HTTP/2 on top.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::UnixStream;
use tokio_rustls::TlsConnector;

use super::UpstreamError;
use super::dial::Dialer;
use super::idle::{Connection, IdleSince, IdleTime};
use super::socket::Socket;
use crate::metrics;
use crate::settings::InForce;
use crate::wire::body::Body;
use crate::wire::duplex::Stream;
use crate::wire::headers;

/// A connection that is ready for a request.
pub(super) enum Sender {
    /// HTTP/1.1: one request at a time.
    Http1(Connection),
    /// HTTP/2: shared by all requests of the thread.
    Http2(http2::SendRequest<Body>),
}

/// How connections are made; shared by all threads.
#[derive(Clone)]
pub(super) struct Connector {
    dialer: Arc<Dialer>,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    /// Where it listens on a Unix socket.
    socket: Option<Arc<Path>>,
    prior_knowledge: bool,
    /// How long it leaves idle connections open.
    idle_time: Arc<IdleTime>,
    settings: InForce,
}

impl Connector {
    /// Reads the trusted authorities where they are needed.
    pub(super) fn new(in_force: &InForce) -> io::Result<Self> {
        let settings = in_force.now();
        let upstream = &settings.upstream;
        let tls = if upstream.https {
            let trusted = settings.upstream_ca.as_deref().map(authorities).transpose().map_err(|error| {
                io::Error::new(error.kind(), format!("{}: {error}", settings.written("sidecar.upstream_ca")))
            })?;
            let name = ServerName::try_from(upstream.host.clone()).map_err(io::Error::other)?;
            Some((TlsConnector::from(Arc::new(client_config(trusted.unwrap_or_default())?)), name))
        } else {
            None
        };
        Ok(Self {
            dialer: Arc::new(Dialer::new(&upstream.host, upstream.port, upstream.only_public)),
            tls,
            socket: upstream.socket.as_deref().map(Arc::from),
            prior_knowledge: settings.upstream_http2 && !upstream.https,
            idle_time: Arc::default(),
            settings: in_force.clone(),
        })
    }

    /// Whether a connection may turn out to be HTTP/2.
    pub(super) fn may_be_http2(&self) -> bool {
        self.prior_knowledge || self.tls.is_some()
    }

    /// Connects, within `sidecar.upstream_connect_timeout` for all of it.
    pub(super) async fn connect(&self) -> Result<Sender, UpstreamError> {
        tokio::time::timeout(self.settings.now().limits.upstream_connect_timeout, self.connect_unbounded())
            .await
            .map_err(|_elapsed| UpstreamError::ConnectTimeout)?
    }

    async fn connect_unbounded(&self) -> Result<Sender, UpstreamError> {
        if let Some(path) = &self.socket {
            let stream = UnixStream::connect(path).await?;
            metrics::count_upstream_connection();
            return self.shake_hands(Box::new(Socket::new(stream)), self.prior_knowledge).await;
        }
        let stream = self.dialer.dial().await?;
        stream.set_nodelay(true)?;
        metrics::count_upstream_connection();
        let stream = Socket::new(stream);
        let Some((connector, name)) = &self.tls else {
            return self.shake_hands(Box::new(stream), self.prior_knowledge).await;
        };
        let stream = connector.connect(name.clone(), stream).await?;
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        self.shake_hands(Box::new(stream), is_http2).await
    }

    async fn shake_hands(&self, stream: Stream, is_http2: bool) -> Result<Sender, UpstreamError> {
        let header_bytes = self.settings.now().limits.header_bytes;
        let io = TokioIo::new(stream);
        let broken = |error| UpstreamError::Broken(Arc::new(error));
        // The connection's task ends with the connection, whose last user has been told of an error already.
        if is_http2 {
            let (sender, connection) = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .adaptive_window(true)
                .max_header_list_size(u32::try_from(header_bytes).unwrap_or(u32::MAX))
                .keep_alive_interval(Duration::from_secs(20))
                .handshake(io)
                .await
                .map_err(broken)?;
            tokio::spawn(async { drop(connection.await) });
            Ok(Sender::Http2(sender))
        } else {
            let (sender, connection) = http1::Builder::new()
                .max_header_size(header_bytes)
                .max_headers(headers::most(header_bytes))
                .handshake(io)
                .await
                .map_err(broken)?;
            let idle = Arc::new(IdleSince::new(Arc::clone(&self.idle_time)));
            let ended = Arc::clone(&idle);
            tokio::spawn(async move {
                drop(connection.await);
                ended.closed();
            });
            Ok(Sender::Http1(Connection::new(sender, idle)))
        }
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connector({:?}, tls: {})", self.dialer, self.tls.is_some())
    }
}

/// The authorities in a PEM file: one at least.
fn authorities(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let pem = std::fs::read(path)?;
    let certificates: Vec<_> =
        CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>().map_err(io::Error::other)?;
    if certificates.is_empty() {
        return Err(io::Error::other("no certificate is in it"));
    }
    for certificate in &certificates {
        RootCertStore::empty().add(certificate.clone()).map_err(io::Error::other)?;
    }
    Ok(certificates)
}

fn client_config(trusted: Vec<CertificateDer<'static>>) -> io::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots.add_parsable_certificates(trusted);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
