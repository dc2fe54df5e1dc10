//! How many rows a page of a list has, where a page of the usual size is more than may be held.
//!
//! A few large objects among many small ones cost a few small pages: behind them the pages grow again. How small the pages of
//! a list had to be is remembered, so that it is not found out anew by each who reads it.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use http::Method;
use parking_lot::Mutex;

use crate::upstream::bound;

/// How many rows a page has that is read instead of one that is too large, from one to the next.
const SMALLER: [usize; 3] = [500, 20, 1];

/// SECURITY: of how many lists it is remembered how small their pages have to be.
const LISTS: usize = 1024;

/// What is remembered of lists whose pages had to be small, by the hash of their path.
#[derive(Debug, Default)]
pub(in crate::upstream) struct PageSizes(Mutex<HashMap<u64, usize>>);

/// How many rows the next page of a list has.
#[derive(Debug, Clone, Copy)]
pub(super) struct PageSize {
    /// As the question itself says it.
    asked: Option<usize>,
    /// What it is instead, where that is less.
    rows: Option<usize>,
    /// How many bytes a page may have.
    most: usize,
}

// === impl PageSizes ===

impl PageSizes {
    /// The size of the first page.
    pub(super) fn of(&self, path: &str) -> PageSize {
        let asked = parameters(path).find_map(|parameter| parameter.strip_prefix("_limit=")?.parse().ok());
        let kept = self.0.lock().get(&name(path)).copied();
        let rows = kept.filter(|kept| asked.is_none_or(|asked| *kept < asked));
        PageSize { asked, rows, most: bound::most(&Method::GET, path) }
    }

    /// The pages of a list have to be this small.
    pub(super) fn keep(&self, path: &str, size: &PageSize) {
        let Some(rows) = size.rows else { return };
        let mut kept = self.0.lock();
        if kept.len() >= LISTS {
            kept.clear();
        }
        kept.insert(name(path), rows);
    }

    /// All of a list fits into one page.
    pub(super) fn forget(&self, path: &str) {
        let mut kept = self.0.lock();
        if !kept.is_empty() {
            kept.remove(&name(path));
        }
    }
}

// === impl PageSize ===

impl PageSize {
    /// How many rows to ask for, where it is not as many as the question says.
    pub(super) fn rows(&self) -> Option<usize> {
        self.rows
    }

    /// How many bytes a page may have.
    pub(super) fn most(&self) -> usize {
        self.most
    }

    /// A page was too large; whether there is a smaller one.
    pub(super) fn shrink(&mut self) -> bool {
        let rows = self.rows.or(self.asked);
        let smaller = SMALLER.into_iter().find(|smaller| rows.is_none_or(|rows| *smaller < rows));
        self.rows = smaller.or(self.rows);
        smaller.is_some()
    }

    /// A page had so many rows, of so many bytes: where the next larger one has room for twice as much, it is next.
    pub(super) fn grow(&mut self, rows: usize, bytes: usize) {
        let Some(size) = self.rows else { return };
        let Some(larger) = SMALLER.into_iter().rev().find(|larger| *larger > size) else { return };
        let larger = self.asked.map_or(larger, |asked| larger.min(asked));
        let is_roomy = |row: usize| row.saturating_mul(larger) <= self.most / 2;
        if bytes.checked_div(rows).is_some_and(is_roomy) {
            self.rows = Some(larger);
        }
    }
}

/// The same list with pages of so many rows.
pub(super) fn limited(path: &str, rows: usize) -> String {
    let others = parameters(path).filter(|parameter| !parameter.starts_with("_limit="));
    let limit = format!("_limit={rows}");
    let query: Vec<&str> = others.chain([limit.as_str()]).collect();
    format!("{}?{}", list(path), query.join("&"))
}

/// The same page, of whose rows no more is told than that they are there. Its address has a limit already.
pub(super) fn bare(path: &str) -> String {
    format!("{path}&_fields=id,last_modified,deleted")
}

/// A page behind such a one as it would be without that.
pub(super) fn with_all_fields(path: &str) -> String {
    let query: Vec<&str> = parameters(path).filter(|parameter| !parameter.starts_with("_fields=")).collect();
    format!("{}?{}", list(path), query.join("&"))
}

fn list(path: &str) -> &str {
    path.split_once('?').map_or(path, |(list, _)| list)
}

fn parameters(path: &str) -> impl Iterator<Item = &str> {
    let (_, query) = path.split_once('?').unwrap_or_default();
    query.split('&').filter(|parameter| !parameter.is_empty())
}

fn name(path: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    list(path).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANY: usize = 100_000;

    #[test]
    fn a_smaller_page_is_of_the_same_list() {
        assert_eq!(
            limited("/buckets/a/collections/b/records", 20),
            "/buckets/a/collections/b/records?_limit=20"
        );
        assert_eq!(limited("/r?_since=1&_limit=500&_token=x", 20), "/r?_since=1&_token=x&_limit=20");
        assert_eq!(with_all_fields(&bare("/r?_token=x&_limit=1")), "/r?_token=x&_limit=1");
    }

    #[test]
    fn pages_shrink_to_one_row_and_grow_again_behind_large_ones() {
        let mut size = PageSizes::default().of("/buckets/a/collections/b/records");
        assert_eq!(size.rows(), None);
        let shrunk: Vec<_> = std::iter::from_fn(|| size.shrink().then(|| size.rows())).collect();
        assert_eq!(shrunk, [Some(500), Some(20), Some(1)]);
        size.grow(1, 14 << 20);
        assert_eq!(size.rows(), Some(1), "the next may be as large");
        size.grow(1, 100);
        size.grow(0, 0);
        assert_eq!(size.rows(), Some(20));
        size.grow(20, 2000);
        size.grow(500, 100_000);
        assert_eq!(size.rows(), Some(500));
    }

    #[test]
    fn no_page_is_larger_than_was_asked_for() {
        let mut size = PageSizes::default().of("/buckets/a/collections/b/records?_sort=id&_limit=16");
        assert!(size.shrink() && !size.shrink());
        assert_eq!(size.rows(), Some(1));
        size.grow(1, 100);
        size.grow(16, 1600);
        assert_eq!(size.rows(), Some(16));
    }

    #[test]
    fn what_was_found_out_of_a_list_is_remembered_of_so_many() {
        let sizes = PageSizes::default();
        let mut size = sizes.of("/buckets?_since=1");
        sizes.keep("/buckets?_since=1", &size);
        assert_eq!(sizes.of("/buckets").rows(), None);
        size.shrink();
        sizes.keep("/buckets?_since=1", &size);
        assert_eq!(sizes.of("/buckets?_since=2").rows(), Some(500));
        assert_eq!(sizes.of("/buckets?_limit=3").rows(), None, "it is less already");
        sizes.forget("/buckets?_limit=500");
        assert_eq!(sizes.of("/buckets").rows(), None);
        for number in 0..MANY {
            sizes.keep(&format!("/buckets/{number}/collections"), &size);
        }
        assert!(sizes.0.lock().len() <= LISTS);
    }
}
