//! Finds what reached the upstream another way: each list's timestamp says whether there is anything new in it.
//!
//! ```text
//! buckets ── collections, groups ── records       a conditional request each; for records, the timeline's clocks
//!    │ the list moved
//! what is newer than the watermark less the overlap ── what of it nobody recorded, after all writes under way have
//! recorded theirs ── entries without an author
//! ```
//!
//! What is in a list that is seen for the first time counts as known, or as created (`history.backfill = current`). A list
//! that was made while the journal was there has the watermark zero: all of it is news.

use std::collections::{BTreeSet, HashMap};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

mod dated_back;
mod deletions;
mod list_state;
mod news;
mod watching;

use super::Writes;
use super::question::LookupError;
use crate::journal::{Journal, JournalError, Object};
use crate::kinto::CollectionKey;
use crate::mirror::Mirrors;
use crate::upstream::UpstreamError;
use crate::upstream::kinto::KintoError;

use list_state::ListState;
pub use watching::Watching;

/// The shortest pause between two rounds.
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
/// The pause after the upstream failed.
const AFTER_FAILURE: Duration = Duration::from_secs(1);
/// The longest pause between two looks at what moved.
const LONGEST_REST: Duration = Duration::from_secs(1);

/// Watches until the process ends.
#[derive(Debug)]
pub(super) struct Watcher {
    room: Arc<Writes>,
    journal: Journal,
    mirrors: Arc<Mirrors>,
    settings: Watching,
    lists: HashMap<String, ListState>,
    /// Counts the rounds.
    round: u64,
}

// === impl Watcher ===

impl Watcher {
    /// Watches for `room`.
    pub(super) fn new(
        room: Arc<Writes>,
        journal: Journal,
        mirrors: Arc<Mirrors>,
        settings: Watching,
    ) -> Self {
        Self { room, journal, mirrors, settings, lists: HashMap::new(), round: 0 }
    }

    /// Watches until the process ends; once for all settings that are in force, where nothing is written past the sidecars.
    pub(super) async fn run(mut self) {
        let mut replaced = self.settings.subscribe();
        loop {
            replaced.mark_unchanged();
            self.settings.look();
            let pause = match self.look_at_everything().await {
                Ok(()) if self.settings.now().exclusive => {
                    if replaced.changed().await.is_err() {
                        return;
                    }
                    continue;
                }
                Ok(()) => self.settings.now().timestamps_ttl.max(SHORTEST_PAUSE),
                Err(error) => {
                    tracing::debug!(%error, "could not look for what passes elsewhere");
                    AFTER_FAILURE
                }
            };
            let pause = tokio::time::sleep(pause);
            self.look_at_moved_until(pause).await;
        }
    }

    /// Looks at everything once. Where the upstream fails on something, at the rest.
    async fn look_at_everything(&mut self) -> Result<(), LookupError> {
        self.round += 1;
        for bucket in self.buckets().await? {
            let bucket = Object::Bucket(bucket).to_string();
            let collections = self.in_turn(&format!("{bucket}/collections")).await?;
            self.in_turn(&format!("{bucket}/groups")).await?;
            if !collections {
                continue;
            }
            for (object, _) in self.journal.alive(&format!("{bucket}/collections")).await? {
                let Object::Collection(bucket, collection) = object else { continue };
                let key = CollectionKey::new(&bucket, &collection);
                if !self.settings.includes(&key) {
                    continue;
                }
                let uri = key.records_uri();
                let is_known = self.lists.get(&uri).is_some_and(|watched| watched.read.is_some());
                if is_known && !self.room.effects.timeline.is_kept(&key) {
                    // It was there before, and went: the list of collections will say whether it came again.
                    self.lists.remove(&uri);
                    continue;
                }
                let clock = self.room.effects.timeline.found(&key);
                clock.followed();
                let round = self.round;
                let watched = self.lists.entry(uri.clone()).or_default();
                watched.round = round;
                if watched.read.is_none() {
                    watched.news = clock.news();
                    self.in_turn(&uri).await?;
                } else {
                    self.records(&key).await?;
                    self.compare_when_due(&uri).await?;
                }
            }
        }
        let round = self.round;
        self.lists.retain(|_, watched| watched.round == round);
        Ok(())
    }

