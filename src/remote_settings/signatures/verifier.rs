//! Whether a changeset is signed.
//!
//! What is signed is `Content-Signature:` with a null character, and the canonical JSON of all live records by their ids and
//! of the timestamp, with P-384 and SHA-384. One good signature is enough. Its key is that of the first certificate at its
//! `x5u`, or a key of the settings where it has none.

use std::sync::Arc;
use std::time::{Duration, SystemTime};
use std::{fs, io};

use base64::Engine;
use base64::prelude::{BASE64_URL_SAFE, BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::{HeaderMap, Method, StatusCode};
use ring::signature::{ECDSA_P384_SHA384_FIXED, UnparsedPublicKey};
use serde_json::{Map, Value, json};
use tokio::sync::OnceCell;
use tokio::task::spawn_blocking;

use super::chain::{self, Chain};
use crate::cache::Cache;
use crate::kinto::Timestamp;
use crate::mirror::content::Content;
use crate::mirror::opening::signatures_of;
use crate::remote_settings::servers::Servers;
use crate::settings::Settings;
use crate::upstream::{UpstreamError, read_whole};

/// How long a chain is kept before it is read again.
pub(super) const CHAIN_KEPT: Duration = Duration::from_secs(3600);

/// After how long a chain that is wrong is read again.
pub(super) const OTHER_CHAIN: Duration = Duration::from_secs(60);

/// After how long a chain that could not be read is asked for again.
pub(super) const REACHED_AGAIN: Duration = Duration::from_secs(2);

/// How long the server that has a chain is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// SECURITY: the most bytes of a chain and of its address, the most chains that are kept, and the most signatures of one
/// changeset that are looked at: all of this is whatever an editor wrote.
const CHAIN_BYTES: usize = 64 << 10;
const ADDRESS_BYTES: usize = 2048;
const CHAINS: u64 = 64;
const SIGNATURES: usize = 8;

/// How many characters of an address are shown.
const SHOWN: usize = 120;

/// What every signed text begins with.
const PREFIX: &[u8] = b"Content-Signature:\0";

/// Why a signature is not good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// No signature is good.
    #[error("its signature does not verify")]
    Bad,
    /// There is none.
    #[error("it has no signature")]
    None,
    /// The certificate of the signature is not what clients or the settings ask for.
    #[error("{0}")]
    Chain(String),
    /// It cannot be verified now.
    #[error("its signature cannot be looked at: {0}")]
    Unknown(String),
}

/// Verifies changesets.
#[derive(Debug)]
pub struct Verifier {
    /// The name that the leaf of a chain must have.
    name: Option<String>,
    /// The key of signatures without a chain.
    key: Option<Vec<u8>>,
    servers: Servers,
    chains: Cache<String, Known>,
}

/// A chain, or why there is none; fetched once for all who want it.
type Known = Arc<OnceCell<Result<Arc<Chain>, SignatureError>>>;

/// How long it is kept.
fn lifetime(known: &Known) -> Duration {
    match known.get() {
        Some(Ok(_)) => CHAIN_KEPT,
        Some(Err(SignatureError::Unknown(_))) => REACHED_AGAIN,
        Some(Err(_)) | None => OTHER_CHAIN,
    }
}

/// A changeset as far as it is signed.
#[derive(Debug)]
struct Signed {
    /// The records timestamp.
    timestamp: Timestamp,
    /// The live records.
    records: Vec<Bytes>,
}

/// The key of `sidecar.signature_key`, where that names one.
pub fn own_key(settings: &Settings) -> io::Result<Option<Vec<u8>>> {
    let Some(path) = &settings.remote_settings.signature_key else { return Ok(None) };
    let read = fs::read(path).map_err(|error| error.to_string()).and_then(|pem| chain::key_of(&pem));
    read.map(Some).map_err(|error| {
        let setting = settings.written("sidecar.signature_key");
        io::Error::new(io::ErrorKind::InvalidInput, format!("{setting} cannot be used: {error}"))
    })
}

impl Verifier {
    /// With the key and the name that the settings have.
    pub fn new(settings: &Settings) -> Self {
        let key = own_key(settings).inspect_err(|error| tracing::error!("{error}")).ok().flatten();
        Self {
            name: settings.remote_settings.signature_name.clone(),
            key,
            servers: Servers::of_strangers(settings, PATIENCE, &settings.remote_settings.signature_hosts),
            chains: Cache::builder(CHAINS).lifetime(lifetime).build(),
        }
    }

