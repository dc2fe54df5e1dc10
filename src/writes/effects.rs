//! What a write that passes through tells: it counts at once, before the client has its answer.
//!
//! ```text
//! Observer::begin ── which objects may this request write? registers the write with their clocks
//!      │
//!   upstream
//!      │
//! Passing::answered ── what did the upstream's answer say was written? tells timeline and permissions
//! ```
//!
//! A write whose outcome is not known (no answer, a 5xx, an answer that says no timestamp) has the upstream asked for the
//! collection's timestamp, until it says it.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

pub mod batch;

use super::objects::Objects;
use super::pending::Pending;
use crate::access::{Access, Credentials};
use crate::kinto::{CollectionKey, RequestPath, Resource, Timestamp};
use crate::timeline::Timeline;
use crate::timeline::clock::WriteUnderWay;
use crate::upstream::Upstream;
use crate::upstream::kinto::{ReadError, Source};

/// How long the upstream is left alone after it could not say a timestamp: at first, and at most.
const SHORTEST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Knows what writes mean.
#[derive(Debug)]
pub struct Observer {
    pub(super) timeline: Arc<Timeline>,
    pub(super) access: Arc<Access>,
    /// Asks where an answer does not say enough.
    source: Source,
    /// The collections for which the upstream is asked again and again, because it could not answer.
    pending: Mutex<Pending>,
}

/// A write on its way.
#[derive(Debug)]
pub struct Passing {
    observer: Arc<Observer>,
    method: Method,
    target: Target,
    /// Whether its outcome was told.
    is_settled: bool,
}

/// What a request may write.
#[derive(Debug)]
pub enum Target {
    /// Records of a collection, or something that belongs to one of them.
    Records(WriteUnderWay),
    /// A collection.
    Collection(CollectionKey),
    /// Collections of a bucket.
    Collections(Arc<str>),
    /// A bucket.
    Bucket(Arc<str>),
    /// Buckets.
    Buckets,
    /// Groups of a bucket.
    Groups(Arc<str>),
    /// Who somebody is.
    Accounts,
    /// Everything (`POST /__flush__`).
    Everything,
}

// === impl Observer ===

impl Observer {
    /// Tells `timeline` and `access`; asks `upstream` where it has to.
    pub fn new(timeline: Arc<Timeline>, access: Arc<Access>, upstream: Upstream) -> Self {
        Self { timeline, access, source: Source::new(upstream), pending: Mutex::default() }
    }

