//! The one that writes: it takes all that waits, does it in one transaction, and tells everybody.
//!
//! Whoever waits is told within seconds, also when the engine hangs: then nobody knows whether the transaction was
//! committed, which is harmless, as what is recorded is not recorded again and groups of intents carry numbers of their own
//! that the next transaction removes.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use sqlx::{Connection, Executor};
use tokio::sync::{broadcast, mpsc};
use tokio::time::{Instant, timeout};
use tracing::warn;

use super::engine::{DEADLINE, Engine, Writing, unavailable};
use super::late::Late;
use super::leave::Leaving;
use super::place::Place;
use super::queue::{Done, Waiting, Work, behind, gone, weight};
use super::readers::ReaderSets;
use super::{JournalError, News, Outcome, intents, notify, schema, space};
use crate::journal::transaction::Transaction;
use crate::kinto::Timestamp;
use crate::metrics;
use crate::settings::HistorySettings;

/// The most that is done in one transaction.
const TOGETHER: usize = 256;
/// For more objects than these, news tell only the newest of each list.
pub(super) const NEWS: usize = 100;

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
    /// SQLite: its files.
    pub(super) place: Option<Place>,
    /// What the entries of open groups may take, in bytes.
    pub(super) open: HashMap<i64, u64>,
    /// Whether another process is to have the journal.
    pub(super) leaving: Leaving,
}

enum Failure {
    /// The engine refused something; perhaps not all of it.
    Refused(sqlx::Error),
    /// The engine is not there.
    Away(JournalError),
}

// === impl Writer ===

