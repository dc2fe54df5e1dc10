//! The one that writes: it takes all that waits, does it in one transaction, and tells everybody.
//!
//! Whoever waits is told within seconds, also when the engine hangs: then nobody knows whether the transaction was
//! committed, which is harmless, as what is recorded is not recorded again and groups of intents carry numbers of their own
//! that the next transaction removes.

use std::sync::Arc;

use sqlx::Connection;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::timeout;
use tracing::warn;

use super::engine::{DEADLINE, Engine, Writing, unavailable};
use super::ledger::Ledger;
use super::readers::ReaderSets;
use super::transfer::{Imported, Line};
use super::trim::Surplus;
use super::{EntriesPage, Entry, Intent, IntentGroup, JournalError, News, Outcome, intents, notify, schema};
use crate::kinto::Timestamp;
use crate::query::Query;
use crate::settings::HistorySettings;

/// How many may wait; more wait to be let in.
pub(super) const WAITING: usize = 1024;
/// The most that is done in one transaction.
const TOGETHER: usize = 256;
/// For more objects than these, news tell only the newest of each list.
pub(super) const NEWS: usize = 100;

/// What is to be written.
#[derive(Debug)]
pub(super) enum Work {
    /// These intents, under this number.
    Intend(IntentGroup, Vec<Intent>),
    /// What became of a write.
    Settle(Outcome),
    /// A bucket's history is looked at for the first time.
    Begin(String),
    /// The entries of a bucket that a query selects are deleted.
    Delete(String, Query),
    /// A portion of what is too much is removed.
    Remove(Surplus),
    /// It is asked which buckets have a history.
    Buckets,
    /// These lines are added.
    Import(Vec<Line>),
    /// Groups of intents change their owner.
    Adopt(Vec<i64>),
    /// Nothing: it is answered when all before it is written.
    Nothing,
}

/// What came of it.
#[derive(Debug)]
pub(super) enum Done {
    Nothing,
    Entries(Vec<Entry>),
    Timestamp(Timestamp),
    Page(EntriesPage),
    /// Whether there may be more.
    Removed(bool),
    Buckets(Vec<String>),
    Imported(Imported),
}

