//! Who may read what: the upstream decides, with the requester's own credentials.
//!
//! Nothing of Kinto's access control is copied. Whether somebody may read a collection and all of its records is one
//! [`question`] to the upstream, whose answer is remembered for `sidecar.permission_ttl`, and for as long again while it is
//! asked anew. Answers are kept by a digest of the question and the credentials, so no requester is ever shown another's;
//! those who ask alike share one question. An acknowledged write that may have changed permissions voids what is remembered of
//! its bucket; after one of which nobody knows whether it happened, the upstream is asked anew. While it fails, its last yes
//! holds for those who show no credentials.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use serde::Deserialize;
use tokio::sync::watch;

mod credentials;
mod epoch;
mod memory;
mod object;
mod question;
mod refusal;

use epoch::Epoch;
use memory::{Answer, Memory, Name};
use object::SharedRecords;

pub use credentials::Credentials;
pub use refusal::Refusal;

use crate::error::Error;
use crate::journal::Object;
use crate::kinto::{CollectionKey, DEFAULT_BUCKET, Timestamp};
use crate::settings::Settings;
use crate::upstream::{Upstream, UpstreamError};

/// SECURITY: how much is remembered of each kind of answer, in bytes.
const REMEMBERED: u64 = 16 << 20;

/// What stands in place of a bucket for who somebody is.
const EVERYBODY: &str = "";

/// How many groups of buckets are told apart when permissions change.
const EPOCHS: usize = 1024;

/// Permissions and identities, as the upstream gave them.
#[derive(Debug)]
pub struct Access {
    verdicts: Arc<Memory<Verdict>>,
    shared: Arc<Memory<SharedRecords>>,
    identities: Arc<Memory<Identity>>,
    /// One of these moves when permissions of a bucket may have changed; several buckets share one.
    epochs: Vec<Epochs>,
    /// Moves when some group may have changed. A group is a principal in any bucket, not only in its own.
    groups: Epoch,
    /// Moves with any of them.
    changed: watch::Sender<u64>,
    ttl: Duration,
    stale_if_error: Duration,
    /// How long an upstream that says nothing is waited for, where its last word will do.
    patience: Duration,
}

