//! Answers that are compressed against an earlier one which the client still has (RFC 9842): where one record of many changed,
//! little more than that record is sent.
//!
//! A client that takes zstd is told of a whole answer that it may use it for the next one at the same path
//! (`Use-As-Dictionary`). It names that answer when it asks again (`Available-Dictionary`). The sidecar keeps one copy of each
//! such answer, and all copies together within `sidecar.max_dictionaries`. A client that names one that is gone, or one of
//! another path, is sent an ordinary answer.

use std::sync::{Arc, OnceLock};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, StatusCode};
use sha2::{Digest, Sha256};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::body::Response;
use super::compression::{self, Encoding};
use super::vary;
use crate::cache::Cache;

const AVAILABLE_DICTIONARY: HeaderName = HeaderName::from_static("available-dictionary");
const USE_AS_DICTIONARY: HeaderName = HeaderName::from_static("use-as-dictionary");

/// What a dictionary takes beside its bytes and its path, in bytes.
const OVERHEAD: usize = 256;

/// The longest answer that can be a dictionary, in bytes: no browser takes a larger window.
const LARGEST: usize = 64 << 20;

/// The answers that clients may still have.
#[derive(Debug)]
pub struct Dictionaries {
    kept: Cache<[u8; 32], Kept>,
    most: usize,
    /// Held while one is copied.
    turn: Arc<Semaphore>,
}

#[derive(Debug, Clone)]
struct Kept {
    path: Arc<str>,
    bytes: Bytes,
}

/// How an answer is to be coded.
#[derive(Debug)]
pub struct Terms {
    /// The coding that the client likes best.
    pub encoding: Encoding,
    /// What [`Encoding::Dcz`] names; else empty.
    pub dictionary: Bytes,
    /// Whether the client may take dictionaries.
    is_offered: bool,
}

// === impl Dictionaries ===

impl Dictionaries {
    /// None yet; together they take at most so many bytes. With 0 there never is one.
    pub fn new(most: u64) -> Self {
        let weigh = |_: &[u8; 32], kept: &Kept| kept.bytes.len() + kept.path.len() + OVERHEAD;
        let most_bytes = usize::try_from(most).unwrap_or(usize::MAX);
        Self {
            kept: Cache::builder(most).weigher(weigh).build(),
            most: most_bytes,
            turn: Arc::new(Semaphore::new(1)),
        }
    }

    /// How the client of a request wants its answer coded.
    pub fn terms(&self, request: &Parts) -> Terms {
        let encoding = compression::accepted(&request.headers);
        // Browsers say that they take `dcz` once they have something to use it with.
        if self.most == 0 || !["zstd", "dcz"].iter().any(|coding| takes(&request.headers, coding)) {
            return Terms::plain(encoding);
        }
        let named = request.headers.get(AVAILABLE_DICTIONARY);
        let named = named.filter(|_| takes(&request.headers, "dcz")).and_then(digest);
        let known = named.and_then(|digest| Some((digest, self.kept.get(&digest)?)));
        match known.filter(|(_, kept)| *kept.path == *request.uri.path()) {
            Some((digest, kept)) => {
                Terms { encoding: Encoding::Dcz(digest), dictionary: kept.bytes, is_offered: true }
            }
            None => Terms { is_offered: true, ..Terms::plain(encoding) },
        }
    }

    /// Says in an answer that it depends on what the client has, where it does; and in one that gives the whole of a content
    /// that the client may use it for the next one. `whole` is the content's SHA-256, once it was kept, and its bytes.
    pub fn offer(
        &self,
        terms: &Terms,
        request: &Parts,
        response: &mut Response,
        whole: Option<(&Arc<OnceLock<[u8; 32]>>, impl FnOnce() -> Vec<Bytes>)>,
    ) {
        if !terms.is_offered {
            return;
        }
        vary::by(response.headers_mut(), "Available-Dictionary");
        let path = request.uri.path();
        let is_given = response.status() == StatusCode::OK && request.method == Method::GET;
        let Some((digest, body)) = whole.filter(|_| is_given && is_plain(path)) else { return };
        let is_kept = digest.get().is_some_and(|digest| self.kept.contains_key(digest));
        if is_kept || self.keep(path, digest, body) {
            let value = HeaderValue::try_from(format!("match=\"{path}*\""));
            response.headers_mut().extend(value.map(|value| (USE_AS_DICTIONARY, value)));
        }
    }

    /// Has a body kept, unless another one is just being copied.
    fn keep(&self, path: &str, digest: &Arc<OnceLock<[u8; 32]>>, body: impl FnOnce() -> Vec<Bytes>) -> bool {
        let turn = Arc::clone(&self.turn).try_acquire_owned();
        let (Ok(turn), Ok(runtime)) = (turn, Handle::try_current()) else { return false };
        let chunks = body();
        let length: usize = chunks.iter().map(Bytes::len).sum();
        if !(compression::WORTHWHILE..=LARGEST.min(self.most / 2)).contains(&length) {
            return false;
        }
        let (kept, path, digest) = (self.kept.clone(), Arc::from(path), Arc::clone(digest));
        runtime.spawn_blocking(move || {
            let _turn = turn;
            let bytes = Bytes::from(chunks.concat());
            let name = *digest.get_or_init(|| Sha256::digest(&bytes).into());
            kept.insert(name, Kept { path, bytes });
        });
        true
    }
}

// === impl Terms ===

impl Terms {
    /// Of a client that takes no dictionaries.
    pub fn plain(encoding: Encoding) -> Self {
        Self { encoding, dictionary: Bytes::new(), is_offered: false }
    }
}

/// Whether a client takes a coding, by name.
fn takes(request: &HeaderMap, coding: &str) -> bool {
    compression::codings(request.get_all(ACCEPT_ENCODING).iter())
        .any(|(name, weight)| weight > 0 && name.eq_ignore_ascii_case(coding))
}

/// The SHA-256 that a client names: a byte sequence of RFC 8941 §3.3.5.
fn digest(value: &HeaderValue) -> Option<[u8; 32]> {
    let text = value.to_str().ok()?.trim().strip_prefix(':')?.strip_suffix(':')?;
    STANDARD.decode(text).ok()?.try_into().ok()
}

/// Whether a path means itself as a URL pattern.
fn is_plain(path: &str) -> bool {
    path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-_.~%".contains(&byte))
}
