//! Asking the upstream for timestamps, for what is written past the sidecar.
//!
//! Asking is dear (several milliseconds of Kinto's time for each collection), so polling paces itself by the time that
//! the upstream takes to answer: after each question it rests until it has kept the upstream busy for no more than
//! [`sidecar.poll_budget`](super::budget) of the time. As long as that does, everything that is monitored, journalled or
//! listened to is asked for each `sidecar.timestamps_ttl`; beyond it, [`order`] says what waits. A [`sweep`] asks for
//! everything once, for readers who cannot be answered without it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

mod ask;
mod behalf;
mod error;
pub mod heads;
mod order;
mod sweep;
mod unreadable;

use super::Timeline;
use super::budget::{Budget, Turn};
use super::collection_list::CollectionList;
use super::entries::Entries;
use crate::current;
use crate::kinto::Timestamp;
use crate::upstream::{Outage, Suspense, Upstream};
use ask::Asker;
pub use error::PollError;
use sweep::{Purpose, Sweep};
pub use unreadable::Lacking;
use unreadable::Unreadable;

/// The longest time for which a reader waits for a sweep.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// How long what readers claim to know is not looked for again in a bucket.
const BETWEEN_CLAIMS: Duration = Duration::from_secs(1);

/// How far ahead of the budget a sweep goes for somebody who knows of something newer.
const ADVANCE: Duration = Duration::from_secs(30);

/// The pause after the upstream could not be asked, where somebody waits, and where nobody does.
const AFTER_FAILURE: Duration = Duration::from_secs(1);
const UNWANTED: Duration = Duration::from_secs(10);

/// The shortest pause between two looks at what is due, where nothing is.
const SHORTEST_PAUSE: Duration = Duration::from_millis(20);

/// How long a bucket is left alone that the service account may not read, or not all of it.
const UNREADABLE: Duration = Duration::from_secs(10);

/// How long it is remembered how the asking for a bucket's list ended.
const REMEMBERED: Duration = Duration::from_secs(30);

/// Paces the questions and shares their outcome.
#[derive(Debug)]
pub struct Poller {
    timeline: Arc<Timeline>,
    ttl: Duration,
    budget: Arc<Budget>,
    exclusive: bool,
    /// The most that the settings allow in a batch; 0 where they do not say.
    most: usize,
    wishes: Mutex<Wishes>,
    wake: Notify,
    outcome: watch::Sender<Outcome>,
    suspense: Suspense,
    unreadable: Arc<Unreadable>,
    outage: Arc<Outage>,
    /// How long an upstream that says nothing is waited for, where what is known will do.
    patience: Duration,
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

/// A place in the line of those who ask within the budget.
type Place = Pin<Box<dyn Future<Output = Turn> + Send>>;

impl Poller {
    /// A poller for `timeline`; nothing is asked before [`Poller::run`].
    pub fn new(
        timeline: Arc<Timeline>,
        ttl: Duration,
        budget: Arc<Budget>,
        exclusive: bool,
        batch_max_requests: usize,
        outage: Arc<Outage>,
        patience: Duration,
    ) -> Self {
        Self {
            timeline,
            ttl,
            budget,
            exclusive,
            most: batch_max_requests,
            wishes: Mutex::default(),
            wake: Notify::new(),
            outcome: watch::Sender::default(),
            suspense: Suspense::default(),
            unreadable: Arc::default(),
            outage,
            patience,
        }
    }

    /// The list of timestamps: waited for where nothing is known yet, where `timestamps_ttl` is zero, and where the reader
    /// knows of something `newest` that the list does not have. The flag says that the upstream fails, and that the list
    /// may be behind.
    pub async fn entries(&self, newest: Option<Timestamp>) -> Result<(Arc<Entries>, bool), PollError> {
        let entries = self.timeline.entries();
        let is_loaded = self.timeline.is_loaded();
        let claim = newest.filter(|newest| *newest > entries.timestamp);
        if self.timeline.resources().is_empty() || (is_loaded && !self.ttl.is_zero() && claim.is_none()) {
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
            self.ended(arrived, |_| self.timeline.is_loaded()).await
        } else if self.ttl.is_zero() {
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
            Err(error) if !self.timeline.is_loaded() => Err(error),
            asked => Ok((self.timeline.entries(), asked.is_err() || self.is_behind())),
        }
    }

