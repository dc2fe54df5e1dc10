//! The questions about many timestamps, from the cheapest that the upstream can answer to the dearest.
//!
//! - an upstream with the changes plugin answers for all monitored collections in one `GET` of its monitor/changes;
//! - one with the history plugin says in one `GET` for each bucket which collections changed;
//! - any other is asked with batches of `HEAD`, and for the collections of monitored buckets with a list for each
//!   bucket. A sub-request of a batch is never conditional: Kinto takes a 304 for a redirect there and fails.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde::Deserialize;
use tokio::time::Instant;

mod plugins;

use super::heads::Heads;
use crate::kinto::{CollectionKey, Timestamp};
use crate::mirror::read::ReadError;
use crate::timeline::Timeline;
use crate::timeline::clock::Clock;
use crate::upstream::{Description, Upstream, UpstreamError};

/// Why timestamps could not be learned.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PollError {
    /// The upstream could not be asked.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// The upstream answered with an error.
    #[error("{1} answered {0}")]
    Status(StatusCode, String),
    /// The upstream's answer could not be understood.
    #[error("the upstream's answer is not what Kinto gives: {0}")]
    Garbled(String),
    /// The answer did not come in time.
    #[error("the upstream takes too long to say all timestamps")]
    TooSlow,
}

/// Asks, and tells the timeline.
#[derive(Debug)]
pub struct Asker {
    timeline: Arc<Timeline>,
    upstream: Upstream,
    overlap: Duration,
    heads: Heads,
    /// What the upstream says of itself, once it did.
    description: Option<Arc<Description>>,
    /// For each monitored bucket: the `ETag` of its list of collections, and when it was asked for.
    buckets: BTreeMap<String, BucketList>,
    /// The collections for which the changes plugin answers.
    listed: BTreeSet<CollectionKey>,
    listed_at: Option<Instant>,
    /// For each bucket whose history answers: the newest entry seen, and when it was asked for.
    histories: BTreeMap<String, (Timestamp, Instant)>,
}

#[derive(Debug, Default)]
struct BucketList {
    etag: Option<HeaderValue>,
    asked: Option<Instant>,
}

#[derive(Deserialize)]
struct List<T> {
    data: Vec<T>,
}

#[derive(Deserialize)]
struct Id {
    id: String,
}

impl Asker {
    /// Asks `upstream` on behalf of `timeline`.
    pub fn new(
        timeline: Arc<Timeline>,
        upstream: Upstream,
        overlap: Duration,
        batch_max_requests: usize,
    ) -> Self {
        Self {
            timeline,
            heads: Heads::new(upstream.clone(), batch_max_requests),
            upstream,
            overlap,
            description: None,
            buckets: BTreeMap::new(),
            listed: BTreeSet::new(),
            listed_at: None,
            histories: BTreeMap::new(),
        }
    }

    /// How many collections one question can name.
    pub fn at_once(&self) -> usize {
        self.heads.at_once(self.description.as_deref())
    }

    /// Whether a collection has to be asked for by itself.
    pub fn is_asked_for(&self, clock: &Clock) -> bool {
        !self.listed.contains(clock.key()) && !self.histories.contains_key(&*clock.key().bucket)
    }

    /// Asks for everything that is monitored.
    pub async fn complete_round(&mut self) -> Result<(), PollError> {
        self.description = Some(self.upstream.described().await?);
        self.ask_monitor().await?;
        let buckets: Vec<String> = self.timeline.resources().buckets().map(str::to_owned).collect();
        for bucket in &buckets {
            self.ask_bucket(bucket).await?;
        }
        let mut due: Vec<Arc<Clock>> = Vec::new();
        for key in self.timeline.resources().collections() {
            due.push(self.timeline.clock(key));
        }
        due.extend(self.timeline.clocks().into_iter().filter(|clock| {
            self.timeline.resources().include(clock.key())
                && buckets.iter().any(|bucket| **bucket == *clock.key().bucket)
        }));
        due.sort_by(|one, other| one.key().cmp(other.key()));
        due.dedup_by(|one, other| one.key() == other.key());
        due.retain(|clock| !self.listed.contains(clock.key()));
        for clocks in due.chunks(self.at_once()) {
            self.ask(clocks).await?;
        }
        self.begin_histories().await;
        self.timeline.set_loaded();
        Ok(())
    }

    /// Asks for everything in a bucket that somebody watches.
    pub async fn complete_bucket(&mut self, bucket: &str) -> Result<(), PollError> {
        let Some(ledger) = self.timeline.watched(bucket) else { return Ok(()) };
        let began = Instant::now();
        self.buckets.remove(bucket);
        self.ask_bucket(bucket).await?;
        let mut due = self.timeline.clocks();
        due.retain(|clock| {
            *clock.key().bucket == *bucket && clock.age().is_none_or(|age| age >= began.elapsed())
        });
        for clocks in due.chunks(self.at_once()) {
            self.ask(clocks).await?;
        }
        ledger.set_loaded();
        Ok(())
    }

