//! Bundles: many changesets, or all attachments of a collection, in one file.
//!
//! A bundle is made when somebody asks for it and what it shows has changed since it was last made; once for all who ask,
//! on the background runtime, one at a time, and those for which others have to send something keep only each other waiting.
//! Somebody who asks again and again while everything changes has one that is no older than a second; and while it cannot be
//! made, that is tried every few seconds. Bundles and what they are made of are bounded in bytes.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io::{Cursor, Write};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use tokio::runtime::Handle;
use tokio::time::Instant;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

mod files;

use super::attachments::Attachments;
use super::published::{Published, name_of};
use crate::cache::Cache;
use crate::error::Error;
use crate::kinto::{CollectionKey, Timestamp};
use crate::mirror::State;
use crate::settings::{Compat, Settings};
use crate::upstream::{Upstream, UpstreamError};
use crate::wire::body::BoxError;
use crate::wire::lent::{Lent, Stock};
use files::File;

/// How old a bundle may be while what it shows keeps changing.
const FRESH: Duration = Duration::from_secs(1);

/// How long it is not tried again where it failed.
const PAUSE: Duration = Duration::from_secs(2);

/// The bytes in front of what Firefox compresses.
const MAGIC: &[u8] = b"mozLz40\0";

/// All attachments of a collection together have no more bytes than this, or there is no bundle of them.
const MOST_ATTACHED: u64 = 20_000_000;

/// What a bundle takes beside its body, in bytes.
const OVERHEAD: usize = 512;

/// SECURITY: how long the attributes may be that say what a bundle shows, whoever wrote them.
const LONGEST: usize = 64 << 10;

/// The attributes of a collection that say which bundles show it.
#[derive(Deserialize, Default)]
struct Shown<'j> {
    #[serde(borrow, default)]
    flags: Option<&'j RawValue>,
    #[serde(borrow, default)]
    attachment: Option<&'j RawValue>,
}

fn read<T: DeserializeOwned>(attribute: Option<&RawValue>) -> Option<T> {
    serde_json::from_str(attribute.map(RawValue::get).filter(|text| text.len() <= LONGEST)?).ok()
}

/// A bundle's name, as it stands behind `bundles/`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum BundleName {
    /// All changesets but those of previews.
    Changesets,
    /// Those of them that Firefox wants when it starts for the first time.
    Startup,
    /// The attachments of a collection.
    Attachments(CollectionKey),
}

/// A bundle as it is sent.
#[derive(Debug)]
pub struct Bundle {
    /// The body.
    pub body: Bytes,
    /// Names the body.
    pub tag: String,
    /// The newest timestamp in it.
    pub modified: Timestamp,
    stock: Stock,
}

/// What came of making one.
type Outcome = Result<Arc<Bundle>, BundleError>;

/// One that is being made, for all who want it.
type Making = Shared<BoxFuture<'static, Outcome>>;

#[derive(Debug)]
struct Kept {
    outcome: Outcome,
    /// What it was made of.
    source: String,
    /// When that was so, or when it was found that none can be made.
    made: Instant,
}

/// All bundles that are kept.
#[derive(Debug)]
pub struct Bundles {
    kept: Cache<BundleName, Arc<Kept>>,
    making: Mutex<HashMap<BundleName, Making>>,
    /// Held while one is made of what is in memory, and of what others send.
    turn: tokio::sync::Mutex<()>,
    turn_of_attachments: tokio::sync::Mutex<()>,
    most: usize,
    compat: Compat,
    background: Handle,
    attachments: Arc<Attachments>,
}

/// Why there is no bundle.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BundleError {
    /// The collection wants none, or has no attachments, or too many bytes of them.
    #[error("there is no such bundle")]
    None,
    /// It would have more bytes than bundles may have.
    #[error("the bundle is larger than sidecar.bundle_size")]
    TooLarge,
    /// What belongs into it could not be had.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// It could not be written.
    #[error("the bundle could not be written: {0}")]
    Unwritten(Arc<BoxError>),
}

// === impl BundleName ===

