//! TLS towards clients and towards the upstream.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustix::process::Signal;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::stub::{HELLO, Proxy, Raw, Stub};
use crate::support::{Sidecar, eventually};

/// A certificate for `localhost`, its files, and a client that trusts it.
struct Identity {
    folder: tempfile::TempDir,
    roots: RootCertStore,
}

impl Identity {
    fn new() -> Self {
        let mut identity = Self { folder: tempfile::tempdir().unwrap(), roots: RootCertStore::empty() };
        identity.renew();
        identity
    }

    /// Puts another pair into the files, which is trusted, too. Gives its certificate.
    fn renew(&mut self) -> CertificateDer<'static> {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        fs::write(self.folder.path().join("certificate.pem"), cert.pem()).unwrap();
        fs::write(self.folder.path().join("key.pem"), signing_key.serialize_pem()).unwrap();
        self.roots.add(cert.der().clone()).unwrap();
        cert.der().clone()
    }

    fn file(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// What makes a sidecar speak TLS.
    fn settings(&self) -> [String; 2] {
        [
            format!("sidecar.tls_certificate={}", self.file("certificate.pem")),
            format!("sidecar.tls_key={}", self.file("key.pem")),
        ]
    }

    async fn connect(&self, address: SocketAddr, protocols: &[&str]) -> TlsStream<TcpStream> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        let stream = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
    }
}

fn start(identity: &Identity, upstream: &str) -> Proxy {
    let [certificate, key] = identity.settings();
    Proxy::start(upstream, &[&certificate, &key])
}

/// Starts a sidecar whose log and second listener are of interest.
fn operated(identity: &Identity, stub: &Stub) -> Sidecar {
    let [certificate, key] = ["certificate.pem", "key.pem"].map(|name| identity.file(name));
    Sidecar::start(
        stub.url(),
        &[
            ("sidecar.changes", "off"),
            ("sidecar.history", "off"),
            ("sidecar.admin_listen", "127.0.0.1:0"),
            ("sidecar.tls_certificate", &certificate),
            ("sidecar.tls_key", &key),
        ],
    )
}

/// Connects without looking at the certificate.
async fn trusting_anybody(address: SocketAddr) -> TlsStream<TcpStream> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_no_client_auth();
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
}

/// Takes every certificate for the right one, if its owner has the key.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// The certificate that somebody is shown who connects now.
async fn shown(identity: &Identity, sidecar: &Sidecar) -> CertificateDer<'static> {
    let stream = identity.connect(sidecar.address().parse().unwrap(), &["http/1.1"]).await;
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

fn request() -> Request<Empty<Bytes>> {
    Request::builder().uri("https://localhost/v1/").header("host", "localhost").body(Empty::new()).unwrap()
}

#[tokio::test]
async fn clients_reach_the_sidecar_over_tls_with_http1_and_http2() {
    let identity = Identity::new();
    let stub = Stub::answering(HELLO);
    let proxy = start(&identity, &stub.url());

    let stream = identity.connect(proxy.address, &["http/1.1"]).await;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let answer = sender.send_request(request()).await.unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "hello");
    let seen = stub.next();
    assert_eq!(seen.header("x-forwarded-proto"), ["https"]);
    assert_eq!(seen.header("forwarded"), ["for=127.0.0.1;host=\"localhost\";proto=https"]);

    let stream = identity.connect(proxy.address, &["h2", "http/1.1"]).await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let answer = sender.send_request(request()).await.unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "hello");
}

#[tokio::test]
async fn a_client_without_tls_does_not_disturb_the_others() {
    let identity = Identity::new();
    let stub = Stub::answering(HELLO);
    let proxy = start(&identity, &stub.url());
    let mut plain = proxy.connect();
    plain.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(plain.read().is_none());
    identity.connect(proxy.address, &[]).await;
}

