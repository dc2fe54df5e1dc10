//! Pages of a bucket's history.

use serde_json::value::RawValue;

use super::candidate::Candidate;
use super::condition::Rows;
use super::reading::Reading;
use super::room::Room;
use super::select::Question;
use super::verdicts::{Sees, settled};
use super::{Journal, JournalError};
use crate::aside;
use crate::kinto::Timestamp;
use crate::query::{Query, Selection};
use crate::wire::buffers::Hold;

/// A page of a bucket's history.
#[derive(Debug)]
pub struct EntriesPage {
    /// The entries in the order asked for, each as JSON (`_fields` applied).
    pub rows: Vec<Box<RawValue>>,
    /// The token of the next page.
    pub next: Option<String>,
    /// Whether there is any entry, of whatever filter, that the reader sees.
    pub sees_any: bool,
    /// The timestamp of the bucket's history.
    pub timestamp: Timestamp,
    /// Held for the rows, and for as much text again, where that is counted.
    pub room: Option<Hold>,
}

/// How much of a bucket's history is selected.
#[derive(Debug)]
pub struct EntriesCount {
    /// How many entries the filters select on all pages, without tombstones.
    pub total: usize,
    /// Whether there is any entry, of whatever filter, that the reader sees.
    pub sees_any: bool,
    /// The timestamp of the bucket's history.
    pub timestamp: Timestamp,
}

// === impl Journal ===

impl Journal {
    /// The entries (and, where the query includes them, tombstones of deleted entries) that a query selects. Room for them is
    /// taken beside what `hold` holds.
    pub async fn page(
        &self,
        bucket: &str,
        query: &Query,
        sees: &Sees<'_>,
        hold: Option<&Hold>,
    ) -> Result<EntriesPage, JournalError> {
        let answer = settled(sees, |known| {
            self.of_history(bucket, async move |reading, history, timestamp| {
                let kind = self.engine.kind;
                let mut question =
                    Question::begin(reading.connection().await?, kind, (bucket, history), query, sees, known)
                        .await?;
                question.room = Room::beside(hold);
                let answer = read(reading, &mut question, timestamp).await;
                let answer = question.room.filled(answer);
                let room = question.room.into_hold();
                let answer = answer.map(|answer| answer.map(|page| EntriesPage { room, ..page }));
                question.verdicts.put(answer)
            })
        });
        if let Some(answer) = answer.await? {
            return Ok(answer?);
        }
        let timestamp = self.timestamp(bucket).await?;
        Ok(EntriesPage { rows: Vec::new(), next: None, sees_any: false, timestamp, room: None })
    }

    /// How many entries [`Self::page`] would give on all pages.
    pub async fn count(
        &self,
        bucket: &str,
        query: &Query,
        sees: &Sees<'_>,
    ) -> Result<EntriesCount, JournalError> {
        let answer = settled(sees, |known| {
            self.of_history(bucket, async move |reading, history, timestamp| {
                let kind = self.engine.kind;
                let mut question =
                    Question::begin(reading.connection().await?, kind, (bucket, history), query, sees, known)
                        .await?;
                let answer = count(reading, &mut question, timestamp).await;
                question.verdicts.put(answer)
            })
        });
        if let Some(answer) = answer.await? {
            return Ok(answer);
        }
        let timestamp = self.timestamp(bucket).await?;
        Ok(EntriesCount { total: 0, sees_any: false, timestamp })
    }
}

/// Reads a page.
async fn read(
    reading: &mut Reading<'_>,
    question: &mut Question<'_, '_>,
    timestamp: Timestamp,
) -> sqlx::Result<EntriesPage> {
    let query = question.query;
    // Of a tombstone nobody knows whose the entry was.
    let with_tombstones = query.includes_deleted() && matches!(question.sees, Sees::Everything);
    let mut selection = Selection::<Candidate>::of(query);
    question.show(reading, Rows::Entries, &mut selection).await?;
    if with_tombstones {
        question.show(reading, Rows::Tombstones, &mut selection).await?;
    }
    let page = selection.page();
    let sees_any = !page.rows.is_empty() || question.any(reading.connection().await?).await?;
    reading.give_back();
    let (rows, query) = (page.rows, query.clone());
    let bytes = rows.iter().map(Candidate::length).sum();
    let served = aside::run(bytes, move || rows.into_iter().filter_map(|row| row.serve(&query)).collect());
    let rows = served.await.map_err(|_| sqlx::Error::WorkerCrashed)?;
    Ok(EntriesPage { rows, next: page.next, sees_any, timestamp, room: None })
}

/// Counts what is on all pages.
async fn count(
    reading: &mut Reading<'_>,
    question: &mut Question<'_, '_>,
    timestamp: Timestamp,
) -> sqlx::Result<EntriesCount> {
    let total = question.count(reading).await?;
    let sees_any = total > 0 || question.any(reading.connection().await?).await?;
    Ok(EntriesCount { total, sees_any, timestamp })
}
