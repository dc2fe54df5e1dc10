//! One transaction: it is begun, does all that is asked of it, and is committed; or nobody knows whether it was.

use std::collections::BTreeSet;

use sqlx::{Connection, Executor};
use tokio::time::{Instant, timeout};

use super::Writer;
use crate::journal::engine::{DEADLINE, Kind, Writing, failed, is_ended, is_of_a_row};
use crate::journal::others::{self, Others};
use crate::journal::queue::{Done, Work, gone};
use crate::journal::transaction::Transaction;
use crate::journal::{JournalError, News, Object, Outcome, intents, notify, schema, space, statement};
use crate::kinto::Timestamp;
use crate::metrics;

/// For more objects than these, news tell only the newest of each list.
pub(in crate::journal) const NEWS: usize = 100;

/// Why nothing was committed.
pub(super) enum Failure {
    /// The engine refused something; perhaps not all of it.
    Refused(sqlx::Error),
    /// The engine is not there.
    Away(JournalError),
}

// === impl Writer ===

impl Writer {
    pub(super) async fn commit(&mut self, works: &[&Work]) -> Result<Vec<Done>, Failure> {
        let done = self.attempt(works).await;
        if done.is_err() {
            metrics::journal::count_failure();
        }
        done
    }

    /// Does one thing. Of an outcome that the engine does not take, it takes the rest.
    pub(super) async fn commit_alone(&mut self, work: &Work) -> Result<Done, Failure> {
        let failure = match self.commit(&[work]).await {
            Ok(done) => return done.into_iter().next().ok_or_else(|| Failure::Away(gone())),
            Err(failure) => failure,
        };
        match work {
            Work::Settle { outcome, .. } if failure.of_a_row().is_some() => self.commit_parts(outcome).await,
            _ => Err(failure),
        }
    }

    /// Records an outcome bit by bit. What the engine does not take is left out.
    async fn commit_parts(&mut self, outcome: &Outcome) -> Result<Done, Failure> {
        let mut entries = 0;
        for outcome in outcome.parts() {
            let work = Work::Settle { outcome, is_kept: false, among: None };
            let failure = match self.commit(&[&work]).await {
                Ok(done) => {
                    entries += done.iter().map(Done::entries).sum::<usize>();
                    continue;
                }
                Err(failure) => failure,
            };
            let Some(reason) = failure.of_a_row() else { return Err(failure) };
            let Work::Settle { outcome, .. } = &work else { continue };
            outcome.changes.iter().for_each(|change| self.left_out.tell(change, &reason));
        }
        Ok(Done::Entries(entries))
    }

