//! Asking for everything once: for the first list, for readers who want each answer to be new, and for those who know
//! of something that the list does not have.
//!
//! A sweep goes on step by step, so that nobody has to wait for the end of one. What the upstream fails on costs itself
//! alone, and is asked for again in its turn; a sweep fails where nothing at all was answered.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::SILENCE;
use super::ask::Asker;
use super::error::PollError;
use crate::kinto::{CollectionKey, Timestamp};
use crate::timeline::clock::Clock;
use crate::upstream::kinto::KintoError;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Purpose {
    /// All that is monitored, whatever it takes.
    Everything,
    /// All that is monitored, within the budget, until a timestamp is found that somebody knows of.
    Claim(Timestamp),
    /// All collections of a bucket; within the budget where its list was known before.
    Bucket(Arc<str>, bool),
}

/// A sweep under way.
#[derive(Debug)]
pub(super) struct Sweep {
    pub(super) purpose: Purpose,
    pub(super) began: Instant,
    steps: VecDeque<Step>,
    answered: usize,
    failure: Option<PollError>,
    /// Whether anything was said of what is asked for, be it that it is not there.
    was_told: bool,
    unreadable: Option<PollError>,
}

#[derive(Debug)]
enum Step {
    Describe,
    Monitor,
    Bucket(String),
    History(String),
    Choose,
    Ask(Vec<Arc<Clock>>),
    BeginHistories,
}

impl Sweep {
    pub(super) fn begin(purpose: Purpose) -> Self {
        let steps = VecDeque::from([Step::Describe]);
        Self {
            purpose,
            began: Instant::now(),
            steps,
            answered: 0,
            failure: None,
            was_told: false,
            unreadable: None,
        }
    }

    /// Whether it keeps within the budget.
    pub(super) fn is_paid(&self) -> bool {
        !matches!(self.purpose, Purpose::Everything | Purpose::Bucket(_, false))
    }

    /// Asks one question; once there are no more, how the sweep ended. The upstream was kept busy for that long.
    pub(super) async fn step(&mut self, asker: &mut Asker) -> (Option<Result<(), PollError>>, Duration) {
        let is_met = match &self.purpose {
            Purpose::Claim(newest) => asker.timeline.newest() >= *newest,
            Purpose::Everything | Purpose::Bucket(..) => false,
        };
        let Some(step) = self.steps.pop_front().filter(|_| !is_met) else {
            return (Some(self.end(asker)), Duration::ZERO);
        };
        let began = Instant::now();
        let asked = self.take(step, asker).await;
        let busy = asked.as_ref().ok().copied().flatten().unwrap_or_else(|| began.elapsed());
        let is_silent = asked.as_ref().is_err_and(PollError::is_silence);
        let busy = if is_silent { busy.min(SILENCE) } else { busy };
        match asked {
            Err(error) if error.is_unsent() => return (Some(Err(error)), busy),
            Err(error @ PollError::Unreadable(_)) => {
                self.answered += 1;
                self.unreadable.get_or_insert(error);
            }
            Err(error) => {
                tracing::debug!(%error, "could not ask the upstream for some timestamps");
                self.failure.get_or_insert(error);
            }
            Ok(_) => {}
        }
        (None, busy)
    }

    fn end(&mut self, asker: &Asker) -> Result<(), PollError> {
        if self.purpose == Purpose::Everything && self.answered > 0 {
            asker.timeline.drop_refused(|key| asker.unreadable.why(key).is_some());
        }
        let unreadable = self.unreadable.take().filter(|_| match self.purpose {
            // What a list lacks in silence is lost to its readers.
            Purpose::Bucket(..) => true,
            Purpose::Everything => !self.was_told && asker.timeline.entries().rows.is_empty(),
            Purpose::Claim(_) => false,
        });
        match (unreadable, self.failure.take()) {
            (Some(error), _) => Err(error),
            (None, Some(error)) if self.answered == 0 => Err(error),
            (None, _) => Ok(()),
        }
    }