/// Until when something counts for those who show no credentials, and for those who do: they may be in groups.
#[derive(Debug)]
struct Epochs {
    anonymous: Arc<Epoch>,
    named: Arc<Epoch>,
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
        let groups = Epoch::default();
        let epochs = || {
            let anonymous = Epoch::default();
            Epochs { named: Arc::new(anonymous.beside(&groups)), anonymous: Arc::new(anonymous) }
        };
        Self {
            verdicts: Arc::new(Memory::new(REMEMBERED)),
            shared: Arc::new(Memory::new(REMEMBERED)),
            identities: Arc::new(Memory::new(REMEMBERED)),
            changed: watch::Sender::new(0),
            epochs: std::iter::repeat_with(epochs).take(EPOCHS).collect(),
            groups,
            ttl: settings.permission_ttl,
            stale_if_error: settings.stale_if_error,
            patience: settings.limits.upstream_connect_timeout,
        }
    }

    /// Whether the requester may read a collection, which is the collection object and all of its records. `key` is not in
    /// the bucket that everybody calls `default`: see [`Self::resolve`].
    pub async fn may_read(
        &self,
        upstream: &Upstream,
        key: &CollectionKey,
        credentials: &Credentials,
    ) -> Result<Verdict, Error> {
        let name = Name::new("collection", &[&key.bucket, &key.collection], credentials);
        let collection = || Object::Collection(key.bucket.to_string(), key.collection.to_string());
        self.verdict(name, &key.bucket, collection, upstream, credentials).await
    }

    /// What is remembered of a permission, or what the upstream says of it now. While it fails, its last yes to those who
    /// show no credentials holds: of what was public it cannot say that it is public no more. Of somebody with credentials
    /// it could have said that they were withdrawn.
    async fn verdict(
        &self,
        name: Name,
        bucket: &str,
        object: impl FnOnce() -> Object,
        upstream: &Upstream,
        credentials: &Credentials,
    ) -> Result<Verdict, Error> {
        let epoch = self.epoch_for(bucket, credentials);
        let question = || {
            let (object, upstream, credentials) = (object(), upstream.clone(), credentials.clone());
            async move {
                let said = question::ask_to_read(&upstream, &object, &credentials).await;
                let outcome = match &said {
                    Ok(Verdict::Granted(_)) => "granted",
                    Ok(Verdict::Refused(_)) => "refused",
                    Err(_) => "failed",
                };
                metrics::counter!("kinto_sidecar_permission_questions_total", "outcome" => outcome)
                    .increment(1);
                said
            }
        };
        let last = || {
            credentials
                .is_anonymous()
                .then(|| self.verdicts.given(name, &epoch, self.stale_if_error))
                .flatten()
        };
        let patience = || last().map(|_| self.patience);
        let error = match self.verdicts.get(name, &epoch, self.ttl, patience, question).await {
            Ok(verdict) => return Ok(verdict),
            Err(error) => error,
        };
        if let Some(Verdict::Granted(granted)) = last() {
            return Ok(Verdict::Granted(Granted { stale: true, ..granted }));
        }
        tracing::warn!(%error, "the upstream does not say who may read what");
        Err(Error::Unavailable { retry_after: None })
    }

    /// Who the requester is.
    pub async fn identity(&self, upstream: &Upstream, credentials: &Credentials) -> Result<Identity, Error> {
        let (name, epoch) = (Name::new("identity", &[], credentials), self.epoch_for(EVERYBODY, credentials));
        let question = || {
            let (upstream, credentials) = (upstream.clone(), credentials.clone());
            async move { ask_for_identity(&upstream, &credentials).await }
        };
        Ok(self.identities.get(name, &epoch, self.ttl, || None, question).await?)
    }

    /// The requester's user id, where the upstream was asked for it already. Who somebody is does not change with what they
    /// may do.
    pub fn known_user(&self, credentials: &Credentials) -> Option<String> {
        let name = Name::new("identity", &[], credentials);
        self.identities.look(name, |identity| identity.user_id.clone()).flatten()
    }

    /// The collection that the requester means: `default` is a name for a bucket of their own.
    pub async fn resolve(
        &self,
        upstream: &Upstream,
        key: CollectionKey,
        credentials: &Credentials,
    ) -> Result<CollectionKey, Error> {
        if &*key.bucket != DEFAULT_BUCKET {
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

    /// Permissions of a bucket, or of something in it other than a group, may have changed.
    pub fn invalidate_bucket(&self, bucket: &str) {
        self.epoch(bucket).change();
        self.tell();
    }

    /// Groups of a bucket may have changed, or gone with it: whoever was in one has other principals, in any bucket.
    pub fn invalidate_groups(&self, bucket: &str) {
        self.groups.change();
        self.invalidate_bucket(bucket);
    }

    /// Anything may have changed.
    pub fn invalidate_all(&self) {
        self.epochs.iter().for_each(|epochs| epochs.anonymous.change());
        self.tell();
    }

    /// Nobody knows whether permissions of a bucket, or of something in it, changed: the upstream is asked. While it cannot
    /// be, what it said before is good: whoever makes writes fail takes nothing from those who read.
    pub fn doubt_bucket(&self, bucket: &str) {
        self.epoch(bucket).doubt();
        self.groups.doubt();
        self.tell();
    }

    /// Nobody knows whether anything changed.
    pub fn doubt_all(&self) {
        self.epochs.iter().for_each(|epochs| epochs.anonymous.doubt());
        self.tell();
    }

    fn tell(&self) {
        self.changed.send_modify(|changes| *changes += 1);
    }

    /// Moves whenever permissions may have changed.
    pub fn version(&self) -> u64 {
        *self.changed.borrow()
    }

    /// Told whenever permissions may have changed.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn epoch(&self, bucket: &str) -> &Epoch {
        &self.epochs_of(bucket).anonymous
    }

    fn epoch_for(&self, bucket: &str, credentials: &Credentials) -> Arc<Epoch> {
        let epochs = self.epochs_of(bucket);
        Arc::clone(if credentials.is_anonymous() { &epochs.anonymous } else { &epochs.named })
    }

    #[expect(clippy::indexing_slicing, reason = "the place is less than their number, which is not none")]
    fn epochs_of(&self, bucket: &str) -> &Epochs {
        let mut hasher = DefaultHasher::new();
        bucket.hash(&mut hasher);
        let place = usize::try_from(hasher.finish() % self.epochs.len() as u64).unwrap_or_default();
        &self.epochs[place]
    }
}

impl Answer for Verdict {
    fn weight(&self) -> usize {
        match self {
            Self::Granted(_) => 0,
            Self::Refused(refusal) => refusal.weight(),
        }
    }

    fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused(_))
    }
}

impl Answer for Identity {
    fn weight(&self) -> usize {
        let texts = self.principals.iter().chain(&self.user_id).map(String::len);
        texts.map(|length| length + size_of::<String>()).sum()
    }
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
