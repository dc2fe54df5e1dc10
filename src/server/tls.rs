//! TLS for clients: the certificate and key of `sidecar.tls_certificate` and `sidecar.tls_key`, HTTP/2 by ALPN.
//!
//! Certificates are renewed while the process runs, so their files are looked at again and again. Whoever is connected
//! stays so; who comes after a change is shown the new ones.

use std::fmt::Display;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::ServerConfig;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::settings::TlsFiles;

const CERTIFICATE: &str = "sidecar.tls_certificate";
const KEY: &str = "sidecar.tls_key";
/// What stands in a file whose key has a passphrase.
const LOCKED: &[u8] = b"ENCRYPTED";
const UNSUPPORTED: &str =
    "a key of this kind is not supported: take P-256, P-384, Ed25519, or RSA of 2048 bits or more";
/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// When the certificate in use ends, in seconds since 1970.
const EXPIRATION: &str = "kinto_sidecar_tls_certificate_expiration_timestamp_seconds";

/// What clients are shown.
#[expect(missing_debug_implementations, reason = "it holds the private key")]
pub struct Certificates {
    files: TlsFiles,
    config: ArcSwap<ServerConfig>,
    /// What the files held when they were last looked at.
    seen: Mutex<Content>,
}

/// The two files, or why they cannot be read.
type Content = Result<[Vec<u8>; 2], String>;

impl Certificates {
    /// Reads the files. An error names the one that is wrong.
    pub fn open(files: &TlsFiles) -> io::Result<Arc<Self>> {
        metrics::describe_gauge!(EXPIRATION, "When the TLS certificate in use ends, in seconds since 1970.");
        let content = read(files);
        let config =
            usable(files, &content).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        Ok(Arc::new(Self {
            files: files.clone(),
            config: ArcSwap::from_pointee(config),
            seen: Mutex::new(content),
        }))
    }

    /// What serves a new connection.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.config.load_full())
    }

    /// Looks whether the files have changed. A pair that cannot be used leaves the one before in force.
    pub fn look(&self) {
        let content = read(&self.files);
        let mut seen = self.seen.lock();
        if *seen == content {
            return;
        }
        let path = self.files.certificate.display();
        match usable(&self.files, &content) {
            Ok(config) => {
                self.config.store(Arc::new(config));
                tracing::info!("the certificate {path} was read again, and is shown from now on");
            }
            Err(error) => tracing::warn!("the certificate is kept as it was: {error}"),
        }
        *seen = content;
    }

    /// Looks again and again, for as long as the process runs.
    pub async fn keep(self: Arc<Self>) {
        loop {
            tokio::time::sleep(LOOK).await;
            let certificates = Arc::clone(&self);
            // A look that panics changes nothing.
            let _ = tokio::task::spawn_blocking(move || certificates.look()).await;
        }
    }
}

fn read(files: &TlsFiles) -> Content {
    let read = |setting, path: &Path| std::fs::read(path).map_err(|error| wrong(setting, path, &error));
    Ok([read(CERTIFICATE, &files.certificate)?, read(KEY, &files.key)?])
}

/// What makes connections of the files, where they can be used.
fn usable(files: &TlsFiles, content: &Content) -> Result<ServerConfig, String> {
    let [certificates, key] = content.as_ref().map_err(Clone::clone)?;
    let certificates = CertificateDer::pem_slice_iter(without_mark(certificates))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| wrong(CERTIFICATE, &files.certificate, &unread(&error)))?;
    if certificates.is_empty() {
        return Err(wrong(CERTIFICATE, &files.certificate, &"no certificate is in it"));
    }
    let key = private_key(key).map_err(|error| wrong(KEY, &files.key, &error))?;
    let expiration = certificates.first().and_then(|leaf| TlsFiles::end_of(leaf).ok());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    if provider.key_provider.load_private_key(key.clone_key()).is_err() {
        return Err(wrong(KEY, &files.key, &UNSUPPORTED));
    }
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .map_err(|error| wrong(CERTIFICATE, &files.certificate, &error))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    if let Some(expiration) = expiration {
        metrics::gauge!(EXPIRATION).set(expiration.as_secs_f64());
    }
    Ok(config)
}

fn private_key(content: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    let has_passphrase = || content.windows(LOCKED.len()).any(|part| part == LOCKED);
    PrivateKeyDer::from_pem_slice(without_mark(content)).map_err(|error| match error {
        _ if has_passphrase() => {
            "the key has a passphrase: take it off (openssl pkey -in KEY -out NEW)".to_owned()
        }
        pem::Error::NoItemsFound => "no private key is in it".to_owned(),
        error => unread(&error),
    })
}

/// Why a PEM file cannot be read.
fn unread(error: &pem::Error) -> String {
    match error {
        pem::Error::MissingSectionEnd { .. } => "the file is cut off: an END line is missing".to_owned(),
        error => error.to_string(),
    }
}

/// A text without the mark that some editors begin one with.
fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text)
}

fn wrong(setting: &str, path: &Path, error: &dyn Display) -> String {
    format!("{setting} = {}: {error}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_key_is_said_in_words() {
        let said = |content: &str| private_key(content.as_bytes()).map(drop).unwrap_err();
        for locked in ["-----BEGIN ENCRYPTED PRIVATE KEY-----\nAA==\n", "Proc-Type: 4,ENCRYPTED\n"] {
            assert!(said(locked).contains("has a passphrase: take it off"), "{}", said(locked));
        }
        assert_eq!(said("nothing"), "no private key is in it");
        assert!(said("-----BEGIN PRIVATE KEY-----\nAA==\n").starts_with("the file is cut off"));
    }

    #[test]
    fn a_mark_at_the_beginning_is_passed_over() {
        let key = "-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n";
        assert!(private_key(format!("\u{feff}{key}").as_bytes()).is_ok());
    }
}
