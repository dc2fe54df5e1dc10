//! Brings a collection's content up to date: by a delta, by a comparison, or by reading everything.
//!
//! Whatever the way, it ends with the same proof that records, timestamp and metadata belong to one moment:
//!
//! ```text
//! metadata M ─ … ─ list of records (one ETag E from its first page to its last, no row above E) ─ metadata still M?
//! ```
//!
//! M held before and after the list, so it held while the list was read. Where anything moved, only what moved is read
//! again.

use std::sync::Arc;

use super::compare::{self, Comparison};
use super::content::{Content, Former, Update};
use super::deletions::Deletions;
use crate::kinto::Timestamp;
use crate::settings::{Compat, InForce, MirrorMode};
use crate::timeline::clock::Clock;
use crate::upstream::Suspense;
use crate::upstream::kinto::{KintoError, KintoPage, Metadata, NewRow, Source};

/// How often a collection that keeps changing is read again before giving up.
const ATTEMPTS: usize = 8;
/// The same where there is nothing yet that could be given out meanwhile.
const FIRST_ATTEMPTS: usize = 64;

/// How a collection is read.
#[derive(Debug, Clone)]
pub struct Reader {
    /// Whom to ask, as the service account.
    pub source: Source,
    /// How mirrors are kept up.
    pub settings: InForce,
    /// What the upstream may have forgotten.
    pub(super) deletions: Arc<Deletions>,
}

/// What a refresh has to do beyond a delta.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// As `sidecar.mirror` says.
    Ordinary,
    /// Compare with a listing first.
    Compare,
}

/// Why everything was read, for the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FullRead {
    /// Nothing was known.
    First,
    /// The mode asks for it.
    Mode,
    /// The timestamp went back, or the collection was deleted and made again.
    Void,
    /// A comparison found more differences than are worth mending one by one.
    Mended,
}

/// All pages of a list.
struct List {
    rows: Vec<NewRow>,
    /// The timestamp of the first page.
    from: Timestamp,
    /// The timestamp of the last page.
    timestamp: Timestamp,
    /// Whether all pages had one timestamp, and no row a higher one.
    settled: bool,
}

impl Reader {
    /// Knows of no deletions but those that the upstream tells.
    pub fn new(source: Source, settings: InForce) -> Self {
        Self { source, settings, deletions: Arc::default() }
    }

    /// The same reader, which tells those of each answer who wait for what comes of all of them.
    pub(super) fn telling(&self, suspense: &Arc<Suspense>) -> Self {
        Self { source: self.source.telling(suspense), ..self.clone() }
    }

    /// Reads what is new since `before`, or everything, and gives the content of one moment.
    pub async fn refresh(
        &self,
        clock: &Clock,
        before: Option<&Content>,
        depth: Depth,
    ) -> Result<Content, KintoError> {
        let void = clock.take_void();
        let low = clock.take_low();
        // What the journal knew before the upstream is asked, the upstream lists, or it is gone.
        let is_wanted = before.is_none_or(|before| before.remembers().is_none());
        let room = self.settings.now().cache_size / 2;
        let remembered =
            if is_wanted { self.deletions.of(clock.key(), self.keeps_deleted(), room).await } else { None };
        let result = self.read(clock, before, void, low, depth).await;
        let result = result.map(|content| match remembered {
            Some(remembered) => content.remembering(remembered),
            None => content,
        });
        if result.is_err() {
            clock.restore_low(low);
            if void {
                clock.set_void();
            }
        }
        result
    }

    /// Whether what was deleted stays known, whatever the upstream has forgotten.
    fn keeps_deleted(&self) -> bool {
        self.settings.now().compat == Compat::RemoteSettings
    }

    async fn read(
        &self,
        clock: &Clock,
        before: Option<&Content>,
        void: bool,
        low: Option<Timestamp>,
        depth: Depth,
    ) -> Result<Content, KintoError> {
        let key = clock.key();
        let full = match before {
            None => Some(FullRead::First),
            Some(_) if void => Some(FullRead::Void),
            Some(_) if self.settings.now().mirror == MirrorMode::Full => Some(FullRead::Mode),
            Some(_) => None,
        };
        let content = match (before, full) {
            (Some(before), None) => {
                let mut update = Update::default();
                if depth == Depth::Compare || self.settings.now().mirror == MirrorMode::Verified {
                    match compare::compare(&self.source, key, before, self.keeps_deleted()).await? {
                        Comparison::None => {}
                        Comparison::Some(found) => update = *found,
                        Comparison::Many => {
                            return self.whole(clock, Some(before), FullRead::Mended).await;
                        }
                    }
                }
                let mended;
                let base = if update.rows.is_empty() && update.gone.is_empty() {
                    before
                } else {
                    mended = before.updated(before.metadata.clone(), before.timestamp, update);
                    &mended
                };
                let mut since = base.timestamp.back(self.settings.now().overlap);
                if let Some(low) = low {
                    since = since.min(Timestamp(low.0.saturating_sub(1)));
                }
                match self.settle(clock, base, since, ATTEMPTS).await {
                    // Whatever the upstream has against the question, there is another one.
                    Err(KintoError::Status(status)) if status.is_client_error() => None,
                    settled => settled?,
                }
            }
            (before, reason) => return self.whole(clock, before, reason.unwrap_or(FullRead::First)).await,
        };
        match content {
            Some(content) => Ok(content),
            None => self.whole(clock, before, FullRead::Void).await,
        }
    }

