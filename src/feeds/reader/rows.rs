//! What a reader is given of rows: of a page that was read for them alone, or of a batch that was written for all.

use std::sync::Arc;

use parking_lot::Mutex;

use super::judged::{Judged, work};
use super::{FeedReader, Stage, Waited};
use crate::aside;
use crate::feeds::channel::{Latest, RowBatch};
use crate::feeds::snapshot::{FeedPage, Position};
use crate::metrics;

impl FeedReader {
    /// Writes what is wanted of a page, as far as the limit reaches.
    pub(super) fn take(&mut self, mut judged: Judged, text: &mut Vec<u8>) {
        self.hold = judged.hold.take();
        let page = &judged.page;
        if self.left == Some(0) && !self.has_rows {
            self.pending = page.pending + page.rows.len() as u64;
            self.stage = Stage::Closing;
            return;
        }
        let total = page.rows.len();
        let (mut last, mut count) = (None, 0);
        for (index, row) in page.rows.iter().enumerate() {
            let is_wanted = judged.is_wanted(index);
            // Newest first, a page may begin beyond the last that is wanted.
            let is_beyond =
                self.options.is_descending && self.options.until.is_some_and(|until| row.seq > until);
            if !is_wanted || is_beyond {
                continue;
            }
            // Rows of one seq come together: who goes on from it is not given the others.
            if self.left == Some(0) && last != Some(row.seq) {
                self.pending = page.pending + (total - index) as u64;
                self.position = Position::new(last.unwrap_or(self.position.seq), page.next.serial);
                metrics::feeds::count_rows(count, None);
                self.stage = Stage::Closing;
                return;
            }
            let begin = text.len();
            judged.write(self.options.layout, text, index, row);
            if !std::mem::replace(&mut self.has_rows, true) {
                let separator = self.options.layout.separator();
                text.drain(begin..begin + separator);
            }
            if row.seq > self.begin.seq.told_again() || self.options.is_descending {
                self.left = self.left.map(|left| left.saturating_sub(1));
            }
            last = Some(row.seq);
            count += 1;
        }
        metrics::feeds::count_rows(count, None);
        let page = judged.page;
        let is_last = page.pending == 0;
        self.pending = page.pending;
        if !self.options.is_descending {
            self.position = page.next;
        } else if total > 0 {
            self.below = Some(page.next.seq);
            self.position.seq = page.next.seq;
        }
        if self.left == Some(0) && self.position.doubt.is_none() {
            if let Some(last) = last {
                self.position.seq = last;
            }
            self.stage = Stage::Closing;
            return;
        }
        self.stage = if is_last { self.caught_up() } else { Stage::Past };
    }

    /// Goes on by what was written for all readers, or to pages of its own where the reader is too far behind.
    pub(super) fn take_batch(&mut self, latest: &Latest, text: &mut Vec<u8>) -> Waited {
        let seq = self.position.seq;
        let begins_after = |batch: &RowBatch| batch.rows.first().is_some_and(|row| row.seq > seq);
        let batch = latest
            .batch_after(self.position.serial)
            .filter(|batch| self.position.doubt.is_none() && begins_after(batch))
            // Pages alone have an end, and the versions before.
            .filter(|_| self.options.until.is_none() && self.options.previous.is_none());
        let Some(batch) = batch else {
            self.stage = Stage::Past;
            return Waited::Moved;
        };
        let next = Position::new(batch.newest.max(seq), batch.upto);
        let count = batch.rows.len();
        if self.options.filter.is_some() || self.left.is_some_and(|left| left < count) {
            self.judge(FeedPage { rows: batch.rows.clone(), pending: 0, next }, text);
            return Waited::Moved;
        }
        if !batch.is_written(self.options.layout) {
            let (batch, layout) = (Arc::clone(batch), self.options.layout);
            let (work, buffers) = (work(&batch.rows, layout), Arc::clone(&self.options.buffers));
            let written =
                async move { aside::run(work, move || drop(batch.written(layout, &buffers))).await };
            self.stage = Stage::Writing(Mutex::new(Box::pin(written)));
            return Waited::Moved;
        }
        let Some(mut shared) = batch.written(self.options.layout, &self.options.buffers) else {
            self.stage = Stage::Past;
            return Waited::Moved;
        };
        metrics::feeds::count_rows(count, Some(batch.known.elapsed()));
        if !std::mem::replace(&mut self.has_rows, true) {
            shared = shared.slice(self.options.layout.separator()..);
        }
        self.left = self.left.map(|left| left.saturating_sub(count));
        self.position = next;
        self.stage = if self.left == Some(0) { Stage::Closing } else { self.caught_up() };
        Waited::Shared(shared)
    }
}
