//! Asking the upstream for timestamps, for what is written past the sidecar.
//!
//! Asking is dear (several milliseconds of Kinto's time for each collection), so polling paces itself by the time that
//! the upstream takes to answer: after each question it rests until it has kept the upstream busy for no more than
//! [`sidecar.poll_budget`](super::budget) of the time. As long as that does, everything that is monitored, journalled or
//! listened to is asked for each `sidecar.timestamps_ttl`; beyond it, [`order`] says what waits. A [`sweep`] asks for
//! everything once, for readers who cannot be answered without it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

mod apart;
mod ask;
mod behalf;
mod error;
mod order;
mod run;
mod sweep;
mod unreadable;

use super::Timeline;
use super::budget::Budget;
use super::collection_list::CollectionList;
use super::entries::Entries;
use crate::complaint::Complaint;
use crate::current;
use crate::kinto::Timestamp;
use crate::settings::InForce;
use crate::upstream::{Outage, Suspense};
pub use error::PollError;
pub use unreadable::Lacking;
use unreadable::Unreadable;

/// The longest time for which a reader waits for a sweep.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// How long what readers claim to know is not looked for again in a bucket.
const BETWEEN_CLAIMS: Duration = Duration::from_secs(1);

/// What a question of which nothing was heard costs: whether the upstream does anything for it nobody knows.
const SILENCE: Duration = Duration::from_secs(1);

/// So many collections are named where the upstream fails on more.
const NAMED: usize = 3;

/// How long a bucket is left alone that the service account may not read, or not all of it.
const UNREADABLE: Duration = Duration::from_secs(10);

/// Paces the questions and shares their outcome.
#[derive(Debug)]
pub struct Poller {
    timeline: Arc<Timeline>,
    settings: InForce,
    budget: Arc<Budget>,
    wishes: Mutex<Wishes>,
    wake: Notify,
    outcome: watch::Sender<Outcome>,
    suspense: Suspense,
    unreadable: Arc<Unreadable>,
    outage: Arc<Outage>,
}

/// What readers wait for.
#[derive(Debug, Default)]
struct Wishes {
    /// When somebody last wanted a list where there was none.
    first: Option<Instant>,
    /// When somebody last wanted a list that was asked for after that.
    anew: Option<Instant>,
    /// The newest timestamp that somebody claims to know of, and when that was last done.
    claim: Option<(Timestamp, Instant)>,
    /// Buckets whose lists are wanted; whether within the budget.
    buckets: BTreeMap<Arc<str>, bool>,
}

/// How the last sweeps ended.
#[derive(Debug, Clone, Default)]
struct Outcome {
    /// When the last one for everything that succeeded began.
    done: Option<Instant>,
    /// When the last one began that looked for a claim.
    examined: Option<Instant>,
    failed: Option<Failed>,
    /// Buckets whose lists were asked for lately: when that began, and how it ended.
    buckets: HashMap<Arc<str>, (Instant, Result<(), PollError>)>,
}

/// The last sweep that failed.
#[derive(Debug, Clone)]
struct Failed {
    /// When it began.
    began: Instant,
    error: PollError,
    /// Before then it is not to be repeated.
    until: Instant,
}

impl Poller {
    /// A poller for `timeline`; nothing is asked before [`Poller::run`].
    pub fn new(timeline: Arc<Timeline>, settings: InForce, budget: Arc<Budget>, outage: Arc<Outage>) -> Self {
        Self {
            timeline,
            settings,
            budget,
            wishes: Mutex::default(),
            wake: Notify::new(),
            outcome: watch::Sender::default(),
            suspense: Suspense::default(),
            unreadable: Arc::default(),
            outage,
        }
    }

    fn ttl(&self) -> Duration {
        self.settings.now().timestamps_ttl
    }

    /// How long an upstream that says nothing is waited for, where what is known will do.
    fn patience(&self) -> Duration {
        self.settings.now().limits.upstream_connect_timeout
    }

    /// Other collections are monitored now: they are asked for at once.
    pub fn monitored_anew(&self) {
        self.unreadable.forget();
        self.lock().anew = Some(Instant::now());
        self.wake.notify_one();
    }

