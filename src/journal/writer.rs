//! The one that writes: it takes all that waits, does it in one transaction, and tells everybody.
//!
//! Whoever waits is told within seconds, also when the engine hangs: then nobody knows whether the transaction was
//! committed, which is harmless, as what is recorded is not recorded again and groups of intents carry numbers of their own
//! that the next transaction removes.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{broadcast, mpsc};
use tokio::time::timeout;
use tracing::warn;

mod commit;
mod portions;

use super::engine::{Engine, Writing, failed};
use super::fits::LeftOut;
use super::late::Late;
use super::leave::Leaving;
use super::place::Place;
use super::queue::{Done, Waiting, Work, behind, weight};
use super::readers::ReaderSets;
use super::{JournalError, News, Outcome};
use crate::metrics;
use crate::settings::HistorySettings;
use commit::Failure;
pub(super) use portions::Portions;
use portions::together;

/// The most that is done in one transaction.
const TOGETHER: usize = 256;

/// See the module.
pub(super) struct Writer {
    pub(super) engine: Arc<Engine>,
    pub(super) rules: HistorySettings,
    pub(super) explicit_permissions: bool,
    /// Who settles the intents of this process.
    pub(super) owner: i64,
    pub(super) news: broadcast::Sender<News>,
    /// PostgreSQL: where other processes are told.
    pub(super) channel: Option<String>,
    pub(super) held: Option<Writing>,
    pub(super) reader_sets: ReaderSets,
    /// Groups that were perhaps written, of which nobody knows.
    pub(super) stray: Vec<i64>,
    /// Outcomes that are still to be written.
    pub(super) late: Late,
    /// Outcomes that take more than one transaction.
    pub(super) portions: Portions,
    /// What can never be written.
    pub(super) left_out: Arc<LeftOut>,
    /// SQLite: its files.
    pub(super) place: Option<Place>,
    /// What the entries of open groups may take, in bytes.
    pub(super) open: HashMap<i64, u64>,
    /// Whether another process is to have the journal.
    pub(super) leaving: Leaving,
    #[cfg(test)]
    pub(super) tallies: super::tally::Tallies,
}

// === impl Writer ===

