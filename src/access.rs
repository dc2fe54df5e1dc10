//! Who may read what: the upstream decides, with the requester's own credentials.
//!
//! Nothing of Kinto's access control is copied. Whether somebody may read a collection is what the upstream answers to
//! their own `GET /buckets/{bucket}/collections/{collection}`, remembered for `sidecar.permission_ttl`, and for as long
//! again while it is asked anew. Answers are kept by collection and by a digest of the credentials, so no requester is
//! ever shown another's; those who ask alike share one question. A write that may have changed permissions voids what is
//! remembered of its bucket.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::{Method, StatusCode};
use moka::sync::Cache;
use serde::Deserialize;
use tokio::sync::{OwnedMutexGuard, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

mod credentials;
mod object;
mod refusal;

use object::SharedRecords;

pub use credentials::Credentials;
pub use refusal::Refusal;

use crate::error::Error;
use crate::journal::Object;
use crate::kinto::{CollectionKey, Timestamp};
use crate::settings::Settings;
use crate::upstream::{Upstream, UpstreamError};

/// How many answers are remembered.
const REMEMBERED: u64 = 100_000;

/// How many lists of what is shared with somebody are remembered.
const LISTS_REMEMBERED: u64 = 1000;

/// What stands in place of a bucket for who somebody is.
const EVERYBODY: &str = "";

/// How many groups of buckets are told apart when permissions change.
const EPOCHS: usize = 1024;

/// Permissions and identities, as the upstream gave them.
#[derive(Debug)]
pub struct Access {
    collections: Cache<(CollectionKey, Credentials), Arc<Slot<Verdict>>>,
    objects: Cache<(Object, Credentials), Arc<Slot<Verdict>>>,
    shared: Cache<(CollectionKey, Credentials), Arc<Slot<SharedRecords>>>,
    identities: Cache<Credentials, Arc<Slot<Identity>>>,
    /// One of these moves when permissions of a bucket may have changed; several buckets share one.
    epochs: Vec<Arc<AtomicU64>>,
    /// Moves with any of them.
    changed: watch::Sender<u64>,
    ttl: Duration,
    stale_if_error: Duration,
}

/// What the upstream says of somebody who wants to read a collection.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// They may.
    Granted(Granted),
    /// They may not, and this is the upstream's answer to them.
    Refused(Arc<Refusal>),
}

/// A permission to read.
#[derive(Debug, Clone, Copy)]
pub struct Granted {
    /// The `last_modified` of the object that the requester was shown.
    pub metadata: Option<Timestamp>,
    /// The upstream fails, and this is what it said before.
    pub stale: bool,
}

/// Who a requester is, as `GET /v1/` says it.
#[derive(Debug, Clone, Default)]
pub struct Identity {
    /// The user id; `None` for somebody anonymous.
    pub user_id: Option<String>,
    /// Their principals.
    pub principals: Vec<String>,
    /// The bucket that they know as `default`.
    pub default_bucket: Option<Arc<str>>,
}

/// One remembered answer, and the asking for it.
#[derive(Debug)]
struct Slot<T> {
    known: ArcSwapOption<Known<T>>,
    /// Held while the upstream is asked.
    gate: Arc<tokio::sync::Mutex<()>>,
    failure: Mutex<Option<(Instant, UpstreamError)>>,
    /// The bucket's epoch.
    epoch: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Known<T> {
    value: T,
    asked: Instant,
    epoch: u64,
}

#[derive(Deserialize)]
struct Collection {
    data: CollectionData,
}

#[derive(Deserialize)]
struct CollectionData {
    last_modified: Timestamp,
}

#[derive(Deserialize)]
struct Root {
    user: Option<RootUser>,
}

#[derive(Deserialize)]
struct RootUser {
    id: Option<String>,
    #[serde(default)]
    principals: Vec<String>,
    bucket: Option<String>,
}

// === impl Verdict ===

impl Verdict {
    /// Of what the upstream need not be asked about.
    pub fn open() -> Self {
        Self::Granted(Granted { metadata: None, stale: false })
    }
}

// === impl Access ===

impl Access {
    /// Nothing is remembered yet.
    pub fn new(settings: &Settings) -> Self {
        Self {
            collections: remembered(REMEMBERED),
            objects: remembered(REMEMBERED),
            shared: remembered(LISTS_REMEMBERED),
            identities: remembered(REMEMBERED),
            changed: watch::Sender::new(0),
            epochs: std::iter::repeat_with(Arc::default).take(EPOCHS).collect(),
            ttl: settings.permission_ttl,
            stale_if_error: settings.stale_if_error,
        }
    }

