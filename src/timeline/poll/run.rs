//! What runs for as long as the process: it asks for what is due, goes on with sweeps, and begins those that readers wait
//! for.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::apart::Apart;
use super::ask::Asker;
use super::sweep::{Purpose, Sweep};
use super::{Failed, PollError, Poller, SILENCE};
use crate::timeline::budget::Turn;
use crate::upstream::Upstream;
use crate::upstream::kinto::KintoError;

/// How far ahead of the budget a sweep goes for somebody who knows of something newer.
const ADVANCE: Duration = Duration::from_secs(30);

/// The pause after the upstream could not be asked, where somebody waits, and where nobody does.
const AFTER_FAILURE: Duration = Duration::from_secs(1);
const UNWANTED: Duration = Duration::from_secs(10);

/// The shortest pause between two looks at what is due, where nothing is.
const SHORTEST_PAUSE: Duration = Duration::from_millis(20);

/// How long it is remembered how the asking for a bucket's list ended.
const REMEMBERED: Duration = Duration::from_secs(30);

/// A place in the line of those who ask within the budget.
type Place = Pin<Box<dyn Future<Output = Turn> + Send>>;

impl Poller {
    /// Asks until the process ends.
    pub async fn run(self: Arc<Self>, upstream: Upstream) {
        let unreadable = Arc::clone(&self.unreadable);
        let mut asker = Asker::new(self.timeline.clone(), upstream, self.settings.clone(), unreadable);
        let mut sweeps: VecDeque<Sweep> = VecDeque::new();
        let mut place: Option<Place> = None;
        let mut hold: Option<Instant> = None;
        let mut apart = Apart::default();
        let mut sought = None;
        loop {
            let is_exclusive = self.settings.now().exclusive;
            let lacking = if is_exclusive { self.seek_lacking(&mut sought) } else { None };
            let mut next = self.begin_sweeps(&mut sweeps).into_iter().chain(lacking).min();
            if !is_exclusive {
                next = next.into_iter().chain(apart.begin(&self, &asker)).min();
            }
            hold = hold.filter(|hold| *hold > Instant::now());
            if place.is_none() && hold.is_none() && !is_exclusive {
                let (question, later) = asker.next(self.ttl(), !sweeps.is_empty());
                place = question.map(|_| -> Place { Box::pin(self.budget.clone().turn()) });
                if place.is_none() {
                    // All clocks were looked at. What begins to matter meanwhile is looked at soon.
                    let soon = Instant::now() + self.ttl().clamp(SHORTEST_PAUSE, AFTER_FAILURE);
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
                () = apart.ended(&self.budget) => {}
                () = self.wake.notified() => {}
                () = until(next) => {}
            }
        }
    }

    /// Wishes for the lists of the buckets of which something is lacking, now and then: nothing else asks for them where only
    /// what passes through is told of. When to look again.
    fn seek_lacking(&self, sought: &mut Option<Instant>) -> Option<Instant> {
        let buckets = self.unreadable.buckets();
        if buckets.is_empty() {
            *sought = None;
            return None;
        }
        let now = Instant::now();
        let at = *sought.get_or_insert(now) + UNWANTED;
        if at > now {
            return Some(at);
        }
        *sought = Some(now);
        self.lock().buckets.extend(buckets.into_iter().map(|bucket| (bucket, true)));
        Some(now + UNWANTED)
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
        let Some(question) = asker.next(self.ttl(), is_swept).0 else {
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
                if error.is_silence() {
                    turn.was(SILENCE);
                }
                self.note(&error);
                Some(Instant::now() + AFTER_FAILURE)
            }
        }
    }

    /// What a question failed on may be all that the upstream answers with now.
    pub(super) fn note(&self, error: &PollError) {
        let is_failure = match error {
            PollError::Kinto(KintoError::Upstream(_)) => true,
            PollError::Kinto(KintoError::Status(status)) => status.is_server_error(),
            _ => false,
        };
        if is_failure {
            self.outage.failed(error);
        }
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
