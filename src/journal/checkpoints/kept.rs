//! Where checkpoints are kept, and when they give way.

use sqlx::{AnyConnection, Row};

use super::{Checkpoint, CheckpointName};
use crate::journal::engine::DEADLINE;
use crate::journal::queue::{self, Done, Work};
use crate::journal::rows::now_microseconds;
use crate::journal::statement::{Bound, Statement};
use crate::journal::transaction::Transaction;
use crate::journal::{Journal, JournalError};

/// What those of one user for one collection may take, in bytes.
const OF_USER: u64 = 4 << 20;
/// What all may take, in bytes.
const OF_ALL: u64 = 32 << 20;
/// What one counts for at least, in bytes: so their number is bounded, too, however short they are.
const LEAST: usize = 1 << 10;
/// How long one is kept after it was last written, in microseconds: 90 days.
const KEPT: u64 = 90 * 24 * 3600 * 1_000_000;

impl Journal {
    /// A checkpoint, where it is kept.
    pub async fn checkpoint(&self, name: &CheckpointName) -> Result<Option<Checkpoint>, JournalError> {
        let select =
            Statement::new("SELECT revision, json FROM sidecar_checkpoints").push(" WHERE user_id = ");
        let select = named(select, name);
        let row = async |connection: &mut AnyConnection| {
            let row = select.first(connection).await?;
            row.map(|row| Ok(Checkpoint { revision: row.try_get(0)?, json: row.try_get(1)? })).transpose()
        };
        self.engine.ask(DEADLINE, row).await
    }

    /// Keeps a checkpoint, or removes it where there is no `json`; gives how often it was written.
    pub async fn keep_checkpoint(
        &self,
        name: CheckpointName,
        json: Option<String>,
    ) -> Result<i64, JournalError> {
        if !self.engine.kind.keeps_together(&[&name.user_id, &name.collection, &name.id]) {
            return Err(JournalError::Refused("its name is too long".into()));
        }
        match self.write(Work::Checkpoint(name, json)).await? {
            Done::Checkpoint(revision) => Ok(revision),
            _ => Err(queue::gone()),
        }
    }
}

fn named(statement: Statement, name: &CheckpointName) -> Statement {
    let statement = statement.bind(name.user_id.as_str()).push(" AND collection = ");
    statement.bind(name.collection.as_str()).push(" AND id = ").bind(name.id.as_str())
}

impl Transaction<'_> {
    /// See [`Journal::keep_checkpoint`].
    pub(in crate::journal) async fn checkpoint(
        &mut self,
        name: &CheckpointName,
        json: Option<&str>,
    ) -> sqlx::Result<i64> {
        let Some(json) = json else {
            let delete = Statement::new("DELETE FROM sidecar_checkpoints WHERE user_id = ");
            named(delete, name).execute(self.connection).await?;
            return Ok(0);
        };
        let now = now_microseconds();
        let bytes = (name.id.len() + json.len()).max(LEAST);
        let values: [Bound; 7] = [
            name.user_id.as_str().into(),
            name.collection.as_str().into(),
            name.id.as_str().into(),
            1_i64.into(),
            integer(now),
            integer(bytes as u64),
            json.into(),
        ];
        let upsert = Statement::new(
            "INSERT INTO sidecar_checkpoints (user_id, collection, id, revision, written, bytes, json) VALUES ",
        );
        let upsert = upsert.rows([values]).push(
            " ON CONFLICT (user_id, collection, id) DO UPDATE SET revision = sidecar_checkpoints.revision + 1, \
             written = excluded.written, bytes = excluded.bytes, json = excluded.json RETURNING revision",
        );
        let revision = upsert.number(self.connection).await?;
        let old = Statement::new("DELETE FROM sidecar_checkpoints WHERE written < ");
        old.bind(integer(now.saturating_sub(KEPT))).execute(self.connection).await?;
        self.bound_checkpoints(Some(name), OF_USER).await?;
        self.bound_checkpoints(None, OF_ALL).await?;
        Ok(revision)
    }

    /// Removes the oldest where those of a user for a collection, or all, take more than they may.
    async fn bound_checkpoints(&mut self, of: Option<&CheckpointName>, bytes: u64) -> sqlx::Result<()> {
        let among = |statement: Statement| match of {
            Some(name) => statement
                .push(" WHERE user_id = ")
                .bind(name.user_id.as_str())
                .push(" AND collection = ")
                .bind(name.collection.as_str()),
            None => statement.push(" WHERE 1 = 1"),
        };
        let taken = Statement::new("SELECT CAST(coalesce(sum(bytes), 0) AS BIGINT) FROM sidecar_checkpoints");
        let taken = among(taken).number(self.connection).await?;
        if u64::try_from(taken).is_ok_and(|taken| taken <= bytes) {
            return Ok(());
        }
        // Some more than has to be, or the next one would have to look again.
        let kept = integer(bytes - bytes / 16);
        let delete = among(Statement::new("DELETE FROM sidecar_checkpoints")).push(
            " AND written <= (SELECT max(written) FROM (SELECT written, sum(bytes) OVER (ORDER BY written DESC) AS total \
             FROM sidecar_checkpoints",
        );
        let delete = among(delete).push(") AS newest WHERE total > ").bind(kept).push(")");
        delete.execute(self.connection).await?;
        Ok(())
    }
}

fn integer(value: u64) -> Bound {
    i64::try_from(value).unwrap_or(i64::MAX).into()
}