    /// Looks at what moves, without waiting for the next round, until something else is to be done.
    async fn look_at_moved_until<T>(&mut self, other: impl Future<Output = T>) -> T {
        let mut other = pin!(other);
        let moved = Arc::clone(&self.settings.moved);
        let mut again = Instant::now();
        loop {
            let moves = async {
                tokio::time::sleep_until(again).await;
                moved.notified().await;
            };
            tokio::select! {
                other = &mut other => return other,
                () = moves => {}
            }
            let began = Instant::now();
            if let Err(error) = self.look_at_moved().await {
                tracing::debug!(%error, "could not look for what passes elsewhere");
            }
            again = Instant::now() + self.settings.budget.rest(began.elapsed()).min(LONGEST_REST);
        }
    }

    /// Looks at the collections whose clocks moved.
    async fn look_at_moved(&mut self) -> Result<(), LookupError> {
        for clock in self.room.effects.timeline.clocks() {
            let is_watched = self.lists.contains_key(&clock.key().records_uri());
            if is_watched && self.settings.includes(clock.key()) {
                self.records(clock.key()).await?;
            }
        }
        Ok(())
    }

    /// The ids of the buckets that there are, as far as they are to be watched.
    async fn buckets(&mut self) -> Result<Vec<String>, LookupError> {
        let mut buckets: BTreeSet<String> = BTreeSet::new();
        if let Some(resources) = &self.settings.resources {
            buckets.extend(resources.buckets().map(str::to_owned));
            buckets.extend(resources.collections().map(|key| key.bucket.to_string()));
        }
        // Who may not list the buckets knows those that were written to.
        let is_listed = self.in_turn("/buckets").await?;
        if self.settings.resources.is_none() || !is_listed {
            for (object, _) in self.journal.alive("/buckets").await? {
                let is_included = self.settings.resources.is_none() || buckets.contains(object.bucket());
                if is_included {
                    buckets.insert(object.bucket().to_owned());
                }
            }
        }
        Ok(buckets.into_iter().collect())
    }

    /// Looks at the records of a collection if they moved.
    async fn records(&mut self, key: &CollectionKey) -> Result<(), LookupError> {
        let uri = key.records_uri();
        let clock = self.room.effects.timeline.clock(key);
        let (news, timestamp) = (clock.news(), clock.timestamp());
        let Some(watched) = self.lists.get_mut(&uri).filter(|watched| watched.read.is_some()) else {
            return Ok(());
        };
        if watched.news != news {
            watched.news = news;
            let is_own = self.room.is_recorded(&uri, timestamp);
            let at = if is_own { Instant::now() + self.settings.now().overlap } else { Instant::now() };
            watched.again = Some(watched.again.map_or(at, |again| again.min(at)));
        }
        // What is dated back moves no clock: whoever compares the mirror finds it.
        let mirrored = self.mirrors.known(key).and_then(|mirror| mirror.state());
        let late = mirrored.map_or(watched.late, |state| state.content.found_late());
        if std::mem::replace(&mut watched.late, late) != late {
            watched.again = Some(Instant::now());
        }
        if watched.again.is_some_and(|again| again <= Instant::now()) {
            self.refresh_or_forget(&uri).await?;
        }
        Ok(())
    }

    /// Brings a list up to date when there is time for it within the budget; `false` where it cannot be read. What
    /// moves is not kept waiting by that.
    async fn in_turn(&mut self, uri: &str) -> Result<bool, LookupError> {
        let round = self.round;
        let watched = self.lists.entry(uri.to_owned()).or_default();
        watched.round = round;
        if watched.is_left_alone() {
            return Ok(false);
        }
        let turn = Arc::clone(&self.settings.budget).turn_aside();
        let mut turn = self.look_at_moved_until(turn).await;
        let is_there = self.refresh_or_forget(uri).await?;
        if !is_there {
            turn.was_in_vain();
        }
        // What compares asks for a turn of its own.
        drop(turn);
        if is_there {
            self.compare_when_due(uri).await?;
        }
        Ok(is_there)
    }

