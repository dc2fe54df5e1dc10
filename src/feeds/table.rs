//! Pages of a source that is in memory as a whole.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::moment::{Doubt, Moment, Page, Position, Room, Row};
use crate::error::Error;
use crate::kinto::Timestamp;

/// What has to be known of a row to tell who has seen it.
#[derive(Debug, Clone, Copy)]
pub struct Mark<'t> {
    /// Its place in the order of changes.
    pub seq: Timestamp,
    /// Its own timestamp, which is lower where it became visible late.
    pub last_modified: Timestamp,
    /// Whether it became visible behind its timestamp.
    pub is_late: bool,
    /// The first serial that had it.
    pub serial: u64,
    /// Its id.
    pub id: &'t str,
    /// Whether a reader who knows of this timestamp, here or at another sidecar, may not have been shown the row,
    /// although its own timestamp is lower.
    pub doubtful_up_to: Option<Timestamp>,
}

/// Rows in memory.
pub trait Table: Debug {
    /// See [`Moment::lineage`].
    fn lineage(&self) -> u64;
    /// See [`Moment::began`].
    fn began(&self) -> Timestamp;
    /// Counts the states of the source.
    fn serial(&self) -> u64;
    /// The newest seq.
    fn timestamp(&self) -> Timestamp;
    /// Names the rows: others, another digest.
    fn digest(&self) -> u64;
    /// How many rows there are.
    fn count(&self) -> usize;
    /// What is known of the row at this place in the order of seqs, oldest first.
    fn mark(&self, place: usize) -> Option<Mark<'_>>;
    /// The JSON of that row, and whether it says that something was deleted.
    fn json(&self, place: usize) -> (Bytes, bool);
    /// How far behind its own timestamp a row can become visible.
    fn overlap(&self) -> Duration;
}

impl<T: Table + Send + Sync + 'static> Moment for T {
    fn lineage(&self) -> u64 {
        Table::lineage(self)
    }

    fn began(&self) -> Timestamp {
        Table::began(self)
    }

    fn serial(&self) -> u64 {
        Table::serial(self)
    }

    fn timestamp(&self) -> Timestamp {
        Table::timestamp(self)
    }

    fn tag(&self) -> Option<String> {
        Some(format!("{}-{:016x}", Table::timestamp(self), self.digest()))
    }

    fn page(self: Arc<Self>, from: Position, room: Room) -> BoxFuture<'static, Result<Page, Error>> {
        Box::pin(async move { Ok(page(&*self, &from, room)) })
    }

    fn before(
        self: Arc<Self>,
        below: Option<Timestamp>,
        room: Room,
    ) -> BoxFuture<'static, Result<Page, Error>> {
        Box::pin(async move { Ok(before(&*self, below, room)) })
    }
}

/// The rows that follow a position.
pub fn page(table: &impl Table, from: &Position, room: Room) -> Page {
    if table.serial() < from.serial {
        // The reader has seen more than this.
        return Page { next: from.clone(), ..Page::default() };
    }
    let mut page = Page { next: Position { serial: table.serial(), ..from.clone() }, ..Page::default() };
    let mut room = Left { room, rows: 0, bytes: 0 };
    if let Some(doubt) = &from.doubt {
        let places = doubtful(table, doubt);
        let (total, mut taken) = (places.len(), 0);
        for (place, mark) in places {
            if room.is_full() {
                break;
            }
            let row = row(table, place, &mark, doubt.since);
            page.next.doubt =
                Some(Doubt { shown: Some((mark.last_modified, row.id.clone())), ..doubt.clone() });
            room.take(&row);
            page.rows.push(row);
            taken += 1;
        }
        if taken < total {
            page.pending = (total - taken + table.count() - first_after(table, from.seq)) as u64;
            // What came meanwhile is for later.
            page.next.serial = from.serial;
            return page;
        }
        page.next.doubt = None;
    }
    let mut place = first_after(table, Timestamp(from.seq.0.saturating_sub(1)));
    while let Some(mark) = table.mark(place) {
        // At the reader's own seq, what was found late is due; the row that had it first was shown.
        let is_due = mark.seq > from.seq || (mark.is_late && mark.serial > from.serial);
        if is_due {
            if room.is_full() && mark.seq > page.next.seq {
                page.pending = (table.count() - place) as u64;
                return page;
            }
            let row = row(table, place, &mark, mark.seq);
            page.next.seq = page.next.seq.max(row.seq);
            room.take(&row);
            page.rows.push(row);
        }
        place += 1;
    }
    page.next.seq = page.next.seq.max(table.timestamp());
    page
}

/// The rows below a seq, or all of them, newest first.
pub fn before(table: &impl Table, below: Option<Timestamp>, room: Room) -> Page {
    let mut page = Page::default();
    let mut room = Left { room, rows: 0, bytes: 0 };
    let mut place =
        below.map_or(table.count(), |below| first_after(table, Timestamp(below.0.saturating_sub(1))));
    while let Some(mark) = place.checked_sub(1).and_then(|place| table.mark(place)) {
        if room.is_full() && (page.rows.is_empty() || mark.seq < page.next.seq) {
            break;
        }
        place -= 1;
        let row = row(table, place, &mark, mark.seq);
        page.next.seq = row.seq;
        room.take(&row);
        page.rows.push(row);
    }
    page.pending = place as u64;
    page
}

/// The place of the first row with a seq above this.
fn first_after(table: &impl Table, seq: Timestamp) -> usize {
    let (mut low, mut high) = (0, table.count());
    while low < high {
        let middle = low.midpoint(high);
        if table.mark(middle).is_some_and(|mark| mark.seq <= seq) { low = middle + 1 } else { high = middle }
    }
    low
}

/// Rows that a reader who comes with a seq may not have been shown, though they are not above it, oldest first.
fn doubtful<'t>(table: &'t impl Table, doubt: &Doubt) -> Vec<(usize, Mark<'t>)> {
    let from = doubt.since.back(table.overlap());
    let shown = doubt.shown.as_ref().map(|(timestamp, id)| (*timestamp, &**id));
    let places = first_after(table, from)..first_after(table, doubt.since);
    let marks = places.filter_map(|place| Some((place, table.mark(place)?)));
    let mut doubtful: Vec<_> = marks
        .filter(|(_, mark)| {
            let is_hidden = if mark.seq == doubt.since {
                mark.is_late
            } else {
                mark.doubtful_up_to.is_some_and(|bound| doubt.since <= bound)
            };
            is_hidden && shown.is_none_or(|shown| (mark.last_modified, mark.id) > shown)
        })
        .collect();
    doubtful.sort_by_key(|(_, mark)| (mark.last_modified, mark.id));
    doubtful
}

fn row(table: &impl Table, place: usize, mark: &Mark<'_>, seq: Timestamp) -> Row {
    let (json, deleted) = table.json(place);
    Row { seq, id: mark.id.into(), last_modified: mark.last_modified, deleted, json }
}

struct Left {
    room: Room,
    rows: usize,
    bytes: usize,
}

impl Left {
    fn is_full(&self) -> bool {
        self.rows >= self.room.rows || self.bytes >= self.room.bytes
    }

    fn take(&mut self, row: &Row) {
        self.rows += 1;
        self.bytes += row.json.len() + 128;
    }
}
