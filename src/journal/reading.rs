//! What is asked of the journal has a connection for as long as the engine is asked.
//!
//! There are few connections, and whoever waits for anything else (room, a turn, the upstream) gives theirs back meanwhile.

use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::{Any, AnyConnection};
use tokio::sync::SemaphorePermit;
use tokio::time::timeout;

use super::JournalError;
use super::engine::{DEADLINE, Engine, Kind, Leads, PATIENCE, READERS, bounded, failed, standby};
#[cfg(test)]
use super::hands;

/// See the module.
pub(super) struct Reading<'e> {
    engine: &'e Engine,
    is_long: bool,
    /// With its turn among those who may be long.
    taken: Option<(Taken, Option<SemaphorePermit<'e>>)>,
}

/// A connection that reads. Where it is dropped in the middle of something, as nobody waits any more or PostgreSQL hangs,
/// it is not used again.
struct Taken {
    connection: PoolConnection<Any>,
    kind: Kind,
    is_idle: bool,
}

/// Leaves the thread to others for a moment.
pub(super) async fn yield_now() {
    let moment = tokio::task::yield_now();
    #[cfg(test)]
    let moment = hands::of_engine(moment);
    moment.await;
}

/// The same where this task has had its share.
pub(super) async fn consume_budget() {
    let moment = tokio::task::consume_budget();
    #[cfg(test)]
    let moment = hands::of_engine(moment);
    moment.await;
}

/// Takes a connection, in turn with others where it may be long.
async fn take(engine: &Engine, is_long: bool) -> sqlx::Result<(Taken, Option<SemaphorePermit<'_>>)> {
    let turn = if is_long {
        let turn = timeout(PATIENCE, engine.long_readers.acquire()).await;
        Some(turn.map_err(|_| sqlx::Error::PoolTimedOut)?.map_err(|_| sqlx::Error::PoolClosed)?)
    } else {
        None
    };
    let taken = bounded(PATIENCE, leading(engine)).await?;
    #[cfg(test)]
    hands::hold(true);
    Ok((taken, turn))
}

/// A connection that leads where it has to.
async fn leading(engine: &Engine) -> sqlx::Result<Taken> {
    let mut fault = sqlx::Error::PoolTimedOut;
    // All that are kept may be of no use any more.
    for _ in 0..=READERS {
        let connection = engine.pool.acquire().await?;
        let mut taken = Taken { connection, kind: engine.kind, is_idle: false };
        let Some(primary) = &engine.primary else { return Ok(taken) };
        match primary.look(&mut taken.connection).await {
            Ok(Leads::There) => return Ok(taken),
            // None that is kept does: it was made for this question.
            Ok(Leads::ToStandby) => return Err(standby()),
            Ok(Leads::Elsewhere) => {}
            Err(error) => fault = error,
        }
    }
    Err(fault)
}

// === impl Taken ===

impl Drop for Taken {
    fn drop(&mut self) {
        if !self.is_idle && self.kind == Kind::Postgres {
            self.connection.close_on_drop();
        }
        #[cfg(test)]
        hands::hold(false);
    }
}

// === impl Reading ===

impl Reading<'_> {
    /// The connection, which is waited for where there is none.
    pub(super) async fn connection(&mut self) -> sqlx::Result<&mut AnyConnection> {
        let taken = match self.taken.take() {
            Some(taken) => taken,
            None => take(self.engine, self.is_long).await?,
        };
        Ok(&mut self.taken.insert(taken).0.connection)
    }

    /// Has no connection until it needs one again.
    pub(super) fn give_back(&mut self) {
        if let Some((taken, _)) = &mut self.taken {
            taken.is_idle = true;
        }
        self.taken = None;
    }
}

// === impl Engine ===

impl Engine {
    /// What a question comes to. One that is not answered in time is an error.
    pub(super) async fn ask<T>(
        &self,
        patience: Duration,
        question: impl AsyncFnOnce(&mut AnyConnection) -> sqlx::Result<T>,
    ) -> Result<T, JournalError> {
        self.read(patience, async |reading| question(reading.connection().await?).await).await
    }

    /// The same where something else is waited for in between.
    pub(super) async fn read<T>(
        &self,
        patience: Duration,
        question: impl AsyncFnOnce(&mut Reading<'_>) -> sqlx::Result<T>,
    ) -> Result<T, JournalError> {
        let is_long = patience > DEADLINE;
        let mut reading = Reading { engine: self, is_long, taken: None };
        let answered = async {
            // Who waits for a connection does not wait less for the answer.
            reading.connection().await?;
            let answer = bounded(patience, question(&mut reading)).await;
            let is_lost = matches!(answer, Err(sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut));
            if !is_lost {
                reading.give_back();
            }
            answer
        };
        #[cfg(test)]
        let answered = hands::watched(answered);
        answered.await.map_err(|error| {
            self.note(&error);
            failed(&error)
        })
    }
}