    async fn attempt(&mut self, works: &[&Work]) -> Result<Vec<Done>, Failure> {
        self.check().await?;
        let begun = Instant::now();
        #[cfg(test)]
        let tallies = std::sync::Arc::clone(&self.tallies);
        let transaction = self.transact(works);
        #[cfg(test)]
        let transaction = {
            let is_import = works.iter().any(|work| matches!(work, Work::Import(_)));
            crate::journal::tally::count(tallies, is_import, transaction)
        };
        let result = timeout(DEADLINE, transaction).await;
        self.reader_sets.end(matches!(result, Ok(Ok(_))));
        let failure = match result {
            Ok(Ok((done, news))) => {
                metrics::journal::count_commit(begun.elapsed());
                self.stray.clear();
                self.end_giving_back(works, &done).await;
                // A file that was removed meanwhile does not have it.
                self.check().await?;
                if !news.objects.is_empty() {
                    // Nobody may be listening.
                    let _ = self.news.send(news);
                }
                return Ok(done);
            }
            Ok(Err(error)) => {
                self.engine.note(&error);
                match error {
                    sqlx::Error::Database(_) if !is_ended(&error) => Failure::Refused(error),
                    error => Failure::Away(failed(&error)),
                }
            }
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
        if let Some(damage) = self.engine.damage() {
            return Err(Failure::Away(JournalError::Unavailable(damage.into())));
        }
        let Some(place) = &mut self.place else { return Ok(()) };
        place.check().await.map_err(|fault| Failure::Away(JournalError::Unavailable(fault.into())))
    }

    async fn transact(&mut self, works: &[&Work]) -> sqlx::Result<(Vec<Done>, News)> {
        let kind = self.engine.kind;
        // Taken out: what fails or is given up is not used again.
        let held = match self.held.take() {
            // What was held may have been cut since, or lead elsewhere, which is no reason to refuse anything.
            Some(mut held) => self.engine.is_good(held.connection()).await.then_some(held),
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
        if self.engine.lacks_tables() {
            schema::look_for_tables(&mut begun).await?;
            self.engine.note_tables();
        }
        let mut placed = BTreeSet::new();
        for work in works {
            placed.extend(others::uris(work.placed()));
        }
        let others = if kind == Kind::Postgres && !placed.is_empty() {
            Others::look(&mut begun, self.owner, &placed, true).await?
        } else {
            statement::lock(kind, &mut begun).await?;
            Others::default()
        };
        intents::remove(&mut begun, &self.stray).await?;
        let (rules, sets) = (&self.rules, &mut self.reader_sets);
        let mut transaction = Transaction::new(&mut begun, kind, rules, self.explicit_permissions, sets);
        transaction.others = others;
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
    /// Why the engine will never take it, where that is so.
    fn of_a_row(&self) -> Option<String> {
        match self {
            Self::Refused(error) if is_of_a_row(error) => Some(failed(error).to_string()),
            _ => None,
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
            Work::Tell(group, changes) => self.tell(*group, changes, owner).await.map(Done::Others),
            Work::PassBy(groups) => {
                intents::pass_by(self.connection, "intent_group", groups).await?;
                Ok(Done::Nothing)
            }
            Work::Settle { outcome, among: Some(among), .. } => {
                self.settle_among(among, outcome, owner).await
            }
            Work::Settle { outcome, .. } => self.settle(outcome).await.map(Done::Entries),
            Work::Begin(bucket) => Ok(Done::Timestamp(self.history(bucket).await?.timestamp)),
            Work::Delete { bucket, names, must } => {
                self.delete(bucket, names, *must).await.map(Done::Deleted)
            }
            Work::Remove(surplus) => self.remove_surplus(surplus).await.map(Done::Removed),
            Work::Sweep(after) => self.sweep(*after).await.map(Done::Swept),
            Work::GiveBack => space::give_back(self.kind, self.connection).await.map(Done::Removed),
            Work::Buckets => self.buckets().await.map(Done::Buckets),
            Work::Enter { seen, after } => self.enter(seen, *after).await,
            Work::Checkpoint(name, json) => {
                self.checkpoint(name, json.as_deref()).await.map(Done::Checkpoint)
            }
            Work::Fill(from) => self.fill(from).await.map(Done::Filled),
            Work::Import(lines) => self.import(lines).await.map(Done::Imported),
            Work::Adopt(dead) => {
                if self.kind == Kind::Postgres {
                    // Whoever has an answer does not wait until theirs are looked up.
                    intents::pass_by(self.connection, "owner", dead).await?;
                }
                intents::adopt(self.connection, dead, owner).await?;
                Ok(Done::Nothing)
            }
            Work::Probe => self.probe().await.map(|()| Done::Nothing),
            Work::Nothing | Work::Leave { .. } => Ok(Done::Nothing),
        }
    }
}

/// Of many objects, the newest of each list.
fn newest_of_many(mut objects: Vec<(Object, Timestamp)>) -> Vec<(Object, Timestamp)> {
    if objects.len() > NEWS {
        objects.sort_by_key(|(object, modified)| (object.list(), std::cmp::Reverse(*modified)));
        objects.dedup_by_key(|(object, _)| object.list());
    }
    objects
}
