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

/// Entries removed at once.
const PORTION: usize = 500;
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
        let oldest = these("SELECT last_modified FROM sidecar_entries WHERE history = ")
            .push(&format!(" ORDER BY last_modified LIMIT {}", surplus.min(PORTION)));
        self.remove_these(bucket, oldest).await?;
        Ok(surplus > PORTION)
    }

    async fn remove_by_age(&mut self, bucket: &str, before: Timestamp) -> sqlx::Result<bool> {
        let history = self.history(bucket).await?.id;
        let tombstones = Statement::new("DELETE FROM sidecar_tombstones WHERE history = ").bind(history);
        tombstones.push(" AND last_modified < ").bind(before).execute(self.connection).await?;
        let old = Statement::new("SELECT last_modified FROM sidecar_entries WHERE history = ").bind(history);
        let old = old.push(" AND last_modified < ").bind(before);
        let old = old.push(&format!(" ORDER BY last_modified LIMIT {PORTION}"));
        Ok(self.remove_these(bucket, old).await? == PORTION)
    }

    async fn remove_these(&mut self, bucket: &str, select: Statement) -> sqlx::Result<usize> {
        let rows = select.fetch(self.connection).await?;
        let entries: Vec<Timestamp> =
            rows.iter().map(|row| timestamp(row, 0)).collect::<sqlx::Result<_>>()?;
        self.remove(bucket, &entries).await?;
        self.trimmed += entries.len() as u64;
        Ok(entries.len())
    }

    async fn remove_dead(&mut self) -> sqlx::Result<bool> {
        let dead =
            Statement::new("SELECT id FROM sidecar_histories WHERE is_current = 0 ORDER BY id LIMIT 1");
        let Some(dead) = dead.first(self.connection).await? else { return Ok(false) };
        let history: i64 = dead.try_get(0)?;
        let entries = Statement::new("DELETE FROM sidecar_entries WHERE history = ")
            .bind(history)
            .push(" AND last_modified IN (SELECT last_modified FROM sidecar_entries WHERE history = ")
            .bind(history)
            .push(&format!(" ORDER BY last_modified LIMIT {PORTION})"));
        if entries.execute(self.connection).await? > 0 {
            return Ok(true);
        }
        for table in
            ["sidecar_tombstones WHERE history", "sidecar_gaps WHERE history", "sidecar_histories WHERE id"]
        {
            let delete = Statement::new(&format!("DELETE FROM {table} = ")).bind(history);
            delete.execute(self.connection).await?;
        }
        Ok(true)
    }
}