    /// Compares a list with the journal when that has not been done for long and there is time for it within the budget.
    async fn compare_when_due(&mut self, uri: &str) -> Result<(), LookupError> {
        let every = self.settings.now().verify_every;
        if !self.lists.get(uri).is_some_and(|watched| watched.is_due(every) && !watched.is_left_alone()) {
            return Ok(());
        }
        let turn = Arc::clone(&self.settings.budget).turn_aside();
        let mut turn = self.look_at_moved_until(turn).await;
        match self.compare(uri).await {
            // It went meanwhile, or may not be read any longer: the next look at it says so.
            Ok(()) | Err(LookupError::Read(KintoError::Absent | KintoError::Refused(_))) => {}
            Err(LookupError::Read(error)) if !error.is_unsent() => {
                tracing::debug!(uri, %error, "could not compare a list with the journal");
                turn.was_in_vain();
                self.lists.entry(uri.to_owned()).or_default().failed();
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        if let Some(watched) = self.lists.get_mut(uri) {
            watched.compared = Some(Instant::now());
        }
        Ok(())
    }

    /// Brings a list up to date; `false` where it is not there, may not be read, or where the upstream fails on it.
    async fn refresh_or_forget(&mut self, uri: &str) -> Result<bool, LookupError> {
        if self.lists.get(uri).is_some_and(ListState::is_left_alone) {
            return Ok(false);
        }
        match self.refresh(uri).await {
            Ok(()) => {
                self.lists.entry(uri.to_owned()).or_default().answered();
                self.keep_deletions(uri).await?;
                Ok(true)
            }
            Err(LookupError::Read(KintoError::Absent | KintoError::Refused(_))) => {
                self.lists.remove(uri);
                self.forget_deletions(uri);
                Ok(false)
            }
            Err(LookupError::Read(KintoError::Upstream(error))) if error.is_absent() => {
                Err(LookupError::Read(error.into()))
            }
            Err(LookupError::Read(error)) => {
                let is_first = self.lists.entry(uri.to_owned()).or_default().failed();
                // Of an upstream that fails on everything, others tell.
                let is_of_list = !error.is_passing() || matches!(error, KintoError::Unreadable(_));
                if is_first && is_of_list {
                    tracing::warn!(uri, %error, "what passes elsewhere in {uri} is not found: {error}");
                } else {
                    tracing::debug!(uri, %error, "could not look for what passes elsewhere");
                }
                Ok(false)
            }
            Err(LookupError::Journal(error @ JournalError::Refused(_))) => {
                tracing::debug!(uri, %error, "could not look for what passes elsewhere");
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    async fn refresh(&mut self, uri: &str) -> Result<(), LookupError> {
        let watched = self.lists.entry(uri.to_owned()).or_default();
        let known = watched.read;
        // Something may have come below its timestamp since it was read.
        let is_due = watched.again.is_some_and(|again| again <= Instant::now());
        let patience = watched.patience(self.settings.now().limits.upstream_timeout);
        let watermark = self.journal.watermark(uri).await?;
        // What says nothing to this is not read.
        let census = timeout(patience, self.room.source.census(uri)).await;
        let present = census.unwrap_or_else(|_elapsed| Err(UpstreamError::HeadTimeout.into()))?.timestamp;
        let (timestamp, newest) = match watermark {
            None => self.first_sight(uri).await?,
            Some(watermark) => {
                let is_same = known == Some(present) && watermark >= present;
                if !is_same || is_due { self.delta(uri, watermark).await? } else { (present, present) }
            }
        };
        let watched = self.lists.entry(uri.to_owned()).or_default();
        // The rows of a page may be newer than its timestamp, which the upstream reads first.
        let moved = watched.read.is_none_or(|known| known != timestamp || known < newest);
        // What commits late is below the timestamp that was just read.
        watched.again = moved.then(|| Instant::now() + self.settings.now().overlap);
        watched.read = Some(timestamp);
        watched.compared.get_or_insert_with(Instant::now);
        Ok(())
    }
}