#[test]
fn an_upstream_with_tls_is_trusted_only_by_its_authority() {
    // A sidecar that speaks TLS stands for such an upstream.
    let identity = Identity::new();
    let stub = Stub::answering(HELLO);
    let upstream = start(&identity, &stub.url());
    let url = format!("https://localhost:{}/v1", upstream.address.port());

    let authority = format!("sidecar.upstream_ca={}", identity.file("certificate.pem"));
    let trusting = Proxy::start(&url, &[&authority]);
    for _ in 0..3 {
        let answer = trusting.get("/v1/");
        assert_eq!((answer.status(), answer.text()), (200, "hello"));
        // By ALPN, the two of them speak HTTP/2.
        assert_eq!(answer.header("via"), ["1.1 kinto-sidecar", "2 kinto-sidecar"]);
    }

    let answer = Proxy::start(&url, &[]).get("/v1/");
    assert!(answer.status() >= 500 && answer.json()["errno"] == 201, "{}", answer.head);
}

#[test]
fn a_certificate_that_cannot_be_read_is_named_and_nothing_is_served() {
    let identity = Identity::new();
    fs::write(identity.folder.path().join("certificate.pem"), "nonsense").unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_kinto-sidecar"))
        .args(["--listen", "127.0.0.1:0", "--history", "off"])
        .args(identity.settings().iter().flat_map(|setting| ["--set", setting]))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(complaint.contains("certificate.pem"), "{complaint}");
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_to_those_who_come_and_cuts_nobody_off() {
    let mut identity = Identity::new();
    let stub = Stub::answering(HELLO);
    let sidecar = operated(&identity, &stub);
    let before = shown(&identity, &sidecar).await;
    let stream = identity.connect(sidecar.address().parse().unwrap(), &["http/1.1"]).await;
    let (mut open, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    open.send_request(request()).await.unwrap().into_body().collect().await.unwrap();

    let renewed = identity.renew();
    assert_ne!(before, renewed);
    eventually("the new certificate is shown", async || {
        (shown(&identity, &sidecar).await == renewed).then_some(())
    })
    .await;
    let answer = open.send_request(request()).await.unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "hello");

    // A pair that is none is told of, and what was good stays.
    fs::write(identity.file("key.pem"), "nonsense").unwrap();
    eventually("the broken pair is named", async || {
        let log = sidecar.log();
        (log.contains("the certificate is kept as it was") && log.contains("key.pem")).then_some(())
    })
    .await;
    assert_eq!(shown(&identity, &sidecar).await, renewed);

    let mut operator = Raw::connect(sidecar.admin().unwrap().parse().unwrap());
    let metrics = operator.send("GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n").read().unwrap();
    let family = "kinto_sidecar_tls_certificate_expiration_timestamp_seconds ";
    let expiration = metrics.text().lines().find_map(|line| line.strip_prefix(family)).unwrap();
    // rcgen's certificates end with the year 4095.
    assert_eq!(expiration, "67090118400");
}

#[tokio::test]
async fn twenty_certificates_in_a_row_disturb_nobody() {
    let mut identity = Identity::new();
    let stub = Stub::answering(HELLO);
    let sidecar = operated(&identity, &stub);
    let (is_over, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let address: SocketAddr = sidecar.address().parse().unwrap();
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (is_over, answered) = (Arc::clone(&is_over), Arc::clone(&answered));
            tokio::spawn(async move {
                while !is_over.load(Ordering::Relaxed) {
                    let stream = trusting_anybody(address).await;
                    let (mut sender, connection) =
                        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
                    tokio::spawn(connection);
                    for _ in 0..3 {
                        let answer = sender.send_request(request()).await.unwrap();
                        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "hello");
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
        })
        .collect();
    for _ in 0..20 {
        let renewed = identity.renew();
        let before = answered.load(Ordering::Relaxed);
        sidecar.signal(Signal::HUP);
        eventually("the new certificate is shown", async || {
            (shown(&identity, &sidecar).await == renewed).then_some(())
        })
        .await;
        eventually("clients are answered", async || {
            (answered.load(Ordering::Relaxed) > before).then_some(())
        })
        .await;
    }
    is_over.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
}
