//! Signatures of changesets, looked at as Remote Settings' clients look at them.
//!
//! Records and signature are two objects, and whatever signs may be late or wrong: clients that got the two from different
//! moments throw away what they have, and ask for all of it. So a changeset that does not verify is not published while
//! the last one that did is still kept.
//!
//! What is signed is `Content-Signature:` with a null character, and the canonical JSON of all live records by their ids and
//! of the timestamp, with P-384 and SHA-384. One good signature is enough. Its key is that of the first certificate at its
//! `x5u`, or a key of the settings where it has none.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::prelude::{BASE64_URL_SAFE, BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use moka::sync::Cache;
use parking_lot::Mutex;
use ring::signature::{ECDSA_P384_SHA384_FIXED, UnparsedPublicKey};
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

mod chain;

use super::attachments::Attachments;
use crate::complaint::Complaint;
use crate::kinto::{CollectionKey, Timestamp};
use crate::mirror::opening::signatures_of;
use crate::mirror::{Mirror, State};
use crate::settings::Settings;
use crate::timeline::entries::Entries;
use crate::upstream::{UpstreamError, read_whole};
use chain::Chain;

/// How long a chain is taken as it was.
const CHAIN_KEPT: Duration = Duration::from_secs(3600);

/// SECURITY: the most bytes of a chain, and the most chains that are kept: `x5u` is whatever an editor wrote.
const CHAIN_BYTES: usize = 64 << 10;
const CHAINS: u64 = 64;

/// What every signed text begins with.
const PREFIX: &[u8] = b"Content-Signature:\0";

/// How a signature is found to be.
#[derive(Debug, thiserror::Error)]
enum SignatureError {
    /// No signature is good.
    #[error("its signature does not verify")]
    Bad,
    /// There is none.
    #[error("it has no signature")]
    None,
    /// The certificate of the signature is not what the settings ask for.
    #[error("{0}")]
    Chain(String),
    /// What is needed to tell cannot be had now.
    #[error("its signature cannot be looked at: {0}")]
    Unknown(String),
}

/// Looks at signatures, where the settings say so.
#[derive(Debug)]
pub struct Signatures {
    is_on: bool,
    /// The name that the leaf of a chain must have.
    name: Option<String>,
    /// The key of signatures without a chain.
    key: Option<Vec<u8>>,
    client: Arc<Attachments>,
    chains: Cache<String, Arc<Chain>>,
    /// Collections whose present changesets do not verify, and when the chains of those that do end.
    bad: Mutex<HashMap<CollectionKey, SignatureError>>,
    held: Mutex<Held>,
    ends: Mutex<HashMap<CollectionKey, SystemTime>>,
}

/// Collections of which an older changeset is published than there is.
#[derive(Debug, Default)]
struct Held {
    /// The timestamps of what is published.
    timestamps: HashMap<CollectionKey, Timestamp>,
    /// A list, and the same with these timestamps: made once for all who ask, with all that is written for it.
    listed: Option<(Arc<Entries>, Arc<Entries>)>,
}

/// A changeset as far as it is signed.
#[derive(Debug)]
struct Signed {
    /// The collection's attributes.
    metadata: Bytes,
    /// The records timestamp.
    timestamp: Timestamp,
    /// The live records.
    records: Vec<Bytes>,
}

impl Signatures {
    /// Looks at nothing yet.
    pub fn new(settings: &Settings, client: Arc<Attachments>) -> Self {
        let readers = &settings.remote_settings;
        let key = readers.signature_key.as_ref().and_then(|path| {
            let read = fs::read(path).map_err(|error| error.to_string()).and_then(|pem| chain::key_of(&pem));
            let trouble = |error: &String| {
                tracing::error!(%error, "sidecar.signature_key = {} cannot be used", path.display());
            };
            read.inspect_err(trouble).ok()
        });
        Self {
            is_on: readers.verify_signatures,
            name: readers.signature_name.clone(),
            key,
            client,
            chains: Cache::builder().max_capacity(CHAINS).time_to_live(CHAIN_KEPT).build(),
            bad: Mutex::default(),
            held: Mutex::default(),
            ends: Mutex::default(),
        }
    }

    /// Whether signatures are looked at.
    pub fn is_on(&self) -> bool {
        self.is_on
    }

