//! Pages of a bucket's history.

use sqlx::AnyConnection;

use super::candidate::Candidate;
use super::condition::Rows;
use super::select::Question;
use super::{EntriesCount, EntriesPage, Sees};
use crate::kinto::Timestamp;
use crate::query::{Page, Selection};

/// The rows of a page.
pub(super) async fn rows(
    connection: &mut AnyConnection,
    question: &mut Question<'_, '_>,
    with_tombstones: bool,
) -> sqlx::Result<Page<Candidate>> {
    let mut selection = Selection::of(question.query);
    question.show(connection, Rows::Entries, &mut selection).await?;
    if with_tombstones {
        question.show(connection, Rows::Tombstones, &mut selection).await?;
    }
    Ok(selection.page())
}

/// Reads a page.
pub(super) async fn read(
    connection: &mut AnyConnection,
    mut question: Question<'_, '_>,
    timestamp: Timestamp,
) -> sqlx::Result<EntriesPage> {
    let query = question.query;
    // Of a tombstone nobody knows whose the entry was.
    let with_tombstones = query.includes_deleted() && matches!(question.sees, Sees::Everything);
    let page = rows(connection, &mut question, with_tombstones).await?;
    let sees_any = !page.rows.is_empty() || question.any(connection).await?;
    let rows = page.rows.into_iter().filter_map(|row| row.serve(query)).collect();
    Ok(EntriesPage { rows, next: page.next, sees_any, timestamp })
}

/// Counts what is on all pages.
pub(super) async fn count(
    connection: &mut AnyConnection,
    mut question: Question<'_, '_>,
    timestamp: Timestamp,
) -> sqlx::Result<EntriesCount> {
    let total = question.count(connection).await?;
    let sees_any = total > 0 || question.any(connection).await?;
    Ok(EntriesCount { total, sees_any, timestamp })
}
