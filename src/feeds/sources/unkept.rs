//! The records of a collection that is not kept in memory: read from the upstream page by page, as fast as their reader
//! takes them.
//!
//! Nothing is known of when rows became visible. So whoever comes with a seq that was young when they were given it is given
//! again what may have been hidden from them then, of `sidecar.overlap` before it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::error::Error;
use crate::feeds::snapshot::{Doubt, FeedPage, FeedRow, Position, Room, Snapshot};
use crate::feeds::tally::{Side, Tally};
use crate::kinto::seq::Seq;
use crate::kinto::{CollectionKey, Timestamp};
use crate::mirror::Mirror;
use crate::upstream::kinto::{self, Census, KintoError, NewRow, Source};

/// How many rows are asked for before it is known how large they are.
const FIRST: usize = 16;

/// How large a page should be, in bytes.
const PAGE: usize = 256 * 1024;

/// A collection at one moment.
#[derive(Debug)]
pub struct Unkept {
    source: Source,
    mirror: Arc<Mirror>,
    overlap: Duration,
    census: Census,
    /// The timestamp of the newest row: the upstream may tell the collection's before it shows the row.
    high: Timestamp,
    /// The news of the collection when the moment began.
    news: u64,
    /// How many rows are about as large as a page should be.
    rows: AtomicUsize,
    tally: Tally,
}

impl Unkept {
    /// The collection as it is now. Of its mirror no more than the name and the clock are of use.
    pub async fn now(source: Source, mirror: Arc<Mirror>, overlap: Duration) -> Result<Self, KintoError> {
        // Before the upstream is asked: what is heard from here on makes another snapshot.
        let news = mirror.clock().news();
        let list = mirror.clock().key().records_uri();
        let census = source.census(&list).await?;
        // With `_since`, tombstones are listed, too.
        let newest = source.pages(format!("{list}?_since=0&_sort=-last_modified&_limit=1")).first().await?;
        let high = newest.rows.first().map_or(Timestamp::ZERO, |row| row.last_modified);
        let (rows, tally) = (AtomicUsize::new(FIRST), Tally::default());
        Ok(Self { source, mirror, overlap, census, high, news, rows, tally })
    }

    /// The number of its live records.
    pub fn live(&self) -> Option<u64> {
        self.census.total
    }

    fn key(&self) -> &CollectionKey {
        self.mirror.clock().key()
    }

    /// Reads the first page of a list that has one of the wanted rows, or of which there is no next one; and whether there is.
    async fn read(
        &self,
        query: &str,
        room: Room,
        is_wanted: impl Fn(Timestamp) -> bool,
    ) -> Result<(Vec<NewRow>, bool), KintoError> {
        let limit = self.rows.load(Ordering::Relaxed).min(room.rows).max(1);
        let path = format!("{}?{query}&_limit={limit}", self.key().records_uri());
        let mut pages = self.source.pages(path);
        while let Some(kinto::KintoPage { timestamp, mut rows }) = pages.next().await? {
            if timestamp < self.census.timestamp {
                // It was deleted and made again, or a backup was restored.
                return Err(KintoError::Unsettled);
            }
            let bytes: usize = rows.iter().map(|row| row.json.len()).sum();
            if let Some(size) = bytes.checked_div(rows.len()) {
                self.rows.store((PAGE / size.max(1)).clamp(1, Room::PIECE.rows), Ordering::Relaxed);
            }
            rows.retain(|row| is_wanted(row.last_modified));
            if !rows.is_empty() {
                return Ok((rows, pages.has_next()));
            }
        }
        Ok((Vec::new(), false))
    }

    async fn after(&self, from: Position, room: Room) -> Result<FeedPage, Error> {
        let since = from.seq.at;
        let newest = room.last(Seq::of(self.census.timestamp.max(self.high))).at;
        let next = Position::new(from.seq.max(room.last(Seq::of(self.high))), self.serial());
        let doubt = from.doubt.clone().or_else(|| self.doubt(&from));
        if since >= newest && doubt.is_none() {
            return Ok(FeedPage { next, ..FeedPage::default() });
        }
        let bound = room.until.map_or_else(String::new, |until| self.until(until.at));
        let count = async || self.count(&format!("_since={}{bound}", self.askable(since))).await;
        if room.rows == 0 {
            let pending = self.tally.beyond(Side::Above, since, since, &[], count).await?;
            return Ok(FeedPage { rows: Vec::new(), pending, next: from });
        }
        let low = match &doubt {
            Some(Doubt { shown: Some((shown, _)), .. }) => *shown,
            Some(_) => since.back(self.overlap),
            None => since,
        };
        // What has the reader's own seq is what they were given it for.
        let is_wanted = |timestamp| timestamp > low && timestamp != since;
        let query = format!("_since={}&_sort=last_modified", self.askable(low));
        let (mut rows, mut has_more) = self.read(&query, room, is_wanted).await?;
        // What is newer than this snapshot belongs to the next.
        let of_this = rows.partition_point(|row| row.last_modified <= newest);
        has_more &= of_this == rows.len();
        rows.truncate(of_this);
        let shown = rows.last().map(|row| (row.last_modified, row.id.clone()));
        let known = rows.partition_point(|row| row.last_modified < since);
        let rows: Vec<FeedRow> = rows.into_iter().map(|new| row(new, from.seq)).collect();
        let Some((last, id)) = shown.filter(|_| has_more) else {
            let seq = rows.last().map_or(next.seq, |row| row.seq.max(next.seq));
            return Ok(FeedPage { rows, pending: 0, next: Position { seq, ..next } });
        };
        if last < since {
            let doubt = Some(Doubt { since: from.seq, shown: Some((last, id)) });
            return Ok(FeedPage { rows, pending: 1, next: Position { doubt, ..from } });
        }
        let newer = rows.get(known..).unwrap_or_default();
        let pending = self.tally.beyond(Side::Above, since, last, newer, count).await?;
        Ok(FeedPage { rows, pending, next: Position::new(Seq::of(last), self.serial()) })
    }