    /// Reads everything.
    async fn whole(
        &self,
        clock: &Clock,
        before: Option<&Content>,
        reason: FullRead,
    ) -> Result<Content, KintoError> {
        metrics::counter!("kinto_sidecar_mirror_full_reads_total", "reason" => reason.name()).increment(1);
        let key = clock.key();
        let may_be_another = before.is_some() && matches!(reason, FullRead::Void | FullRead::Mended);
        for _ in 0..ATTEMPTS {
            let former = if may_be_another { self.former(clock, reason).await } else { None };
            let metadata = self
                .source
                .metadata(key, None)
                .await?
                .ok_or_else(|| KintoError::Unreadable("304 for a question without a condition".into()))?;
            let list = self.list(clock, Timestamp::ZERO, before).await?;
            let (from, settled) = (list.from, list.settled);
            let update = Update { former, ..self.update(clock, list.rows) };
            let content = Content::new(metadata, list.timestamp, before, update);
            if settled && self.source.metadata(key, Some(&content.metadata)).await?.is_none() {
                return Ok(content);
            }
            if let Some(content) =
                self.settle(clock, &content, from.back(self.settings.now().overlap), FIRST_ATTEMPTS).await?
            {
                return Ok(content);
            }
        }
        Err(KintoError::Unsettled)
    }

    /// What is known of the life that a collection had before.
    async fn former(&self, clock: &Clock, reason: FullRead) -> Option<Former> {
        // Who begins with nothing has nothing of it.
        let others = if reason == FullRead::Void { Timestamp(1) } else { Timestamp::ZERO };
        let known = self.deletions.of(clock.key(), false, self.settings.now().cache_size / 2).await;
        let known = known.unwrap_or_default();
        let born = known.records.into_iter().map(|record| (record.id, record.born)).collect();
        Some(Former { ended: known.former, born, others })
    }

    /// Reads deltas on top of `base` until nothing moves; `None` where `base` turned out to be void.
    async fn settle(
        &self,
        clock: &Clock,
        base: &Content,
        since: Timestamp,
        attempts: usize,
    ) -> Result<Option<Content>, KintoError> {
        let key = clock.key();
        let mut since = since;
        let mut metadata: Metadata = base.metadata.clone();
        let mut current: Option<Content> = None;
        let mut other_metadata = false;
        for _ in 0..attempts {
            let known = current.as_ref().unwrap_or(base);
            let list = self.list(clock, since, Some(known)).await?;
            if list.timestamp < known.timestamp {
                return Ok(None);
            }
            since = list.from.back(self.settings.now().overlap);
            let content = known.updated(metadata.clone(), list.timestamp, self.update(clock, list.rows));
            match self.source.metadata(key, Some(&metadata)).await? {
                Some(new) => {
                    metadata = new;
                    other_metadata = true;
                }
                None if list.settled => {
                    // A collection that was deleted and made again has other metadata, and its deltas do not say what
                    // is gone.
                    if other_metadata {
                        let (timestamp, total) = self.source.head(key).await?;
                        let same = total.is_none_or(|total| content.may_count(total));
                        if timestamp == content.timestamp && !same {
                            return Ok(None);
                        }
                        if timestamp != content.timestamp {
                            current = Some(content);
                            continue;
                        }
                    }
                    return Ok(Some(content));
                }
                None => {}
            }
            current = Some(content);
        }
        Err(KintoError::Unsettled)
    }

    /// These rows, and what the clock says of their order.
    fn update(&self, clock: &Clock, rows: Vec<NewRow>) -> Update {
        Update {
            rows,
            witnessed: clock.witnessed(),
            lone: clock.lone(),
            heard: clock.heard(),
            keeps_deleted: self.keeps_deleted(),
            ..Update::default()
        }
    }

    /// What is newer than `since`; all there is for zero.
    async fn list(
        &self,
        clock: &Clock,
        since: Timestamp,
        known: Option<&Content>,
    ) -> Result<List, KintoError> {
        let max_bytes = usize::try_from(self.settings.now().cache_size).unwrap_or(usize::MAX);
        let uri = clock.key().records_uri();
        let mut pages = self.source.newer(&uri, since, "&_sort=-last_modified").await?.kept(max_bytes);
        let KintoPage { timestamp: from, rows } = pages.first().await?;
        let mut list = List { rows, from, timestamp: from, settled: true };
        while let Some(page) = pages.next().await? {
            list.settled &= page.timestamp == from;
            list.timestamp = list.timestamp.max(page.timestamp);
            list.rows.extend(page.rows);
        }
        list.settled &= list.rows.iter().all(|row| row.last_modified <= list.timestamp);
        let is_known = |tombstone| {
            clock.is_buried(tombstone) || known.is_some_and(|known| known.has_tombstone(tombstone))
        };
        list.settled &= self.source.tell_alive(&uri, from, &mut list.rows, is_known).await?;
        Ok(list)
    }
}

impl FullRead {
    fn name(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Mode => "mode",
            Self::Void => "void",
            Self::Mended => "mended",
        }
    }
}
