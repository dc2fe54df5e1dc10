//! Rows by their ids: programs that copy a collection ask for some at a time, thousands of times.

use std::collections::BTreeSet;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Content, Row};

/// Where rows are, by their ids. A content that is asked but once is looked through, which takes less than an index.
#[derive(Debug, Default)]
pub(super) struct ById {
    was_asked: AtomicBool,
    indices: OnceLock<Vec<usize>>,
}

impl Content {
    /// The rows with these ids.
    pub fn with_ids(&self, ids: &BTreeSet<&str>) -> Vec<&Row> {
        if !self.by_id.was_asked.swap(true, Ordering::Relaxed) {
            return self.rows.iter().filter(|row| ids.contains(&*row.id)).collect();
        }
        let id_at = |index: usize| self.rows.get(index).map_or("", |row| &*row.id);
        let by_id = self.by_id.indices.get_or_init(|| {
            let mut indices: Vec<usize> = (0..self.rows.len()).collect();
            indices.sort_unstable_by(|one, other| id_at(*one).cmp(id_at(*other)));
            indices
        });
        let found = ids.iter().filter_map(|id| {
            let place = by_id.binary_search_by(|index| id_at(*index).cmp(id)).ok()?;
            self.rows.get(*by_id.get(place)?)
        });
        found.collect()
    }
}