impl BundleName {
    /// Reads a name; `is_known` says which collection is meant where an id has the separator in it.
    pub fn read(name: &str, is_known: impl Fn(&CollectionKey) -> bool) -> Option<Self> {
        match name {
            "changesets.json.mozlz4" => return Some(Self::Changesets),
            "startup.json.mozlz4" => return Some(Self::Startup),
            _ => {}
        }
        let both = name.strip_suffix(".zip")?;
        let keys = both.match_indices("--").filter_map(|(place, separator)| {
            let (bucket, collection) = (both.get(..place)?, both.get(place + separator.len()..)?);
            Some(CollectionKey::new(bucket, collection))
        });
        keys.into_iter().find(|key| is_known(key)).map(Self::Attachments)
    }

    /// The media type.
    pub fn content_type(&self) -> &'static str {
        match self {
            Self::Changesets | Self::Startup => "application/x-mozlz4",
            Self::Attachments(_) => "application/zip",
        }
    }

    /// Whether it shows a collection with these attributes.
    fn shows(&self, (key, state): &Published) -> bool {
        let json = state.as_ref().map(|state| &*state.content.metadata.json).unwrap_or_default();
        let attributes = || serde_json::from_slice::<Shown<'_>>(json).unwrap_or_default();
        let is_preview = key.bucket.contains("preview");
        match self {
            Self::Changesets => !is_preview,
            Self::Startup => {
                let flags = || read::<Vec<Value>>(attributes().flags).unwrap_or_default();
                !is_preview && flags().iter().any(|flag| flag == "startup")
            }
            Self::Attachments(_) => {
                let attachment = read::<Value>(attributes().attachment).unwrap_or_default();
                attachment.get("bundle") == Some(&Value::Bool(true))
            }
        }
    }
}

// === impl Bundle ===

impl Bundle {
    fn new(body: Vec<u8>, modified: Timestamp) -> Self {
        let digest = Sha256::digest(&body);
        let tag = digest.iter().take(8).fold(0_u64, |tag, byte| tag << 8 | u64::from(*byte));
        let stock = Stock::new(body.len());
        Self { body: body.into(), tag: format!("{tag:016x}"), modified, stock }
    }

    /// What its reader is lent.
    pub fn lent(&self) -> Option<Arc<Lent>> {
        self.stock.lent(self.body.len())
    }
}

// === impl Kept ===

impl Kept {
    fn is_current(&self, source: &str) -> bool {
        let age = self.made.elapsed();
        match &self.outcome {
            Ok(_) | Err(BundleError::TooLarge) => self.source == source || age < FRESH,
            Err(_) => age < PAUSE,
        }
    }

    fn weight(&self) -> usize {
        OVERHEAD + self.source.len() + self.outcome.as_ref().map_or(0, |bundle| bundle.body.len())
    }
}

// === impl Bundles ===

impl Bundles {
    /// None yet.
    pub fn new(settings: &Settings, background: Handle, attachments: Arc<Attachments>) -> Self {
        let most = settings.remote_settings.bundle_size;
        let weigh = |_: &BundleName, kept: &Arc<Kept>| kept.weight();
        Self {
            kept: Cache::builder(most as u64).weigher(weigh).build(),
            making: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            turn_of_attachments: tokio::sync::Mutex::default(),
            most,
            compat: settings.compat,
            background,
            attachments,
        }
    }

    /// The bundle of this name, made of what is published: all of it, or the collection that it is about.
    pub async fn get(
        self: &Arc<Self>,
        name: BundleName,
        published: Vec<Published>,
        upstream: &Upstream,
    ) -> Result<Arc<Bundle>, BundleError> {
        let source = name_of(&published);
        if let Some(kept) = self.kept.get(&name).filter(|kept| kept.is_current(&source)) {
            return kept.outcome.clone();
        }
        let joined = self.making.lock().get(&name).cloned();
        if let Some(joined) = joined {
            let outcome = joined.await;
            // It may be of what was published before.
            if self.kept.get(&name).is_none_or(|kept| kept.is_current(&source)) {
                return outcome;
            }
        }
        let making = match self.making.lock().entry(name) {
            Entry::Occupied(making) => making.get().clone(),
            Entry::Vacant(vacant) => {
                let making = Arc::clone(self).make(vacant.key().clone(), published, source, upstream.clone());
                vacant.insert(making.boxed().shared()).clone()
            }
        };
        making.await
    }