    /// For how long the upstream was busy, where that is not how long it took.
    async fn take(&mut self, step: Step, asker: &mut Asker) -> Result<Option<Duration>, PollError> {
        match step {
            Step::Describe => {
                let described = asker.describe().await;
                self.plan(asker);
                described?;
                return Ok(None);
            }
            Step::Monitor => {
                asker.ask_monitor().await?;
                if !asker.has_changes() {
                    return Ok(Some(Duration::ZERO));
                }
                self.was_told = true;
            }
            Step::Bucket(bucket) => {
                if matches!(self.purpose, Purpose::Bucket(..)) {
                    // That its list is the same as before does not say what is in it that did not matter then.
                    asker.forget_list(&bucket);
                }
                asker.ask_bucket(&bucket).await?;
                self.was_told |=
                    asker.timeline.kept_clocks().iter().all(|clock| *clock.key().bucket != *bucket);
            }
            Step::History(bucket) => asker.ask_history(&bucket).await?,
            Step::Choose => {
                self.choose(asker);
                return Ok(Some(Duration::ZERO));
            }
            Step::Ask(mut clocks) => {
                clocks.retain(|clock| clock.last_asked().is_none_or(|asked| asked < self.began));
                if clocks.is_empty() {
                    return Ok(Some(Duration::ZERO));
                }
                let busy = asker.timestamps.ask(&clocks).await?;
                for clock in clocks.iter().filter(|clock| !clock.is_in_trouble()) {
                    match asker.unreadable.why(clock.key()) {
                        Some(why) => _ = self.unreadable.get_or_insert(why),
                        None => self.was_told = true,
                    }
                }
                if !clocks.iter().all(|clock| clock.is_in_trouble()) {
                    self.answered += 1;
                } else if self.failure.is_none() {
                    self.failure = Some(KintoError::Unreadable("no timestamp".to_owned()).into());
                }
                return Ok(Some(busy));
            }
            Step::BeginHistories => {
                asker.begin_histories().await;
                return Ok(None);
            }
        }
        self.answered += 1;
        Ok(None)
    }

    /// What there is to ask, the cheapest first.
    fn plan(&mut self, asker: &Asker) {
        if let Purpose::Bucket(bucket, _) = &self.purpose {
            self.steps.extend([Step::Bucket(bucket.to_string()), Step::Choose]);
            return;
        }
        self.steps.push_back(Step::Monitor);
        if self.purpose == Purpose::Everything {
            // Before the collections: what changes from here on stands in the histories.
            self.steps.push_back(Step::BeginHistories);
        }
        if self.is_paid() {
            self.steps.extend(asker.histories.keys().cloned().map(Step::History));
        }
        let buckets: BTreeSet<String> = asker.timeline.resources().buckets().map(str::to_owned).collect();
        self.steps.extend(buckets.into_iter().map(Step::Bucket));
        self.steps.push_back(Step::Choose);
    }

    /// Which collections there are to ask for, once their buckets were listed.
    fn choose(&mut self, asker: &Asker) {
        let timeline = &asker.timeline;
        let mut clocks = timeline.kept_clocks();
        match &self.purpose {
            Purpose::Bucket(bucket, _) => clocks.retain(|clock| clock.key().bucket == *bucket),
            Purpose::Everything | Purpose::Claim(_) => {
                let resources = timeline.resources();
                clocks.retain(|clock| resources.include(clock.key()));
                clocks.extend(resources.collections().map(|key| timeline.clock(key)));
                clocks.retain(|clock| !asker.listed.contains(clock.key()));
            }
        }
        if self.is_paid() {
            clocks.retain(|clock| asker.is_asked_for(clock));
        }
        // What the upstream failed on waits for its own turn.
        let began = self.began;
        let is_due = |clock: &Arc<Clock>| {
            !clock.is_in_trouble()
                || clock.last_asked().is_none_or(|asked| asked + clock.interval(Duration::ZERO) < began)
        };
        clocks.retain(is_due);
        if clocks.iter().any(|clock| !clock.is_in_trouble()) {
            // Nobody waits for it who can be answered by the others.
            clocks.retain(|clock| !clock.is_in_trouble());
        }
        let mut clocks: Vec<(bool, CollectionKey, Arc<Clock>)> =
            clocks.into_iter().map(|clock| (!clock.is_lively(), clock.key().clone(), clock)).collect();
        clocks.sort_by(|one, other| (one.0, &one.1).cmp(&(other.0, &other.1)));
        clocks.dedup_by(|one, other| one.1 == other.1);
        let (troubled, clocks): (Vec<_>, Vec<_>) =
            clocks.into_iter().map(|(.., clock)| clock).partition(|clock| clock.is_in_trouble());
        let questions = clocks.chunks(asker.at_once()).map(<[_]>::to_vec);
        let questions = questions.chain(troubled.into_iter().map(|clock| vec![clock]));
        self.steps.extend(questions.map(Step::Ask));
    }
}