    /// Asks the questions that answer for many collections at once, where they are older than `ttl`; whether any was.
    pub async fn ask_cheaply(&mut self, ttl: Duration) -> Result<bool, PollError> {
        let is_due = |asked: Option<Instant>| asked.is_none_or(|asked| asked.elapsed() >= ttl);
        self.description = Some(self.upstream.described().await?);
        if self.has_changes() && is_due(self.listed_at) {
            self.ask_monitor().await?;
            return Ok(true);
        }
        let history = self.histories.iter().find(|(_, (_, asked))| is_due(Some(*asked)));
        if let Some(bucket) = history.map(|(bucket, _)| bucket.clone()) {
            self.ask_history(&bucket).await?;
            return Ok(true);
        }
        let watched = self.timeline.watched_buckets();
        let bucket = self.timeline.resources().buckets().chain(watched.iter().map(|id| &**id)).find(|id| {
            // A list of collections changes less often than their records.
            let asked = self.buckets.get(*id).and_then(|list| list.asked);
            asked.is_none_or(|asked| asked.elapsed() >= ttl * 5)
        });
        if let Some(bucket) = bucket.map(str::to_owned) {
            self.ask_bucket(&bucket).await?;
            return Ok(true);
        }
        Ok(false)
    }

    /// Asks for the timestamps of some collections.
    pub async fn ask(&self, clocks: &[Arc<Clock>]) -> Result<(), PollError> {
        let asked = Instant::now();
        let news: Vec<u64> = clocks.iter().map(|clock| clock.news()).collect();
        let keys: Vec<CollectionKey> = clocks.iter().map(|clock| clock.key().clone()).collect();
        let answers = self.heads.ask(&keys).await?;
        for ((clock, news), head) in clocks.iter().zip(news).zip(answers.heads) {
            match head {
                Ok((timestamp, total)) => self.timeline.learned(clock, timestamp, total, news, asked),
                Err(ReadError::Gone) if clock.news() == news => self.timeline.removed(clock.key()),
                Err(ReadError::Gone) => {}
                Err(ReadError::Refused(_)) => {
                    metrics::counter!("kinto_sidecar_timestamps_refused_total").increment(1);
                }
                Err(error) => {
                    tracing::debug!(collection = %clock.key(), %error, "could not ask for a timestamp");
                }
            }
        }
        Ok(())
    }

    fn has_changes(&self) -> bool {
        self.description.as_ref().is_some_and(|description| description.has("changes"))
    }

    /// Learns which collections a monitored bucket has.
    async fn ask_bucket(&mut self, bucket: &str) -> Result<(), PollError> {
        let list = self.buckets.entry(bucket.to_owned()).or_default();
        list.asked = Some(Instant::now());
        let before: BTreeMap<CollectionKey, u64> =
            self.timeline.clocks().iter().map(|clock| (clock.key().clone(), clock.news())).collect();
        let mut headers = HeaderMap::new();
        if let Some(etag) = &list.etag {
            headers.insert(header::IF_NONE_MATCH, etag.clone());
        }
        let mut etag = None;
        let mut present = BTreeSet::new();
        let mut next = Some(format!("/buckets/{bucket}/collections?_fields=id"));
        while let Some(path) = next {
            let answer =
                self.upstream.ask(Method::GET, &path, std::mem::take(&mut headers), Bytes::new()).await?;
            match answer.status() {
                StatusCode::OK => {}
                // A bucket that is not there (yet).
                StatusCode::NOT_FOUND => break,
                // One that nobody but its owner may list, or may not any more, says nothing of what is in it.
                StatusCode::NOT_MODIFIED | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return Ok(()),
                status => return Err(PollError::Status(status, format!("GET {path}"))),
            }
            etag = etag.or_else(|| answer.headers().get(header::ETAG).cloned());
            let page: List<Id> = parse(answer.body())?;
            present.extend(page.data.iter().map(|object| CollectionKey::new(bucket, &object.id)));
            next = self.next_page(answer.headers());
        }
        // What was heard of while the list was read is as true as the list.
        self.timeline.removed_from_bucket(bucket, &|key| {
            present.contains(key)
                || self.timeline.known_clock(key).is_some_and(|clock| before.get(key) != Some(&clock.news()))
        });
        let is_watched = self.timeline.watched(bucket).is_some();
        let unknown: Vec<Arc<Clock>> = present
            .iter()
            .filter(|key| is_watched || self.timeline.resources().include(key))
            .filter(|key| !self.listed.contains(key))
            .map(|key| self.timeline.clock(key))
            .filter(|clock| clock.timestamp() == Timestamp::ZERO)
            .collect();
        for clocks in unknown.chunks(self.at_once()) {
            self.ask(clocks).await?;
        }
        self.buckets.entry(bucket.to_owned()).or_default().etag = etag;
        Ok(())
    }

    fn next_page(&self, headers: &HeaderMap) -> Option<String> {
        self.upstream.relative(headers.get("next-page")?.to_str().ok()?)
    }
}

impl From<PollError> for crate::error::Error {
    fn from(error: PollError) -> Self {
        match error {
            PollError::Upstream(error) => Self::Upstream(error),
            PollError::Status(StatusCode::SERVICE_UNAVAILABLE | StatusCode::CONFLICT, _) => {
                Self::Unavailable { retry_after: None }
            }
            PollError::Status(..) | PollError::Garbled(_) => {
                Self::Upstream(UpstreamError::Unexpected(error.to_string().into()))
            }
            PollError::TooSlow => Self::Unavailable { retry_after: None },
        }
    }
}

fn expect(status: StatusCode, question: &str) -> Result<(), PollError> {
    if status == StatusCode::OK { Ok(()) } else { Err(PollError::Status(status, question.to_owned())) }
}

fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, PollError> {
    serde_json::from_slice(body).map_err(|error| PollError::Garbled(error.to_string()))
}