    /// Whether the requester may read a collection.
    pub async fn may_read(
        &self,
        upstream: &Upstream,
        key: &CollectionKey,
        credentials: &Credentials,
    ) -> Result<Verdict, Error> {
        let name = (key.clone(), credentials.clone());
        let slot = match self.collections.get(&name) {
            Some(slot) => slot,
            None => self.collections.get_with(name, || Arc::new(Slot::new(self.epoch(&key.bucket)))),
        };
        let question = || {
            let (upstream, key, credentials) = (upstream.clone(), key.clone(), credentials.clone());
            async move { ask_for_collection(&upstream, &key, &credentials).await }
        };
        match slot.get(self.ttl, question).await {
            Ok(verdict) => Ok(verdict),
            // An upstream that fails cannot say that what was public is public no more; of somebody with credentials it
            // could have said that they were withdrawn.
            Err(error) => match slot.granted(self.stale_if_error) {
                Some(granted) if credentials.is_anonymous() => {
                    Ok(Verdict::Granted(Granted { stale: true, ..granted }))
                }
                _ => Err(error.into()),
            },
        }
    }

    /// Who the requester is.
    pub async fn identity(&self, upstream: &Upstream, credentials: &Credentials) -> Result<Identity, Error> {
        let slot =
            self.identities.get_with_by_ref(credentials, || Arc::new(Slot::new(self.epoch(EVERYBODY))));
        let question = || {
            let (upstream, credentials) = (upstream.clone(), credentials.clone());
            async move { ask_for_identity(&upstream, &credentials).await }
        };
        Ok(slot.get(self.ttl, question).await?)
    }

    /// The collection that the requester means: `default` is a name for a bucket of their own.
    pub async fn resolve(
        &self,
        upstream: &Upstream,
        key: CollectionKey,
        credentials: &Credentials,
    ) -> Result<CollectionKey, Error> {
        if &*key.bucket != "default" {
            return Ok(key);
        }
        let identity = self.identity(upstream, credentials).await?;
        Ok(match identity.default_bucket.filter(|_| identity.user_id.is_some()) {
            Some(bucket) => CollectionKey { bucket, ..key },
            // The upstream knows of no such alias, or this requester has none: it will say so itself.
            None => key,
        })
    }

    /// Whether the requester has one of these principals.
    pub async fn has_principal(
        &self,
        upstream: &Upstream,
        credentials: &Credentials,
        principals: &[String],
    ) -> Result<bool, Error> {
        if principals.iter().any(|principal| principal == "system.Everyone") {
            return Ok(true);
        }
        if credentials.is_anonymous() {
            return Ok(false);
        }
        let identity = self.identity(upstream, credentials).await?;
        Ok(identity.principals.iter().any(|principal| principals.contains(principal)))
    }

    /// Permissions of a bucket, or of something in it, may have changed.
    pub fn invalidate_bucket(&self, bucket: &str) {
        self.epoch(bucket).fetch_add(1, Ordering::AcqRel);
        // Groups are principals.
        self.epoch(EVERYBODY).fetch_add(1, Ordering::AcqRel);
        self.changed.send_modify(|changes| *changes += 1);
    }

    /// Anything may have changed.
    pub fn invalidate_all(&self) {
        for epoch in &self.epochs {
            epoch.fetch_add(1, Ordering::AcqRel);
        }
        self.changed.send_modify(|changes| *changes += 1);
    }

    /// Told whenever permissions may have changed.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn epoch(&self, bucket: &str) -> Arc<AtomicU64> {
        let mut hasher = DefaultHasher::new();
        bucket.hash(&mut hasher);
        let place = usize::try_from(hasher.finish() % EPOCHS as u64).unwrap_or_default();
        self.epochs.get(place).cloned().unwrap_or_default()
    }
}

// === impl Slot ===

