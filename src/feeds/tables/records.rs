//! The records of a collection, as their mirror has them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::feeds::table::{Mark, Table};
use crate::kinto::Timestamp;
use crate::kinto::given::Given;
use crate::kinto::seq::Seq;
use crate::mirror::content::{Content, Row};
use crate::mirror::{Mirror, State};
use crate::wire::lent::Lent;

/// A collection at one moment.
#[derive(Debug)]
pub struct Records {
    /// The collection's mirror.
    pub mirror: Arc<Mirror>,
    /// What it had at that moment.
    pub state: Arc<State>,
    /// `sidecar.overlap`.
    pub overlap: Duration,
}

impl Records {
    fn row(&self, place: usize) -> Option<&Row> {
        let content = &self.state.content;
        content.rows().get(*content.by_seq().get(place)?)
    }
}

impl<'r> From<&'r Row> for Mark<'r> {
    fn from(row: &'r Row) -> Self {
        Self {
            seq: row.seq,
            last_modified: row.last_modified,
            is_late: row.is_behind(),
            serial: row.serial,
            born: row.born,
            id: &row.id,
        }
    }
}

impl Table for Records {
    fn lineage(&self) -> u64 {
        self.mirror.lineage
    }

    fn began(&self) -> Seq {
        Seq::of(self.state.content.began())
    }

    fn serial(&self) -> u64 {
        self.state.content.serial
    }

    fn newest_seq(&self) -> Seq {
        let Content { high, .. } = self.state.content;
        high
    }

    fn digest(&self) -> u64 {
        self.state.content.digest()
    }

    fn count(&self) -> usize {
        self.state.content.rows().len()
    }

    fn mark(&self, place: usize) -> Option<Mark<'_>> {
        self.row(place).map(Mark::from)
    }

    fn may_hide(&self, place: usize, since: Timestamp) -> bool {
        self.row(place).is_some_and(|row| self.state.content.may_hide(row, since))
    }

    fn is_undecided(&self, place: usize, since: Timestamp) -> bool {
        let content = &self.state.content;
        self.mirror.clock().has_one_under_way()
            && self.row(place).is_some_and(|row| content.may_follow(row, since))
    }

    fn json(&self, place: usize) -> (Bytes, bool) {
        let row = self.row(place);
        row.map_or_else(Default::default, |row| (self.state.content.json(row), row.deleted))
    }

    fn lent(&self) -> Option<Arc<Lent>> {
        let State { content, stock, .. } = &*self.state;
        stock.lent(content.weight())
    }

    fn given(&self) -> &Given {
        &self.mirror.given
    }

    fn heed(&self, seq: Seq) {
        self.mirror.clock().heed(seq);
    }

    fn heard(&self) -> Seq {
        self.mirror.clock().heard()
    }

    fn overlap(&self) -> Duration {
        self.overlap
    }
}
