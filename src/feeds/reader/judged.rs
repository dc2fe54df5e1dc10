//! What of a page a reader wants, and what is told beside it.

use parking_lot::Mutex;

use super::{FeedReader, Stage};
use crate::aside::{self, LITTLE};
use crate::error::Error;
use crate::feeds::framing::Layout;
use crate::feeds::judge;
use crate::feeds::previous::PreviousVersions;
use crate::feeds::snapshot::{FeedPage, FeedRow};

/// A page, which of its rows are wanted, and what some of them were before.
#[derive(Default)]
pub(super) struct Judged {
    pub(super) page: FeedPage,
    pub(super) wanted: Option<Vec<bool>>,
    pub(super) versions: PreviousVersions,
    /// The rows, where writing them takes long.
    pub(super) written: Option<Vec<Vec<u8>>>,
}

impl Judged {
    /// Whether a row is wanted.
    pub(super) fn is_wanted(&self, index: usize) -> bool {
        self.wanted.as_ref().is_none_or(|wanted| wanted.get(index) == Some(&true))
    }

    /// A row as it is written.
    pub(super) fn write(&self, layout: Layout, text: &mut Vec<u8>, index: usize, row: &FeedRow) {
        match self.written.as_ref().and_then(|written| written.get(index)) {
            Some(written) => text.extend_from_slice(written),
            None => layout.write(text, row, self.versions.get(&row.id).map(|version| &**version)),
        }
    }

    /// Writes the rows where that takes long.
    async fn prepared(mut self, layout: Layout) -> Result<Self, Error> {
        let versions: usize = self.versions.values().map(|version| version.get().len()).sum();
        let bytes = versions + work(&self.page.rows, layout);
        if bytes <= LITTLE {
            return Ok(self);
        }
        let written = move || {
            let written = |(index, row)| {
                let mut text = Vec::new();
                if self.is_wanted(index) {
                    self.write(layout, &mut text, index, row);
                }
                text
            };
            let written = self.page.rows.iter().enumerate().map(written).collect();
            self.written = Some(written);
            self
        };
        aside::run(bytes, written).await
    }
}

/// How many bytes are gone through to write rows.
pub(super) fn work(rows: &[FeedRow], layout: Layout) -> usize {
    if layout.docs { rows.iter().map(|row| row.json.len()).sum() } else { 0 }
}

impl FeedReader {
    /// Writes a page, or has it held against the filter and looked for in the history first.
    pub(super) fn judge(&mut self, page: FeedPage, text: &mut Vec<u8>) {
        let (filter, previous) = (self.options.filter.clone(), self.options.previous.clone());
        let (client, layout) = (self.options.client, self.options.layout);
        if filter.is_none() && previous.is_none() && work(&page.rows, layout) <= LITTLE {
            return self.take(Judged { page, ..Judged::default() }, text);
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
            Judged { page, wanted, versions, written: None }.prepared(layout).await
        })));
    }
}