impl Writer {
    /// Works until nobody is left who could ask for anything.
    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Waiting>) {
        let mut waiting = Vec::new();
        loop {
            let received = queue.recv_many(&mut waiting, TOGETHER);
            let at_once = (!self.portions.is_empty()).then_some(Duration::ZERO);
            let is_closed = match at_once.or(self.late.pause()) {
                None => received.await == 0,
                Some(pause) => timeout(pause, received).await.is_ok_and(|received| received == 0),
            };
            let is_left_now = self.leaving.sort(&mut waiting);
            if !self.leaving.is_gone() {
                self.turn(&mut waiting, &mut queue).await;
            }
            let is_done = is_left_now || self.open.is_empty() && !self.is_behind();
            if self.leaving.is_finishing() && is_done {
                self.leave();
            }
            if is_closed && self.portions.is_empty() {
                return;
            }
        }
    }

    /// Whether anything that was acknowledged is still to be written.
    fn is_behind(&self) -> bool {
        self.late.pause().is_some() || !self.portions.is_empty()
    }

    /// Writes what is late and what waits.
    async fn turn(&mut self, waiting: &mut Vec<Waiting>, queue: &mut mpsc::Receiver<Waiting>) {
        let mut failure = self.catch_up().await;
        if failure.is_none() {
            self.leave_out(waiting);
            self.portions.sort(waiting);
            failure = self.write(waiting).await;
        }
        if failure.is_none() {
            failure = self.write_portion().await;
        }
        if let Some(error) = failure {
            // Those who came meanwhile would wait as long again.
            while let Ok(late) = queue.try_recv() {
                waiting.push(late);
            }
            waiting.drain(..).for_each(|waiting| self.fail(waiting, &error));
        }
    }

    /// Lets go of the file.
    fn leave(&mut self) {
        self.held = None;
        self.late = Late::default();
        self.portions = Portions::default();
        self.engine.unlock();
        self.leaving.go();
    }

    /// Writes all that waits. Gives an error where the engine is away; then some still wait.
    async fn write(&mut self, waiting: &mut Vec<Waiting>) -> Option<JournalError> {
        while !waiting.is_empty() {
            let number = together(waiting.iter().map(|waiting| &waiting.work));
            let rest = waiting.split_off(number);
            let failure = self.write_together(waiting).await;
            waiting.extend(rest);
            if failure.is_some() {
                return failure;
            }
        }
        None
    }

    /// Writes one portion of what is too large for one transaction. Gives an error where the engine is away.
    async fn write_portion(&mut self) -> Option<JournalError> {
        let mut large = self.portions.take()?;
        let Some(work) = large.next() else {
            large.end();
            return None;
        };
        if self.late.precedes(&work) {
            large.fail(work, &behind()).into_iter().for_each(|work| self.keep(work));
            return None;
        }
        let failure = match self.commit_alone(&work).await {
            Ok(done) => {
                large.record(done);
                self.close(&work);
                self.portions.put_back(large);
                return None;
            }
            Err(failure) => failure,
        };
        let (error, is_away) = match failure {
            Failure::Refused(error) => (failed(&error), false),
            Failure::Away(error) => (error, true),
        };
        large.fail(work, &error).into_iter().for_each(|work| self.keep(work));
        is_away.then_some(error)
    }

    async fn write_together(&mut self, waiting: &mut Vec<Waiting>) -> Option<JournalError> {
        if waiting.len() == 1 {
            return self.write_one_by_one(waiting).await;
        }
        let works: Vec<&Work> = waiting.iter().map(|waiting| &waiting.work).collect();
        match self.commit(&works).await {
            Ok(done) => {
                waiting.drain(..).zip(done).for_each(|(waiting, done)| self.succeed(waiting, done));
                None
            }
            Err(Failure::Refused(error)) => {
                warn!(%error, "the journal refused a transaction; its parts are tried one by one");
                self.write_one_by_one(waiting).await
            }
            Err(Failure::Away(error)) => Some(error),
        }
    }

    async fn write_one_by_one(&mut self, waiting: &mut Vec<Waiting>) -> Option<JournalError> {
        waiting.reverse();
        while let Some(next) = waiting.pop() {
            if self.late.precedes(&next.work) {
                self.fail(next, &behind());
                continue;
            }
            match self.commit_alone(&next.work).await {
                Ok(done) => self.succeed(next, done),
                Err(Failure::Refused(error)) => self.fail(next, &failed(&error)),
                Err(Failure::Away(error)) => {
                    self.fail(next, &error);
                    waiting.reverse();
                    return Some(error);
                }
            }
        }
        None
    }

    /// Writes what is late. Gives an error where the engine is away; what it refuses stays late.
    async fn catch_up(&mut self) -> Option<JournalError> {
        self.late.pause()?;
        let work = |outcome| Work::Settle { outcome, is_kept: true, among: None };
        let mut late: VecDeque<Work> = self.late.take().into_iter().map(work).collect();
        let mut failure = None;
        while !late.is_empty() && failure.is_none() {
            let number = together(late.iter());
            let works: Vec<&Work> = late.iter().take(number).collect();
            match self.commit(&works).await {
                Ok(_) => self.closed(late.drain(..number)),
                Err(Failure::Away(error)) => failure = Some(error),
                Err(Failure::Refused(_)) => {
                    for work in late.drain(..number).collect::<Vec<_>>() {
                        let is_written = failure.is_none()
                            && !self.late.precedes(&work)
                            && match self.commit_alone(&work).await {
                                Ok(_) => true,
                                Err(Failure::Refused(_)) => false,
                                Err(Failure::Away(error)) => {
                                    failure = Some(error);
                                    false
                                }
                            };
                        if is_written {
                            self.closed([work]);
                        } else {
                            self.keep(work);
                        }
                    }
                }
            }
        }
        for work in late {
            self.keep(work);
        }
        if self.late.pause().is_some() {
            self.late.tell_later();
        }
        failure
    }

    /// Answers those who cannot be served, whatever the engine does: what is behind something late, and writes for which
    /// there is no room.
    fn leave_out(&mut self, waiting: &mut Vec<Waiting>) {
        let mut needed = self.open.values().copied().fold(0, u64::saturating_add);
        for next in std::mem::take(waiting) {
            if self.late.precedes(&next.work) {
                self.fail(next, &behind());
                continue;
            }
            let more = match &next.work {
                Work::Intend(_, intents) => Some(intents.iter().map(weight).sum()),
                Work::Probe => Some(0),
                _ => None,
            };
            // Who needs more than there is, is refused alone.
            let room = match (&mut self.place, more) {
                (Some(place), Some(more)) => place.make_room(needed.saturating_add(more)),
                _ => Ok(()),
            };
            match room {
                Ok(()) => {
                    needed = needed.saturating_add(more.unwrap_or_default());
                    waiting.push(next);
                }
                Err(error) => {
                    metrics::journal::count_failure();
                    let text = format!("there is no room for what has to be written: {error}");
                    self.fail(next, &JournalError::Unavailable(text.into()));
                }
            }
        }
    }

    fn succeed(&mut self, waiting: Waiting, done: Done) {
        let group = match &waiting.work {
            Work::Intend(group, intents) => {
                self.open.insert(group.0, intents.iter().map(weight).sum());
                Some(group.0)
            }
            work => {
                self.close(work);
                None
            }
        };
        if waiting.reply.send(Ok(done)).is_err() {
            // Nobody will settle what nobody knows to be open.
            if let Some(group) = group {
                self.open.remove(&group);
                self.stray.push(group);
            }
        }
    }

    fn fail(&mut self, waiting: Waiting, error: &JournalError) {
        self.keep(waiting.work);
        // Whoever asked may have gone.
        let _ = waiting.reply.send(Err(error.clone()));
    }

    /// Keeps an outcome that was not written.
    fn keep(&mut self, work: Work) {
        if let Work::Settle { outcome, is_kept: true, .. } = work
            && self.late.push(outcome).is_err()
        {
            tracing::error!(
                "too much waits for the journal: what became of a write is left to the next process"
            );
        }
    }

    fn closed(&mut self, works: impl IntoIterator<Item = Work>) {
        for work in works {
            self.close(&work);
        }
    }

    fn close(&mut self, work: &Work) {
        if let Work::Settle { outcome: Outcome { closes: Some(group), .. }, .. } = work {
            self.open.remove(&group.0);
        }
    }
}
