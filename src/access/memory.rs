//! What the upstream said, by what it was asked, for a while.
//!
//! Names are hashes: however long ids and credentials are, what is remembered of a question takes the same room. All is
//! weighed in bytes. Refusals are what a stranger can make the upstream say without end, so they are remembered apart from
//! what is granted, fewer of them and for a shorter time.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, LazyLock, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Credentials;
use super::epoch::{Epoch, Moment};
use crate::cache::Cache;
use crate::current;
use crate::kinto::CollectionKey;
use crate::upstream::{Suspense, Turn, Upstream, UpstreamError};

/// For how long something is remembered that nobody asks for.
const IDLE: Duration = Duration::from_secs(3600);
/// For how long a refusal is remembered.
const REFUSED: Duration = Duration::from_secs(60);
/// How much less room there is for refusals.
const REFUSED_SHARE: u64 = 8;
/// What an answer takes beside what it holds, in bytes.
const OVERHEAD: usize = 320;

/// What was asked, and by whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Name([u64; 2]);

/// An answer of the upstream.
pub(super) trait Answer: Clone + Send + Sync + 'static {
    /// How many bytes it holds.
    fn weight(&self) -> usize;

    /// Whether it says no.
    fn is_refusal(&self) -> bool {
        false
    }
}

/// Answers by what was asked.
pub(super) struct Memory<T> {
    given: Cache<Name, Arc<Known<T>>>,
    refused: Cache<Name, Arc<Known<T>>>,
    gates: Gates,
    upstream: Option<Upstream>,
}

struct Known<T> {
    value: T,
    asked: Instant,
    at: Moment,
}

type Gates = Arc<Mutex<HashMap<Name, Weak<Gate>>>>;

/// Where those wait who ask the same.
struct Gate {
    name: Name,
    gates: Gates,
    /// Held while the upstream is asked.
    turn: Arc<tokio::sync::Mutex<()>>,
    failure: Mutex<Option<(Instant, UpstreamError)>>,
    suspense: Suspense,
}

impl Name {
    /// The name of a question of this kind about something.
    ///
    /// SECURITY: two questions of one name would be one. The hashes have keys that nobody outside of the process knows, so
    /// nobody can look for such questions. A digest without a key would do as well, at ten times the cost to each request.
    pub(super) fn new(kind: &str, subject: &[&str], credentials: &Credentials) -> Self {
        static KEYS: LazyLock<[RandomState; 2]> = LazyLock::new(<[RandomState; 2]>::default);
        Self(KEYS.each_ref().map(|keys| keys.hash_one((kind, subject, credentials.digest()))))
    }

    /// The name of the question whether somebody may read a collection.
    pub(super) fn collection(key: &CollectionKey, credentials: &Credentials) -> Self {
        Self::new("collection", &[&key.bucket, &key.collection], credentials)
    }
}

// === impl Memory ===

impl<T: Answer> Memory<T> {
    /// Nothing is remembered yet; then at most so many bytes are.
    /// Requesters take a place of `upstream`'s before they wait for each other.
    pub(super) fn new(bytes: u64, upstream: Option<Upstream>) -> Self {
        let weigh = |_: &Name, known: &Arc<Known<T>>| OVERHEAD.saturating_add(known.value.weight());
        let refused = Cache::builder(bytes / REFUSED_SHARE).weigher(weigh);
        Self {
            given: Cache::builder(bytes).weigher(weigh).time_to_idle(IDLE).build(),
            refused: refused.time_to_live(REFUSED).build(),
            gates: Gates::default(),
            upstream,
        }
    }

