//! What is removed by itself: entries past `history.auto_trim_max_count` or `history.keep_days`, and what deleted buckets
//! leave behind; and then the space that nothing is in any more. It goes through the writer in small portions, between the
//! writes of clients.

use std::collections::BTreeSet;
use std::time::Duration;

use sqlx::Row;
use tokio::sync::{broadcast, mpsc};
use tokio::time::{Instant, sleep, timeout_at};

use super::queue::{Done, Surplus, Waiting, Work, write};
use super::statement::{Statement, timestamp};
use super::{JournalError, News, Object, sweep};
use crate::journal::transaction::Transaction;
use crate::kinto::{DAY, Timestamp};
use crate::settings::HistorySettings;

/// SECURITY: rows removed in one transaction, and the bytes of entries among them, but for a single one.
const PORTION: usize = 500;
const BYTES: i64 = 4 << 20;
/// What is looked at of entries, before they are chosen.
const OLDEST: &str =
    "SELECT last_modified, CAST(octet_length(json) AS BIGINT) FROM sidecar_entries WHERE history = ";
/// How long changes are gathered before it is looked what is too much.
const GATHER: Duration = Duration::from_millis(500);
/// How often all buckets, and all sets of readers, are looked at.
const EVERYTHING: Duration = Duration::from_secs(3600);
/// Between two portions, for the sake of those who write.
const PAUSE: Duration = Duration::from_millis(10);
const KINDS: [&str; 4] = ["record", "collection", "group", "bucket"];

/// Removes what is too much, until the journal is closed.
pub(super) async fn run(
    weak: mpsc::WeakSender<Waiting>,
    mut news: broadcast::Receiver<News>,
    rules: HistorySettings,
) {
    let (mut all_at, mut sweep_at) = (Instant::now(), Instant::now());
    let mut buckets = BTreeSet::new();
    loop {
        let recorded = match timeout_at(all_at, news.recv()).await {
            Ok(Ok(recorded)) => Some(recorded),
            Ok(Err(broadcast::error::RecvError::Closed)) => return,
            // Too much to be told of, or it is time for all.
            Ok(Err(broadcast::error::RecvError::Lagged(_))) | Err(_) => None,
        };
        match &recorded {
            // What others recorded, they trim.
            Some(news) if news.is_foreign => continue,
            Some(_) => sleep(GATHER).await,
            None => {}
        }
        let mut is_all = recorded.is_none();
        let mut may_be_dead = is_all;
        let mut gather = |news: News| {
            may_be_dead |= news.objects.iter().any(|(object, _)| matches!(object, Object::Bucket(_)));
            buckets.extend(news.objects.iter().map(|(object, _)| object.bucket().to_owned()));
        };
        recorded.map(&mut gather);
        loop {
            match news.try_recv() {
                Ok(more) => gather(more),
                Err(broadcast::error::TryRecvError::Lagged(_)) => is_all = true,
                Err(_) => break,
            }
        }
        let Some(queue) = weak.upgrade() else { return };
        if is_all {
            all_at = Instant::now() + EVERYTHING;
            if let Ok(Done::Buckets(all)) = write(&queue, Work::Buckets).await {
                buckets.extend(all);
            }
        }
        // What fails is tried again with the next change.
        if may_be_dead {
            let _ = remove(&queue, Surplus::Dead).await;
        }
        let _ = trim(&queue, &rules, std::mem::take(&mut buckets)).await;
        let _ = give_back(&queue).await;
        drop(queue);
        if is_all && Instant::now() >= sweep_at {
            sweep_at = Instant::now() + EVERYTHING;
            sweep::run(&weak).await;
        }
    }
}

async fn trim(
    queue: &mpsc::Sender<Waiting>,
    rules: &HistorySettings,
    buckets: BTreeSet<String>,
) -> Result<(), JournalError> {
    for bucket in buckets {
        if rules.auto_trim_max_count.is_some_and(|count| count > 0) {
            let users: Vec<Option<String>> = match rules.auto_trim_user_ids.as_slice() {
                [] => vec![None],
                users => users.iter().cloned().map(Some).collect(),
            };
            for user_id in users {
                for kind in KINDS {
                    let (bucket, user_id) = (bucket.clone(), user_id.clone());
                    remove(queue, Surplus::Count { bucket, kind, user_id, is_begun: false }).await?;
                }
            }
        }
        if let Some(days) = rules.keep_days {
            let before = Timestamp::now().back(DAY.saturating_mul(u32::try_from(days).unwrap_or(u32::MAX)));
            remove(queue, Surplus::Age { bucket, before }).await?;
        }
    }
    Ok(())
}

async fn give_back(queue: &mpsc::Sender<Waiting>) -> Result<(), JournalError> {
    while let Done::Removed(true) = write(queue, Work::GiveBack).await? {
        sleep(PAUSE).await;
    }
    Ok(())
}

async fn remove(queue: &mpsc::Sender<Waiting>, mut surplus: Surplus) -> Result<(), JournalError> {
    while let Done::Removed(true) = write(queue, Work::Remove(surplus.clone())).await? {
        if let Surplus::Count { is_begun, .. } = &mut surplus {
            *is_begun = true;
        }
        sleep(PAUSE).await;
    }
    Ok(())
}

