//! A page of what a query selects, of rows that come in any order.

use super::fields::Fields;
use super::{Query, sort};
use crate::bounded;

/// Keys of so many bytes are not counted.
const SHORT_KEY: usize = 256;

/// The rows of a page, in their order.
#[derive(Debug, Clone)]
pub struct Page<R> {
    /// The page's rows.
    pub rows: Vec<R>,
    /// The token of the next page, if there is one.
    pub next: Option<String>,
    /// How many rows the filters select on all pages.
    pub total: usize,
}

/// A page in the making, for rows that come bit by bit.
#[derive(Debug)]
pub struct Selection<'q, R> {
    query: &'q Query,
    total: usize,
    held: Vec<(sort::Position, R)>,
    bytes: usize,
    /// The first row that is left out, as it would be too much.
    end: Option<sort::Position>,
    /// Whether the row that was shown last comes after the page.
    is_past: bool,
}

// === impl Selection ===

impl<'q, R: Fields> Selection<'q, R> {
    /// A page of what a query selects.
    pub fn of(query: &'q Query) -> Self {
        Self { query, total: 0, held: Vec::new(), bytes: 0, end: None, is_past: false }
    }

    /// Shows a row to it; says whether the filters select it.
    pub fn show(&mut self, row: R) -> bool {
        let is_selected = self.query.matches(&row);
        self.is_past = false;
        if is_selected {
            self.take(row);
        }
        is_selected
    }

    /// Shows it a row that the filters were found to select.
    pub fn take(&mut self, row: R) {
        self.total += 1;
        let sorting = &self.query.sorting;
        let position = sort::position(&row, sorting);
        let is_left_out = |end| sort::compare_positions(sorting, &position, end).is_ge();
        self.is_past = self.end.as_ref().is_some_and(is_left_out);
        if self.is_past || self.query.start.as_ref().is_some_and(|start| start.is_past(sorting, &position)) {
            return;
        }
        let mut row = row;
        row.forget();
        let held = (position, row);
        self.bytes = self.bytes.saturating_add(weight(&held));
        self.held.push(held);
        if self.query.most_bytes.is_some_and(|most| self.bytes > most) {
            self.cut();
        }
        let wanted = self.query.limit.map(|limit| limit.saturating_add(1));
        if let Some(wanted) = wanted.filter(|wanted| self.held.len() >= wanted.saturating_mul(2)) {
            self.sort();
            self.held.truncate(wanted);
            self.bytes = self.held.iter().map(weight).sum();
        }
    }

    /// How many bytes the rows have that it keeps.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether no row that comes after the one shown last in the order belongs on the page.
    pub fn has_ended(&self) -> bool {
        self.is_past
    }

    /// Ends the page with the last row that leaves it at half of its bytes, or with its first.
    fn cut(&mut self) {
        self.sort();
        let most = self.query.most_bytes.unwrap_or(usize::MAX) / 2;
        let mut bytes = 0_usize;
        let fitting = self.held.iter().take_while(|held| {
            bytes = bytes.saturating_add(weight(held));
            bytes <= most
        });
        let fitting = fitting.count().max(1);
        if fitting < self.held.len() {
            self.end = self.held.drain(fitting..).next().map(|(position, _)| position);
        }
        self.bytes = self.held.iter().map(weight).sum();
    }

    /// The page of the rows shown.
    pub fn page(mut self) -> Page<R> {
        self.sort();
        let Self { query, total, mut held, end, .. } = self;
        let limit = query.limit.unwrap_or(usize::MAX).min(held.len());
        let left = held.drain(limit..).next().map(|(position, _)| position).or(end);
        let next = held.last().zip(left).map(|((last, _), left)| {
            let start = if query.deletes { sort::Start::At(left) } else { sort::Start::After(last.clone()) };
            sort::write_token(&query.sorting, &start)
        });
        Page { rows: held.into_iter().map(|(_, row)| row).collect(), next, total }
    }

    fn sort(&mut self) {
        let sorting = &self.query.sorting;
        self.held.sort_by(|left, right| sort::compare_positions(sorting, &left.0, &right.0));
    }
}

/// How many bytes a row holds beside where it stands in the order.
fn weight<R: Fields>((position, row): &(sort::Position, R)) -> usize {
    // Most keys are numbers and short texts.
    let keys = position.iter().flatten().map(|key| bounded::weight(key).saturating_sub(SHORT_KEY));
    row.weight().saturating_add(keys.sum())
}