    async fn below(&self, below: Option<Seq>, room: Room) -> Result<FeedPage, Error> {
        let high = below.map_or(self.high, |below| Seq::of(below.at).before().at);
        let bound = self.until(high);
        let count = async || self.count(&format!("_since=0{bound}")).await;
        let mut page = FeedPage { next: Position::new(Seq::of(high), self.serial()), ..FeedPage::default() };
        if room.rows == 0 {
            page.pending = self.tally.beyond(Side::Below, high, high, &[], count).await?;
            return Ok(page);
        }
        let query = format!("_since=0{bound}&_sort=-last_modified");
        let (rows, has_more) = self.read(&query, room, |timestamp| timestamp <= high).await?;
        page.rows = rows.into_iter().map(|new| row(new, Seq::ZERO)).collect();
        if let Some(last) = page.rows.last().map(|row| row.seq) {
            page.next.seq = last;
            if has_more {
                let next = last.before().at;
                page.pending = self.tally.beyond(Side::Below, high, next, &page.rows, count).await?;
            }
        }
        Ok(page)
    }

    /// What may have been hidden from a reader who was last given something at another moment.
    fn doubt(&self, from: &Position) -> Option<Doubt> {
        let is_old = from.seq == Seq::ZERO || from.seq.at.0.saturating_add(self.overlap()) <= from.serial;
        (from.serial != self.serial() && !is_old).then_some(Doubt { since: from.seq, shown: None })
    }

    /// A timestamp that the upstream takes, where this one may be too far in its future.
    fn askable(&self, timestamp: Timestamp) -> Timestamp {
        timestamp.min(self.source.latest_since())
    }

    /// What selects no row after this timestamp, where the upstream takes that.
    fn until(&self, timestamp: Timestamp) -> String {
        let above = Timestamp(timestamp.0.saturating_add(1));
        if above == self.askable(above) { format!("&_before={above}") } else { String::new() }
    }

    async fn count(&self, query: &str) -> Result<u64, Error> {
        let census = self.source.census(&format!("{}?{query}", self.key().records_uri())).await?;
        Ok(census.total.unwrap_or_default())
    }

    fn overlap(&self) -> u64 {
        u64::try_from(self.overlap.as_millis()).unwrap_or(u64::MAX)
    }

    /// Tells the log why a feed ends in the middle.
    fn told(&self, page: Result<FeedPage, Error>) -> Result<FeedPage, Error> {
        page.inspect_err(|error| {
            tracing::warn!(collection = %self.key(), %error, "broke off a feed of {}", self.key());
        })
    }
}

impl Snapshot for Unkept {
    fn lineage(&self) -> u64 {
        self.mirror.lineage
    }

    fn began(&self) -> Seq {
        Seq::of(self.high)
    }

    /// The upstream's time: what is older by the overlap had become visible by then.
    fn serial(&self) -> u64 {
        self.census.date.unwrap_or_default().max(self.census.timestamp).0
    }

    fn newest_seq(&self) -> Seq {
        Seq::of(self.high)
    }

    /// There is none as long as rows may become visible behind the timestamp. Later ones that were written through this
    /// sidecar are in its news.
    fn tag(&self) -> Option<String> {
        let Census { timestamp, total, date } = self.census;
        let (lineage, news, total) = (self.mirror.lineage, self.news, total.unwrap_or_default());
        let is_settled = date?.0 >= timestamp.0.saturating_add(self.overlap());
        is_settled.then(|| format!("{timestamp}-{lineage:x}-{news:x}-{total:x}"))
    }

    fn page(self: Arc<Self>, from: Position, room: Room) -> BoxFuture<'static, Result<FeedPage, Error>> {
        Box::pin(async move { self.told(self.after(from, room).await) })
    }

    fn before(
        self: Arc<Self>,
        below: Option<Seq>,
        room: Room,
    ) -> BoxFuture<'static, Result<FeedPage, Error>> {
        Box::pin(async move { self.told(self.below(below, room).await) })
    }
}

/// A row with its own timestamp as its seq, or with that of a reader who may not have been shown it.
fn row(new: NewRow, since: Seq) -> FeedRow {
    let NewRow { id, last_modified, deleted, json, .. } = new;
    FeedRow::new(Seq::of(last_modified).max(since), id, last_modified, deleted, json)
}
