//! The entries of a bucket's history, read from the journal page by page: they can be many.
//!
//! Their timestamps go up in the order in which they are committed, whichever sidecar writes them, so a seq says exactly
//! what its reader has seen.

use std::borrow::Cow;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::aside;
use crate::error::Error;
use crate::feeds::snapshot::{FeedPage, FeedRow, Position, Room, Snapshot};
use crate::feeds::tally::{Side, Tally};
use crate::history::Visible;
use crate::journal::EntriesPage;
use crate::kinto::Timestamp;
use crate::kinto::seq::Seq;
use crate::query::Query;

/// Entries of one page: they are larger than most records.
const MOST: usize = 512;

/// Entries that somebody sees, up to one moment.
#[derive(Debug)]
pub struct HistoryEntries {
    visible: Visible,
    timestamp: Timestamp,
    lineage: u64,
    tally: Tally,
}

/// What a row is told from.
#[derive(Deserialize)]
struct EntryHead<'t> {
    #[serde(borrow)]
    id: Cow<'t, str>,
    last_modified: u64,
    #[serde(default)]
    deleted: bool,
}

impl HistoryEntries {
    /// What there is now.
    pub async fn now(visible: Visible) -> Result<Self, Error> {
        let timestamp = visible.timestamp().await?;
        let mut hasher = DefaultHasher::new();
        ("history", visible.bucket()).hash(&mut hasher);
        Ok(Self { visible, timestamp, lineage: hasher.finish(), tally: Tally::default() })
    }

    /// Rows of a stretch of time, and whether there are more.
    async fn read(
        &self,
        after: Timestamp,
        until: Timestamp,
        room: Room,
        descending: bool,
    ) -> Result<(Vec<FeedRow>, bool), Error> {
        // What comes while a snapshot is read belongs to the next.
        let mut query = Query::between(after, until.min(self.timestamp), room.rows.min(MOST), descending);
        query.most_bytes = Some(room.bytes.saturating_mul(2));
        let EntriesPage { rows, next, .. } = self.visible.page(&query, None).await?;
        let bytes = rows.iter().map(|row| row.get().len()).sum();
        let rows = aside::run(bytes, move || rows.into_iter().filter_map(row).collect()).await?;
        Ok((rows, next.is_some()))
    }

    async fn count(&self, query: Query) -> Result<u64, Error> {
        Ok(self.visible.count(&query).await?.total as u64)
    }
}

impl Snapshot for HistoryEntries {
    fn lineage(&self) -> u64 {
        self.lineage
    }

    fn began(&self) -> Seq {
        Seq::ZERO
    }

    fn serial(&self) -> u64 {
        self.timestamp.0
    }

    fn newest_seq(&self) -> Seq {
        Seq::of(self.timestamp)
    }

    fn tag(&self) -> Option<String> {
        // Of what is seen in part, permissions have a say.
        let part = if self.visible.is_everything() { 0 } else { crate::timeline::lineage() };
        Some(format!("{}-{part}", self.timestamp))
    }

    fn page(self: Arc<Self>, from: Position, room: Room) -> BoxFuture<'static, Result<FeedPage, Error>> {
        Box::pin(async move {
            let newest = room.last(Seq::of(self.timestamp));
            let (rows, has_more) = if room.rows == 0 {
                (Vec::new(), true)
            } else {
                self.read(from.seq.at, newest.at, room, false).await?
            };
            let last = rows.last().map(|row| row.seq);
            if !has_more {
                let seq = from.seq.max(newest);
                return Ok(FeedPage { rows, pending: 0, next: Position::new(seq, self.serial()) });
            }
            let seq = last.unwrap_or(from.seq);
            let count = async || self.count(Query::between(from.seq.at, newest.at, 0, false)).await;
            let pending = self.tally.beyond(Side::Above, from.seq.at, seq.at, &rows, count).await?;
            Ok(FeedPage { rows, pending, next: Position::new(seq, self.serial()) })
        })
    }

    fn before(
        self: Arc<Self>,
        below: Option<Seq>,
        room: Room,
    ) -> BoxFuture<'static, Result<FeedPage, Error>> {
        Box::pin(async move {
            let until = below.map_or(self.timestamp, |below| Seq::of(below.at).before().at);
            let (rows, has_more) = if room.rows == 0 {
                (Vec::new(), true)
            } else {
                self.read(Timestamp::ZERO, until, room, true).await?
            };
            let last = rows.last().map_or(Seq::of(until), |row| row.seq);
            let below = last.before().at;
            let count = async || self.count(Query::between(Timestamp::ZERO, until, 0, false)).await;
            let pending =
                if has_more { self.tally.beyond(Side::Below, until, below, &rows, count).await? } else { 0 };
            Ok(FeedPage { rows, pending, next: Position::new(last, self.serial()) })
        })
    }
}

fn row(json: Box<RawValue>) -> Option<FeedRow> {
    let head: EntryHead<'_> = serde_json::from_str(json.get()).ok()?;
    let (last_modified, deleted) = (Timestamp(head.last_modified), head.deleted);
    let id = (*head.id).into();
    let json = Bytes::from(Box::<str>::from(json).into_string());
    Some(FeedRow::new(Seq::of(last_modified), id, last_modified, deleted, json))
}