    /// Verifies a changeset; gives when the chain of its signature ends, where it has one.
    pub async fn verify(&self, content: &Content) -> Result<Option<SystemTime>, SignatureError> {
        let mut text = None;
        let mut last = SignatureError::None;
        let signatures = signatures_of(&content.metadata.json);
        let member = |signature: &Map<String, Value>, name: &str| {
            signature.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        // All are asked at once, lest one that does not answer keeps the others.
        let mut keys: FuturesUnordered<_> = signatures
            .iter()
            .take(SIGNATURES)
            .map(async |signature| (signature, self.key(&member(signature, "x5u")).await))
            .collect();
        while let Some((signature, key)) = keys.next().await {
            let key = match key {
                Ok(key) => key,
                Err(error) => {
                    last = error;
                    continue;
                }
            };
            let text: &Vec<u8> = match &mut text {
                Some(text) => text,
                none => none.insert(text_of(content).await?),
            };
            match key.holds(&member(signature, "signature"), text, self.name.as_deref()) {
                Ok(end) => return Ok(end),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// The key of signatures with this `x5u`.
    async fn key(&self, x5u: &str) -> Result<Key<'_>, SignatureError> {
        if x5u.is_empty() {
            let none = || {
                SignatureError::Unknown("it has no x5u, and sidecar.signature_key names no key".to_owned())
            };
            return self.key.as_deref().map(Key::Single).ok_or_else(none);
        }
        if x5u.len() > ADDRESS_BYTES {
            return Err(SignatureError::Chain(format!("{}: the address is too long", shown(x5u))));
        }
        let known = self.chains.get_with(x5u, Known::default);
        let is_new = known.get().is_none();
        let chain = known.get_or_init(async || self.fetch(x5u).await.map(Arc::new)).await.clone();
        if is_new {
            // Inserted anew, it is given the lifetime that fits what was found.
            self.chains.insert(x5u.to_owned(), known);
        }
        chain.map(Key::Chain)
    }

    async fn fetch(&self, x5u: &str) -> Result<Chain, SignatureError> {
        let unknown = |error: UpstreamError| SignatureError::Unknown(format!("{}: {error}", shown(x5u)));
        let answer = self.servers.ask(Method::GET, x5u, HeaderMap::new()).await.map_err(unknown)?;
        if answer.status() != StatusCode::OK {
            return Err(SignatureError::Unknown(format!("{} answers {}", shown(x5u), answer.status())));
        }
        let pem = read_whole(answer, CHAIN_BYTES).await.map_err(unknown)?.into_body();
        Chain::read(&pem).map_err(|error| SignatureError::Chain(format!("{}: {error}", shown(x5u))))
    }
}

/// What a signature is made with.
enum Key<'k> {
    Single(&'k [u8]),
    Chain(Arc<Chain>),
}

impl Key<'_> {
    /// Whether a signature of this text is good; when its chain ends.
    fn holds(
        &self,
        signature: &str,
        text: &[u8],
        name: Option<&str>,
    ) -> Result<Option<SystemTime>, SignatureError> {
        let decoded = BASE64_URL_SAFE.decode(signature).or_else(|_| BASE64_URL_SAFE_NO_PAD.decode(signature));
        let decoded = decoded.map_err(|_| SignatureError::Bad)?;
        let point = match self {
            Self::Single(key) => key,
            Self::Chain(chain) => &*chain.key,
        };
        UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, point)
            .verify(text, &decoded)
            .map_err(|_| SignatureError::Bad)?;
        let Self::Chain(chain) = self else { return Ok(None) };
        chain.check(name, SystemTime::now()).map_err(SignatureError::Chain)?;
        Ok(Some(chain.end))
    }
}

/// An address as it is shown to people. An editor wrote it: it moves no terminal and begins no line of the log.
fn shown(address: &str) -> String {
    match address.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", address.get(..end).unwrap_or_default().escape_debug()),
        None => address.escape_debug().to_string(),
    }
}

/// What is signed of a changeset.
async fn text_of(content: &Content) -> Result<Vec<u8>, SignatureError> {
    let rows = content.rows().iter().filter(|row| !row.deleted);
    let records = rows.map(|row| content.json(row)).collect();
    let signed = Signed { timestamp: content.timestamp, records };
    let text = spawn_blocking(move || signed.text()).await;
    text.map_err(|error| SignatureError::Unknown(error.to_string()))?
}

impl Signed {
    fn text(&self) -> Result<Vec<u8>, SignatureError> {
        let garbled = |error: &dyn std::fmt::Display| SignatureError::Unknown(error.to_string());
        let records: Result<Vec<Value>, _> =
            self.records.iter().map(|record| serde_json::from_slice(record)).collect();
        let mut records = records.map_err(|error| garbled(&error))?;
        let id = |record: &Value| record.get("id").and_then(Value::as_str).unwrap_or_default().to_owned();
        records.sort_by_cached_key(id);
        let text = json!({"data": records, "last_modified": self.timestamp.to_string()});
        let canonical = canonical_json::to_string(&text).map_err(|error| garbled(&error))?;
        Ok([PREFIX, canonical.as_bytes()].concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_an_editor_wrote_moves_no_terminal() {
        assert_eq!(shown("https://h/a.pem?x=1&y=é"), "https://h/a.pem?x=1&y=é");
        assert_eq!(shown("http://h/\nINFO \u{1b}[2J"), "http://h/\\nINFO \\u{1b}[2J");
        let long = format!("http://h/{}\n", "a".repeat(SHOWN));
        assert!(shown(&long).ends_with("a…"));
    }
}
