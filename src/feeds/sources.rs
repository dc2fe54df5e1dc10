//! What feeds are about: a source as it is now, and where a reader of it begins.
//!
//! Each is a file with a [`crate::feeds::table::Table`] (or, where it is not in memory, a [`Snapshot`]), an arm of
//! [`Sources::snapshot`] and one of [`follow`](super::follow::follow).

use std::sync::Arc;
use std::time::Duration;

pub mod unkept;

use crate::access::{Access, Requester};
use crate::cache::Cache;
use crate::error::Error;
use crate::feeds::params::Bound;
use crate::feeds::revised::{Names, Revised, Revisions};
use crate::feeds::seen_before::Presence;
use crate::feeds::snapshot::{Position, Snapshot};
use crate::feeds::tables::collections::{Collections, Naming};
use crate::feeds::tables::history::HistoryEntries;
use crate::feeds::tables::records::Records;
use crate::feeds::{Subject, View};
use crate::history::{History, Visible};
use crate::kinto::seq::Seq;
use crate::kinto::{CollectionKey, Timestamp};
use crate::mirror::{Freshness, Mirrors};
use crate::settings::InForce;
use crate::timeline::Timeline;
use crate::timeline::collection_list::CollectionList;
use crate::timeline::poll::{PollError, Poller};
use crate::upstream::kinto::{KintoError, Source};
use unkept::Unkept;

/// How long ago a collection's clock was looked at by somebody who does so all the time.
const WATCHED: Duration = Duration::from_secs(5);

/// How long the list of a bucket is kept for readers who come back.
const IN_USE: Duration = Duration::from_secs(120);

/// How many of them.
const BUCKETS_IN_USE: u64 = 1000;

/// What snapshots are made of.
#[derive(Debug)]
pub struct Sources {
    /// Timestamps.
    pub timeline: Arc<Timeline>,
    /// Who asks for them.
    pub poller: Arc<Poller>,
    /// Contents of collections.
    pub mirrors: Arc<Mirrors>,
    /// Histories.
    pub history: Arc<History>,
    /// Says who sees what of them.
    pub(super) access: Access,
    settings: InForce,
    /// What versions are called.
    names: Names,
    /// Lists of buckets whose readers may come back.
    in_use: Cache<Arc<str>, Arc<CollectionList>>,
}

/// A source as it is now, and where a reader begins.
#[derive(Debug)]
pub struct Beginning {
    /// The snapshot.
    pub snapshot: Arc<dyn Snapshot>,
    /// Whether it comes from memory.
    pub freshness: Freshness,
    /// Whether it is kept: only of such a source can there be a live feed.
    pub is_kept: bool,
    /// Whether the service account may read it. What it may not is read as the requester, who may.
    pub is_readable: bool,
    /// What was known to be the newest seq when the request arrived.
    now: Option<Timestamp>,
}

impl Sources {
    /// Sources of these timestamps and contents.
    pub fn new(
        timeline: Arc<Timeline>,
        poller: Arc<Poller>,
        mirrors: Arc<Mirrors>,
        history: Arc<History>,
        access: Access,
        settings: InForce,
    ) -> Self {
        let in_use = Cache::builder(BUCKETS_IN_USE).time_to_idle(IN_USE).build();
        let names = Names::default();
        Self { timeline, poller, mirrors, history, access, settings, names, in_use }
    }

    /// `sidecar.overlap`.
    pub fn overlap(&self) -> Duration {
        self.settings.now().overlap
    }

    /// A source as it is now: at least as new as `since` if the upstream has it. What is not kept is read from the upstream,
    /// and what the service account may not read is read as the requester.
    pub async fn snapshot(
        &self,
        subject: &Subject,
        since: Bound,
        requester: &Requester,
    ) -> Result<Beginning, Error> {
        match subject {
            Subject::Collection(key) => self.records(key, since, requester).await,
            Subject::Bucket(bucket) => {
                let list = match self.poller.bucket(bucket, newer_than_known(since)).await {
                    Err(PollError::Unreadable(_)) => {
                        return self.unreadable_bucket(bucket, requester).await;
                    }
                    list => list?,
                };
                self.in_use.insert(Arc::clone(bucket), Arc::clone(&list));
                Ok(self.collections(list, Naming::InBucket, self.poller.is_behind()))
            }
            Subject::Monitor => {
                let (_, is_stale) = self.poller.entries(newer_than_known(since)).await?;
                Ok(self.collections(Arc::clone(self.timeline.monitored()), Naming::Monitored, is_stale))
            }
            Subject::History(bucket, view) => {
                let snapshot = Arc::new(self.entries(bucket, view).await?);
                Ok(Beginning {
                    snapshot,
                    freshness: Freshness::Hit,
                    is_kept: true,
                    is_readable: true,
                    now: None,
                })
            }
        }
    }

    /// A collection as it is now.
    pub async fn content(&self, key: &CollectionKey) -> Result<(Records, Freshness), KintoError> {
        let mirror = self.mirrors.hold(key);
        mirror.clock().used();
        let (state, freshness) = self.mirrors.current(&mirror, None).await?;
        Ok((Records { mirror, state, overlap: self.overlap() }, freshness))
    }

