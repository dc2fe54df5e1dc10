//! Asking the upstream for timestamps, for what is written past the sidecar.
//!
//! Asking is dear (several milliseconds of Kinto's time for each collection), so polling paces itself by the time that
//! the upstream takes to answer: it rests after each question until it has kept the upstream busy for no more than
//! `sidecar.poll_budget` of the time. Quiet collections are asked less often than lively ones, and none at all while
//! nobody reads. A *complete round* asks for everything at once; it is for readers who cannot be answered without it.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

pub mod ask;
pub mod heads;

use super::Timeline;
use super::clock::Clock;
use super::entries::Entries;
use super::ledger::Ledger;
use crate::kinto::Timestamp;
use crate::upstream::Upstream;
use ask::{Asker, PollError};

/// Polling goes on for this long after the last reader.
const ACTIVE: Duration = Duration::from_secs(30);

/// The longest time for which a collection that never changes is not asked for.
const LONGEST_INTERVAL: Duration = Duration::from_secs(300);

/// The longest rest after one question.
const LONGEST_REST: Duration = Duration::from_secs(60);

/// The longest time for which a reader waits for a complete round.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// The longest pause between two complete rounds that readers wait for.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Paces the questions and shares their outcome.
#[derive(Debug)]
pub struct Poller {
    timeline: Arc<Timeline>,
    ttl: Duration,
    budget: f64,
    exclusive: bool,
    /// When a reader last wanted to know anything.
    used: Mutex<Option<Instant>>,
    /// When a complete round was last wanted.
    wanted: Mutex<Option<Instant>>,
    /// Buckets whose list is not complete yet.
    incomplete: Mutex<BTreeSet<Arc<str>>>,
    wake: Notify,
    outcome: watch::Sender<Outcome>,
}

/// How the last complete rounds ended.
#[derive(Debug, Clone, Default)]
struct Outcome {
    /// When the last one that succeeded began.
    done: Option<Instant>,
    /// When the last one that failed began, and why.
    failed: Option<(Instant, PollError)>,
    /// Buckets whose lists were asked for lately: when that began, and how it ended.
    buckets: HashMap<Arc<str>, (Instant, Result<(), PollError>)>,
}

/// The rest after a question that took `busy`, so that it kept the upstream busy for no more than `budget` of the time.
pub fn rest(busy: Duration, budget: f64) -> Duration {
    if budget >= 1.0 {
        return Duration::ZERO;
    }
    let share = budget.max(0.0001);
    busy.mul_f64(1.0 / share - 1.0).min(LONGEST_REST)
}

impl Poller {
    /// A poller for `timeline`; nothing is asked before [`Poller::run`].
    pub fn new(timeline: Arc<Timeline>, ttl: Duration, budget: f64, exclusive: bool) -> Self {
        Self {
            timeline,
            ttl,
            budget,
            exclusive,
            used: Mutex::default(),
            wanted: Mutex::default(),
            incomplete: Mutex::default(),
            wake: Notify::new(),
            outcome: watch::Sender::default(),
        }
    }

    /// A reader was answered from what is known: it is worth keeping up to date.
    pub fn used(&self) {
        let mut used = lock(&self.used);
        let now = Instant::now();
        let idle = used.is_none_or(|used| now.duration_since(used) > ACTIVE);
        *used = Some(now);
        drop(used);
        if idle {
            self.wake.notify_one();
        }
    }

    /// The list of timestamps: asked for where nothing is known yet, where `timestamps_ttl` is zero, and where the reader
    /// knows of something `newest` that the list does not have. The flag says that the upstream fails, and that the list
    /// may be behind.
    pub async fn entries(&self, newest: Option<Timestamp>) -> Result<(Arc<Entries>, bool), PollError> {
        self.used();
        let resources = self.timeline.resources();
        let entries = self.timeline.entries();
        let behind = newest.is_some_and(|newest| newest > entries.timestamp);
        if resources.is_empty() || (self.timeline.is_loaded() && !self.ttl.is_zero() && !behind) {
            return Ok((entries, false));
        }
        let arrived = Instant::now();
        let asked = if self.timeline.is_loaded() {
            self.complete_after(arrived, LONGEST_WAIT).await
        } else {
            self.ended(arrived, LONGEST_WAIT, |outcome| outcome.done.is_some()).await
        };
        match asked {
            Err(error) if !self.timeline.is_loaded() => Err(error),
            asked => Ok((self.timeline.entries(), asked.is_err())),
        }
    }

