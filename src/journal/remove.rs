//! Entries that somebody deletes: each leaves a tombstone with a timestamp of its own.
//!
//! A reader selects them, however long that takes, and the writer removes them by their names: what one client keeps and
//! selects holds up nobody else's writes.

use std::collections::{BTreeMap, HashMap};

use sqlx::Row;

use super::candidate::{Candidate, SelectedName};
use super::condition::Rows;
use super::queue::{Deleted, Done, Work, gone};
use super::rows::{CHUNK, mark_gap};
use super::select::Question;
use super::statement::{Bound, Statement, timestamp};
use super::{EntriesPage, Journal, JournalError, Sees};
use crate::journal::transaction::Transaction;
use crate::kinto::Timestamp;
use crate::query::{Invalid, Page, Query, Selection};

/// SECURITY: so many bytes of entries are removed in one transaction, or one entry.
const PORTION: u64 = 4 << 20;

// === impl Journal ===

impl Journal {
    /// Deletes the entries that a query selects (with its sorting, limit and token), leaves tombstones, and gives the
    /// page of tombstones in the query's order. With it, the query that selects the rest, where the query's most bytes (of
    /// names) ended the page. A token whose page was deleted before is refused.
    pub async fn delete(
        &self,
        bucket: &str,
        query: &Query,
    ) -> Result<(EntriesPage, Option<Query>), JournalError> {
        let selected = self.of_history(bucket, async |reading, history, _| {
            let mut question = Question::new(self.engine.kind, history, query, &Sees::Everything).by_name();
            let mut selection = Selection::<SelectedName>::of(query);
            // Kinto: tombstones cannot be deleted.
            question.show(reading, Rows::Entries, &mut selection).await?;
            Ok(selection.page())
        });
        let Page { rows, next, .. } =
            selected.await?.unwrap_or(Page { rows: Vec::new(), next: None, total: 0 });
        let names: Vec<_> = rows.into_iter().map(SelectedName::into_name).collect();
        let first = query.begins_with();
        let mut is_used = first.is_some() && first.as_ref() != names.first();
        let (mut must, mut rows, mut timestamp, mut ahead) = (first.is_some(), Vec::new(), None, &*names);
        while !is_used && !ahead.is_empty() {
            let (bucket, names) = (bucket.to_owned(), ahead.iter().take(CHUNK).cloned().collect());
            let Done::Deleted(deleted) = self.write(Work::Delete { bucket, names, must }).await? else {
                return Err(gone());
            };
            // Somebody else with the same token may have been faster.
            (is_used, must) = (deleted.done == 0, false);
            rows.extend(deleted.tombstones.into_iter().filter_map(|row| row.serve(query)));
            timestamp = Some(deleted.timestamp);
            ahead = ahead.get(deleted.done..).unwrap_or_default();
        }
        if is_used {
            return Err(Invalid::used_token().into());
        }
        let timestamp = match timestamp {
            Some(timestamp) => timestamp,
            None => self.timestamp(bucket).await?,
        };
        let rest = query.after_deletion(names.len());
        let rest = (next.is_some() && rest.limit != Some(0)).then_some(rest);
        Ok((EntriesPage { rows, next, sees_any: true, timestamp, room: None }, rest))
    }
}

// === impl Transaction ===

impl Transaction<'_> {
    /// Deletes those of these entries that are still there: as many as are not too large together, and one at least; none
    /// where the first of them must be there and is not.
    pub(super) async fn delete(
        &mut self,
        bucket: &str,
        names: &[(String, Timestamp)],
        must: bool,
    ) -> sqlx::Result<Deleted> {
        self.store().await?;
        let history = self.history(bucket).await?;
        let columns = "SELECT last_modified, id, CAST(octet_length(json) AS BIGINT) FROM sidecar_entries WHERE history = ";
        let there = Statement::new(columns).bind(history.id).push(" AND last_modified IN (");
        let mut found = HashMap::new();
        for row in
            there.list(names.iter().map(|(_, modified)| *modified)).push(")").fetch(self.connection).await?
        {
            let (id, length): (String, i64) = (row.try_get(1)?, row.try_get(2)?);
            found.insert(timestamp(&row, 0)?, (id, u64::try_from(length).unwrap_or_default()));
        }
        let (mut bytes, mut done, mut versions, mut tombstones) = (0_u64, 0, Vec::new(), Vec::new());
        for (id, modified) in names {
            // The history may be another's by now, or its entry may have been removed.
            let length = found.get(modified).filter(|(there, _)| there == id).map(|(_, length)| *length);
            if must && done == 0 && length.is_none() {
                break;
            }
            bytes = bytes.saturating_add(length.unwrap_or_default());
            if bytes > PORTION && !versions.is_empty() {
                break;
            }
            done += 1;
            if length.is_some() {
                versions.push(*modified);
                tombstones.push(Candidate::tombstone(id.clone(), self.next_timestamp(bucket).await?));
            }
        }
        self.remove(bucket, &versions).await?;
        for tombstones in tombstones.chunks(CHUNK) {
            let rows = tombstones.iter().map(|row| -> [Bound; 3] {
                [history.id.into(), row.last_modified.into(), row.id.as_str().into()]
            });
            let rows: Vec<_> = rows.collect();
            let insert =
                Statement::new("INSERT INTO sidecar_tombstones (history, last_modified, id) VALUES ");
            insert.rows(rows).execute(self.connection).await?;
        }
        let timestamp = self.history(bucket).await?.timestamp;
        Ok(Deleted { tombstones, done, timestamp })
    }

    /// Removes entries by their timestamps, and notes what of their collections' past is missing now.
    pub(super) async fn remove(&mut self, bucket: &str, entries: &[Timestamp]) -> sqlx::Result<()> {
        let history = self.history(bucket).await?.id;
        for entries in entries.chunks(CHUNK) {
            let these = |text: &str| {
                let statement = Statement::new(text).bind(history);
                statement.push(" AND last_modified IN (").list(entries.iter().copied()).push(")")
            };
            // Grouped here: to have them in order, SQLite would read all entries.
            let gaps = these("SELECT collection_id, object_modified FROM sidecar_entries WHERE history = ");
            let mut since: BTreeMap<String, Timestamp> = BTreeMap::new();
            for row in gaps.fetch(self.connection).await? {
                let (collection, modified): (Option<String>, _) = (row.try_get(0)?, timestamp(&row, 1)?);
                if let Some(collection) = collection {
                    since
                        .entry(collection)
                        .and_modify(|since| *since = modified.min(*since))
                        .or_insert(modified);
                }
            }
            for (collection, since) in since {
                mark_gap(self.connection, history, &collection, since).await?;
            }
            let removed =
                these("DELETE FROM sidecar_entries WHERE history = ").execute(self.connection).await?;
            self.count(bucket, -i64::try_from(removed).unwrap_or_default());
        }
        self.read_newest_again(bucket).await
    }
}
