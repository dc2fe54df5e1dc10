//! Mirrors: the collections that readers ask for, kept in memory and up to date.
//!
//! ```text
//! reader ── Mirrors::current ──► is the content as new as the clock's news, and as what the reader knows?
//!                                   yes: the content, two atomic loads
//!                                   no:  one refresh under way per mirror, on the background runtime; all wait for it
//! ```
//!
//! A refresh is never cancelled by a reader that goes away. [`recheck`] reads each mirror once more when its collection
//! has come to rest, and compares it with a listing now and then.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;

mod bring;
pub mod compare;
pub mod content;
pub mod deletions;
pub mod opening;
pub mod recheck;
pub mod refresh;
mod revive;
mod state;
pub mod verification;

pub use state::State;

use crate::cache::Cache;
use crate::journal::Journal;
use crate::kinto::given::Given;
use crate::kinto::{CollectionKey, Timestamp};
use crate::settings::{InForce, Settings};
use crate::timeline::clock::Clock;
use crate::timeline::{self, Timeline};
use crate::upstream::kinto::KintoError;
use crate::upstream::{Suspense, UpstreamError};
use bring::Need;
use deletions::Deletions;
use refresh::{Depth, Reader};

/// The shortest pause between two questions that readers ask because they claim to know of something newer.
const SHORTEST_PAUSE: Duration = Duration::from_millis(20);

/// The longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How long a collection that is too large to be kept is remembered as such.
const OVERSIZE: Duration = Duration::from_secs(60);

/// All mirrors, bounded in bytes.
#[derive(Debug)]
pub struct Mirrors {
    /// Replaced when another size is wanted, which a cache of this kind keeps for its life.
    kept: ArcSwap<Kept>,
    /// Those that somebody holds on to, so that there is never a second one of a collection.
    held: Mutex<HashMap<CollectionKey, Weak<Mirror>>>,
    timeline: Arc<Timeline>,
    reader: Reader,
    background: Handle,
    settings: InForce,
}

type Kept = Cache<CollectionKey, Arc<Mirror>>;

/// One collection's content, and the refreshing of it.
#[derive(Debug)]
pub struct Mirror {
    clock: Arc<Clock>,
    state: ArcSwapOption<State>,
    /// The last content whose signature was found good.
    good: ArcSwapOption<State>,
    /// Held while the upstream is asked.
    gate: Arc<tokio::sync::Mutex<()>>,
    suspense: Arc<Suspense>,
    past: Mutex<Past>,
    /// Moves with each content.
    moved: watch::Sender<u64>,
    /// Tells this mirror, and the serials of its contents, from all others.
    pub lineage: u64,
    /// The places between two timestamps that readers were given.
    pub given: Given,
}

/// What happened to a mirror so far.
#[derive(Debug, Default)]
struct Past {
    /// The last refresh that failed: when it began, and why.
    failure: Option<(Instant, KintoError)>,
    /// When the last refresh ended, and how long it took.
    asked: Option<(Instant, Duration)>,
    /// When a listing was last compared.
    compared: Option<Instant>,
    /// The content before the collection was deleted: its readers are told when it is made again.
    ghost: Option<Arc<State>>,
}

/// Where a content comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// From memory.
    Hit,
    /// The upstream was asked first.
    Refreshed,
    /// The upstream fails; this is the last good content.
    Stale,
}

// === impl Mirrors ===

impl Mirrors {
    /// No mirrors yet; `sidecar.cache_size` bounds all of them together.
    pub fn new(timeline: Arc<Timeline>, reader: Reader, background: Handle, settings: InForce) -> Self {
        let kept = ArcSwap::from_pointee(kept(&settings.now()));
        Self { kept, held: Mutex::default(), timeline, reader, background, settings }
    }

    /// Another `sidecar.cache_size` is in force.
    pub fn resize(&self) {
        let resized = kept(&self.settings.now());
        for mirror in self.kept.load().values() {
            resized.insert(mirror.clock.key().clone(), mirror);
        }
        // Who puts one into the former meanwhile has it read again.
        self.kept.store(Arc::new(resized));
    }

