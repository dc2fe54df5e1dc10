//! What passing writes mean for timestamps and permissions: it counts at once, before their client has the answer.
//!
//! Where nobody knows what became of a write (no answer, a 5xx, an answer without a timestamp), the upstream is asked for
//! the collection's timestamp until it says it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::answer::Answer;
use super::pending::Pending;
use super::write::{Target, Write};
use crate::access::Access;
use crate::backoff::Backoff;
use crate::journal::Object;
use crate::kinto::{CollectionKey, Resource, Timestamp};
use crate::timeline::Timeline;
use crate::timeline::clock::WriteUnderWay;
use crate::upstream::kinto::KintoError;

/// How long the upstream is left alone after it could not say a timestamp.
const PAUSES: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(30));

/// Tells the timeline and the permissions what passes.
#[derive(Debug)]
pub(super) struct Effects {
    pub(super) timeline: Arc<Timeline>,
    pub(super) access: Access,
    /// The collections for which the upstream is asked again and again, because it could not answer.
    pending: Mutex<Pending>,
}

/// What one write may change, or all writes of one request that are about the records of one collection: they become
/// visible together.
#[derive(Debug)]
pub(super) struct Effect {
    scope: Scope,
    /// The places of the writes.
    places: Vec<usize>,
}

#[derive(Debug)]
enum Scope {
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
    /// Everything.
    Everything,
}

// === impl Effects ===

impl Effects {
    /// Tells `timeline` and `access`; asks `upstream` where it has to.
    pub(super) fn new(timeline: Arc<Timeline>, access: Access) -> Self {
        Self { timeline, access, pending: Mutex::default() }
    }

    /// What these writes may change.
    pub(super) fn begin(&self, writes: &[Write]) -> Vec<Effect> {
        let mut effects: Vec<Effect> = Vec::new();
        let mut of_records: HashMap<CollectionKey, usize> = HashMap::new();
        for (place, write) in writes.iter().enumerate() {
            let Some(target) = &write.target else { continue };
            let scope = match target.collection() {
                Some(key) => {
                    if let Some(effect) = of_records.get(&key).and_then(|at| effects.get_mut(*at)) {
                        effect.places.push(place);
                        continue;
                    }
                    let under_way = self.timeline.clock(&key).begin_write();
                    if writes.len() > 1 {
                        of_records.insert(key, effects.len());
                    }
                    Scope::Records(under_way)
                }
                None => Scope::of(target),
            };
            effects.push(Effect { scope, places: vec![place] });
        }
        effects
    }

    /// The upstream answered each of the writes.
    pub(super) async fn answered(
        self: &Arc<Self>,
        effects: Vec<Effect>,
        writes: &[Write],
        answers: &[Answer],
    ) {
        for effect in effects {
            let own = effect.places.iter().filter_map(|at| Some((writes.get(*at)?, answers.get(*at)?)));
            if own.clone().any(|(_, answer)| answer.status.is_server_error()) {
                self.unknown(std::slice::from_ref(&effect));
            } else {
                let changed = own.filter(|(_, answer)| answer.status.is_success());
                self.changed(&effect.scope, changed).await;
            }
        }
        for (write, answer) in writes.iter().zip(answers) {
            if let Some(default) = write.default().filter(|_| answer.status.is_success()) {
                self.default_bucket_answered(write, default).await;
            }
        }
    }

    /// The answers cannot be believed: what the writes may have changed is asked for before the client hears of it.
    pub(super) async fn doubtful(self: &Arc<Self>, effects: Vec<Effect>, answers: &[Answer]) {
        for effect in effects {
            if let Scope::Collections(bucket) = &effect.scope {
                // One that is new is known by its answer only.
                for id in effect.places.iter().filter_map(|at| answers.get(*at)).flat_map(Answer::ids) {
                    self.ask(&CollectionKey { bucket: bucket.clone(), collection: id.into() }).await;
                }
            }
            self.ask_all(&effect.scope).await;
        }
    }

    /// What became of the writes is not known. The upstream is asked, and nobody waits for what it says.
    pub(super) fn unknown(self: &Arc<Self>, effects: &[Effect]) {
        let suspects: Vec<CollectionKey> =
            effects.iter().flat_map(|effect| self.suspects(&effect.scope)).collect();
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if suspects.is_empty() {
            return;
        }
        let this = Arc::clone(self);
        runtime.spawn(async move {
            for key in suspects {
                this.ask(&key).await;
            }
        });
    }

    /// Learns a collection's timestamp from the upstream; later, where it cannot answer now.
    pub(super) async fn ask(self: &Arc<Self>, key: &CollectionKey) {
        self.timeline.clock(key).touch();
        if self.learn(key).await || !self.pending.lock().insert(key) {
            return;
        }
        let (this, key) = (Arc::clone(self), key.clone());
        tokio::spawn(async move {
            let mut backoff = PAUSES;
            backoff.wait().await;
            while !this.learn(&key).await {
                backoff.wait().await;
            }
            this.pending.lock().remove(&key);
        });
    }

