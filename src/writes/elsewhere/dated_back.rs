//! Finds what is dated back past the sidecar: it moves no timestamp, so that no question for what is newer shows it.
//!
//! Now and again the versions in a list are compared with those that the journal knows. The list may change while it is read,
//! so a difference is only a hint: the object itself is read before anything is recorded.

use super::Watcher;
use crate::journal::Object;
use crate::kinto::{Resource, Timestamp};
use crate::upstream::kinto::NewRow;
use crate::writes::question::LookupError;
use crate::writes::write::object_in;

impl Watcher {
    /// Records what a list has and the journal has not, whatever its date.
    pub(super) async fn compare(&self, uri: &str) -> Result<(), LookupError> {
        let source = &self.room.source;
        let mut pages = source.newer(uri, Timestamp::ZERO, "&_fields=last_modified,deleted").await?;
        while let Some(page) = pages.next().await? {
            let suspects = self.suspects(uri, &page.rows).await?;
            self.record_named(uri, &suspects).await?;
        }
        Ok(())
    }

    /// The objects of which these rows tell another version than the journal.
    async fn suspects(&self, uri: &str, rows: &[NewRow]) -> Result<Vec<Object>, LookupError> {
        let list = Resource::of(uri);
        let listed: Vec<(Object, &NewRow)> =
            rows.iter().filter_map(|row| Some((object_in(&list, &row.id)?, row))).collect();
        let objects: Vec<Object> = listed.iter().map(|(object, _)| object.clone()).collect();
        let known = self.journal.known(&objects).await?;
        let is_suspect = |(object, row): &(Object, &NewRow)| match known.get(object) {
            Some(known) => known.modified != row.last_modified,
            // What was gone before the journal knew of it is no news.
            None => !row.deleted,
        };
        Ok(listed.into_iter().filter(is_suspect).map(|(object, _)| object).collect())
    }
}
