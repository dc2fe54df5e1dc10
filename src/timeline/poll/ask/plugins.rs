//! What an upstream with plugins of its own can be asked for: its monitor/changes, and its histories.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde::de::IgnoredAny;
use tokio::time::{Instant, timeout};

use super::{Asker, Followed};
use crate::kinto::{CollectionKey, Timestamp, segment};
use crate::timeline::clock::Clock;
use crate::timeline::poll::PollError;
use crate::upstream::kinto::KintoPage;

/// How long the newest entry of a history is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// The path of the changes plugin's list.
const MONITOR: &str = "/buckets/monitor/collections/changes/records";

#[derive(Deserialize)]
struct MonitorEntry {
    bucket: String,
    collection: String,
    last_modified: Timestamp,
}

#[derive(Deserialize)]
struct HistoryEntry {
    last_modified: Timestamp,
    collection_id: Option<String>,
}

impl Asker {
    /// Takes what the upstream's own monitor/changes says, where it has one.
    pub(in crate::timeline::poll) async fn ask_monitor(&mut self) -> Result<(), PollError> {
        let silence = Arc::clone(&self.silence);
        Self::while_heard(&silence, self.read_monitor()).await
    }

    async fn read_monitor(&mut self) -> Result<(), PollError> {
        if !self.has_changes() {
            self.listed.clear();
            return Ok(());
        }
        let asked = Instant::now();
        let news: BTreeMap<CollectionKey, u64> =
            self.timeline.clocks().iter().map(|clock| (clock.key().clone(), clock.news())).collect();
        let mut listed = BTreeMap::new();
        let mut pages = self.source.pages_of::<MonitorEntry>(MONITOR).names();
        while let Some(page) = pages.next().await? {
            for entry in page.rows {
                listed.insert(CollectionKey::new(&entry.bucket, &entry.collection), entry.last_modified);
            }
        }
        self.listed = listed.keys().cloned().collect();
        self.listed_at = Some(asked);
        if self.timeline.resources().set_listed(self.listed.clone()) {
            for entry in &self.timeline.entries().rows {
                if !self.listed.contains(&entry.key) {
                    self.timeline.removed(&entry.key);
                }
            }
        }
        for (key, timestamp) in listed {
            let clock = self.timeline.clock(&key);
            let news = news.get(&key).copied().unwrap_or_else(|| clock.news());
            self.timeline.learned(&clock, timestamp, None, news, asked);
        }
        Ok(())
    }

    /// Finds which buckets' histories the service account can follow, of those that are not followed. What changed before
    /// is not in what is read of them from here on: each collection is asked for once more by itself.
    pub(in crate::timeline::poll) async fn begin_histories(&mut self) {
        self.histories_at = Some(Instant::now());
        if !self.description.as_ref().is_some_and(|description| description.has("history"))
            || self.has_changes()
        {
            return;
        }
        let resources = self.timeline.resources();
        let mut buckets: BTreeSet<String> = resources.buckets().map(str::to_owned).collect();
        buckets.extend(resources.collections().map(|key| key.bucket.to_string()));
        for bucket in
            buckets.into_iter().filter(|bucket| !self.histories.contains_key(bucket)).collect::<Vec<_>>()
        {
            let path = format!("/buckets/{}/history?_limit=1&_fields=last_modified", segment(&bucket));
            let begun = Instant::now();
            let mut pages = self.source.pages_of::<IgnoredAny>(path);
            if let Ok(Ok(KintoPage { timestamp: newest, .. })) = timeout(PATIENCE, pages.first()).await {
                self.histories.insert(bucket, Followed { newest, asked: begun, begun, silences: 0 });
            }
        }
    }

    /// Asks for the collections that a bucket's history says have changed.
    pub(in crate::timeline::poll) async fn ask_history(&mut self, bucket: &str) -> Result<(), PollError> {
        let silence = Arc::clone(&self.silence);
        let done = Self::while_heard(&silence, self.read_history(bucket)).await;
        if let Some(followed) = self.histories.get_mut(bucket) {
            let is_silent = done.as_ref().is_err_and(PollError::is_silence);
            followed.silences = if is_silent { followed.silences.saturating_add(1) } else { 0 };
        }
        done
    }

    async fn read_history(&mut self, bucket: &str) -> Result<(), PollError> {
        let Some(followed) = self.histories.get_mut(bucket) else { return Ok(()) };
        followed.asked = Instant::now();
        let mut seen = followed.newest;
        let mut changed = BTreeSet::new();
        let since = seen.back(self.settings.now().overlap).min(self.upstream.latest_since());
        let path = format!(
            "/buckets/{}/history?_since={since}&_fields=last_modified,collection_id,resource_name",
            segment(bucket)
        );
        let mut pages = self.source.pages_of::<HistoryEntry>(path);
        loop {
            let page = match pages.next().await {
                Ok(Some(page)) => page,
                Ok(None) => break,
                Err(error) if error.status().is_some_and(|status| status.is_client_error()) => {
                    self.histories.remove(bucket);
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            };
            for entry in page.rows {
                seen = seen.max(entry.last_modified);
                changed.extend(entry.collection_id.map(|collection| CollectionKey::new(bucket, &collection)));
            }
        }
        let clocks: Vec<Arc<Clock>> = changed.iter().map(|key| self.timeline.clock(key)).collect();
        for clocks in clocks.chunks(self.at_once()) {
            self.timestamps.ask(clocks).await?;
        }
        if let Some(followed) = self.histories.get_mut(bucket) {
            followed.newest = seen;
        }
        Ok(())
    }
}