/// Work, and who waits for it.
pub(super) struct Waiting {
    pub(super) work: Work,
    pub(super) reply: oneshot::Sender<Result<Done, JournalError>>,
}

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
        while queue.recv_many(&mut waiting, TOGETHER).await > 0 {
            let failure = match self.commit(&waiting).await {
                Ok(done) => {
                    waiting.drain(..).zip(done).for_each(|(waiting, done)| waiting.answer(Ok(done)));
                    continue;
                }
                Err(Failure::Refused(error)) if waiting.len() > 1 => {
                    warn!(%error, "the journal refused a transaction; its parts are tried one by one");
                    self.commit_one_by_one(&mut waiting).await
                }
                Err(failure) => Some(failure.into_error()),
            };
            let Some(error) = failure else { continue };
            // Those who came meanwhile would wait as long again.
            while let Ok(late) = queue.try_recv() {
                waiting.push(late);
            }
            waiting.drain(..).for_each(|waiting| waiting.answer(Err(error.clone())));
        }
    }

    /// Gives an error where the engine is away; then some still wait.
    async fn commit_one_by_one(&mut self, waiting: &mut Vec<Waiting>) -> Option<JournalError> {
        waiting.reverse();
        while let Some(next) = waiting.pop() {
            match self.commit(std::slice::from_ref(&next)).await {
                Ok(done) => next.answer(done.into_iter().next().ok_or_else(gone)),
                Err(Failure::Refused(error)) => next.answer(Err(unavailable(&error))),
                Err(Failure::Away(error)) => {
                    next.answer(Err(error.clone()));
                    return Some(error);
                }
            }
        }
        None
    }

    async fn commit(&mut self, waiting: &[Waiting]) -> Result<Vec<Done>, Failure> {
        let result = timeout(DEADLINE, self.transact(waiting)).await;
        self.reader_sets.end(matches!(result, Ok(Ok(_))));
        let failure = match result {
            Ok(Ok((done, news))) => {
                self.stray.clear();
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
        let groups = waiting.iter().filter_map(|waiting| match &waiting.work {
            Work::Intend(group, _) => Some(group.0),
            _ => None,
        });
        self.stray.extend(groups);
        Err(failure)
    }

    async fn transact(&mut self, waiting: &[Waiting]) -> sqlx::Result<(Vec<Done>, News)> {
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
        let mut transaction = writing.connection().begin_with(kind.begin()).await?;
        schema::lock(kind, &mut transaction).await?;
        intents::remove(&mut transaction, &self.stray).await?;
        let (rules, sets) = (&self.rules, &mut self.reader_sets);
        let mut ledger = Ledger::new(&mut transaction, kind, rules, self.explicit_permissions, sets);
        let mut changes = Vec::new();
        for waiting in waiting {
            if let Work::Settle(outcome) = &waiting.work {
                changes.extend(outcome.known.iter().chain(&outcome.changes));
            }
        }
        ledger.prefetch(&changes).await?;
        let mut done = Vec::with_capacity(waiting.len());
        for waiting in waiting {
            done.push(ledger.work(&waiting.work, self.owner).await?);
        }
        ledger.store().await?;
        let objects = newest_of_many(std::mem::take(&mut ledger.news));
        if let Some(channel) = &self.channel {
            notify::tell(&mut transaction, channel, self.owner, &objects).await?;
        }
        let news = News { objects, is_foreign: false };
        transaction.commit().await?;
        if let Writing::Own(_) = writing {
            self.held = Some(writing);
        }
        Ok((done, news))
    }
}

// === impl Waiting ===

impl Waiting {
    fn answer(self, done: Result<Done, JournalError>) {
        // Whoever asked may have gone.
        let _ = self.reply.send(done);
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

// === impl Ledger ===

impl Ledger<'_> {
    async fn work(&mut self, work: &Work, owner: i64) -> sqlx::Result<Done> {
        match work {
            Work::Intend(group, intents) => {
                self.intents.extend(intents::rows(*group, owner, intents));
                Ok(Done::Nothing)
            }
            Work::Settle(outcome) => self.settle(outcome).await.map(Done::Entries),
            Work::Begin(bucket) => Ok(Done::Timestamp(self.history(bucket).await?.timestamp)),
            Work::Delete(bucket, query) => self.delete(bucket, query).await.map(Done::Page),
            Work::Remove(surplus) => self.remove_surplus(surplus).await.map(Done::Removed),
            Work::Buckets => self.buckets().await.map(Done::Buckets),
            Work::Import(lines) => self.import(lines).await.map(Done::Imported),
            Work::Adopt(groups) => {
                intents::adopt(self.connection, groups, owner).await?;
                Ok(Done::Nothing)
            }
            Work::Nothing => Ok(Done::Nothing),
        }
    }
}

/// Of many objects, the newest of each list.
fn newest_of_many(mut objects: Vec<(super::Object, Timestamp)>) -> Vec<(super::Object, Timestamp)> {
    if objects.len() > NEWS {
        objects
            .sort_by_key(|(object, modified)| (super::rows::list_of(object), std::cmp::Reverse(*modified)));
        objects.dedup_by_key(|(object, _)| super::rows::list_of(object));
    }
    objects
}

/// Has something written, and waits for it.
pub(super) async fn write(queue: &mpsc::Sender<Waiting>, work: Work) -> Result<Done, JournalError> {
    let (reply, done) = oneshot::channel();
    let answered = async {
        queue.send(Waiting { work, reply }).await.map_err(|_| gone())?;
        done.await.unwrap_or_else(|_| Err(gone()))
    };
    let late = |_| Err(JournalError::Unavailable("it does not answer in time".into()));
    timeout(2 * DEADLINE, answered).await.unwrap_or_else(late)
}

/// What those are told whose writer is gone.
pub(super) fn gone() -> JournalError {
    JournalError::Unavailable("it is closed".into())
}