impl<T: Clone + Send + Sync + 'static> Slot<T> {
    fn new(epoch: Arc<AtomicU64>) -> Self {
        Self { known: ArcSwapOption::empty(), gate: Arc::default(), failure: Mutex::default(), epoch }
    }

    /// What the upstream says. It is asked where nothing is remembered, or for longer than twice `ttl`; after `ttl` it is
    /// asked behind the back of a requester, who gets what is remembered.
    async fn get<Q>(self: &Arc<Self>, ttl: Duration, question: impl FnOnce() -> Q) -> Result<T, UpstreamError>
    where
        Q: Future<Output = Result<T, UpstreamError>> + Send + 'static,
    {
        let arrived = Instant::now();
        if let Some(known) = self.current().filter(|known| arrived.duration_since(known.asked) < 2 * ttl) {
            if arrived.duration_since(known.asked) >= ttl
                && let Ok(turn) = Arc::clone(&self.gate).try_lock_owned()
            {
                let _unwatched = self.ask(turn, question());
            }
            return Ok(known.value.clone());
        }
        // SECURITY: a slot belongs to one requester, so those who wait here for the same question ask alike.
        let turn = Arc::clone(&self.gate).lock_owned().await;
        if let Some(known) =
            self.current().filter(|known| known.asked >= arrived || known.asked.elapsed() < ttl)
        {
            return Ok(known.value.clone());
        }
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((_, error)) = failure.filter(|(ended, _)| *ended >= arrived) {
            return Err(error);
        }
        let asking = self.ask(turn, question());
        asking.await.unwrap_or_else(|error| Err(UpstreamError::Unexpected(error.to_string().into())))
    }

    /// What is remembered, unless permissions may have changed since it was asked for.
    fn current(&self) -> Option<Arc<Known<T>>> {
        let known = self.known.load();
        let known = known.as_ref().filter(|known| known.epoch == self.epoch.load(Ordering::Acquire))?;
        Some(Arc::clone(known))
    }

    /// Asks the upstream in a task of its own: it goes on for the others if the requester goes away.
    fn ask(
        self: &Arc<Self>,
        turn: OwnedMutexGuard<()>,
        question: impl Future<Output = Result<T, UpstreamError>> + Send + 'static,
    ) -> JoinHandle<Result<T, UpstreamError>> {
        let slot = Arc::clone(self);
        tokio::spawn(async move {
            let _turn = turn;
            let (asked, epoch) = (Instant::now(), slot.epoch.load(Ordering::Acquire));
            let answer = question.await;
            match &answer {
                Ok(value) => slot.known.store(Some(Arc::new(Known { value: value.clone(), asked, epoch }))),
                Err(error) => {
                    *slot.failure.lock().unwrap_or_else(PoisonError::into_inner) =
                        Some((Instant::now(), error.clone()));
                }
            }
            answer
        })
    }
}

impl Slot<Verdict> {
    /// A permission that was given no longer than `age` ago.
    fn granted(&self, age: Duration) -> Option<Granted> {
        let known = self.current().filter(|known| known.asked.elapsed() < age)?;
        match &known.value {
            Verdict::Granted(granted) => Some(*granted),
            Verdict::Refused(_) => None,
        }
    }
}

fn remembered<K, V>(most: u64) -> Cache<K, V>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    Cache::builder().max_capacity(most).time_to_idle(Duration::from_secs(3600)).build()
}

async fn ask_for_collection(
    upstream: &Upstream,
    key: &CollectionKey,
    credentials: &Credentials,
) -> Result<Verdict, UpstreamError> {
    let answer = upstream.ask_as(Method::GET, &key.uri(), credentials.headers(), Bytes::new()).await?;
    let status = answer.status();
    if status == StatusCode::OK {
        let collection: Option<Collection> = serde_json::from_slice(answer.body()).ok();
        let metadata = collection.map(|collection| collection.data.last_modified);
        return Ok(Verdict::Granted(Granted { metadata, stale: false }));
    }
    if matches!(
        status,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND | StatusCode::GONE
    ) {
        return Ok(Verdict::Refused(Arc::new(Refusal::new(answer))));
    }
    Err(UpstreamError::of_status(status, "a collection"))
}

async fn ask_for_identity(upstream: &Upstream, credentials: &Credentials) -> Result<Identity, UpstreamError> {
    let answer = upstream.ask_as(Method::GET, "/", credentials.headers(), Bytes::new()).await?;
    if answer.status() != StatusCode::OK {
        return Err(UpstreamError::of_status(answer.status(), "the root view"));
    }
    let root: Root = serde_json::from_slice(answer.body())
        .map_err(|error| UpstreamError::Unexpected(format!("the root view: {error}").into()))?;
    Ok(root.user.map_or_else(Identity::default, |user| Identity {
        user_id: user.id,
        principals: user.principals,
        default_bucket: user.bucket.map(Into::into),
    }))
}