impl Writer {
    /// Works until nobody is left who could ask for anything.
    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Waiting>) {
        let mut waiting = Vec::new();
        loop {
            let received = queue.recv_many(&mut waiting, TOGETHER);
            let is_closed = match self.late.pause() {
                None => received.await == 0,
                Some(pause) => timeout(pause, received).await.is_ok_and(|received| received == 0),
            };
            let is_left_now = self.leaving.sort(&mut waiting);
            if !self.leaving.is_gone() {
                self.turn(&mut waiting, &mut queue).await;
            }
            let is_done = is_left_now || self.open.is_empty() && self.late.pause().is_none();
            if self.leaving.is_finishing() && is_done {
                self.leave();
            }
            if is_closed {
                return;
            }
        }
    }

    /// Writes what is late and what waits.
    async fn turn(&mut self, waiting: &mut Vec<Waiting>, queue: &mut mpsc::Receiver<Waiting>) {
        let mut failure = self.catch_up().await;
        if failure.is_none() {
            self.leave_out(waiting);
            failure = self.write(waiting).await;
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
        self.engine.unlock();
        self.leaving.go();
    }

    /// Writes all that waits. Gives an error where the engine is away; then some still wait.
    async fn write(&mut self, waiting: &mut Vec<Waiting>) -> Option<JournalError> {
        if waiting.is_empty() {
            return None;
        }
        let works: Vec<&Work> = waiting.iter().map(|waiting| &waiting.work).collect();
        match self.commit(&works).await {
            Ok(done) => {
                waiting.drain(..).zip(done).for_each(|(waiting, done)| self.succeed(waiting, done));
                None
            }
            Err(Failure::Refused(error)) if waiting.len() > 1 => {
                warn!(%error, "the journal refused a transaction; its parts are tried one by one");
                self.write_one_by_one(waiting).await
            }
            Err(failure) => Some(failure.into_error()),
        }
    }

    async fn write_one_by_one(&mut self, waiting: &mut Vec<Waiting>) -> Option<JournalError> {
        waiting.reverse();
        while let Some(next) = waiting.pop() {
            if self.late.precedes(&next.work) {
                self.fail(next, &behind());
                continue;
            }
            match self.commit(&[&next.work]).await.map(|done| done.into_iter().next()) {
                Ok(Some(done)) => self.succeed(next, done),
                Ok(None) => self.fail(next, &gone()),
                Err(Failure::Refused(error)) => self.fail(next, &unavailable(&error)),
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
        let work = |outcome| Work::Settle { outcome, is_kept: true };
        let mut late: VecDeque<Work> = self.late.take().into_iter().map(work).collect();
        let mut failure = None;
        while !late.is_empty() && failure.is_none() {
            let works: Vec<&Work> = late.iter().take(TOGETHER).collect();
            let number = works.len();
            match self.commit(&works).await {
                Ok(_) => self.closed(late.drain(..number)),
                Err(Failure::Away(error)) => failure = Some(error),
                Err(Failure::Refused(_)) => {
                    for work in late.drain(..number).collect::<Vec<_>>() {
                        let is_written = failure.is_none()
                            && !self.late.precedes(&work)
                            && match self.commit(&[&work]).await {
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
        let opened = waiting.iter().map(|waiting| match &waiting.work {
            Work::Intend(_, intents) => intents.iter().map(weight).sum(),
            _ => 0,
        });
        let needed = opened.chain(self.open.values().copied()).fold(0, u64::saturating_add);
        let needs_room = |work: &Work| matches!(work, Work::Intend(..) | Work::Probe);
        let is_needed = waiting.iter().any(|waiting| needs_room(&waiting.work));
        let room = match self.place.as_mut().filter(|_| is_needed) {
            Some(place) => place.make_room(needed),
            None => Ok(()),
        };
        for next in std::mem::take(waiting) {
            match &room {
                _ if self.late.precedes(&next.work) => self.fail(next, &behind()),
                Err(error) if needs_room(&next.work) => {
                    metrics::journal::count_failure();
                    let text = format!("there is no room for what has to be written: {error}");
                    self.fail(next, &JournalError::Unavailable(text.into()));
                }
                _ => waiting.push(next),
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
        if let Work::Settle { outcome, is_kept: true } = work
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

    async fn commit(&mut self, works: &[&Work]) -> Result<Vec<Done>, Failure> {
        let done = self.attempt(works).await;
        if done.is_err() {
            metrics::journal::count_failure();
        }
        done
    }

    async fn attempt(&mut self, works: &[&Work]) -> Result<Vec<Done>, Failure> {
        self.check().await?;
        let begun = Instant::now();
        let result = timeout(DEADLINE, self.transact(works)).await;
        self.reader_sets.end(matches!(result, Ok(Ok(_))));
        let failure = match result {
            Ok(Ok((done, news))) => {
                metrics::journal::count_commit(begun.elapsed());
                self.stray.clear();
                self.end_giving_back(works, &done).await;
                // What was removed meanwhile has not kept it.
                self.check().await?;
                if !news.objects.is_empty() {
                    // Nobody may be listening.
                    let _ = self.news.send(news);
                }
                return Ok(done);
            }
            Ok(Err(error @ sqlx::Error::Database(_))) => Failure::Refused(error),
            Ok(Err(error)) => Failure::Away(unavailable(&error)),
            Err(_) => Failure::Away(JournalError::Unavailable("it does not answer in time".into())),
        };
        let groups = works.iter().filter_map(|work| match work {
            Work::Intend(group, _) => Some(group.0),
            _ => None,
        });
        self.stray.extend(groups);
        Err(failure)
    }

    /// What was given back is the file system's once the log is written into the journal.
    async fn end_giving_back(&mut self, works: &[&Work], done: &[Done]) {
        let is_given = |(work, done)| matches!((work, done), (&&Work::GiveBack, &Done::Removed(true)));
        if works.iter().zip(done).any(is_given)
            && let Some(held) = &mut self.held
        {
            // Where somebody reads what is in the log, a later one does it.
            let _ = held.connection().execute("PRAGMA wal_checkpoint(PASSIVE)").await;
        }
    }

    async fn check(&mut self) -> Result<(), Failure> {
        let Some(place) = &mut self.place else { return Ok(()) };
        place.check().await.map_err(|fault| Failure::Away(JournalError::Unavailable(fault.into())))
    }

    async fn transact(&mut self, works: &[&Work]) -> sqlx::Result<(Vec<Done>, News)> {
        let kind = self.engine.kind;
        // Taken out: what fails or is given up is not used again.
        let held = match self.held.take() {
            // What was held may have been cut since, which is no reason to refuse anything.
            Some(mut held) => held.connection().ping().await.ok().map(|()| held),
            None => None,
        };
        let mut writing = match held {
            Some(held) => held,
            None => self.engine.writing().await?,
        };
        if works.iter().any(|work| matches!(work, Work::Import(_))) {
            writing.expect_much(kind).await?;
        }
        let mut begun = writing.connection().begin_with(kind.begin()).await?;
        schema::lock(kind, &mut begun).await?;
        intents::remove(&mut begun, &self.stray).await?;
        let (rules, sets) = (&self.rules, &mut self.reader_sets);
        let mut transaction = Transaction::new(&mut begun, kind, rules, self.explicit_permissions, sets);
        let mut changes = Vec::new();
        for work in works {
            if let Work::Settle { outcome, .. } = work {
                changes.extend(outcome.known.iter().chain(&outcome.changes));
            }
        }
        transaction.prefetch(&changes).await?;
        let mut done = Vec::with_capacity(works.len());
        for work in works {
            done.push(transaction.work(work, self.owner).await?);
        }
        transaction.store().await?;
        let objects = newest_of_many(std::mem::take(&mut transaction.news));
        let trimmed = transaction.trimmed;
        if let Some(channel) = &self.channel {
            notify::tell(&mut begun, channel, self.owner, &objects).await?;
        }
        let news = News { objects, is_foreign: false };
        begun.commit().await?;
        metrics::journal::count_trimmed(trimmed);
        if let Writing::Own(_) = writing {
            self.held = Some(writing);
        }
        Ok((done, news))
    }
}

// === impl Failure ===

impl Failure {
    fn into_error(self) -> JournalError {
        match self {
            Self::Refused(error) => unavailable(&error),
            Self::Away(error) => error,
        }
    }
}

// === impl Transaction ===

impl Transaction<'_> {
    async fn work(&mut self, work: &Work, owner: i64) -> sqlx::Result<Done> {
        match work {
            Work::Intend(group, intents) => {
                self.intents.extend(intents::rows(*group, owner, intents));
                Ok(Done::Nothing)
            }
            Work::Settle { outcome, .. } => self.settle(outcome).await.map(Done::Entries),
            Work::Begin(bucket) => Ok(Done::Timestamp(self.history(bucket).await?.timestamp)),
            Work::Delete(bucket, query) => self.delete(bucket, query).await.map(Done::Page),
            Work::Remove(surplus) => self.remove_surplus(surplus).await.map(Done::Removed),
            Work::GiveBack => space::give_back(self.kind, self.connection).await.map(Done::Removed),
            Work::Buckets => self.buckets().await.map(Done::Buckets),
            Work::Enter { seen, after } => self.enter(seen, *after).await,
            Work::Checkpoint(name, json) => {
                self.checkpoint(name, json.as_deref()).await.map(Done::Checkpoint)
            }
            Work::Fill(from) => self.fill(from).await.map(Done::Filled),
            Work::Import(lines) => self.import(lines).await.map(Done::Imported),
            Work::Adopt(groups) => {
                intents::adopt(self.connection, groups, owner).await?;
                Ok(Done::Nothing)
            }
            Work::Nothing | Work::Probe | Work::Leave { .. } => Ok(Done::Nothing),
        }
    }
}

/// Of many objects, the newest of each list.
fn newest_of_many(mut objects: Vec<(super::Object, Timestamp)>) -> Vec<(super::Object, Timestamp)> {
    if objects.len() > NEWS {
        objects.sort_by_key(|(object, modified)| (object.list(), std::cmp::Reverse(*modified)));
        objects.dedup_by_key(|(object, _)| object.list());
    }
    objects
}
