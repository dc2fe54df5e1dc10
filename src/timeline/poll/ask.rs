//! The questions about many timestamps, from the cheapest that the upstream can answer to the dearest.
//!
//! - an upstream with the changes plugin answers for all monitored collections in one `GET` of its monitor/changes;
//! - one with the history plugin says in one `GET` for each bucket which collections changed;
//! - any other is asked for the timestamps of collections ([`heads`](crate::upstream::kinto::heads)), and for the
//!   collections of monitored buckets with a list for each bucket.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;

mod choose;
mod plugins;
mod timestamps;

use super::SILENCE;
use super::error::PollError;
use super::unreadable::Unreadable;
use crate::kinto::{CollectionKey, Timestamp, segment};
use crate::settings::InForce;
use crate::timeline::Timeline;
use crate::timeline::clock::Clock;
use crate::timeline::resources::Resources;
use crate::upstream::kinto::{KintoError, Source};
use crate::upstream::{Description, Suspense, Upstream, UpstreamError};
pub(super) use timestamps::Timestamps;

/// How long nothing may be heard of a list. The collections among it that are asked for take half of it at most.
const LONGEST_SILENCE: Duration = Duration::from_secs(25);

/// Asks, and tells the timeline.
#[derive(Debug)]
pub(super) struct Asker {
    pub(super) timeline: Arc<Timeline>,
    upstream: Upstream,
    source: Source,
    settings: InForce,
    /// What was monitored when it was last looked.
    resources: Arc<Resources>,
    pub(super) timestamps: Arc<Timestamps>,
    pub(super) unreadable: Arc<Unreadable>,
    /// How long nothing was heard of a list.
    silence: Arc<Suspense>,
    /// What the upstream says of itself, once it did.
    description: Option<Arc<Description>>,
    /// For each bucket of which the list matters: its timestamp, and when it was asked for.
    buckets: BTreeMap<String, BucketList>,
    /// The collections for which the changes plugin answers.
    pub(super) listed: BTreeSet<CollectionKey>,
    listed_at: Option<Instant>,
    /// The buckets whose histories answer.
    pub(super) histories: BTreeMap<String, Followed>,
    /// When it was last looked for such buckets.
    histories_at: Option<Instant>,
    /// Whether the last question was for a list of collections, or for a history: these and collections take turns.
    was_list: bool,
}

#[derive(Debug, Default)]
struct BucketList {
    timestamp: Option<Timestamp>,
    asked: Option<Instant>,
    /// How often in a row nothing was heard of it.
    silences: u32,
}

/// A history that answers for the collections of its bucket.
#[derive(Debug)]
pub(super) struct Followed {
    /// The newest entry seen.
    newest: Timestamp,
    /// When it was last asked for.
    asked: Instant,
    /// Since when it is followed.
    begun: Instant,
    /// How often in a row nothing was heard of it.
    silences: u32,
}

/// What can be asked.
#[derive(Debug)]
pub(super) enum Question {
    Describe,
    Monitor,
    Histories,
    History(String),
    Bucket(String),
    Collections(Vec<Arc<Clock>>),
}

impl Asker {
    /// Asks `upstream` on behalf of `timeline`.
    pub(super) fn new(
        timeline: Arc<Timeline>,
        upstream: Upstream,
        settings: InForce,
        unreadable: Arc<Unreadable>,
    ) -> Self {
        let silence = Arc::default();
        Self {
            timestamps: Timestamps::new(&timeline, &upstream, settings.clone(), &unreadable),
            resources: timeline.resources(),
            timeline,
            source: Source::new(upstream.clone()).telling(&silence),
            silence,
            upstream,
            settings,
            unreadable,
            description: None,
            buckets: BTreeMap::new(),
            listed: BTreeSet::new(),
            listed_at: None,
            histories: BTreeMap::new(),
            histories_at: None,
            was_list: false,
        }
    }

    /// How many collections one question can name.
    pub(super) fn at_once(&self) -> usize {
        self.timestamps.at_once(self.description.as_deref())
    }

    /// Where other collections are monitored than before, what is known of lists and histories says too little.
    fn look_at_resources(&mut self) {
        let resources = self.timeline.resources();
        if !Arc::ptr_eq(&resources, &self.resources) {
            self.resources = resources;
            self.buckets.clear();
            self.histories_at = None;
        }
    }

    /// Asks; the upstream was busy for that long, where that is not how long it took.
    pub(super) async fn put(&mut self, question: Question) -> Result<Option<Duration>, PollError> {
        self.was_list = matches!(question, Question::Bucket(_) | Question::History(_));
        if matches!(question, Question::Monitor | Question::Bucket(_))
            && let Err(error) = self.describe().await
            && error.is_unsent()
        {
            return Err(error);
        }
        match question {
            Question::Describe => self.describe().await?,
            Question::Monitor => self.ask_monitor().await?,
            Question::Histories => self.begin_histories().await,
            Question::History(bucket) => match self.ask_history(&bucket).await {
                Err(error) if error.is_silence() => return Ok(Some(SILENCE)),
                asked => asked?,
            },
            Question::Bucket(bucket) => match self.ask_bucket(&bucket).await {
                Err(error) if error.is_unsent() => return Err(error),
                Err(error) if error.is_silence() => return Ok(Some(SILENCE)),
                Err(error) => tracing::debug!(bucket, %error, "could not list the collections of a bucket"),
                Ok(()) => {}
            },
            Question::Collections(clocks) => return self.timestamps.ask(&clocks).await.map(Some),
        }
        Ok(None)
    }

