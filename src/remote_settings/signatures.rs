//! Signatures of changesets, looked at as Remote Settings' clients look at them.
//!
//! Records and signature are two objects, and whatever signs may be late or wrong: clients that got the two from different
//! moments throw away what they have, and ask for all of it. So a changeset that does not verify is not published while
//! the last one that did is still kept, and neither is there an error where a collection changes faster than it is read.
//!
//! A content is looked at once for all who ask, and the verification stays with it. Where it cannot be told (nobody answers at
//! the `x5u`), or a chain may be another one by now, it is looked at again after a while, in the background.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout};

mod chain;
mod held;
mod verifier;

use crate::complaint::Complaint;
use crate::kinto::{CollectionKey, Timestamp};
use crate::mirror::verification::Verification;
use crate::mirror::{Freshness, Mirror, Mirrors, State};
use crate::settings::Settings;
use crate::timeline::Timeline;
use crate::timeline::entries::Entries;
use crate::upstream::kinto::KintoError;
use held::Held;
use verifier::{CHAIN_KEPT, OTHER_CHAIN, REACHED_AGAIN};
pub use verifier::{SignatureError, Verifier, own_key};

/// How long all others wait for a look at one collection's signature.
const SHORTLY: Duration = Duration::from_secs(1);

/// Looks at signatures, where the settings say so.
#[derive(Debug)]
pub struct Signatures {
    is_on: bool,
    verifier: Verifier,
    timeline: Arc<Timeline>,
    background: Handle,
    /// Collections whose present changesets do not verify, and why.
    bad: Mutex<HashMap<CollectionKey, SignatureError>>,
    held: Mutex<Held>,
    /// When the chains of those that do end.
    ends: Mutex<HashMap<CollectionKey, SystemTime>>,
}

/// Who waits for a signature to be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waits {
    /// Those who want this collection.
    ToTheEnd,
    /// Those who want all collections there are. What takes long in one of them, an editor of that may have chosen.
    Shortly,
}

impl Signatures {
    /// Looks at nothing yet.
    pub fn new(settings: &Settings, timeline: Arc<Timeline>, background: Handle) -> Self {
        Self {
            is_on: settings.remote_settings.verify_signatures,
            verifier: Verifier::new(settings),
            timeline,
            background,
            bad: Mutex::default(),
            held: Mutex::default(),
            ends: Mutex::default(),
        }
    }

    /// Whether signatures are looked at.
    pub fn is_on(&self) -> bool {
        self.is_on
    }

    /// What is to be published of a collection: its content, at least as new as `newest` if the upstream has that, or the
    /// last one that verified, where it does not verify or changes faster than it can be read. The flag says whether what
    /// is given verifies.
    pub async fn published(
        self: &Arc<Self>,
        mirrors: &Arc<Mirrors>,
        mirror: &Arc<Mirror>,
        newest: Option<Timestamp>,
        waits: Waits,
    ) -> Result<(Arc<State>, Freshness, bool), KintoError> {
        let began = Instant::now();
        let error = match mirrors.current(mirror, newest).await {
            Ok((state, freshness)) => {
                let (state, is_good) = self.publishable(mirror, state, waits).await;
                return Ok((state, freshness, is_good));
            }
            Err(error) => error,
        };
        let good = mirror.good().filter(|_| matches!(error, KintoError::Unsettled)).ok_or(error)?;
        self.held.lock().note(mirror.clock().key(), began, Some(good.content.timestamp));
        Ok((good, Freshness::Stale, true))
    }

    async fn publishable(
        self: &Arc<Self>,
        mirror: &Arc<Mirror>,
        state: Arc<State>,
        waits: Waits,
    ) -> (Arc<State>, bool) {
        let key = mirror.clock().key();
        // Nobody signs what is not for Remote Settings' readers.
        if !self.is_on || !self.timeline.resources().include(key) {
            return (state, true);
        }
        let is_good = self.is_good(mirror, &state);
        let is_good = match waits {
            Waits::ToTheEnd => is_good.await,
            // It goes on, and tells of a good one.
            Waits::Shortly => timeout(self.patience(key), is_good).await.unwrap_or(false),
        };
        if is_good {
            mirror.set_good(&state);
        }
        // Meanwhile a newer one may have been found to be good.
        match mirror.good() {
            Some(good) => {
                let timestamp = (good.began < state.began).then_some(good.content.timestamp);
                self.held.lock().note(key, state.began, timestamp);
                (good, true)
            }
            None => (state, false),
        }
    }