    /// What is to be published of a collection whose present content this is: that, or the last one that verified.
    /// The flag says whether what is given verifies.
    pub async fn publishable(&self, mirror: &Mirror, state: Arc<State>) -> (Arc<State>, bool) {
        if !self.is_on {
            return (state, true);
        }
        let key = mirror.clock().key();
        let is_good = match state.verified.get() {
            Some(is_good) => *is_good,
            None => self.look(key, &state).await,
        };
        if is_good {
            mirror.set_good(&state);
            self.held.lock().let_go(key);
            return (state, true);
        }
        match mirror.good() {
            Some(good) => {
                self.held.lock().hold(key, good.content.timestamp);
                (good, true)
            }
            None => (state, false),
        }
    }

    /// The list with the timestamps of what is published: readers come again and again where the two differ.
    pub fn listed(&self, entries: Arc<Entries>) -> Arc<Entries> {
        self.held.lock().listed(entries)
    }

    async fn look(&self, key: &CollectionKey, state: &State) -> bool {
        let content = &state.content;
        let rows = content.rows().iter().filter(|row| !row.deleted);
        let records = rows.map(|row| content.json(row)).collect();
        let signed =
            Signed { metadata: content.metadata.json.clone(), timestamp: content.timestamp, records };
        let verified = self.verify(signed).await;
        let outcome = match &verified {
            Ok(_) => "good",
            Err(SignatureError::Unknown(_)) => "unknown",
            Err(_) => "bad",
        };
        metrics::counter!("kinto_sidecar_signatures_total", "outcome" => outcome).increment(1);
        let is_good = verified.is_ok();
        // What could not be told now is looked at again.
        if outcome != "unknown" {
            let _ = state.verified.set(is_good);
        }
        match verified {
            Ok(end) => {
                self.bad.lock().remove(key);
                let mut ends = self.ends.lock();
                match end {
                    Some(end) => _ = ends.insert(key.clone(), end),
                    None => _ = ends.remove(key),
                }
                measure(ends.values().min());
            }
            Err(error) => {
                tracing::warn!(collection = %key, %error, "the changeset of {key} does not verify");
                self.bad.lock().insert(key.clone(), error);
            }
        }
        is_good
    }

    /// What is wrong with signatures, and with the certificates that they stand on.
    pub fn complaints(&self) -> Vec<Complaint> {
        let bad = self.bad.lock();
        let mut complaints: Vec<Complaint> =
            bad.iter().map(|(key, error)| Complaint::of_signature(key, &error.to_string())).collect();
        complaints.sort_by(|one, other| one.what.cmp(&other.what));
        let end = self.ends.lock().values().min().copied();
        complaints.extend(end.and_then(|end| Complaint::of_signature_chain(end, SystemTime::now())));
        complaints
    }