impl Transaction<'_> {
    /// The buckets that have a history.
    pub(super) async fn buckets(&mut self) -> sqlx::Result<Vec<String>> {
        let select =
            Statement::new("SELECT bucket FROM sidecar_histories WHERE is_current = 1 ORDER BY bucket");
        select.fetch(self.connection).await?.iter().map(|row| row.try_get(0)).collect()
    }

    /// Removes a portion; says whether there may be more.
    pub(super) async fn remove_surplus(&mut self, surplus: &Surplus) -> sqlx::Result<bool> {
        self.store().await?;
        match surplus {
            Surplus::Count { bucket, kind, user_id, is_begun } => {
                self.remove_by_count(bucket, kind, user_id.as_deref(), *is_begun).await
            }
            Surplus::Age { bucket, before } => self.remove_by_age(bucket, *before).await,
            Surplus::Dead => self.remove_dead().await,
        }
    }

    async fn remove_by_count(
        &mut self,
        bucket: &str,
        kind: &str,
        user_id: Option<&str>,
        is_begun: bool,
    ) -> sqlx::Result<bool> {
        let history = self.history(bucket).await?.id;
        let these = |text: &str| {
            let statement = Statement::new(text).bind(history).push(" AND resource_name = ").bind(kind);
            match user_id {
                Some(user_id) => statement.push(" AND user_id = ").bind(user_id),
                None => statement,
            }
        };
        let count =
            these("SELECT count(*) FROM sidecar_entries WHERE history = ").number(self.connection).await?;
        let count = u64::try_from(count).unwrap_or_default();
        let allowed = self.rules.auto_trim_max_count.unwrap_or(u64::MAX);
        let bound = if is_begun { allowed } else { allowed.saturating_add(self.rules.auto_trim_threshold) };
        if count <= bound {
            return Ok(false);
        }
        let surplus = usize::try_from(count.saturating_sub(allowed)).unwrap_or(usize::MAX);
        let (oldest, _) = self.oldest(these(OLDEST), surplus.min(PORTION)).await?;
        self.trim(bucket, &oldest).await?;
        Ok(surplus > oldest.len())
    }

    async fn remove_by_age(&mut self, bucket: &str, before: Timestamp) -> sqlx::Result<bool> {
        let history = self.history(bucket).await?.id;
        if self.remove_rows("sidecar_tombstones", "last_modified", history, Some(before)).await? {
            return Ok(true);
        }
        let old = Statement::new(OLDEST).bind(history).push(" AND last_modified < ").bind(before);
        let (old, is_more) = self.oldest(old, PORTION).await?;
        self.trim(bucket, &old).await?;
        Ok(is_more)
    }

    async fn trim(&mut self, bucket: &str, entries: &[Timestamp]) -> sqlx::Result<()> {
        self.remove(bucket, entries).await?;
        self.trimmed += entries.len() as u64;
        Ok(())
    }

    /// Of these entries, the oldest: as many as are removed at once, and whether there may be more.
    async fn oldest(&mut self, these: Statement, most: usize) -> sqlx::Result<(Vec<Timestamp>, bool)> {
        let rows =
            these.push(&format!(" ORDER BY last_modified LIMIT {most}")).fetch(self.connection).await?;
        let (mut oldest, mut bytes) = (Vec::new(), 0);
        for row in &rows {
            bytes += row.try_get::<i64, _>(1)?;
            if bytes > BYTES && !oldest.is_empty() {
                return Ok((oldest, true));
            }
            oldest.push(timestamp(row, 0)?);
        }
        Ok((oldest, rows.len() == most))
    }

    /// Removes rows of a history, all or those from before a moment; whether there may be more.
    async fn remove_rows(
        &mut self,
        table: &str,
        key: &str,
        history: i64,
        before: Option<Timestamp>,
    ) -> sqlx::Result<bool> {
        let these = Statement::new(&format!("DELETE FROM {table} WHERE history = ")).bind(history);
        let these = these.push(&format!(" AND {key} IN (SELECT {key} FROM {table} WHERE history = "));
        let these = match before {
            Some(before) => these.bind(history).push(" AND last_modified < ").bind(before),
            None => these.bind(history),
        };
        let removed =
            these.push(&format!(" ORDER BY {key} LIMIT {PORTION})")).execute(self.connection).await?;
        Ok(removed == PORTION as u64)
    }

    async fn remove_dead(&mut self) -> sqlx::Result<bool> {
        let dead =
            Statement::new("SELECT id FROM sidecar_histories WHERE is_current = 0 ORDER BY id LIMIT 1");
        let Some(dead) = dead.first(self.connection).await? else { return Ok(false) };
        let history: i64 = dead.try_get(0)?;
        let (entries, _) = self.oldest(Statement::new(OLDEST).bind(history), PORTION).await?;
        if !entries.is_empty() {
            let delete = Statement::new("DELETE FROM sidecar_entries WHERE history = ").bind(history);
            let delete = delete.push(" AND last_modified IN (").list(entries).push(")");
            delete.execute(self.connection).await?;
            return Ok(true);
        }
        for (table, key) in [("sidecar_tombstones", "last_modified"), ("sidecar_gaps", "collection_id")] {
            if self.remove_rows(table, key, history, None).await? {
                return Ok(true);
            }
        }
        let delete = Statement::new("DELETE FROM sidecar_histories WHERE id = ").bind(history);
        delete.execute(self.connection).await?;
        Ok(true)
    }
}