    /// What a request may write, if anything that matters here; `default` is the requester's own bucket.
    pub fn begin(
        self: &Arc<Self>,
        method: &Method,
        path: &RequestPath,
        default: Option<&Arc<str>>,
    ) -> Option<Passing> {
        if matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) {
            return None;
        }
        let target = self.target(path, default)?;
        Some(Passing { observer: Arc::clone(self), method: method.clone(), target, is_settled: false })
    }

    /// The default bucket makes a collection when it is first read: it is listed from then on.
    pub async fn read_default(self: &Arc<Self>, path: &RequestPath, default: &Arc<str>) {
        let resource = path.resource(Some(default));
        let (Resource::Collection(bucket, collection) | Resource::Records(bucket, collection)) = &*resource
        else {
            return;
        };
        let key = CollectionKey::new(bucket, collection);
        let is_known =
            self.timeline.known_clock(&key).is_some_and(|clock| clock.timestamp() > Timestamp::ZERO);
        if self.timeline.resources().include(&key) && !is_known {
            self.access.invalidate_bucket(default);
            self.ask(&key).await;
        }
    }

    /// The collection of whose records a path names one or all.
    fn records_of(path: &RequestPath, default: Option<&Arc<str>>) -> Option<CollectionKey> {
        match &*path.resource(default) {
            Resource::Record(bucket, collection, _)
            | Resource::Part(bucket, collection, ..)
            | Resource::Records(bucket, collection) => Some(CollectionKey::new(bucket, collection)),
            _ => None,
        }
    }

    fn target(&self, path: &RequestPath, default: Option<&Arc<str>>) -> Option<Target> {
        if let Some(key) = Self::records_of(path, default) {
            return Some(Target::Records(self.timeline.clock(&key).begin_write()));
        }
        Some(match &*path.resource(default) {
            Resource::Collection(bucket, collection) => {
                Target::Collection(CollectionKey::new(bucket, collection))
            }
            Resource::Collections(bucket) => Target::Collections(bucket.as_str().into()),
            Resource::Bucket(bucket) => Target::Bucket(bucket.as_str().into()),
            Resource::Buckets => Target::Buckets,
            Resource::Groups(bucket) | Resource::Group(bucket, _) => Target::Groups(bucket.as_str().into()),
            Resource::Accounts => Target::Accounts,
            Resource::Flush => Target::Everything,
            _ => return None,
        })
    }

    /// Learns a collection's timestamp from the upstream; later, where it cannot answer now.
    pub(super) async fn ask(self: &Arc<Self>, key: &CollectionKey) {
        self.timeline.clock(key).touch();
        if self.learn(key).await || !self.pending().insert(key) {
            return;
        }
        let (observer, key) = (Arc::clone(self), key.clone());
        tokio::spawn(async move {
            let mut pause = SHORTEST_PAUSE;
            loop {
                tokio::time::sleep(pause).await;
                if observer.learn(&key).await {
                    break;
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            observer.pending().remove(&key);
        });
    }

    /// Asks once; whether the upstream said something, be it that there is no such collection.
    async fn learn(&self, key: &CollectionKey) -> bool {
        let clock = self.timeline.clock(key);
        let (news, asked) = (clock.news(), Instant::now());
        match self.source.head(key).await {
            Ok((timestamp, total)) => self.timeline.learned(&clock, timestamp, total, news, asked),
            Err(ReadError::Gone) if clock.news() == news => self.timeline.removed(key),
            Err(error) if error.is_passing() => {
                tracing::debug!(collection = %key, %error, "could not ask for a timestamp");
                return false;
            }
            Err(error) => {
                tracing::debug!(collection = %key, %error, "cannot ask for a timestamp");
            }
        }
        true
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock()
    }
}

// === impl Passing ===

impl Passing {
    /// The upstream answered this.
    pub async fn answered(mut self, status: StatusCode, objects: &Objects) {
        if status.is_server_error() {
            // Dropping it says that the outcome is not known.
            return;
        }
        self.is_settled = true;
        if status.is_success() {
            self.succeeded(status, objects).await;
        }
    }

    /// The answer cannot be believed: what the write may have changed is asked for before the client hears of it.
    pub async fn doubtful(mut self) {
        self.is_settled = true;
        self.ask().await;
    }

    async fn ask(&self) {
        let Observer { access, .. } = &*self.observer;
        match &self.target {
            Target::Records(_) => {}
            Target::Collection(CollectionKey { bucket, .. }) | Target::Collections(bucket) => {
                access.invalidate_bucket(bucket);
            }
            Target::Bucket(bucket) | Target::Groups(bucket) => access.invalidate_groups(bucket),
            Target::Buckets | Target::Accounts | Target::Everything => access.invalidate_all(),
        }
        for key in self.suspects() {
            self.observer.ask(&key).await;
        }
    }

    /// The collections that the write may have changed. They count as changed; permissions are in doubt.
    fn suspects(&self) -> Vec<CollectionKey> {
        let Observer { timeline, access, .. } = &*self.observer;
        let keys = match &self.target {
            Target::Records(write) => vec![write.clock().key().clone()],
            Target::Collection(key) => {
                access.doubt_bucket(&key.bucket);
                vec![key.clone()]
            }
            Target::Collections(bucket) | Target::Bucket(bucket) | Target::Groups(bucket) => {
                access.doubt_bucket(bucket);
                let keys = timeline.clocks().into_iter().map(|clock| clock.key().clone());
                keys.filter(|key| key.bucket == *bucket).collect()
            }
            Target::Buckets | Target::Accounts | Target::Everything => {
                access.doubt_all();
                timeline.clocks().into_iter().map(|clock| clock.key().clone()).collect()
            }
        };
        for key in &keys {
            timeline.touched(key);
        }
        keys
    }

    async fn succeeded(&self, status: StatusCode, objects: &Objects) {
        let Observer { timeline, access, .. } = &*self.observer;
        match &self.target {
            // Kinto: a POST of an id that exists gives the record as it is.
            Target::Records(_)
                if self.method == Method::POST && status == StatusCode::OK && objects.is_one() => {}
            Target::Records(write) => match objects.timestamps() {
                Some(timestamps) => {
                    if self.method == Method::DELETE {
                        write.clock().bury(&timestamps);
                    }
                    self.acknowledged(write, &timestamps);
                }
                None => self.observer.ask(write.clock().key()).await,
            },
            // A list that cannot be read says nothing of what was deleted.
            Target::Collections(_) | Target::Buckets if !objects.are_named() => self.ask().await,
            Target::Collection(key) => {
                access.invalidate_bucket(&key.bucket);
                self.collection(key, status).await;
            }
            Target::Collections(bucket) => {
                access.invalidate_bucket(bucket);
                for id in objects.ids() {
                    let key = CollectionKey { bucket: bucket.clone(), collection: id.into() };
                    self.collection(&key, status).await;
                }
            }
            Target::Bucket(bucket) => {
                access.invalidate_groups(bucket);
                if self.method == Method::DELETE {
                    timeline.removed_from_bucket(bucket, &|_| false);
                }
            }
            Target::Buckets => {
                for bucket in objects.ids() {
                    access.invalidate_groups(bucket);
                    if self.method == Method::DELETE {
                        timeline.removed_from_bucket(bucket, &|_| false);
                    }
                }
            }
            Target::Groups(bucket) => access.invalidate_groups(bucket),
            Target::Accounts => access.invalidate_all(),
            Target::Everything => {
                access.invalidate_all();
                timeline.removed_all();
            }
        }
    }

    fn acknowledged(&self, write: &WriteUnderWay, timestamps: &[Timestamp]) {
        if timestamps.is_empty() {
            return;
        }
        let clock = write.clock();
        if clock.timestamp() == Timestamp::ZERO {
            // In the default bucket, the first record makes bucket and collection.
            self.observer.access.invalidate_bucket(&clock.key().bucket);
        }
        self.observer.timeline.acknowledged(write, timestamps);
    }

    async fn collection(&self, key: &CollectionKey, status: StatusCode) {
        if self.method == Method::DELETE {
            self.observer.timeline.removed(key);
        } else if status == StatusCode::CREATED {
            self.observer.ask(key).await;
        } else {
            self.observer.timeline.touched(key);
        }
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        if self.is_settled {
            return;
        }
        // The exchange ended without an answer that says what became of it. Whoever waits for the answer does not wait
        // for what the upstream says now.
        let suspects = self.suspects();
        let observer = Arc::clone(&self.observer);
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            for key in suspects {
                observer.ask(&key).await;
            }
        });
    }
}

/// The requester's own bucket, where a path leads into it.
pub async fn default_bucket(
    observer: &Observer,
    upstream: &Upstream,
    path: &RequestPath,
    credentials: &Credentials,
) -> Option<Arc<str>> {
    if !path.is_in_default_bucket() {
        return None;
    }
    observer.access.identity(upstream, credentials).await.ok()?.default_bucket
}