    /// Verifies a changeset; gives when the chain of its signature ends, where it has one.
    async fn verify(&self, signed: Signed) -> Result<Option<SystemTime>, SignatureError> {
        let signatures = signatures_of(&signed.metadata);
        if signatures.is_empty() {
            return Err(SignatureError::None);
        }
        let text = spawn_blocking(move || signed.text()).await;
        let text = text.map_err(|error| SignatureError::Unknown(error.to_string()))??;
        let mut last = SignatureError::Bad;
        for signature in signatures {
            let member = |name: &str| signature.get(name).and_then(Value::as_str).unwrap_or_default();
            match self.holds(member("signature"), member("x5u"), &text).await {
                Ok(end) => return Ok(end),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn holds(
        &self,
        signature: &str,
        x5u: &str,
        text: &[u8],
    ) -> Result<Option<SystemTime>, SignatureError> {
        let decoded = BASE64_URL_SAFE.decode(signature).or_else(|_| BASE64_URL_SAFE_NO_PAD.decode(signature));
        let decoded = decoded.map_err(|_| SignatureError::Bad)?;
        let verifies = |key: &[u8]| {
            UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, key)
                .verify(text, &decoded)
                .map_err(|_| SignatureError::Bad)
        };
        if x5u.is_empty() {
            let key = self.key.as_ref().ok_or_else(|| {
                SignatureError::Unknown("it has no x5u, and sidecar.signature_key names no key".to_owned())
            })?;
            return verifies(key).map(|()| None);
        }
        let chain = if let Some(chain) = self.chains.get(x5u) {
            chain
        } else {
            let chain = Arc::new(self.fetch(x5u).await?);
            self.chains.insert(x5u.to_owned(), Arc::clone(&chain));
            chain
        };
        verifies(&chain.key)?;
        chain.check(self.name.as_deref(), SystemTime::now()).map_err(SignatureError::Chain)?;
        Ok(Some(chain.end))
    }

    async fn fetch(&self, x5u: &str) -> Result<Chain, SignatureError> {
        let unknown = |error: UpstreamError| SignatureError::Unknown(format!("{x5u}: {error}"));
        let answer = self.client.ask(Method::GET, x5u, HeaderMap::new()).await.map_err(unknown)?;
        if answer.status() != StatusCode::OK {
            return Err(SignatureError::Unknown(format!("{x5u} answers {}", answer.status())));
        }
        let pem = read_whole(answer, CHAIN_BYTES).await.map_err(unknown)?.into_body();
        Chain::read(&pem).map_err(|error| SignatureError::Chain(format!("{x5u}: {error}")))
    }
}

// === impl Held ===

impl Held {
    fn hold(&mut self, key: &CollectionKey, timestamp: Timestamp) {
        if self.timestamps.insert(key.clone(), timestamp) != Some(timestamp) {
            self.listed = None;
        }
    }

    fn let_go(&mut self, key: &CollectionKey) {
        if self.timestamps.remove(key).is_some() {
            self.listed = None;
        }
    }

    fn listed(&mut self, entries: Arc<Entries>) -> Arc<Entries> {
        if self.timestamps.is_empty() {
            return entries;
        }
        if let Some((of, listed)) = &self.listed
            && Arc::ptr_eq(of, &entries)
        {
            return Arc::clone(listed);
        }
        let mut rows = entries.rows.clone();
        for row in &mut rows {
            if let Some(timestamp) = self.timestamps.get(&row.key) {
                row.last_modified = *timestamp;
            }
        }
        rows.sort_by_key(|row| Reverse(row.last_modified));
        let listed = Arc::new(entries.with(rows));
        self.listed = Some((entries, Arc::clone(&listed)));
        listed
    }
}

/// Tells when the first of the chains in use ends.
fn measure(end: Option<&SystemTime>) {
    let seconds = end.and_then(|end| end.duration_since(SystemTime::UNIX_EPOCH).ok());
    if let Some(seconds) = seconds {
        metrics::gauge!("kinto_sidecar_signature_chain_expiration_timestamp_seconds")
            .set(seconds.as_secs_f64());
    }
}

impl Signed {
    /// What is signed.
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
    use crate::kinto::seq::Seq;
    use crate::timeline::entries::Entry;

    fn entries(rows: &[(&str, u64)]) -> Arc<Entries> {
        let row = |(collection, timestamp): &(&str, u64)| Entry {
            key: CollectionKey::new("b", collection),
            id: (*collection).into(),
            last_modified: Timestamp(*timestamp),
            late: None,
            generation: 1,
        };
        let (timestamp, generation) = (Timestamp(rows.first().map_or(0, |row| row.1)), 7);
        let rows = rows.iter().map(row).collect();
        Arc::new(Entries { rows, timestamp, generation, high: Seq::of(timestamp), ..Entries::default() })
    }

    #[test]
    fn a_list_is_made_once_for_what_is_held() {
        let mut held = Held::default();
        let list = entries(&[("new", 9), ("old", 5)]);
        assert!(Arc::ptr_eq(&held.listed(Arc::clone(&list)), &list));
        let key = CollectionKey::new("b", "new");
        held.hold(&key, Timestamp(3));
        let listed = held.listed(Arc::clone(&list));
        let shown = |list: &Entries| -> Vec<(String, u64)> {
            list.rows.iter().map(|row| (row.id.to_string(), row.last_modified.0)).collect()
        };
        assert_eq!(shown(&listed), [("old".to_owned(), 5), ("new".to_owned(), 3)]);
        assert_eq!((listed.timestamp, listed.generation, listed.high), (Timestamp(5), 7, list.high));
        held.hold(&key, Timestamp(3));
        assert!(Arc::ptr_eq(&held.listed(Arc::clone(&list)), &listed));
        held.hold(&key, Timestamp(4));
        assert_eq!(held.listed(Arc::clone(&list)).rows.last().map(|row| row.last_modified.0), Some(4));
        let other = entries(&[("new", 11), ("old", 5)]);
        assert_eq!(held.listed(Arc::clone(&other)).timestamp, Timestamp(5));
        held.let_go(&key);
        assert!(Arc::ptr_eq(&held.listed(Arc::clone(&other)), &other));
        assert!(held.listed.is_none(), "nothing is kept of it");
    }
}