    /// Makes one to its end, whoever waits for it.
    fn make(
        self: Arc<Self>,
        name: BundleName,
        published: Vec<Published>,
        source: String,
        upstream: Upstream,
    ) -> impl Future<Output = Outcome> {
        let background = self.background.clone();
        let making = background.spawn(async move {
            let (end, begun) = (End { bundles: &self, name: &name }, Instant::now());
            let turn = match name {
                BundleName::Changesets | BundleName::Startup => &self.turn,
                BundleName::Attachments(_) => &self.turn_of_attachments,
            };
            let turn = turn.lock().await;
            let shown = published.into_iter().filter(|one| name.shows(one));
            let shown = shown.filter_map(|(key, state)| Some((key, state?))).collect();
            let outcome = self.made(&name, shown, &upstream).await.map(Arc::new);
            drop(turn);
            let made = if outcome.is_ok() { begun } else { Instant::now() };
            let kept = Kept { outcome: outcome.clone(), source, made };
            self.kept.insert(name.clone(), Arc::new(kept));
            drop(end);
            outcome
        });
        async { making.await.unwrap_or_else(|error| Err(BundleError::unwritten(error))) }
    }

    async fn made(
        &self,
        name: &BundleName,
        shown: Vec<(CollectionKey, Arc<State>)>,
        upstream: &Upstream,
    ) -> Result<Bundle, BundleError> {
        let modified = shown.iter().map(|(_, state)| state.content.timestamp).max().unwrap_or_default();
        let body = match name {
            BundleName::Changesets | BundleName::Startup => {
                let (most, compat) = (self.most, self.compat);
                let writing = self.background.spawn_blocking(move || mozlz4(&shown, compat, most));
                writing.await.map_err(BundleError::unwritten)??
            }
            BundleName::Attachments(_) => {
                let (_, state) = shown.first().ok_or(BundleError::None)?;
                let files = files::of(state, MOST_ATTACHED.min(self.most as u64))?;
                let files = files::fetched(files, &self.attachments, upstream).await?;
                let writing = self.background.spawn_blocking(move || zipped(&files));
                writing.await.map_err(BundleError::unwritten)?.map_err(BundleError::unwritten)?
            }
        };
        Ok(Bundle::new(body, modified))
    }
}

/// One is made no more when it is dropped.
struct End<'b> {
    bundles: &'b Bundles,
    name: &'b BundleName,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.bundles.making.lock().remove(self.name);
    }
}

impl BundleError {
    fn unwritten(error: impl Into<BoxError>) -> Self {
        Self::Unwritten(Arc::new(error.into()))
    }
}

impl From<BundleError> for Error {
    fn from(error: BundleError) -> Self {
        match error {
            BundleError::None => Self::NotFound,
            BundleError::TooLarge => {
                tracing::warn!(%error, "a bundle is not made");
                Self::NotFound
            }
            BundleError::Upstream(error) => Self::Upstream(error),
            BundleError::Unwritten(_) => Self::Internal(error.to_string().into()),
        }
    }
}

/// Whole changesets as a list, compressed as Firefox reads it.
fn mozlz4(
    shown: &[(CollectionKey, Arc<State>)],
    compat: Compat,
    most: usize,
) -> Result<Vec<u8>, BundleError> {
    let mut text = b"[".to_vec();
    for (key, state) in shown {
        if text.len() > 1 {
            text.push(b',');
        }
        for chunk in state.changeset(compat, key) {
            if text.len() + chunk.len() > most {
                return Err(BundleError::TooLarge);
            }
            text.extend_from_slice(&chunk);
        }
    }
    text.push(b']');
    let mut body = MAGIC.to_vec();
    body.extend_from_slice(&lz4_flex::block::compress_prepend_size(&text));
    Ok(body)
}

/// All records, and then all attachments.
fn zipped(files: &[(File, Bytes)]) -> zip::result::ZipResult<Vec<u8>> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
    for (file, _) in files {
        zip.start_file(format!("{}.meta.json", file.id), options)?;
        zip.write_all(&file.record)?;
    }
    for (file, body) in files {
        zip.start_file(&*file.id, options)?;
        zip.write_all(body)?;
    }
    Ok(zip.finish()?.into_inner())
}