    /// The list with the timestamps of what is published: readers come again and again where the two differ.
    pub fn listed(&self, entries: Arc<Entries>) -> Arc<Entries> {
        self.held.lock().listed(entries)
    }

    /// The collections whose present changesets do not verify, or were not read.
    pub fn unpublished(&self) -> HashSet<CollectionKey> {
        let bad: HashSet<CollectionKey> = self.bad.lock().keys().cloned().collect();
        self.held.lock().keys().cloned().chain(bad).collect()
    }

    /// Forgets what is no more in the list.
    pub fn forget_all_but(&self, entries: &Entries) {
        let is_there = |key: &CollectionKey| entries.rows.iter().any(|entry| entry.key == *key);
        self.bad.lock().retain(|key, _| is_there(key));
        self.held.lock().retain(is_there);
        let mut ends = self.ends.lock();
        ends.retain(|key, _| is_there(key));
        measure(ends.values().min());
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

    /// How long others wait for what is found of a collection.
    fn patience(&self, key: &CollectionKey) -> Duration {
        let is_away = matches!(self.bad.lock().get(key), Some(SignatureError::Unknown(_)));
        if is_away { Duration::ZERO } else { SHORTLY }
    }

    async fn is_good(self: &Arc<Self>, mirror: &Arc<Mirror>, state: &Arc<State>) -> bool {
        let look = |turn| {
            let (this, mirror, state) = (Arc::clone(self), Arc::clone(mirror), Arc::clone(state));
            // It comes to its end whoever waits.
            self.background.spawn(async move { this.look(&mirror, &state, turn).await })
        };
        let Some(verification) = state.verifications.last() else {
            let turn = Arc::clone(&state.verifications.turn).lock_owned().await;
            return match state.verifications.last() {
                Some(verification) => verification.is_good,
                None => look(turn).await.unwrap_or(false),
            };
        };
        if verification.is_due()
            && let Ok(turn) = Arc::clone(&state.verifications.turn).try_lock_owned()
        {
            look(turn);
        }
        verification.is_good
    }

    async fn look(&self, mirror: &Mirror, state: &State, _turn: tokio::sync::OwnedMutexGuard<()>) -> bool {
        let verified = self.verifier.verify(&state.content).await;
        let outcome = match &verified {
            Ok(_) => "good",
            Err(SignatureError::Unknown(_)) => "unknown",
            Err(_) => "bad",
        };
        metrics::counter!("kinto_sidecar_signatures_total", "outcome" => outcome).increment(1);
        let after = |pause: Duration| Some(Instant::now() + pause);
        let was_good = state.verifications.last().is_some_and(|verification| verification.is_good);
        let verification = match &verified {
            Ok(end) => Verification { is_good: true, again: end.and_then(|_| after(CHAIN_KEPT)) },
            // What was good once is so until the contrary is known.
            Err(SignatureError::Unknown(_)) if was_good => {
                Verification { is_good: true, again: after(OTHER_CHAIN) }
            }
            Err(SignatureError::Unknown(_)) => Verification { is_good: false, again: after(REACHED_AGAIN) },
            Err(SignatureError::Chain(_)) => Verification { is_good: false, again: after(OTHER_CHAIN) },
            Err(SignatureError::Bad | SignatureError::None) => Verification { is_good: false, again: None },
        };
        state.verifications.set(verification);
        let is_present =
            mirror.state().is_some_and(|present| Arc::ptr_eq(&present.verifications, &state.verifications));
        if is_present {
            self.tell(mirror.clock().key(), verified, verification.is_good);
        }
        verification.is_good
    }

    /// Tells what was found of the present content of a collection.
    fn tell(&self, key: &CollectionKey, verified: Result<Option<SystemTime>, SignatureError>, is_good: bool) {
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
            Err(_) if is_good => {}
            Err(error) => {
                let mut bad = self.bad.lock();
                if bad.get(key) != Some(&error) {
                    tracing::warn!(collection = %key, %error, "the changeset of {key} does not verify");
                    bad.insert(key.clone(), error);
                }
            }
        }
    }
}

/// Tells when the first of the chains in use ends; no number where there is none.
fn measure(end: Option<&SystemTime>) {
    let seconds = end.and_then(|end| end.duration_since(SystemTime::UNIX_EPOCH).ok());
    metrics::gauge!("kinto_sidecar_signature_chain_expiration_timestamp_seconds")
        .set(seconds.map_or(f64::NAN, |seconds| seconds.as_secs_f64()));
}
