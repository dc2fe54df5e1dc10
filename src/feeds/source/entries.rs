//! The entries of a bucket's history, read from the journal page by page: they can be many.
//!
//! Their timestamps go up in the order in which they are committed, whichever sidecar writes them, so a seq says exactly
//! what its reader has seen.

use std::borrow::Cow;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::access::Refusal;
use crate::error::Error;
use crate::feeds::moment::{Moment, Page, Position, Room, Row};
use crate::history::Visible;
use crate::journal::EntriesPage;
use crate::kinto::Timestamp;
use crate::query::Query;

/// Entries of one page: they are larger than most records.
const MOST: usize = 512;

/// The most that is read newest first, where it is held as a whole.
const NEWEST: usize = 10_000;

/// Entries that somebody sees, up to one moment.
#[derive(Debug)]
pub struct Entries {
    visible: Visible,
    timestamp: Timestamp,
    lineage: u64,
    /// How many entries follow a seq, as last counted.
    following: Mutex<Option<(Timestamp, u64)>>,
}

#[derive(Deserialize)]
struct Told<'t> {
    #[serde(borrow)]
    id: Cow<'t, str>,
    last_modified: u64,
    #[serde(default)]
    deleted: bool,
}

impl Entries {
    /// What there is now.
    pub async fn now(visible: Visible) -> Result<Self, Error> {
        let timestamp = visible.timestamp().await?;
        let mut hasher = DefaultHasher::new();
        ("history", visible.bucket()).hash(&mut hasher);
        Ok(Self { visible, timestamp, lineage: hasher.finish(), following: Mutex::default() })
    }

    async fn read(
        &self,
        after: Timestamp,
        limit: usize,
        descending: bool,
    ) -> Result<(Vec<Row>, usize), Error> {
        // What comes while a moment is read belongs to the next.
        let query = Query::between(after, self.timestamp, limit, descending);
        let EntriesPage { rows, .. } = permitted(self.visible.page(&query).await?)?;
        let read = rows.len();
        Ok((rows.into_iter().filter_map(row).collect(), read))
    }

    /// How many entries follow a seq.
    async fn following(&self, seq: Timestamp) -> Result<u64, Error> {
        let counted = *self.following.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, count)) = counted.filter(|(known, _)| *known == seq) {
            return Ok(count);
        }
        let query = Query::between(seq, self.timestamp, 0, false);
        let count = permitted(self.visible.count(&query).await?)?.total as u64;
        self.note(seq, count);
        Ok(count)
    }

    fn note(&self, seq: Timestamp, count: u64) {
        *self.following.lock().unwrap_or_else(PoisonError::into_inner) = Some((seq, count));
    }
}

impl Moment for Entries {
    fn lineage(&self) -> u64 {
        self.lineage
    }

    fn began(&self) -> Timestamp {
        Timestamp::ZERO
    }

    fn serial(&self) -> u64 {
        self.timestamp.0
    }

    fn timestamp(&self) -> Timestamp {
        self.timestamp
    }

    fn tag(&self) -> String {
        // Of what is seen in part, permissions have a say.
        let part = if self.visible.is_everything() { 0 } else { crate::timeline::lineage() };
        format!("{}-{part}", self.timestamp)
    }

    fn page(self: Arc<Self>, from: Position, room: Room) -> BoxFuture<'static, Result<Page, Error>> {
        Box::pin(async move {
            let limit = room.rows.min(MOST);
            let (rows, read) =
                if limit == 0 { Default::default() } else { self.read(from.seq, limit, false).await? };
            let newest = rows.last().map(|row| row.seq);
            if read < limit {
                let seq = from.seq.max(self.timestamp);
                return Ok(Page { rows, pending: 0, next: Position::new(seq, self.serial()) });
            }
            let entries = rows.iter().filter(|row| !row.deleted).count() as u64;
            let pending = self.following(from.seq).await?.saturating_sub(entries);
            let seq = newest.unwrap_or(from.seq);
            self.note(seq, pending);
            // Tombstones may follow even where no entry does.
            let pending = if limit == 0 { pending } else { pending.max(1) };
            Ok(Page { rows, pending, next: Position::new(seq, self.serial()) })
        })
    }

    fn newest(self: Arc<Self>, limit: usize) -> BoxFuture<'static, Result<(Vec<Row>, u64), Error>> {
        Box::pin(async move {
            let count = self.following(Timestamp::ZERO).await?;
            let (rows, _) = self.read(Timestamp::ZERO, limit.min(NEWEST), true).await?;
            let entries = rows.iter().filter(|row| !row.deleted).count() as u64;
            Ok((rows, count.saturating_sub(entries)))
        })
    }
}

/// What somebody is given, unless they lost the right to see any of it.
fn permitted<T>(given: ControlFlow<Arc<Refusal>, T>) -> Result<T, Error> {
    match given {
        ControlFlow::Continue(given) => Ok(given),
        ControlFlow::Break(_) => Err(Error::Forbidden),
    }
}

fn row(json: Box<RawValue>) -> Option<Row> {
    let told: Told<'_> = serde_json::from_str(json.get()).ok()?;
    let (seq, deleted) = (Timestamp(told.last_modified), told.deleted);
    let id = (*told.id).into();
    Some(Row {
        seq,
        id,
        last_modified: seq,
        deleted,
        json: Bytes::from(Box::<str>::from(json).into_string()),
    })
}
