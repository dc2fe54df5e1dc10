//! Pages of a source that is in memory as a whole.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::error::Error;
use crate::feeds::snapshot::{Doubt, FeedPage, FeedRow, Position, Room, Snapshot};
use crate::kinto::Timestamp;
use crate::kinto::given::Given;
use crate::kinto::seq::Seq;
use crate::wire::lent::Lent;

/// What has to be known of a row to tell who has seen it.
#[derive(Debug, Clone, Copy)]
pub struct Mark<'t> {
    /// Its place in the order of changes.
    pub seq: Seq,
    /// Its own timestamp, which is lower where it became visible late.
    pub last_modified: Timestamp,
    /// Whether it became visible behind its timestamp.
    pub is_late: bool,
    /// The first serial that had it.
    pub serial: u64,
    /// Who knows of nothing up to here is not told of it.
    pub born: Timestamp,
    /// Its id.
    pub id: &'t str,
}

/// Rows in memory.
pub trait Table: Debug {
    /// See [`Snapshot::lineage`].
    fn lineage(&self) -> u64;
    /// See [`Snapshot::began`].
    fn began(&self) -> Seq;
    /// Counts the states of the source.
    fn serial(&self) -> u64;
    /// The newest seq.
    fn newest_seq(&self) -> Seq;
    /// Names the rows: others, another digest.
    fn digest(&self) -> u64;
    /// How many rows there are.
    fn count(&self) -> usize;
    /// What is known of the row at this place in the order of seqs, oldest first.
    fn mark(&self, place: usize) -> Option<Mark<'_>>;
    /// Whether a reader who knows of this timestamp, here or at another sidecar, may not have been shown the row at this place,
    /// although its own timestamp is lower.
    fn may_hide(&self, place: usize, since: Timestamp) -> bool;
    /// Whether it does so only until a write that is under way shows whether it is the one with that timestamp.
    fn is_undecided(&self, _place: usize, _since: Timestamp) -> bool {
        false
    }
    /// The JSON of that row, and whether it says that something was deleted.
    fn json(&self, place: usize) -> (Bytes, bool);
    /// How far behind its own timestamp a row can become visible.
    fn overlap(&self) -> Duration;
    /// See [`Snapshot::lent`].
    fn lent(&self) -> Option<Arc<Lent>> {
        None
    }
    /// The places between two timestamps that were given here, for as long as there is this lineage.
    fn given(&self) -> &Given;
    /// See [`Snapshot::heed`].
    fn heed(&self, seq: Seq);
    /// The newest seq that was heeded.
    fn heard(&self) -> Seq;
}

impl<T: Table + Send + Sync + 'static> Snapshot for T {
    fn lineage(&self) -> u64 {
        Table::lineage(self)
    }

    fn began(&self) -> Seq {
        Table::began(self)
    }

    fn serial(&self) -> u64 {
        Table::serial(self)
    }

    fn newest_seq(&self) -> Seq {
        Table::newest_seq(self)
    }

    fn heed(&self, seq: Seq) {
        self.given().heed(seq);
        if seq.is_news(Table::newest_seq(self), Table::heard(self)) {
            Table::heed(self, seq);
        }
    }

    fn lent(&self) -> Option<Arc<Lent>> {
        Table::lent(self)
    }

    fn tag(&self) -> Option<String> {
        Some(format!("{}-{:016x}", Table::newest_seq(self), self.digest()))
    }

    fn page(self: Arc<Self>, from: Position, room: Room) -> BoxFuture<'static, Result<FeedPage, Error>> {
        Box::pin(async move { Ok(page(&*self, &from, room)) })
    }

    fn before(
        self: Arc<Self>,
        below: Option<Seq>,
        room: Room,
    ) -> BoxFuture<'static, Result<FeedPage, Error>> {
        Box::pin(async move { Ok(before(&*self, below, room)) })
    }
}

