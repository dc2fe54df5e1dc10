//! What of a page a reader wants, and what is told beside it.

use parking_lot::Mutex;

use super::{FeedReader, Stage};
use crate::feeds::judge;
use crate::feeds::previous::PreviousVersions;
use crate::feeds::snapshot::{FeedPage, FeedRow};

/// A page, which of its rows are wanted, and what some of them were before.
pub(super) struct Judged {
    pub(super) page: FeedPage,
    pub(super) wanted: Option<Vec<bool>>,
    pub(super) versions: PreviousVersions,
}

impl FeedReader {
    /// Writes a page, or has it held against the filter and looked for in the history first.
    pub(super) fn judge(&mut self, page: FeedPage, text: &mut Vec<u8>) {
        let (filter, previous) = (self.options.filter.clone(), self.options.previous.clone());
        let client = self.options.client;
        if filter.is_none() && previous.is_none() {
            return self.take(Judged { page, wanted: None, versions: PreviousVersions::new() }, text);
        }
        self.stage = Stage::Judging(Mutex::new(Box::pin(async move {
            let wanted = match filter {
                Some(filter) => Some(judge::wanted(&filter, &page.rows, client).await?),
                None => None,
            };
            let mut versions = PreviousVersions::new();
            if let Some(previous) = previous {
                let is_wanted =
                    |index: usize| wanted.as_ref().is_none_or(|wanted| wanted.get(index) == Some(&true));
                let rows = page.rows.iter().enumerate().filter(|(index, _)| is_wanted(*index));
                let rows: Vec<&FeedRow> = rows.map(|(_, row)| row).collect();
                versions = previous.of(&rows).await?;
            }
            Ok(Judged { page, wanted, versions })
        })));
    }
}