    /// The list of all collections of a bucket, complete; asked for anew where the reader knows of something `newest`
    /// that the list does not have.
    pub async fn bucket(&self, bucket: &str, newest: Option<Timestamp>) -> Result<Arc<Ledger>, PollError> {
        self.used();
        let ledger = self.timeline.watch(bucket);
        let behind = newest.is_some_and(|newest| newest > ledger.entries().high);
        let arrived = Instant::now();
        let mut outcome = self.outcome.subscribe();
        let last = outcome.borrow().buckets.get(bucket).map(|(asked, _)| *asked);
        // What the upstream does not have it cannot be asked for again and again.
        let is_claimed_again = last.is_some_and(|asked| arrived - asked < LONGEST_PAUSE);
        if ledger.is_loaded() && !self.ttl.is_zero() && (!behind || is_claimed_again) {
            return Ok(ledger);
        }
        lock(&self.incomplete).insert(bucket.into());
        self.wake.notify_one();
        let is_asked =
            |outcome: &Outcome| outcome.buckets.get(bucket).is_some_and(|(asked, _)| *asked >= arrived);
        let ended = tokio::time::timeout(LONGEST_WAIT, outcome.wait_for(is_asked)).await;
        let failure = match &ended {
            Ok(Ok(outcome)) => outcome.buckets.get(bucket).and_then(|(_, result)| result.clone().err()),
            Ok(Err(_)) | Err(_) => Some(PollError::TooSlow),
        };
        match failure {
            Some(error) if !ledger.is_loaded() => Err(error),
            _ => Ok(ledger),
        }
    }

    /// Waits until a complete round that began after `moment` has ended, at most for `bound`.
    pub async fn complete_after(&self, moment: Instant, bound: Duration) -> Result<(), PollError> {
        self.ended(moment, bound, |outcome| outcome.done.is_some_and(|done| done >= moment)).await
    }

    /// Wants a complete round that begins after `moment`, and waits until one is `enough` or fails.
    async fn ended(
        &self,
        moment: Instant,
        bound: Duration,
        enough: impl Fn(&Outcome) -> bool,
    ) -> Result<(), PollError> {
        let mut outcome = self.outcome.subscribe();
        {
            let mut wanted = lock(&self.wanted);
            *wanted = (*wanted).max(Some(moment));
        }
        self.wake.notify_one();
        let failure = |outcome: &Outcome| {
            outcome.failed.as_ref().filter(|(failed, _)| *failed >= moment).map(|(_, error)| error.clone())
        };
        let ended = outcome.wait_for(|outcome| enough(outcome) || failure(outcome).is_some());
        match tokio::time::timeout(bound, ended).await {
            Ok(Ok(outcome)) if enough(&outcome) => Ok(()),
            Ok(Ok(outcome)) => Err(failure(&outcome).unwrap_or(PollError::TooSlow)),
            Ok(Err(_)) | Err(_) => Err(PollError::TooSlow),
        }
    }

    /// How old the oldest thing known of a monitored collection is.
    pub fn age(&self) -> Option<Duration> {
        let entries = self.timeline.entries();
        let ages = entries.rows.iter().filter_map(|entry| self.timeline.known_clock(&entry.key)?.age());
        ages.max()
    }