    /// The content of a mirror, at least as new as all that was heard of it; where `newest` is plausible, at least
    /// as new as that if the upstream has it.
    pub async fn current(
        self: &Arc<Self>,
        mirror: &Arc<Mirror>,
        newest: Option<Timestamp>,
    ) -> Result<(Arc<State>, Freshness), KintoError> {
        if let Some(state) = self.hit(mirror, newest) {
            // What nothing newer was heard of may be old where nothing can be heard.
            let freshness = if self.reader.source.fails() { Freshness::Stale } else { Freshness::Hit };
            return Ok((state, freshness));
        }
        if mirror.is_oversize() {
            return Err(KintoError::Oversize);
        }
        let arrived = Instant::now();
        let after = self.settings.now().timestamps_ttl.is_zero().then_some(arrived);
        let need = Need { news: mirror.clock.news(), newest, after, arrived, depth: Depth::Ordinary };
        let last =
            || mirror.state().filter(|state| state.began.elapsed() < self.settings.now().stale_if_error);
        let brought = tokio::select! {
            brought = Box::pin(self.bring(Arc::clone(mirror), need)) => brought,
            () = Box::pin(mirror.suspense.outlasts(self.patience())), if last().is_some() => {
                Err(UpstreamError::HeadTimeout.into())
            }
        };
        match brought {
            Ok(state) => Ok((state, Freshness::Refreshed)),
            Err(error) if error.is_passing() => {
                last().map_or(Err(error), |state| Ok((state, Freshness::Stale)))
            }
            Err(error) => Err(error),
        }
    }

    /// The journal is there: what it knows of deletions belongs into the mirrors, too.
    pub fn remember_deletions(&self, journal: &Journal) {
        self.reader.deletions.set_journal(journal);
        let lacks_them =
            |mirror: &Arc<Mirror>| mirror.state().is_some_and(|state| state.content.remembers().is_none());
        for mirror in self.all().iter().filter(|mirror| lacks_them(mirror)) {
            self.timeline.touched(mirror.clock.key());
        }
    }

    /// What is known of deletions.
    pub fn deletions(&self) -> &Deletions {
        &self.reader.deletions
    }

    /// The mirror of a collection, where it is kept.
    pub fn known(&self, key: &CollectionKey) -> Option<Arc<Mirror>> {
        self.kept.load().get(key).or_else(|| self.held.lock().get(key).and_then(Weak::upgrade))
    }

    /// The mirror of a collection, empty where it was not there.
    pub fn mirror(&self, key: &CollectionKey) -> Arc<Mirror> {
        if let Some(mirror) = self.kept.load().get(key) {
            return mirror;
        }
        self.kept.load().get_with(key, || {
            let held = self.held.lock().get(key).and_then(Weak::upgrade);
            held.unwrap_or_else(|| Arc::new(Mirror::new(self.timeline.clock(key))))
        })
    }

    /// The mirror of a collection, which remains the only one as long as the caller has it.
    pub fn hold(&self, key: &CollectionKey) -> Arc<Mirror> {
        let mirror = self.mirror(key);
        let mut held = self.held.lock();
        held.retain(|_, mirror| mirror.strong_count() > 0);
        // It may have been dropped from the cache, and been replaced, between the two looks.
        let other = held.get(key).and_then(Weak::upgrade);
        other.unwrap_or_else(|| {
            held.insert(key.clone(), Arc::downgrade(&mirror));
            mirror
        })
    }

    /// Has a collection's mirror weighed again: a variant was made.
    pub fn weigh(&self, key: &CollectionKey) {
        if let Some(mirror) = self.kept.load().get(key) {
            self.kept.load().insert(key.clone(), mirror);
        }
    }

    /// Drops what is kept of a collection, once nobody reads it from the upstream; how many bytes that was. Who has heard
    /// of its rows goes on from there when it is read again.
    pub async fn forget(&self, key: &CollectionKey) -> usize {
        let Some(mirror) = self.known(key) else { return 0 };
        let _turn = mirror.gate.lock().await;
        let bytes = mirror.bytes();
        self.kept.load().invalidate(key);
        let state = mirror.set_state(None);
        // Those who follow it hold the mirror itself.
        let mut past = mirror.past.lock();
        past.ghost = state.or_else(|| past.ghost.take());
        past.failure = None;
        bytes
    }

    /// All mirrors that are kept.
    pub fn all(&self) -> Vec<Arc<Mirror>> {
        self.kept.load().values().collect()
    }

    /// Whether any content could be served while the upstream fails.
    pub fn is_warm(&self) -> bool {
        let is_young = |state: Arc<State>| state.began.elapsed() < self.settings.now().stale_if_error;
        self.kept.load().values().any(|mirror| mirror.state().is_some_and(is_young))
    }

    /// The bytes that all mirrors take, as last weighed.
    pub fn bytes(&self) -> u64 {
        self.kept.load().weight()
    }

    /// How long an upstream that says nothing is waited for, where what is kept will do.
    fn patience(&self) -> Duration {
        self.settings.now().limits.upstream_connect_timeout
    }