    /// Does what asks for a list, as long as anything is heard of it.
    async fn while_heard<T>(
        silence: &Arc<Suspense>,
        work: impl Future<Output = Result<T, PollError>>,
    ) -> Result<T, PollError> {
        let _asking = silence.begin();
        tokio::select! {
            done = work => done,
            () = silence.outlasts(LONGEST_SILENCE) => Err(KintoError::from(UpstreamError::HeadTimeout).into()),
        }
    }

    /// A bucket's list was refused, or lacks some of its collections. Those that the settings name are asked for, as far as
    /// they are not known.
    async fn unlisted(&mut self, bucket: &str, status: StatusCode) -> Result<(), PollError> {
        let watched = self.timeline.watched(bucket);
        let is_needed =
            watched.is_some() || self.timeline.resources().buckets().any(|monitored| monitored == bucket);
        let why = is_needed.then(|| self.unreadable.bucket(bucket, status));
        if let Some(list) = watched {
            list.set_incomplete();
        }
        self.ask_named(bucket).await?;
        why.map_or(Ok(()), Err)
    }

    /// Learns what the upstream says of itself, where that is not known.
    pub(super) async fn describe(&mut self) -> Result<(), PollError> {
        self.look_at_resources();
        match self.upstream.described().await {
            Ok(description) => self.description = Some(description),
            Err(error) => {
                if !error.is_absent() {
                    // It does not say. Kinto without plugins is what it is taken for.
                    self.description.get_or_insert_default();
                }
                return Err(KintoError::from(error).into());
            }
        }
        Ok(())
    }

    pub(super) fn has_changes(&self) -> bool {
        self.description.as_ref().is_some_and(|description| description.has("changes"))
    }

    /// Has a bucket's list read as if it was not known.
    pub(super) fn forget_list(&mut self, bucket: &str) {
        self.buckets.remove(bucket);
    }

    /// Learns which collections a bucket has. One whose list hangs is asked for again later each time.
    pub(super) async fn ask_bucket(&mut self, bucket: &str) -> Result<(), PollError> {
        let silence = Arc::clone(&self.silence);
        let done = Self::while_heard(&silence, self.read_list(bucket)).await;
        let list = self.buckets.entry(bucket.to_owned()).or_default();
        let is_silent = done.as_ref().is_err_and(PollError::is_silence);
        list.silences = if is_silent { list.silences.saturating_add(1) } else { 0 };
        done
    }

    async fn read_list(&mut self, bucket: &str) -> Result<(), PollError> {
        let list = self.buckets.entry(bucket.to_owned()).or_default();
        list.asked = Some(Instant::now());
        let before: BTreeMap<CollectionKey, u64> =
            self.timeline.clocks().iter().map(|clock| (clock.key().clone(), clock.news())).collect();
        let uri = format!("/buckets/{}/collections", segment(bucket));
        let mut pages = self.source.pages(format!("{uri}?_fields=id")).names().unless(list.timestamp);
        let (mut timestamp, mut is_missing) = (None, false);
        let mut present = BTreeSet::new();
        loop {
            let page = match pages.next().await {
                Ok(Some(page)) => page,
                Ok(None) if timestamp.is_none() => return Ok(()),
                Ok(None) => break,
                // A bucket that is not there (yet).
                Err(KintoError::Absent) => {
                    is_missing = true;
                    break;
                }
                // One that nobody but its owner may list, or may not any more: that says nothing of what is in it.
                Err(KintoError::Refused(status)) => return self.unlisted(bucket, status).await,
                Err(error) => return Err(error.into()),
            };
            timestamp.get_or_insert(page.timestamp);
            present.extend(page.rows.iter().map(|row| CollectionKey::new(bucket, &row.id)));
        }
        // A bucket that is not there has no list, and nothing is hidden in it.
        let lacking = match timestamp {
            Some(_) => self.source.lacks_some(&uri, "collection").await?,
            None => None,
        };
        if present.is_empty() {
            // Kinto has an empty list of what is in no bucket.
            let is_monitored = self.timeline.resources().buckets().any(|monitored| monitored == bucket);
            is_missing = is_monitored && (is_missing || self.source.lacks_bucket(bucket).await?);
            timestamp = None;
        }
        if lacking.is_none() {
            // What was heard of while the list was read is as true as the list.
            self.timeline.removed_from_bucket(bucket, &|key| {
                present.contains(key)
                    || self
                        .timeline
                        .known_clock(key)
                        .is_some_and(|clock| before.get(key) != Some(&clock.news()))
            });
            self.unreadable.is_listed(bucket, is_missing, |key| present.contains(key));
        }
        if is_missing {
            self.unreadable.no_bucket(bucket);
        }
        let is_watched = self.timeline.watched(bucket).is_some();
        for key in present {
            if (is_watched || self.timeline.resources().include(&key)) && !self.listed.contains(&key) {
                self.timeline.found(&key);
            }
        }
        if let Some(status) = lacking {
            return self.unlisted(bucket, status).await;
        }
        self.buckets.entry(bucket.to_owned()).or_default().timestamp = timestamp;
        Ok(())
    }

    /// Asks for the collections that the settings name in a bucket, as far as they are not known to be there.
    async fn ask_named(&mut self, bucket: &str) -> Result<(), PollError> {
        let resources = self.timeline.resources();
        let named = resources.collections().filter(|key| &*key.bucket == bucket);
        let unknown: Vec<Arc<Clock>> = named
            .filter(|key| !self.timeline.is_kept(key))
            .map(|key| self.timeline.clock(key))
            .filter(|clock| self.is_asked_for(clock))
            .collect();
        for clocks in unknown.chunks(self.at_once()) {
            self.timestamps.ask(clocks).await?;
        }
        Ok(())
    }
}