    pub(super) async fn entries(&self, bucket: &str, view: &View) -> Result<HistoryEntries, Error> {
        let Some(journal) = self.history.journal(self.access.upstream()).await? else {
            return Err(Error::NotFound);
        };
        let visible = match view {
            View::Everything => Visible::everything(journal, bucket),
            View::Of(credentials) => {
                let requester = self.access.requester(credentials.clone());
                self.history.visible(journal, bucket, &requester).await?
            }
        };
        HistoryEntries::now(visible).await
    }

    async fn records(
        &self,
        key: &CollectionKey,
        since: Bound,
        requester: &Requester,
    ) -> Result<Beginning, Error> {
        let mirror = self.mirrors.hold(key);
        let clock = mirror.clock();
        // What was written through the sidecar before the request arrived is known to the clock; what comes until the
        // mirror is read is news.
        let is_watched = clock.age().is_some_and(|age| age < WATCHED);
        let now = Some(clock.timestamp()).filter(|now| is_watched && *now > Timestamp::ZERO);
        clock.used();
        let (state, freshness) = match self.mirrors.current(&mirror, newer_than_known(since)).await {
            Err(error @ (KintoError::Oversize | KintoError::Refused(_))) => {
                let is_readable = matches!(error, KintoError::Oversize);
                let source =
                    if is_readable { Source::new(requester.upstream().clone()) } else { requester.source() };
                let snapshot = self.revised(key, Arc::new(self.unkept(key, source).await?)).await?;
                let freshness = Freshness::Refreshed;
                return Ok(Beginning { snapshot, freshness, is_kept: false, is_readable, now: None });
            }
            current => current?,
        };
        let snapshot = Arc::new(Records { mirror, state, overlap: self.overlap() });
        let snapshot = self.revised(key, snapshot).await?;
        Ok(Beginning { snapshot, freshness, is_kept: true, is_readable: true, now })
    }

    /// What versions of a collection's records are called, where the sidecar keeps the history.
    pub async fn revisions(&self, key: &CollectionKey) -> Result<Option<Revisions>, Error> {
        let upstream = self.access.upstream();
        let journal = match self.history.journal(upstream).await {
            Ok(journal) => journal,
            // Nobody says whose the history is. What the journal has of it was told before.
            Err(error) => Some(self.history.opened().ok_or(error)?),
        };
        match journal {
            Some(journal) => Ok(Some(Revisions::of(journal, key, upstream, &self.names).await?)),
            None => Ok(None),
        }
    }

    /// A snapshot of a collection with the names of its versions.
    pub(super) async fn revised(
        &self,
        key: &CollectionKey,
        snapshot: Arc<dyn Snapshot>,
    ) -> Result<Arc<dyn Snapshot>, Error> {
        Ok(match self.revisions(key).await? {
            Some(revisions) => Arc::new(Revised::new(snapshot, revisions)),
            None => snapshot,
        })
    }

    /// A collection as it is now, which is not kept but read from `source`.
    pub async fn unkept(&self, key: &CollectionKey, source: Source) -> Result<Unkept, KintoError> {
        Unkept::now(source, self.mirrors.hold(key), self.overlap()).await
    }

    /// The collections of a bucket that the service account may not read, or not all of it, as somebody who may is shown
    /// them.
    async fn unreadable_bucket(&self, bucket: &str, requester: &Requester) -> Result<Beginning, Error> {
        let list = Box::pin(self.poller.bucket_as(requester, bucket)).await?;
        let snapshot = Arc::new(Collections::now(list, Naming::InBucket, self.overlap()));
        let freshness = Freshness::Refreshed;
        Ok(Beginning { snapshot, freshness, is_kept: false, is_readable: false, now: None })
    }

    fn collections(&self, list: Arc<CollectionList>, naming: Naming, is_stale: bool) -> Beginning {
        let freshness = if is_stale { Freshness::Stale } else { Freshness::Hit };
        let snapshot = Arc::new(Collections::now(list, naming, self.overlap()));
        Beginning { snapshot, freshness, is_kept: true, is_readable: true, now: None }
    }
}

impl Beginning {
    /// The last seq that is wanted, where `until` says so.
    pub fn until(&self, until: Bound) -> Seq {
        until.seq().unwrap_or_else(|| self.snapshot.newest_seq())
    }

    /// The position of a reader who wants what comes after `since`.
    pub fn position(&self, since: Bound, reader: &Presence) -> Position {
        match since {
            Bound::Seq(seq) => {
                self.snapshot.heed(seq);
                reader.resume(&*self.snapshot, seq)
            }
            Bound::Now => {
                let newest = self.snapshot.newest_seq();
                let now = self.now.filter(|now| *now < newest.at).map_or(newest, Seq::of);
                Position::new(now, self.snapshot.serial())
            }
        }
    }
}

/// A seq that the upstream may have to be asked for; what nobody can have been given is not.
fn newer_than_known(since: Bound) -> Option<Timestamp> {
    since.seq().map(|seq| seq.at).filter(|newest| *newest <= Timestamp::PLAUSIBLE)
}
