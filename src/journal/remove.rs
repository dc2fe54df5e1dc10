//! Entries that somebody deletes: each leaves a tombstone with a timestamp of its own.

use std::collections::BTreeMap;

use sqlx::Row;

use super::candidate::Candidate;
use super::page::rows;
use super::rows::{CHUNK, mark_gap};
use super::select::Question;
use super::statement::{Bound, Statement, timestamp};
use super::{EntriesPage, Sees};
use crate::journal::transaction::Transaction;
use crate::kinto::Timestamp;
use crate::query::Query;

impl Transaction<'_> {
    /// Deletes what a query selects, and gives the tombstones.
    pub(super) async fn delete(&mut self, bucket: &str, query: &Query) -> sqlx::Result<EntriesPage> {
        self.store().await?;
        let history = self.history(bucket).await?;
        let mut question = Question::new(self.kind, history.id, query, &Sees::Everything);
        // Kinto: tombstones cannot be deleted.
        let page = rows(self.connection, &mut question, false).await?;
        let versions: Vec<Timestamp> = page.rows.iter().map(|row| row.last_modified).collect();
        self.remove(bucket, &versions).await?;
        let mut tombstones = Vec::with_capacity(page.rows.len());
        for row in page.rows {
            tombstones.push(Candidate::tombstone(row.id, self.next_timestamp(bucket).await?));
        }
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
        let rows = tombstones.into_iter().filter_map(|row| row.serve(query)).collect();
        Ok(EntriesPage { rows, next: page.next, sees_any: true, timestamp })
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