/// The rows that follow a position.
pub fn page(table: &impl Table, from: &Position, room: Room) -> FeedPage {
    if table.serial() < from.serial {
        // The reader has seen more than this.
        return FeedPage { next: from.clone(), ..FeedPage::default() };
    }
    let mut page =
        FeedPage { next: Position { serial: table.serial(), ..from.clone() }, ..FeedPage::default() };
    let newest = room.last(table.newest_seq());
    let end = room.until.map_or(table.count(), |until| first_after(table, until));
    let mut room = Left { room, rows: 0, bytes: 0 };
    if let Some(doubt) = &from.doubt {
        let places = doubtful(table, doubt);
        let (total, mut taken) = (places.len(), 0);
        let is_undecided = |(place, _): &(usize, Mark<'_>)| table.is_undecided(*place, doubt.since.at);
        let is_quiet = from.serial == table.serial() && first_after(table, doubt.since) >= end;
        if total > 0 && room.room.waits && is_quiet && places.iter().all(is_undecided) {
            return page;
        }
        for (place, mark) in places {
            if room.is_full() {
                break;
            }
            taken += 1;
            // Who is cut off before the last of them has the seq that they came with, and is told again.
            page.next.seq = if taken == total { from.seq.told_again() } else { from.seq };
            let row = row(table, place, &mark, page.next.seq);
            page.next.doubt =
                Some(Doubt { shown: Some((mark.last_modified, row.id.clone())), ..doubt.clone() });
            room.take(&row);
            page.rows.push(row);
        }
        if taken < total {
            page.pending = (total - taken + end.saturating_sub(first_after(table, from.seq))) as u64;
            // What came meanwhile is for later.
            page.next.serial = from.serial;
            return page;
        }
        page.next.doubt = None;
        if page.next.seq > from.seq {
            table.given().add(page.next.seq);
        }
    }
    let mut place = first_after(table, Seq::of(from.seq.at).before());
    // Where another sidecar found more, its seqs go further than those of what is found here.
    let behind = page.next.seq.found_after();
    // Of the reader's own timestamp, what was found late is due; the row that had it first was shown.
    let is_new = |mark: &Mark<'_>| mark.seq > from.seq || (mark.is_late && mark.serial > from.serial);
    let is_due = |mark: &Mark<'_>| mark.born <= from.seq.at && is_new(mark);
    let seq_of = |mark: &Mark<'_>| if mark.seq > from.seq { mark.seq } else { behind };
    let mut group = page.next.seq;
    while place < end
        && let Some(mark) = table.mark(place)
    {
        place += 1;
        if !is_due(&mark) {
            continue;
        }
        let seq = seq_of(&mark).max(group);
        if room.is_full() && seq > group {
            page.pending = (end + 1 - place) as u64;
            return page;
        }
        group = seq;
        // Of several with one seq only the last one has it: who is cut off before has not seen them all.
        let is_last = table.mark(place).is_none_or(|next| !is_due(&next) || seq_of(&next) > seq);
        if is_last {
            page.next.seq = seq;
            table.given().add(seq);
        }
        let row = row(table, place - 1, &mark, page.next.seq);
        room.take(&row);
        page.rows.push(row);
    }
    if page.next.seq > table.newest_seq() {
        table.heed(page.next.seq);
    }
    page.next.seq = page.next.seq.max(newest);
    page
}

/// The rows below a seq, or all of them, newest first.
pub fn before(table: &impl Table, below: Option<Seq>, room: Room) -> FeedPage {
    let mut page = FeedPage::default();
    let mut room = Left { room, rows: 0, bytes: 0 };
    let mut place = below.map_or(table.count(), |below| first_after(table, below.before()));
    while let Some(mark) = place.checked_sub(1).and_then(|place| table.mark(place)) {
        if room.is_full() && (page.rows.is_empty() || mark.seq < page.next.seq) {
            break;
        }
        place -= 1;
        if mark.born > Timestamp::ZERO {
            continue;
        }
        let row = row(table, place, &mark, mark.seq);
        page.next.seq = row.seq;
        room.take(&row);
        page.rows.push(row);
    }
    page.pending = place as u64;
    page
}

/// The place of the first row with a seq above this.
fn first_after(table: &impl Table, seq: Seq) -> usize {
    let (mut low, mut high) = (0, table.count());
    while low < high {
        let middle = low.midpoint(high);
        if table.mark(middle).is_some_and(|mark| mark.seq <= seq) { low = middle + 1 } else { high = middle }
    }
    low
}

/// Rows that a reader who comes with a seq may not have been shown, though they are not above it, oldest first.
fn doubtful<'t>(table: &'t impl Table, doubt: &Doubt) -> Vec<(usize, Mark<'t>)> {
    // A reader who was told of the rows that were late by then has a seq that this sidecar gave.
    if table.given().has(doubt.since) {
        return Vec::new();
    }
    let from = Seq::end_of(doubt.since.at.back(table.overlap()));
    let shown = doubt.shown.as_ref().map(|(timestamp, id)| (*timestamp, &**id));
    let places = first_after(table, from)..first_after(table, doubt.since);
    let marks = places.filter_map(|place| Some((place, table.mark(place)?)));
    let mut doubtful: Vec<_> = marks
        .filter(|(place, mark)| {
            let is_hidden = if mark.seq.at == doubt.since.at {
                mark.is_late
            } else {
                table.may_hide(*place, doubt.since.at)
            };
            is_hidden
                && mark.born <= doubt.since.at
                && shown.is_none_or(|shown| (mark.last_modified, mark.id) > shown)
        })
        .collect();
    doubtful.sort_by_key(|(_, mark)| (mark.last_modified, mark.id));
    doubtful
}

fn row(table: &impl Table, place: usize, mark: &Mark<'_>, seq: Seq) -> FeedRow {
    let (json, deleted) = table.json(place);
    FeedRow::new(seq, mark.id.into(), mark.last_modified, deleted, json)
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

    fn take(&mut self, row: &FeedRow) {
        self.rows += 1;
        self.bytes += row.json.len() + 128;
    }
}

#[cfg(test)]
mod tests;