    /// Whether what is known may be old, as the upstream fails or says nothing.
    pub fn is_behind(&self) -> bool {
        // Where nobody writes but those who tell, nothing can be behind.
        !self.exclusive && (self.outage.lasts().is_some() || self.suspense.has_outlasted(self.patience))
    }

    /// For how long that has been so, in seconds.
    pub fn behind_for(&self) -> u64 {
        self.outage.lasts().unwrap_or_default().max(self.suspense.lasts()).as_secs()
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
        if list.is_loaded() && !self.ttl.is_zero() && (!behind || is_claimed_again) {
            return Ok(list);
        }
        let is_paid = list.is_loaded() && !self.ttl.is_zero();
        self.lock().buckets.insert(bucket.into(), is_paid);
        self.wake.notify_one();
        let is_asked =
            |outcome: &Outcome| outcome.buckets.get(bucket).is_some_and(|(asked, _)| *asked >= arrived);
        let waited = tokio::time::timeout(LONGEST_WAIT, outcome.wait_for(is_asked));
        let ended = tokio::select! {
            ended = waited => ended,
            () = Box::pin(self.suspense.outlasts(self.patience)), if list.is_loaded() => return Ok(list),
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
            () = Box::pin(self.suspense.outlasts(self.patience)), if self.timeline.is_loaded() => Err(PollError::TooSlow),
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

    /// Waits until all that is monitored was asked for once, or that failed, or takes long.
    pub async fn first_asked(&self) {
        if self.timeline.resources().is_empty() || self.timeline.is_loaded() {
            return;
        }
        let mut outcome = self.outcome.subscribe();
        let is_over = |outcome: &Outcome| outcome.done.is_some() || outcome.failed.is_some();
        _ = tokio::time::timeout(LONGEST_WAIT, outcome.wait_for(is_over)).await;
    }

    /// Asks until the process ends.
    pub async fn run(self: Arc<Self>, upstream: Upstream, overlap: Duration) {
        let unreadable = Arc::clone(&self.unreadable);
        let mut asker = Asker::new(self.timeline.clone(), upstream, overlap, self.most, unreadable);
        let mut sweeps: VecDeque<Sweep> = VecDeque::new();
        let mut place: Option<Place> = None;
        let mut hold: Option<Instant> = None;
        loop {
            let mut next = self.begin_sweeps(&mut sweeps);
            hold = hold.filter(|hold| *hold > Instant::now());
            if place.is_none() && hold.is_none() && !self.exclusive {
                let (question, later) = asker.next(self.ttl, !sweeps.is_empty());
                place = question.map(|_| -> Place { Box::pin(self.budget.clone().turn()) });
                if place.is_none() {
                    // All clocks were looked at. What begins to matter meanwhile is looked at soon.
                    let soon = Instant::now() + self.ttl.clamp(SHORTEST_PAUSE, AFTER_FAILURE);
                    hold = later.into_iter().chain([soon]).min();
                }
            }
            next = next.into_iter().chain(hold).min();
            let debt = self.budget.debt();
            let ready = sweeps.iter().position(|sweep| !sweep.is_paid() || debt <= ADVANCE);
            if ready.is_none() && !sweeps.is_empty() {
                next = next.into_iter().chain([Instant::now() + debt.saturating_sub(ADVANCE)]).min();
            }
            tokio::select! {
                mut turn = taken(&mut place) => {
                    place = None;
                    hold = self.ask(&mut asker, &mut turn, !sweeps.is_empty()).await;
                }
                () = std::future::ready(()), if ready.is_some() => {
                    if let Some(sweep) = ready.and_then(|ready| sweeps.remove(ready)) {
                        sweeps.extend(self.step(sweep, &mut asker).await);
                    }
                }
                () = self.wake.notified() => {}
                () = until(next) => {}
            }
        }
    }

    /// Begins what is wanted; when to look again, if that is known.
    fn begin_sweeps(&self, sweeps: &mut VecDeque<Sweep>) -> Option<Instant> {
        let now = Instant::now();
        let outcome = self.outcome.borrow().clone();
        let failed = outcome.failed.as_ref().map(|failed| failed.began);
        let mut wishes = self.lock();
        wishes.buckets.retain(|bucket, is_paid| {
            let is_of_it =
                |sweep: &Sweep| matches!(&sweep.purpose, Purpose::Bucket(other, _) if other == bucket);
            let is_under_way = sweeps.iter().any(is_of_it);
            if !is_under_way {
                sweeps.push_back(Sweep::begin(Purpose::Bucket(Arc::clone(bucket), *is_paid)));
            }
            is_under_way
        });
        if sweeps.iter().any(|sweep| !matches!(sweep.purpose, Purpose::Bucket(..))) {
            return None;
        }
        if !self.timeline.is_loaded() {
            if self.timeline.resources().is_empty() {
                return None;
            }
            let is_wanted = wishes.first > failed;
            let pause = if is_wanted { AFTER_FAILURE } else { UNWANTED };
            let at = outcome.failed.as_ref().map_or(now, |failed| failed.until.max(failed.began + pause));
            if at > now {
                return Some(at);
            }
            sweeps.push_back(Sweep::begin(Purpose::Everything));
        } else if wishes.anew > outcome.done.max(failed) {
            sweeps.push_back(Sweep::begin(Purpose::Everything));
        } else if let Some((newest, claimed)) = wishes.claim {
            let is_open = newest > self.timeline.newest()
                && Some(claimed) > outcome.examined.max(outcome.done).max(failed);
            let debt = self.budget.debt();
            if is_open && !debt.is_zero() {
                return Some(now + debt);
            }
            wishes.claim = None;
            if is_open {
                sweeps.push_back(Sweep::begin(Purpose::Claim(newest)));
            }
        }
        None
    }

    /// Goes on with a sweep, and gives it back if there is more to ask.
    async fn step(&self, mut sweep: Sweep, asker: &mut Asker) -> Option<Sweep> {
        let asking = self.suspense.begin();
        let (ended, busy) = sweep.step(asker).await;
        drop(asking);
        if sweep.is_paid() {
            self.budget.pay(busy);
        }
        let Some(result) = ended else { return Some(sweep) };
        if result.is_ok() {
            match &sweep.purpose {
                Purpose::Everything => self.timeline.set_loaded(),
                Purpose::Bucket(bucket, _) => {
                    if let Some(list) = self.timeline.watched(bucket) {
                        list.set_loaded();
                    }
                }
                Purpose::Claim(_) => {}
            }
        }
        self.outcome.send_modify(|outcome| match (sweep.purpose, result) {
            (Purpose::Bucket(bucket, _), result) => {
                outcome.buckets.retain(|_, (asked, _)| asked.elapsed() < REMEMBERED);
                outcome.buckets.insert(bucket, (sweep.began, result));
            }
            (Purpose::Everything, Ok(())) => outcome.done = Some(sweep.began),
            (Purpose::Claim(_), Ok(())) => outcome.examined = Some(sweep.began),
            (Purpose::Everything | Purpose::Claim(_), Err(error)) => {
                if outcome.failed.as_ref().map(|failed| failed.began) <= outcome.done {
                    tracing::warn!(%error, "could not ask the upstream for timestamps");
                }
                self.note(&error);
                let until = match error {
                    // It may have taken long to be told so, and nothing is different the next time.
                    PollError::Unreadable(_) => {
                        Instant::now() + self.budget.rest(sweep.began.elapsed()).max(AFTER_FAILURE)
                    }
                    _ => sweep.began,
                };
                outcome.failed = Some(Failed { began: sweep.began, error, until });
            }
        });
        None
    }

    /// Asks for some of what is due; until when to leave the upstream alone, where it could not be asked.
    async fn ask(&self, asker: &mut Asker, turn: &mut Turn, is_swept: bool) -> Option<Instant> {
        let Some(question) = asker.next(self.ttl, is_swept).0 else {
            turn.was(Duration::ZERO);
            return None;
        };
        let asking = self.suspense.begin();
        let asked = asker.put(question).await;
        drop(asking);
        match asked {
            Ok(busy) => {
                if let Some(busy) = busy {
                    turn.was(busy);
                }
                None
            }
            Err(error) => {
                tracing::debug!(%error, "could not ask the upstream for timestamps");
                self.note(&error);
                Some(Instant::now() + AFTER_FAILURE)
            }
        }
    }

    /// What a question failed on may be all that the upstream answers with now.
    fn note(&self, error: &PollError) {
        if matches!(error, PollError::Upstream(_))
            || matches!(error, PollError::Status(status, _) if status.is_server_error())
        {
            self.outage.failed(error);
        }
    }

    fn lock(&self) -> parking_lot::MutexGuard<'_, Wishes> {
        self.wishes.lock()
    }
}

/// The turn of whoever has a place in the line.
async fn taken(place: &mut Option<Place>) -> Turn {
    match place {
        Some(place) => place.await,
        None => std::future::pending().await,
    }
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
