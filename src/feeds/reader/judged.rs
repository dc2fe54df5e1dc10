//! What of a page a reader wants, and what is told beside it.

use parking_lot::Mutex;

use super::{FeedReader, Stage};
use crate::aside::{self, LITTLE};
use crate::error::Error;
use crate::feeds::framing::Layout;
use crate::feeds::judge;
use crate::feeds::previous::PreviousVersions;
use crate::feeds::snapshot::{FeedPage, FeedRow};
use crate::wire::buffers::Hold;

/// A page, which of its rows are wanted, and what some of them were before.
#[derive(Default)]
pub(super) struct Judged {
    pub(super) page: FeedPage,
    pub(super) wanted: Option<Vec<bool>>,
    pub(super) versions: PreviousVersions,
    /// The rows, where writing them takes long.
    pub(super) written: Option<Vec<Vec<u8>>>,
    /// The room for what is written, where that is much.
    pub(super) hold: Option<Hold>,
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

    /// Writes the rows where that takes long, once there is room for them; where they are counted elsewhere, without
    /// `room`.
    async fn prepared(mut self, layout: Layout, room: Option<Hold>) -> Result<Self, Error> {
        let versions: usize = self.versions.values().map(|version| version.get().len()).sum();
        let bytes = versions + work(&self.page.rows, layout);
        if bytes <= LITTLE {
            return Ok(self);
        }
        if let Some(mut hold) = room {
            hold.wait_for(bytes).await;
            self.hold = Some(hold);
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
        let room = (!self.is_whole).then(|| self.options.buffers.hold(client));
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
            Judged { page, wanted, versions, ..Judged::default() }.prepared(layout, room).await
        })));
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::FutureExt;

    use super::*;
    use crate::feeds::framing::Framing;
    use crate::kinto::Timestamp;
    use crate::kinto::seq::Seq;

    #[tokio::test]
    async fn large_documents_are_written_aside_and_as_others_are() {
        for (length, docs, is_large) in [(10, true, false), (LITTLE, true, true), (LITTLE, false, false)] {
            let row = FeedRow {
                seq: Seq::of(Timestamp(20)),
                id: "a".into(),
                last_modified: Timestamp(10),
                revision: None,
                deleted: false,
                json: Bytes::from(format!("{{\"x\":\"{}\"}}", "y".repeat(length))),
            };
            let layout = Layout { framing: Framing::Lines, docs };
            let mut expected = Vec::new();
            layout.write(&mut expected, &row, None);
            let page = FeedPage { rows: vec![row.clone(), row], ..FeedPage::default() };
            let judged = Judged { page, wanted: Some(vec![true, false]), ..Judged::default() };
            let mut prepared = Box::pin(judged.prepared(layout, None));
            let at_once = prepared.as_mut().now_or_never();
            // Whoever writes aside may be done before it is looked for.
            assert!(is_large || at_once.is_some(), "{length}");
            let judged = match at_once {
                Some(judged) => judged.unwrap(),
                None => prepared.await.unwrap(),
            };
            assert_eq!(judged.written.is_some(), is_large);
            let mut text = Vec::new();
            judged.write(layout, &mut text, 0, &judged.page.rows[0]);
            assert_eq!(text, expected);
        }
    }
}