    /// What the upstream says. It is asked where nothing is remembered, or for longer than twice `ttl`; after `ttl` it is
    /// asked behind the back of a requester, who gets what is remembered. Where there is something else for them, they wait no
    /// longer than `patience` for an upstream that says nothing; that is looked for only where somebody has to wait.
    pub(super) async fn get<Q>(
        self: &Arc<Self>,
        name: Name,
        epoch: &Arc<Epoch>,
        ttl: Duration,
        patience: impl FnOnce() -> Option<Duration>,
        question: impl FnOnce() -> Q,
    ) -> Result<T, UpstreamError>
    where
        Q: Future<Output = Result<T, UpstreamError>> + Send + 'static,
    {
        let arrived = Instant::now();
        if let Some(known) =
            self.current(name, epoch).filter(|known| arrived.duration_since(known.asked) < 2 * ttl)
        {
            if arrived.duration_since(known.asked) >= ttl {
                let gate = self.gate(name);
                // Where there is no place, it is asked by those who come later.
                let place = self.upstream.as_ref().map(Upstream::try_turn);
                if let (Ok(turn), Some(place)) =
                    (Arc::clone(&gate.turn).try_lock_owned(), place.unwrap_or_else(|| Some(Turn::default())))
                {
                    let _unwatched = self.ask(gate, (turn, place), epoch, question());
                }
            }
            return Ok(known.value.clone());
        }
        let patience = patience();
        // SECURITY: a name belongs to one requester, so those who wait here for the same question ask alike.
        let gate = self.gate(name);
        // Boxed, as it is with few requests and is large.
        let asked = Box::pin(self.ask_in_turn(Arc::clone(&gate), epoch, ttl, arrived, question));
        tokio::select! {
            answer = asked => answer,
            // The question goes on for those who come later.
            () = Box::pin(gate.suspense.outlasts(patience.unwrap_or_default())), if patience.is_some() => {
                Err(UpstreamError::HeadTimeout)
            }
        }
    }

    async fn ask_in_turn<Q>(
        self: &Arc<Self>,
        gate: Arc<Gate>,
        epoch: &Arc<Epoch>,
        ttl: Duration,
        arrived: Instant,
        question: impl FnOnce() -> Q,
    ) -> Result<T, UpstreamError>
    where
        Q: Future<Output = Result<T, UpstreamError>> + Send + 'static,
    {
        let _waiting = current::wait();
        let name = gate.name;
        // SECURITY: who holds the gate has a place, and keeps those who wait for it waiting for the upstream alone.
        let place = match &self.upstream {
            Some(upstream) => upstream.turn().await?,
            None => Turn::default(),
        };
        let turn = Arc::clone(&gate.turn).lock_owned().await;
        let is_new = |known: &Arc<Known<T>>| known.asked >= arrived || known.asked.elapsed() < ttl;
        if let Some(known) = self.current(name, epoch).filter(is_new) {
            return Ok(known.value.clone());
        }
        let failure = gate.failure.lock().clone();
        if let Some((_, error)) = failure.filter(|(ended, _)| *ended >= arrived) {
            return Err(error);
        }
        let asking = self.ask(gate, (turn, place), epoch, question());
        asking.await.unwrap_or_else(|error| Err(UpstreamError::Unexpected(error.to_string().into())))
    }

    /// What was said no longer than `age` ago, was no refusal, and is not known to have changed.
    pub(super) fn given(&self, name: Name, epoch: &Arc<Epoch>, age: Duration) -> Option<T> {
        self.given_at(name, epoch, age).map(|(value, _)| value)
    }

    /// The same, and when it was asked for.
    pub(super) fn given_at(&self, name: Name, epoch: &Arc<Epoch>, age: Duration) -> Option<(T, Instant)> {
        let known = self.known(name).filter(|known| known.at.may_be(epoch.now()))?;
        (known.asked.elapsed() < age && !known.value.is_refusal()).then(|| (known.value.clone(), known.asked))
    }

    /// Takes what the upstream said before this process. It is asked anew before that counts, unless it cannot be.
    pub(super) fn revive(&self, name: Name, epoch: &Epoch, value: T, asked: Instant) {
        self.keep(name, Known { value, asked, at: epoch.doubtful() });
    }

    /// What is remembered, unless permissions may have changed since it was asked for.
    fn current(&self, name: Name, epoch: &Epoch) -> Option<Arc<Known<T>>> {
        self.known(name).filter(|known| known.at == epoch.now())
    }

    /// Looks at what was said, however long ago.
    pub(super) fn look<R>(&self, name: Name, look: impl FnOnce(&T) -> R) -> Option<R> {
        self.known(name).map(|known| look(&known.value))
    }

    fn known(&self, name: Name) -> Option<Arc<Known<T>>> {
        self.given.get(&name).or_else(|| self.refused.get(&name))
    }

    fn keep(&self, name: Name, known: Known<T>) {
        let (to, from) = if known.value.is_refusal() {
            (&self.refused, &self.given)
        } else {
            (&self.given, &self.refused)
        };
        from.invalidate(&name);
        to.insert(name, Arc::new(known));
    }