    /// The list of timestamps: waited for where nothing is known yet, where `timestamps_ttl` is zero, and where the reader
    /// knows of something `newest` that the list does not have. The flag says that the upstream fails, and that the list
    /// may be behind.
    pub async fn entries(&self, newest: Option<Timestamp>) -> Result<(Arc<Entries>, bool), PollError> {
        let entries = self.timeline.entries();
        let is_loaded = self.timeline.is_loaded();
        let claim = newest.filter(|newest| *newest > entries.timestamp);
        if self.timeline.resources().is_empty() || (is_loaded && !self.ttl().is_zero() && claim.is_none()) {
            return Ok((entries, self.is_behind()));
        }
        let arrived = Instant::now();
        if !is_loaded && let Some(error) = self.unreadable(arrived) {
            if entries.rows.is_empty() {
                return Err(error);
            }
            // What passed through is all that there is to be known.
            self.timeline.set_loaded();
            return Ok((self.timeline.entries(), self.is_behind()));
        }
        let asked = if !is_loaded {
            self.lock().first = Some(arrived);
            if self.is_revived() && self.outage.lasts().is_some() {
                // It is asked again, and nobody has to wait for that.
                self.wake.notify_one();
                return Ok((entries, true));
            }
            self.ended(arrived, |_| self.timeline.is_loaded()).await
        } else if self.ttl().is_zero() {
            self.lock().anew = Some(arrived);
            self.ended(arrived, |outcome| outcome.done.is_some_and(|done| done >= arrived)).await
        } else {
            let claim = claim.unwrap_or_default();
            {
                let mut wishes = self.lock();
                let newest = wishes.claim.map_or(claim, |(newest, _)| newest.max(claim));
                wishes.claim = Some((newest, arrived));
            }
            let is_examined = |outcome: &Outcome| {
                outcome.examined.max(outcome.done).is_some_and(|examined| examined >= arrived)
            };
            self.ended(arrived, |outcome| self.timeline.newest() >= claim || is_examined(outcome)).await
        };
        match asked {
            Err(error) if !self.timeline.is_loaded() && !self.is_revived() => Err(error),
            asked => Ok((self.timeline.entries(), asked.is_err() || self.is_behind())),
        }
    }

    /// The entries that everybody is given at once; `None` where the upstream is asked first, or they may be old.
    pub fn at_once(&self) -> Option<Arc<Entries>> {
        let is_current = self.timeline.is_loaded() && !self.ttl().is_zero() && !self.is_behind();
        is_current.then(|| self.timeline.entries())
    }

    /// Whether what is known may be old, as the upstream fails or says nothing.
    pub fn is_behind(&self) -> bool {
        if self.is_revived() {
            return true;
        }
        // Where nobody writes but those who tell, nothing can be behind.
        !self.settings.now().exclusive
            && (self.outage.lasts().is_some() || self.suspense.has_outlasted(self.patience()))
    }

    /// For how long that has been so, in seconds.
    pub fn behind_for(&self) -> u64 {
        let here = self.outage.lasts().unwrap_or_default().max(self.suspense.lasts());
        self.timeline.revived().map_or(here, |moment| here.max(moment.elapsed())).as_secs()
    }

    /// Whether what is known is from before this process.
    fn is_revived(&self) -> bool {
        self.timeline.revived().is_some()
    }

    /// The list of all collections of a bucket, complete; asked for anew where the reader knows of something `newest`
    /// that the list does not have.
    pub async fn bucket(
        &self,
        bucket: &str,
        newest: Option<Timestamp>,
    ) -> Result<Arc<CollectionList>, PollError> {
        let list = self.timeline.watch(bucket);
        let behind = newest.is_some_and(|newest| newest > list.entries().high.at);
        let arrived = Instant::now();
        let mut outcome = self.outcome.subscribe();
        let last = outcome.borrow().buckets.get(bucket).cloned();
        if let Some((asked, Err(error @ PollError::Unreadable(_)))) = &last
            && !list.is_loaded()
            && arrived - *asked < UNREADABLE
        {
            return Err(error.clone());
        }
        let last = last.map(|(asked, _)| asked);
        // What the upstream does not have it cannot be asked for again and again.
        let is_claimed_again = last.is_some_and(|asked| arrived - asked < BETWEEN_CLAIMS);
        if list.is_loaded() && !self.ttl().is_zero() && (!behind || is_claimed_again) {
            return Ok(list);
        }
        let is_paid = list.is_loaded() && !self.ttl().is_zero();
        self.lock().buckets.insert(bucket.into(), is_paid);
        self.wake.notify_one();
        let is_asked =
            |outcome: &Outcome| outcome.buckets.get(bucket).is_some_and(|(asked, _)| *asked >= arrived);
        let waited = tokio::time::timeout(LONGEST_WAIT, outcome.wait_for(is_asked));
        let ended = tokio::select! {
            ended = waited => ended,
            () = Box::pin(self.suspense.outlasts(self.patience())), if list.is_loaded() => return Ok(list),
        };
        let failure = match &ended {
            Ok(Ok(outcome)) => outcome.buckets.get(bucket).and_then(|(_, result)| result.clone().err()),
            Ok(Err(_)) | Err(_) => Some(PollError::TooSlow),
        };
        match failure {
            Some(error) if !list.is_loaded() => Err(error),
            _ => Ok(list),
        }
    }

