//! Where checkpoints are kept, and when they give way.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

use sqlx::{AnyConnection, Row};

use super::{Checkpoint, CheckpointName};
use crate::journal::engine::DEADLINE;
use crate::journal::queue::{self, Done, Work};
use crate::journal::rows::{CHUNK, now_microseconds};
use crate::journal::statement::{Bound, Statement};
use crate::journal::transaction::Transaction;
use crate::journal::{Journal, JournalError};

/// What those of one user may take, in bytes.
const OF_USER: i64 = 4 << 20;
/// What all may take, in bytes.
const OF_ALL: i64 = 32 << 20;
/// What one counts for at least, in bytes: so their number is bounded, too, however short they are.
const LEAST: usize = 1 << 10;
/// How long one is kept after it was last written, in microseconds: 90 days.
const KEPT: u64 = 90 * 24 * 3600 * 1_000_000;

const TAKEN: &str = "SELECT CAST(coalesce(sum(bytes), 0) AS BIGINT) FROM sidecar_checkpoints";

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
        let names = name.user_id.len() + name.collection.len() + name.id.len();
        let bytes = (names + json.len()).max(LEAST);
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
        self.bound_those_of(&name.user_id).await?;
        self.bound_all().await?;
        Ok(revision)
    }

    /// Removes the oldest of a user where theirs take more than they may.
    async fn bound_those_of(&mut self, user_id: &str) -> sqlx::Result<()> {
        let of = |text: &str| Statement::new(text).push(" WHERE user_id = ").bind(user_id);
        if of(TAKEN).number(self.connection).await? <= OF_USER {
            return Ok(());
        }
        let oldest = of(
            "SELECT coalesce(max(written), 0) FROM (SELECT written, sum(bytes) OVER (ORDER BY written DESC) AS total \
                         FROM sidecar_checkpoints",
        );
        let oldest = oldest.push(") AS newest WHERE total > ").bind(left(OF_USER));
        let oldest = oldest.number(self.connection).await?;
        let delete = of("DELETE FROM sidecar_checkpoints").push(" AND written <= ").bind(oldest);
        delete.execute(self.connection).await.map(drop)
    }

    /// Removes some where all take more than they may.
    async fn bound_all(&mut self) -> sqlx::Result<()> {
        let taken = Statement::new(TAKEN).number(self.connection).await?;
        if taken <= OF_ALL {
            return Ok(());
        }
        let select = "SELECT user_id, collection, id, bytes FROM sidecar_checkpoints ORDER BY written";
        let mut shares = Shares::default();
        for row in Statement::new(select).fetch(self.connection).await? {
            let name =
                CheckpointName { user_id: row.try_get(0)?, collection: row.try_get(1)?, id: row.try_get(2)? };
            shares.add(name, row.try_get(3)?);
        }
        for names in shares.too_much(taken - left(OF_ALL)).chunks(CHUNK / 3) {
            let names = names.iter().map(|name| [&*name.user_id, &*name.collection, &*name.id]);
            // SQLite looks for none of what is in a list of `VALUES` by its key.
            let delete = Statement::new("WITH given (user_id, collection, id) AS (VALUES ").rows(names).push(
                ") DELETE FROM sidecar_checkpoints WHERE (user_id, collection, id) IN \
                 (SELECT user_id, collection, id FROM given)",
            );
            delete.execute(self.connection).await?;
        }
        Ok(())
    }
}

/// Who has how much.
///
/// SECURITY: one more user, and one more collection in a bucket of one's own, cost nothing. So the bucket that has most gives
/// way, and in it the user who has most: nobody pushes out what is in another bucket and takes less.
#[derive(Default)]
struct Shares(BTreeMap<String, BTreeMap<String, Share>>);

/// What a user has in a bucket.
#[derive(Default)]
struct Share {
    bytes: i64,
    oldest_first: VecDeque<(CheckpointName, i64)>,
}

// === impl Shares ===

impl Shares {
    /// They are added from the oldest on.
    fn add(&mut self, name: CheckpointName, bytes: i64) {
        let bucket = name.collection.split('/').nth(2).unwrap_or_default().to_owned();
        let share = self.0.entry(bucket).or_default().entry(name.user_id.clone()).or_default();
        share.bytes += bytes;
        share.oldest_first.push_back((name, bytes));
    }

    /// Which are to be removed for there to be so many bytes less.
    fn too_much(self, mut bytes: i64) -> Vec<CheckpointName> {
        let of_bucket = |users: BTreeMap<String, Share>| {
            let all: i64 = users.values().map(|share| share.bytes).sum();
            (all, users.into_values().collect::<BinaryHeap<_>>())
        };
        let mut buckets: Vec<(i64, BinaryHeap<Share>)> = self.0.into_values().map(of_bucket).collect();
        let mut order: BinaryHeap<(i64, usize)> =
            buckets.iter().enumerate().map(|(index, (all, _))| (*all, index)).collect();
        let mut removed = Vec::new();
        while bytes > 0
            && let Some((_, index)) = order.pop()
        {
            let Some((all, users)) = buckets.get_mut(index) else { continue };
            let Some(mut share) = users.pop() else { continue };
            if let Some((name, of_it)) = share.oldest_first.pop_front() {
                (*all, share.bytes, bytes) = (*all - of_it, share.bytes - of_it, bytes - of_it);
                removed.push(name);
                users.push(share);
            }
            order.push((*all, index));
        }
        removed
    }
}

// === impl Share ===

impl Ord for Share {
    fn cmp(&self, other: &Self) -> Ordering {
        self.bytes.cmp(&other.bytes)
    }
}

impl PartialOrd for Share {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Share {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Share {}

/// What is left of what is too much: some less than may be, or the next one would have to look again.
fn left(bytes: i64) -> i64 {
    bytes - bytes / 16
}

fn integer(value: u64) -> Bound {
    i64::try_from(value).unwrap_or(i64::MAX).into()
}