    fn gate(&self, name: Name) -> Arc<Gate> {
        let mut gates = self.gates.lock();
        if let Some(gate) = gates.get(&name).and_then(Weak::upgrade) {
            return gate;
        }
        let gate = Arc::new(Gate {
            name,
            gates: Arc::clone(&self.gates),
            turn: Arc::default(),
            failure: Mutex::default(),
            suspense: Suspense::default(),
        });
        gates.insert(name, Arc::downgrade(&gate));
        gate
    }

    /// Asks the upstream in a task of its own: it goes on for the others if the requester goes away.
    fn ask(
        self: &Arc<Self>,
        gate: Arc<Gate>,
        turn: (OwnedMutexGuard<()>, Turn),
        epoch: &Arc<Epoch>,
        question: impl Future<Output = Result<T, UpstreamError>> + Send + 'static,
    ) -> JoinHandle<Result<T, UpstreamError>> {
        let (memory, epoch) = (Arc::clone(self), Arc::clone(epoch));
        current::spawn(async move {
            let _turn = turn;
            let (asked, at) = (Instant::now(), epoch.now());
            let asking = gate.suspense.begin();
            let answer = question.await;
            drop(asking);
            match &answer {
                Ok(value) => memory.keep(gate.name, Known { value: value.clone(), asked, at }),
                // The others ask for themselves.
                Err(error) if error.is_of_asker() => {}
                Err(error) => {
                    *gate.failure.lock() = Some((Instant::now(), error.clone()));
                }
            }
            answer
        })
    }
}

impl<T> fmt::Debug for Memory<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Memory")
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        let mut gates = self.gates.lock();
        // Somebody may have made another one meanwhile.
        if gates.get(&self.name).is_some_and(|gate| gate.strong_count() == 0) {
            gates.remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderMap;
    use http::header::{AUTHORIZATION, HeaderValue};

    #[derive(Clone)]
    struct Said(usize, bool);

    impl Answer for Said {
        fn weight(&self) -> usize {
            self.0
        }

        fn is_refusal(&self) -> bool {
            self.1
        }
    }

    fn name(number: usize) -> Name {
        let value = HeaderValue::try_from(format!("Basic {number}{}", "x".repeat(60_000))).unwrap();
        Name::new("records", &["a"], &Credentials::of(&HeaderMap::from_iter([(AUTHORIZATION, value)])))
    }

    async fn ask(memory: &Arc<Memory<Said>>, number: usize, answer: Said) {
        let epoch = Arc::default();
        let said = memory.get(name(number), &epoch, IDLE, || None, || async { Ok(answer) }).await;
        assert!(said.is_ok());
    }

    #[tokio::test]
    async fn what_is_remembered_is_bounded_in_bytes_and_refusals_more_so() {
        let memory = Arc::new(Memory::new(1 << 20, None));
        for number in 0..200 {
            ask(&memory, number, Said(64 << 10, number % 2 == 0)).await;
        }
        // So many of 64 KiB fit.
        assert!((10..=16).contains(&memory.given.settled()), "{}", memory.given.settled());
        assert!(memory.refused.settled() <= 2, "{}", memory.refused.settled());
        assert!(memory.gates.lock().is_empty());
    }

    #[tokio::test]
    async fn a_name_has_one_answer() {
        let (memory, epoch) = (Arc::new(Memory::new(1 << 20, None)), Arc::<Epoch>::default());
        ask(&memory, 1, Said(1, false)).await;
        assert!(memory.given(name(1), &epoch, IDLE).is_some());
        memory.keep(name(1), Known { value: Said(1, true), asked: Instant::now(), at: epoch.now() });
        assert!(memory.given(name(1), &epoch, IDLE).is_none());
        assert!(memory.current(name(1), &epoch).is_some_and(|known| known.value.1));
    }

    #[test]
    fn other_questions_have_other_names() {
        let nobody = Credentials::of(&HeaderMap::new());
        let of = |kind, subject: &[&str]| Name::new(kind, subject, &nobody);
        assert_ne!(of("a", &["b", "c"]), of("a", &["bc"]));
        assert_ne!(of("a", &["b"]), of("b", &["b"]));
        assert_ne!(of("records", &["a"]), name(1));
        assert_ne!(name(2), name(1));
        assert_eq!(name(1), name(1));
    }
}
