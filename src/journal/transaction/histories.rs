//! The histories of buckets in a transaction: each life of a bucket has its own. The timestamps of the next one follow.

use sqlx::Row;

use super::Transaction;
use crate::journal::rows::below;
use crate::journal::state::history;
use crate::journal::statement::Statement;
use crate::kinto::Timestamp;

/// A bucket's history.
#[derive(Debug, Clone, Copy)]
pub(in crate::journal) struct History {
    pub(in crate::journal) id: i64,
    pub(in crate::journal) timestamp: Timestamp,
    pub(super) added: i64,
    pub(super) is_changed: bool,
}

impl Transaction<'_> {
    /// A bucket's history; a new one where there is none.
    pub(in crate::journal) async fn history(&mut self, bucket: &str) -> sqlx::Result<History> {
        if let Some(history) = self.histories.get(bucket) {
            return Ok(*history);
        }
        let found = self.find_history(bucket).await?;
        let history = match found {
            Some(history) => history,
            // Kinto: the timestamp of a list that was never written is that of the first look at it.
            None => self.begin_history(bucket, Timestamp::now()).await?,
        };
        self.histories.insert(bucket.to_owned(), history);
        Ok(history)
    }

    async fn find_history(&mut self, bucket: &str) -> sqlx::Result<Option<History>> {
        let found = history(self.connection, bucket).await?;
        Ok(found.map(|(id, timestamp)| History { id, timestamp, added: 0, is_changed: false }))
    }

    async fn begin_history(&mut self, bucket: &str, timestamp: Timestamp) -> sqlx::Result<History> {
        let begun =
            Statement::new("INSERT INTO sidecar_histories (bucket, is_current, timestamp, entries) VALUES (")
                .bind(bucket)
                .push(", 1, ")
                .bind(timestamp)
                .push(", 0) RETURNING id");
        let row = begun.first(self.connection).await?.ok_or(sqlx::Error::RowNotFound)?;
        Ok(History { id: row.try_get(0)?, timestamp, added: 0, is_changed: false })
    }

    /// The next timestamp of a bucket's history.
    pub(in crate::journal) async fn next_timestamp(&mut self, bucket: &str) -> sqlx::Result<Timestamp> {
        let mut history = self.history(bucket).await?;
        history.timestamp = Timestamp::now().max(Timestamp(history.timestamp.0.saturating_add(1)));
        history.is_changed = true;
        self.histories.insert(bucket.to_owned(), history);
        Ok(history.timestamp)
    }

    /// Sees to it that a bucket's history is not older than this.
    pub(in crate::journal) async fn reach(&mut self, bucket: &str, timestamp: Timestamp) -> sqlx::Result<()> {
        if self.histories.contains_key(bucket) || self.find_history(bucket).await?.is_some() {
            let mut history = self.history(bucket).await?;
            history.is_changed |= history.timestamp < timestamp;
            history.timestamp = history.timestamp.max(timestamp);
            self.histories.insert(bucket.to_owned(), history);
        } else {
            let history = self.begin_history(bucket, timestamp).await?;
            self.histories.insert(bucket.to_owned(), history);
        }
        Ok(())
    }

    /// Counts entries that came or went without [`Self::add`].
    pub(in crate::journal) fn count(&mut self, bucket: &str, added: i64) {
        if let Some(history) = self.histories.get_mut(bucket) {
            history.added = history.added.saturating_add(added);
            history.is_changed = true;
        }
    }

    /// The history of a bucket ends; that of its next life begins with later timestamps. A hidden one goes on under a name
    /// that no bucket has; with the bucket that is deleted, those that are hidden behind its name end, too.
    pub(super) async fn end_history(&mut self, bucket: &str, is_hidden: bool) -> sqlx::Result<()> {
        let history = self.history(bucket).await?;
        if is_hidden {
            let name = hidden_name(bucket, history.timestamp, history.id);
            let hide = Statement::new("UPDATE sidecar_histories SET bucket = ").bind(name.as_str());
            hide.push(" WHERE id = ").bind(history.id).execute(self.connection).await?;
        } else {
            let (from, to) = hidden_names(bucket);
            let end = "UPDATE sidecar_histories SET is_current = 0 WHERE is_current = 1 AND ";
            let own = Statement::new(end).push("bucket = ").bind(bucket);
            own.execute(self.connection).await?;
            let hidden = Statement::new(end).push("bucket >= ").bind(from).push(" AND bucket < ").bind(to);
            hidden.execute(self.connection).await?;
        }
        let next = self.begin_history(bucket, history.timestamp).await?;
        self.histories.insert(bucket.to_owned(), next);
        Ok(())
    }
}

/// What a history is called that is hidden: no id of a bucket has a slash.
fn hidden_name(bucket: &str, timestamp: Timestamp, history: i64) -> String {
    format!("{bucket}/{timestamp}-{history}")
}

/// The range of the names of hidden histories of a bucket.
pub(in crate::journal) fn hidden_names(bucket: &str) -> (String, String) {
    below(bucket)
}

/// Whether that is what a hidden history is called.
pub(in crate::journal) fn is_hidden(name: &str) -> bool {
    name.contains('/')
}

/// The bucket whose history has this name, hidden or not; `None` where that is no such name.
pub(in crate::journal) fn bucket_of(name: &str) -> Option<&str> {
    let Some((bucket, life)) = name.split_once('/') else { return Some(name) };
    let (timestamp, history) = life.split_once('-')?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (is_number(timestamp) && is_number(history)).then_some(bucket)
}
