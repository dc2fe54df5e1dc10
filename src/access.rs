//! Who may read what: the upstream decides, with the requester's own credentials.
//!
//! Nothing of Kinto's access control is copied. Whether somebody may read a collection and all of its records is one
//! [`question`] to the upstream, whose answer is remembered for `sidecar.permission_ttl`, and for as long again while it is
//! asked anew. Answers are kept by a digest of the question and the credentials, so no requester is ever shown another's;
//! those who ask alike share one question. An acknowledged write that may have changed permissions voids what is remembered of
//! its bucket; after one of which nobody knows whether it happened, the upstream is asked anew. While it fails, its last yes
//! holds for those who show no credentials.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

mod credentials;
mod epoch;
mod memory;
mod object;
mod question;
mod requester;
mod revive;

use epoch::Epoch;
use memory::{Answer, Memory};
use object::SharedRecords;

pub use credentials::Credentials;
pub use epoch::Footing;
pub use requester::Requester;
pub use revive::PublicSince;

use crate::kinto::Timestamp;
use crate::settings::InForce;
use crate::upstream::kinto::Source;
use crate::upstream::{Refusal, Upstream};

/// SECURITY: how much is remembered of each kind of answer, in bytes.
const REMEMBERED: u64 = 16 << 20;

/// What stands in place of a bucket for who somebody is.
const EVERYBODY: &str = "";

/// How many groups of buckets are told apart when permissions change.
const EPOCHS: usize = 1024;

/// Permissions and identities, as the upstream gave them, and the connections on which it is asked for more. What it said
/// is remembered for all threads.
#[derive(Debug, Clone)]
pub struct Access(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    upstream: Upstream,
    permissions: Arc<Permissions>,
}

#[derive(Debug)]
struct Permissions {
    verdicts: Arc<Memory<Verdict>>,
    shared: Arc<Memory<SharedRecords>>,
    identities: Arc<Memory<Identity>>,
    /// One of these moves when permissions of a bucket may have changed; several buckets share one.
    epochs: Vec<Epochs>,
    /// SECURITY: which buckets share them is nothing that a stranger can choose.
    seed: RandomState,
    /// Moves when some group may have changed. A group is a principal in any bucket, not only in its own.
    groups: Epoch,
    /// Moves with any of them.
    changed: watch::Sender<u64>,
    settings: InForce,
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
    /// The bucket that they know as `default`; nobody anonymous has one.
    pub default_bucket: Option<Arc<str>>,
}

// === impl Verdict ===

impl Verdict {
    /// Of what the upstream need not be asked about.
    pub fn open() -> Self {
        Self::Granted(Granted { metadata: None, stale: false })
    }
}

impl Permissions {
    /// For how long an answer counts.
    fn ttl(&self) -> Duration {
        self.settings.now().permission_ttl
    }
}

// === impl Access ===

impl Access {
    /// Nothing is remembered yet. What is to be known is asked through `upstream`.
    pub fn new(settings: InForce, upstream: Upstream) -> Self {
        let groups = Epoch::default();
        let epochs = || {
            let anonymous = Epoch::default();
            Epochs { named: Arc::new(anonymous.beside(&groups)), anonymous: Arc::new(anonymous) }
        };
        let permissions = Arc::new(Permissions {
            verdicts: Arc::new(Memory::new(REMEMBERED, Some(upstream.clone()))),
            shared: Arc::new(Memory::new(REMEMBERED, Some(upstream.clone()))),
            identities: Arc::new(Memory::new(REMEMBERED, Some(upstream.clone()))),
            changed: watch::Sender::new(0),
            epochs: std::iter::repeat_with(epochs).take(EPOCHS).collect(),
            seed: RandomState::new(),
            groups,
            settings,
        });
        Self(Arc::new(Inner { upstream, permissions }))
    }

    /// The same permissions, asked for through the connections of another thread.
    #[must_use]
    pub fn sibling(&self, upstream: Upstream) -> Self {
        Self(Arc::new(Inner { upstream, permissions: Arc::clone(&self.0.permissions) }))
    }

    /// The connections on which the upstream is asked.
    pub fn upstream(&self) -> &Upstream {
        &self.0.upstream
    }

    /// Asks the upstream as the service account.
    pub fn source(&self) -> Source {
        Source::new(self.upstream().clone())
    }

    /// Somebody who shows no credentials.
    pub fn anybody(&self) -> Requester {
        self.requester(Credentials::default())
    }

    /// Whoever has these credentials.
    pub fn requester(&self, credentials: Credentials) -> Requester {
        Requester { access: self.clone(), credentials }
    }

    /// Permissions of a bucket, or of something in it other than a group, may have changed.
    pub fn invalidate_bucket(&self, bucket: &str) {
        self.epoch(bucket).change();
        self.tell();
    }

    /// Groups of a bucket may have changed, or gone with it: whoever was in one has other principals, in any bucket.
    pub fn invalidate_groups(&self, bucket: &str) {
        self.0.permissions.groups.change();
        self.invalidate_bucket(bucket);
    }

    /// Anything may have changed.
    pub fn invalidate_all(&self) {
        self.0.permissions.epochs.iter().for_each(|epochs| epochs.anonymous.change());
        self.tell();
    }

    /// Nobody knows whether permissions of a bucket, or of something in it, changed: the upstream is asked. While it cannot
    /// be, what it said before is good: whoever makes writes fail takes nothing from those who read.
    pub fn doubt_bucket(&self, bucket: &str) {
        self.epoch(bucket).doubt();
        self.0.permissions.groups.doubt();
        self.tell();
    }

    /// Nobody knows whether anything changed.
    pub fn doubt_all(&self) {
        self.0.permissions.epochs.iter().for_each(|epochs| epochs.anonymous.doubt());
        self.tell();
    }

    fn tell(&self) {
        self.0.permissions.changed.send_modify(|changes| *changes += 1);
    }

    /// Moves whenever permissions may have changed.
    pub fn version(&self) -> u64 {
        *self.0.permissions.changed.borrow()
    }

    /// Told whenever permissions may have changed.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.permissions.changed.subscribe()
    }

    /// What somebody's permission to read something in a bucket stands on, from now on; or, where it is in none, to read for
    /// who they are.
    pub fn footing(&self, bucket: Option<&str>, credentials: &Credentials) -> Footing {
        Footing::new(self.epoch_for(bucket.unwrap_or(EVERYBODY), credentials))
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
        let epochs = &self.0.permissions.epochs;
        let hash = self.0.permissions.seed.hash_one(bucket);
        let place = usize::try_from(hash % epochs.len() as u64).unwrap_or_default();
        &epochs[place]
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