    /// How new an answer from this mirror may be without a question to the upstream.
    fn hit(&self, mirror: &Mirror, newest: Option<Timestamp>) -> Option<Arc<State>> {
        if self.settings.now().timestamps_ttl.is_zero() {
            return None;
        }
        let state = mirror.state.load();
        let state = state.as_ref()?;
        let current = state.news >= mirror.clock.news()
            && newest.is_none_or(|newest| state.content.timestamp >= newest);
        current.then(|| Arc::clone(state))
    }
}

fn kept(settings: &Settings) -> Kept {
    Cache::builder(settings.cache_size).weigher(|_, mirror: &Arc<Mirror>| mirror.bytes()).build()
}

// === impl Mirror ===

impl Mirror {
    fn new(clock: Arc<Clock>) -> Self {
        Self {
            clock,
            state: ArcSwapOption::empty(),
            good: ArcSwapOption::empty(),
            gate: Arc::default(),
            suspense: Arc::default(),
            past: Mutex::default(),
            moved: watch::Sender::new(0),
            lineage: timeline::lineage(),
            given: Given::default(),
        }
    }

    /// The collection's clock.
    pub fn clock(&self) -> &Arc<Clock> {
        &self.clock
    }

    /// The bytes that it takes.
    pub fn bytes(&self) -> usize {
        let weight = |state: Arc<State>| state.content.weight() + state.variants.bytes();
        let state = self.state();
        let is_present = |good: &Arc<State>| state.as_ref().is_some_and(|state| Arc::ptr_eq(state, good));
        let good = self.good().filter(|good| !is_present(good)).map_or(0, weight);
        state.map_or(1024, weight) + good
    }

    /// The last content whose signature was found good.
    pub fn good(&self) -> Option<Arc<State>> {
        self.good.load_full()
    }

    /// The signature of this content is good. One that was read later stays.
    pub fn set_good(&self, state: &Arc<State>) {
        let is_newer = |good: &Arc<State>| good.began < state.began;
        if self.good.load().as_ref().is_none_or(is_newer) {
            self.good.rcu(|good| match good {
                Some(good) if !is_newer(good) => Some(Arc::clone(good)),
                _ => Some(Arc::clone(state)),
            });
            self.clock.epoch().advance();
        }
    }

    /// Another content is kept, or none any more; the one that was.
    fn set_state(&self, state: Option<Arc<State>>) -> Option<Arc<State>> {
        let before = self.state.swap(state);
        self.clock.epoch().advance();
        before
    }

    /// What is made again under its name is another one.
    fn forget_good(&self) {
        self.good.store(None);
        self.clock.epoch().advance();
    }

    /// What is kept, however old.
    pub fn state(&self) -> Option<Arc<State>> {
        self.state.load_full()
    }

    /// Told of each new content.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.moved.subscribe()
    }

    /// What is kept, where it accounts for all that was heard of the collection.
    pub fn settled(&self) -> Option<Arc<State>> {
        self.state().filter(|state| state.news >= self.clock.news())
    }

    /// Whether this is what is kept, accounts for all that was heard of the collection, and is published rather than
    /// another content whose signature is good. Where it is so no more, the epoch has moved since.
    pub fn is_still(&self, state: &Weak<State>) -> bool {
        let is_it = |other: &Arc<State>| std::ptr::eq(Arc::as_ptr(other), state.as_ptr());
        let kept = self.state.load();
        kept.as_ref().is_some_and(|kept| is_it(kept) && kept.news >= self.clock.news())
            && self.good.load().as_ref().is_none_or(is_it)
    }

    /// Whether the last read found the collection too large to be kept. It is not read again to be thrown away for some time.
    fn is_oversize(&self) -> bool {
        let past = self.past.lock();
        past.failure
            .as_ref()
            .is_some_and(|(when, error)| matches!(error, KintoError::Oversize) && when.elapsed() < OVERSIZE)
    }

    /// The failure of a refresh that began after `arrived`.
    fn failure_since(&self, arrived: Instant) -> Option<KintoError> {
        let past = self.past.lock();
        past.failure.as_ref().filter(|(began, _)| *began >= arrived).map(|(_, error)| error.clone())
    }

    /// How long to wait before the upstream is asked for nothing better than a reader's claim.
    fn pause(&self, need: &Need) -> Option<Duration> {
        let state = self.state.load();
        let only_claimed = state.as_ref().is_some_and(|state| state.news >= need.news);
        let (ended, took) = self.past.lock().asked?;
        let pause = (took * 3).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
        (only_claimed && need.newest.is_some())
            .then(|| pause.saturating_sub(ended.elapsed()))
            .filter(|pause| !pause.is_zero())
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        // What stands on it stands no more.
        self.clock.epoch().advance();
    }
}
