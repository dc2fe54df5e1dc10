//! TLS towards clients and towards the upstream.

use std::fs;
use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::stub::{HELLO, Proxy, Stub};

/// A certificate for `localhost`, its files, and a client that trusts it.
struct Identity {
    folder: tempfile::TempDir,
    roots: RootCertStore,
}

impl Identity {
    fn new() -> Self {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("certificate.pem"), cert.pem()).unwrap();
        fs::write(folder.path().join("key.pem"), signing_key.serialize_pem()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(cert.der().clone()).unwrap();
        Self { folder, roots }
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

    async fn connect(&self, proxy: &Proxy, protocols: &[&str]) -> TlsStream<TcpStream> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        let stream = TcpStream::connect(proxy.address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
    }
}

fn start(identity: &Identity, upstream: &str) -> Proxy {
    let [certificate, key] = identity.settings();
    Proxy::start(upstream, &[&certificate, &key])
}

fn request() -> Request<Empty<Bytes>> {
    Request::builder().uri("https://localhost/v1/").header("host", "localhost").body(Empty::new()).unwrap()
}

#[tokio::test]
async fn clients_reach_the_sidecar_over_tls_with_http1_and_http2() {
    let identity = Identity::new();
    let stub = Stub::answering(HELLO);
    let proxy = start(&identity, &stub.url());

    let stream = identity.connect(&proxy, &["http/1.1"]).await;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let answer = sender.send_request(request()).await.unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "hello");
    let seen = stub.next();
    assert_eq!(seen.header("x-forwarded-proto"), ["https"]);
    assert_eq!(seen.header("forwarded"), ["for=127.0.0.1;host=\"localhost\";proto=https"]);

    let stream = identity.connect(&proxy, &["h2", "http/1.1"]).await;
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
    identity.connect(&proxy, &[]).await;
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