    /// Asks until the process ends.
    pub async fn run(self: Arc<Self>, upstream: Upstream, overlap: Duration, batch_max_requests: usize) {
        let mut asker = Asker::new(self.timeline.clone(), upstream, overlap, batch_max_requests);
        let mut last_round = Duration::ZERO;
        loop {
            let wanted = *lock(&self.wanted);
            let done = self.outcome.borrow().done;
            let failed = self.outcome.borrow().failed.as_ref().map(|(failed, _)| *failed);
            if wanted.is_some_and(|wanted| done.max(failed).is_none_or(|ended| ended < wanted)) {
                if !self.ttl.is_zero() {
                    let pause = (last_round * 3).min(LONGEST_PAUSE);
                    tokio::time::sleep(
                        pause.saturating_sub(done.map_or(LONGEST_PAUSE, |done| done.elapsed())),
                    )
                    .await;
                }
                let began = Instant::now();
                let result = asker.complete_round().await;
                last_round = began.elapsed();
                self.outcome.send_modify(|outcome| match result {
                    Ok(()) => outcome.done = Some(began),
                    Err(error) => {
                        tracing::warn!(%error, "could not ask the upstream for timestamps");
                        outcome.failed = Some((began, error));
                    }
                });
                continue;
            }
            let incomplete = lock(&self.incomplete).pop_first();
            if let Some(bucket) = incomplete {
                let began = Instant::now();
                let result = asker.complete_bucket(&bucket).await;
                self.outcome.send_modify(|outcome| {
                    outcome.buckets.retain(|_, (asked, _)| asked.elapsed() < ACTIVE);
                    outcome.buckets.insert(bucket, (began, result));
                });
                continue;
            }
            let active = lock(&self.used).is_some_and(|used| used.elapsed() < ACTIVE);
            if !active || self.exclusive {
                self.wake.notified().await;
                continue;
            }
            let began = Instant::now();
            let asked = self.ask_due(&mut asker).await;
            if let Err(error) = &asked {
                tracing::debug!(%error, "could not ask the upstream for timestamps");
            }
            let pause = match asked {
                Ok(false) => (self.ttl / 4).clamp(Duration::from_millis(20), LONGEST_PAUSE),
                Ok(true) => rest(began.elapsed(), self.budget),
                Err(_) => LONGEST_PAUSE,
            };
            // Readers who wait for a complete round do not wait for the rest after an ordinary question.
            _ = tokio::time::timeout(pause, self.wake.notified()).await;
        }
    }

    /// Asks for some of what is due; whether anything was.
    async fn ask_due(&self, asker: &mut Asker) -> Result<bool, PollError> {
        if asker.ask_cheaply(self.ttl).await? {
            return Ok(true);
        }
        let mut due: Vec<(f64, Arc<Clock>)> = self
            .timeline
            .clocks()
            .into_iter()
            .filter(|clock| asker.is_asked_for(clock) && self.is_watched(clock))
            .map(|clock| (self.overdue(&clock), clock))
            .filter(|(overdue, _)| *overdue >= 1.0)
            .collect();
        due.sort_by(|(one, _), (other, _)| other.total_cmp(one));
        let due: Vec<_> = due.into_iter().map(|(_, clock)| clock).take(asker.at_once()).collect();
        if due.is_empty() {
            return Ok(false);
        }
        asker.ask(&due).await?;
        Ok(true)
    }

    fn is_watched(&self, clock: &Clock) -> bool {
        self.timeline.resources().include(clock.key())
            || self.timeline.watched(&clock.key().bucket).is_some()
            || clock.is_listened_to()
            || clock.unused().is_some_and(|unused| unused < LONGEST_INTERVAL)
    }

    /// How often a clock could have been asked since it was: 1 means that it is due.
    fn overdue(&self, clock: &Clock) -> f64 {
        let Some(age) = clock.age() else { return f64::INFINITY };
        if clock.is_listened_to() {
            return age.as_secs_f64() / self.ttl.as_secs_f64().max(0.001);
        }
        let quiet = clock.moved().map_or(Duration::ZERO, |moved| moved.elapsed());
        let interval = (quiet / 10).clamp(self.ttl, LONGEST_INTERVAL.max(self.ttl));
        age.as_secs_f64() / interval.as_secs_f64().max(0.001)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_keep_the_upstream_busy_for_no_more_than_the_budget() {
        assert_eq!(rest(Duration::from_millis(10), 0.05), Duration::from_millis(190));
        assert_eq!(rest(Duration::from_millis(10), 1.0), Duration::ZERO);
        assert_eq!(rest(Duration::from_secs(10), 0.0), LONGEST_REST);
    }
}