    /// Asks once; whether the upstream said something, be it that there is no such collection.
    async fn learn(&self, key: &CollectionKey) -> bool {
        let clock = self.timeline.clock(key);
        let (news, asked) = (clock.news(), Instant::now());
        match self.access.source().head(key).await {
            Ok((timestamp, total)) => self.timeline.learned(&clock, timestamp, total, news, asked),
            Err(KintoError::Absent) if clock.news() == news => self.timeline.removed(key),
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

    /// The default bucket makes a collection when it is first asked for: it is listed from then on.
    async fn default_bucket_answered(self: &Arc<Self>, write: &Write, default: &Arc<str>) {
        let resource = write.resource();
        let (Resource::Object(Object::Collection(bucket, collection))
        | Resource::Records(bucket, collection)) = &*resource
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

    async fn ask_all(self: &Arc<Self>, scope: &Scope) {
        match scope {
            Scope::Records(_) => {}
            Scope::Collection(CollectionKey { bucket, .. }) | Scope::Collections(bucket) => {
                self.access.invalidate_bucket(bucket);
            }
            Scope::Bucket(bucket) | Scope::Groups(bucket) => self.access.invalidate_groups(bucket),
            Scope::Buckets | Scope::Accounts | Scope::Everything => self.access.invalidate_all(),
        }
        for key in self.suspects(scope) {
            self.ask(&key).await;
        }
    }

    /// The collections that a write may have changed. They count as changed; permissions are in doubt.
    fn suspects(&self, scope: &Scope) -> Vec<CollectionKey> {
        let Self { timeline, access, .. } = self;
        let keys = match scope {
            Scope::Records(write) => vec![write.clock().key().clone()],
            Scope::Collection(key) => {
                access.doubt_bucket(&key.bucket);
                vec![key.clone()]
            }
            Scope::Collections(bucket) | Scope::Bucket(bucket) | Scope::Groups(bucket) => {
                access.doubt_bucket(bucket);
                let keys = timeline.clocks().into_iter().map(|clock| clock.key().clone());
                keys.filter(|key| key.bucket == *bucket).collect()
            }
            Scope::Buckets | Scope::Accounts | Scope::Everything => {
                access.doubt_all();
                timeline.clocks().into_iter().map(|clock| clock.key().clone()).collect()
            }
        };
        for key in &keys {
            timeline.touched(key);
        }
        keys
    }

    /// What is in the scope was changed by these writes.
    async fn changed<'w>(
        self: &Arc<Self>,
        scope: &Scope,
        changed: impl Iterator<Item = (&'w Write, &'w Answer)>,
    ) {
        if let Scope::Records(under_way) = scope {
            return self.records(under_way, changed).await;
        }
        let Self { timeline, access, .. } = &**self;
        for (write, answer) in changed {
            match scope {
                // A list that cannot be read says nothing of what was deleted.
                Scope::Collections(_) | Scope::Buckets if !answer.names_objects() => {
                    self.ask_all(scope).await;
                }
                Scope::Records(_) => {}
                Scope::Collection(key) => {
                    access.invalidate_bucket(&key.bucket);
                    self.collection(key, write, answer).await;
                }
                Scope::Collections(bucket) => {
                    access.invalidate_bucket(bucket);
                    for id in answer.ids() {
                        let key = CollectionKey { bucket: bucket.clone(), collection: id.into() };
                        self.collection(&key, write, answer).await;
                    }
                }
                Scope::Bucket(bucket) => self.bucket(bucket, write),
                Scope::Buckets => answer.ids().for_each(|bucket| self.bucket(bucket, write)),
                Scope::Groups(bucket) => access.invalidate_groups(bucket),
                Scope::Accounts => access.invalidate_all(),
                Scope::Everything => {
                    access.invalidate_all();
                    timeline.removed_all();
                }
            }
        }
    }

    async fn records<'w>(
        self: &Arc<Self>,
        under_way: &WriteUnderWay,
        changed: impl Iterator<Item = (&'w Write, &'w Answer)>,
    ) {
        let clock = under_way.clock();
        let mut timestamps: Vec<Timestamp> = Vec::new();
        for (write, answer) in changed.filter(|(write, answer)| !answer.changed_nothing(&write.method)) {
            let Some(written) = answer.timestamps() else { return self.ask(clock.key()).await };
            if write.method == Method::DELETE {
                clock.bury(&written);
            }
            timestamps.extend(written);
        }
        if timestamps.is_empty() {
            return;
        }
        if clock.timestamp() == Timestamp::ZERO {
            // In the default bucket, the first record makes bucket and collection.
            self.access.invalidate_bucket(&clock.key().bucket);
        }
        self.timeline.acknowledged(under_way, &timestamps);
    }

    async fn collection(self: &Arc<Self>, key: &CollectionKey, write: &Write, answer: &Answer) {
        if write.method == Method::DELETE {
            self.timeline.removed(key);
        } else if answer.status == StatusCode::CREATED {
            self.ask(key).await;
        } else {
            self.timeline.touched(key);
        }
    }

    fn bucket(&self, bucket: &str, write: &Write) {
        if write.method == Method::DELETE {
            self.access.invalidate_groups(bucket);
            self.timeline.removed_from_bucket(bucket, &|_| false);
        } else {
            self.bucket_changed(bucket);
        }
    }

    /// Nothing that was known of who may read what is in a bucket holds any more, here and in the caches that are told.
    pub(super) fn bucket_changed(&self, bucket: &str) {
        self.access.invalidate_groups(bucket);
        self.timeline.bucket_changed(bucket);
    }
}

// === impl Scope ===

impl Scope {
    /// What a write changes that is not about records.
    fn of(target: &Target) -> Self {
        match target {
            Target::Object(Object::Collection(bucket, collection)) => {
                Self::Collection(CollectionKey::new(bucket, collection))
            }
            Target::Object(Object::Bucket(bucket)) => Self::Bucket(bucket.as_str().into()),
            Target::List(Resource::Collections(bucket)) => Self::Collections(bucket.as_str().into()),
            Target::Object(Object::Group(bucket, _)) | Target::List(Resource::Groups(bucket)) => {
                Self::Groups(bucket.as_str().into())
            }
            Target::List(_) => Self::Buckets,
            Target::Accounts => Self::Accounts,
            // Those on records have a scope for each collection.
            Target::Object(Object::Record(..)) | Target::Part(_) | Target::Everything => Self::Everything,
        }
    }
}
