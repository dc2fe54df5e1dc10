//! Who settles which intents: each process has a number, and on PostgreSQL holds a lock on it for as long as it lives.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use sqlx::{AnyConnection, Row};
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::engine::{DEADLINE, Engine, Kind, Writing, bounded};
use super::statement::Statement;

/// How often it is seen to that the lock is held.
const SEEN_TO: Duration = Duration::from_secs(2);

/// This process among the owners of intents.
#[derive(Debug)]
pub(super) struct Owner {
    pub(super) number: i64,
    engine: Arc<Engine>,
    /// PostgreSQL: the connection that holds the lock.
    holding: Mutex<Option<Writing>>,
}

/// A number that no other has.
pub(super) fn random() -> i64 {
    let (_, low) = Uuid::new_v4().as_u64_pair();
    // Without the bits that say that it is a UUID, and the sign.
    i64::try_from(low & (u64::MAX >> 2)).unwrap_or_default()
}

impl Owner {
    /// A new one.
    pub(super) fn new(engine: Arc<Engine>) -> Self {
        Self { number: random(), engine, holding: Mutex::new(None) }
    }

    /// Takes the lock, again where the connection that held it is gone.
    pub(super) async fn hold(&self) -> sqlx::Result<()> {
        if self.engine.kind == Kind::Sqlite {
            return Ok(());
        }
        let mut holding = self.holding.lock().await;
        self.held(&mut holding).await.map(drop)
    }

    async fn held<'h>(&self, holding: &'h mut Option<Writing>) -> sqlx::Result<&'h mut AnyConnection> {
        let held = async {
            if let Some(held) = holding.as_mut()
                && self.engine.is_good(held.connection()).await
            {
                return Ok(());
            }
            *holding = None;
            let mut writing = self.engine.writing().await?;
            let lock = Statement::new("SELECT pg_advisory_lock(").bind(self.number).push(")");
            lock.execute(writing.connection()).await?;
            *holding = Some(writing);
            Ok(())
        };
        let result = timeout(DEADLINE, held).await;
        match (result, holding) {
            (Ok(Ok(())), Some(held)) => Ok(held.connection()),
            (Ok(Err(error)), _) => Err(error),
            (_, holding) => {
                *holding = None;
                Err(sqlx::Error::PoolTimedOut)
            }
        }
    }

    /// Sees to it that the lock is held, for ever.
    pub(super) async fn keep_holding(owner: std::sync::Weak<Self>) {
        loop {
            sleep(SEEN_TO).await;
            let Some(owner) = owner.upgrade() else { return };
            // Where it fails, the engine is away, which those who use it say.
            let _ = owner.hold().await;
        }
    }

    /// Which of these owners are dead. On PostgreSQL nobody else is told so until [`Self::release`].
    pub(super) async fn dead_among(&self, owners: Vec<i64>) -> sqlx::Result<Vec<i64>> {
        let others = owners.into_iter().filter(|owner| *owner != self.number);
        if self.engine.kind == Kind::Sqlite {
            return Ok(others.collect());
        }
        self.asked(async |connection| {
            let mut dead = Vec::new();
            for other in others {
                let attempt =
                    Statement::new("SELECT CAST(pg_try_advisory_lock(").bind(other).push(") AS INTEGER)");
                let row = attempt.first(connection).await?.ok_or(sqlx::Error::RowNotFound)?;
                if row.try_get::<i32, _>(0)? != 0 {
                    dead.push(other);
                }
            }
            Ok(dead)
        })
        .await
    }

    /// The dead owners have no intents any more.
    pub(super) async fn release(&self, dead: &[i64]) -> sqlx::Result<()> {
        if self.engine.kind == Kind::Sqlite {
            return Ok(());
        }
        self.asked(async |connection| {
            for owner in dead {
                let release =
                    Statement::new("SELECT CAST(pg_advisory_unlock(").bind(*owner).push(") AS INTEGER)");
                release.execute(connection).await?;
            }
            Ok(())
        })
        .await
    }

    /// Asks on the connection that holds the lock. One that does not answer in time is given up, and with it all that it
    /// held.
    async fn asked<T>(
        &self,
        question: impl AsyncFnOnce(&mut AnyConnection) -> sqlx::Result<T>,
    ) -> sqlx::Result<T> {
        let mut holding = self.holding.lock().await;
        let connection = self.held(&mut holding).await?;
        let answer = bounded(DEADLINE, question(connection)).await;
        if answer.is_err() {
            *holding = None;
        }
        answer
    }
}

/// PostgreSQL: the processes that hold their locks, each on a connection of its own.
pub(super) async fn living(connection: &mut AnyConnection) -> sqlx::Result<BTreeSet<i64>> {
    let select = Statement::new(
        "SELECT CAST(classid AS BIGINT) << 32 | CAST(objid AS BIGINT) FROM pg_locks WHERE locktype = 'advisory' \
         AND objsubid = 1 AND granted AND pid <> pg_backend_pid() AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
    );
    select.fetch(connection).await?.iter().map(|row| row.try_get(0)).collect()
}