    /// Why there is no list, where the service account may read nothing of it and was just told so.
    fn unreadable(&self, now: Instant) -> Option<PollError> {
        let outcome = self.outcome.borrow();
        let failed = outcome.failed.as_ref().filter(|failed| now < failed.until)?;
        matches!(failed.error, PollError::Unreadable(_)).then(|| failed.error.clone())
    }

    /// Waits until the outcome is `enough`, or a sweep fails that began after `moment`.
    async fn ended(&self, moment: Instant, enough: impl Fn(&Outcome) -> bool) -> Result<(), PollError> {
        let _waiting = current::wait();
        let mut outcome = self.outcome.subscribe();
        let mut moved = self.timeline.subscribe();
        self.wake.notify_one();
        let waited = async {
            loop {
                moved.mark_unchanged();
                {
                    let outcome = outcome.borrow_and_update();
                    if enough(&outcome) {
                        return Ok(());
                    }
                    if let Some(failed) = outcome.failed.as_ref().filter(|failed| failed.began >= moment) {
                        return Err(failed.error.clone());
                    }
                }
                let ended = tokio::select! {
                    ended = outcome.changed() => ended,
                    ended = moved.changed() => ended,
                };
                ended.map_err(|_| PollError::TooSlow)?;
            }
        };
        tokio::select! {
            ended = Box::pin(tokio::time::timeout(LONGEST_WAIT, waited)) => ended.unwrap_or(Err(PollError::TooSlow)),
            () = Box::pin(self.suspense.outlasts(self.patience())), if self.timeline.is_loaded() || self.is_revived() => {
                Err(PollError::TooSlow)
            }
        }
    }

    /// How old the oldest thing known of a monitored collection is.
    pub fn age(&self) -> Option<Duration> {
        let entries = self.timeline.entries();
        let ages = entries.rows.iter().filter_map(|entry| self.timeline.known_clock(&entry.key)?.age());
        ages.max()
    }

    /// What of that which is monitored cannot be read, and what is not there, as far as it was asked for.
    pub fn lacking(&self) -> Lacking {
        self.unreadable.lacking()
    }

    /// What the upstream fails to say of collections, as far as that is known of more than one question.
    pub fn set_aside(&self) -> Option<Complaint> {
        let clocks = order::followed(&self.timeline);
        let mut uris: Vec<String> =
            clocks.iter().filter(|clock| clock.is_set_aside()).map(|clock| clock.key().uri()).collect();
        uris.sort();
        let others = uris.len().saturating_sub(NAMED);
        uris.truncate(NAMED);
        if others > 0 {
            uris.push(format!("{others} others"));
        }
        (!uris.is_empty()).then(|| Complaint::set_aside(&uris))
    }

    /// Of how many collections the upstream said nothing when it was last asked.
    pub fn failing(&self) -> usize {
        order::followed(&self.timeline).iter().filter(|clock| clock.is_in_trouble()).count()
    }

    /// Waits until all that is monitored was asked for once, or that failed, or takes long.
    pub async fn first_asked(&self) {
        if self.timeline.resources().is_empty() || self.timeline.is_loaded() {
            return;
        }
        let mut outcome = self.outcome.subscribe();
        let is_over = |outcome: &Outcome| outcome.done.is_some() || outcome.failed.is_some();
        _ = tokio::time::timeout(LONGEST_WAIT, outcome.wait_for(is_over)).await;
    }

    fn lock(&self) -> parking_lot::MutexGuard<'_, Wishes> {
        self.wishes.lock()
    }
}
