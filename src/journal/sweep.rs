//! Sets of readers to which no entry refers any more are removed: entries go one by one, and with whole buckets.

use std::collections::HashSet;
use std::time::Duration;

use sqlx::{Executor, Row};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::engine::Kind;
use super::queue::{Done, Waiting, Work, write};
use super::rows::CHUNK;
use super::statement::Statement;
use crate::journal::transaction::Transaction;

/// Sets looked at in one transaction.
const SETS: usize = 200;
/// Principals removed in one transaction, but for a chunk.
const PRINCIPALS: usize = 1000;
/// What a set counts for at least.
const LEAST: usize = 20;
/// Between two transactions, for the sake of those who write: at least that, and this many times what the last one took.
const PAUSE: Duration = Duration::from_millis(10);
const SHARE: u32 = 4;

/// Looks at all sets. It keeps no journal open, and what fails is tried again with the next time.
pub(super) async fn run(queue: &mpsc::WeakSender<Waiting>) {
    let mut after = 0;
    while let Some(queue) = queue.upgrade() {
        let begun = Instant::now();
        let Ok(Done::Swept(Some(next))) = write(&queue, Work::Sweep(after)).await else { return };
        after = next;
        drop(queue);
        sleep(PAUSE.max(SHARE * begun.elapsed())).await;
    }
}

impl Transaction<'_> {
    /// Removes what nothing refers to of a portion of the sets; gives after which one to go on.
    pub(super) async fn sweep(&mut self, after: i64) -> sqlx::Result<Option<i64>> {
        // What is written in the same transaction refers to its sets from here on.
        self.store().await?;
        let sets = Statement::new("SELECT id FROM sidecar_reader_sets WHERE id > ").bind(after);
        let sets = sets.push(&format!(" ORDER BY id LIMIT {SETS}")).fetch(self.connection).await?;
        let sets: Vec<i64> = sets.iter().map(|row| row.try_get(0)).collect::<sqlx::Result<_>>()?;
        let Some(last) = sets.last().copied() else { return Ok(None) };
        let used = self.used_sets(after, last).await?;
        let mut removed = 0;
        for set in sets.into_iter().filter(|set| !used.contains(set)) {
            if removed >= PRINCIPALS {
                return Ok(Some(set - 1));
            }
            if removed == 0 {
                self.reader_sets.forget(self.connection).await?;
            }
            let (number, is_all) = self.remove_set(set, PRINCIPALS - removed).await?;
            removed += number.max(LEAST);
            if !is_all {
                return Ok(Some(set - 1));
            }
        }
        Ok(Some(last))
    }

    /// The sets in a range to which entries refer. Of each history, one entry of each set is looked at.
    async fn used_sets(&mut self, after: i64, last: i64) -> sqlx::Result<HashSet<i64>> {
        if self.kind == Kind::Postgres {
            // It would compile what it takes for long, for ten times what that takes.
            self.connection.execute("SET LOCAL jit = off").await?;
        }
        let select = Statement::new(
            "WITH RECURSIVE used (history, reader_set) AS (SELECT h.id, (SELECT min(e.reader_set) FROM sidecar_entries e \
             WHERE e.history = h.id AND e.reader_set > ",
        );
        let select = select.bind(after).push(" AND e.reader_set <= ").bind(last).push(
            ") FROM sidecar_histories h UNION ALL SELECT u.history, (SELECT min(e.reader_set) FROM sidecar_entries e \
             WHERE e.history = u.history AND e.reader_set > u.reader_set AND e.reader_set <= ",
        );
        let select = select.bind(last).push(
            ") FROM used u WHERE u.reader_set IS NOT NULL) SELECT DISTINCT reader_set FROM used \
             WHERE reader_set IS NOT NULL",
        );
        select.fetch(self.connection).await?.iter().map(|row| row.try_get(0)).collect()
    }

    /// Removes about so many principals of a set, and the set with the last ones; how many, and whether it was all.
    async fn remove_set(&mut self, set: i64, most: usize) -> sqlx::Result<(usize, bool)> {
        let select = Statement::new("SELECT principals FROM sidecar_reader_sets WHERE id = ").bind(set);
        let json: String =
            select.first(self.connection).await?.ok_or(sqlx::Error::RowNotFound)?.try_get(0)?;
        let principals: Vec<String> = serde_json::from_str(&json).unwrap_or_default();
        let mut number = 0;
        for principals in principals.chunks(CHUNK).take(most.div_ceil(CHUNK)) {
            let delete = Statement::new("DELETE FROM sidecar_readers WHERE reader_set = ").bind(set);
            let delete = delete.push(" AND principal IN (").list(principals.iter().map(String::as_str));
            delete.push(")").execute(self.connection).await?;
            number += principals.len();
        }
        let rest = principals.get(number..).unwrap_or_default();
        let statement = if rest.is_empty() {
            Statement::new("DELETE FROM sidecar_reader_sets WHERE id = ")
        } else {
            // Nobody finds it by what it was.
            Statement::new("UPDATE sidecar_reader_sets SET digest = ")
                .bind(format!("removed {set}"))
                .push(", principals = ")
                .bind(serde_json::to_string(rest).unwrap_or_default())
                .push(" WHERE id = ")
        };
        statement.bind(set).execute(self.connection).await?;
        Ok((number, rest.is_empty()))
    }
}
