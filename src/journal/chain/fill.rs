//! Chains made of entries, for objects that have none: in a journal of before there were chains, and of entries that were
//! imported.

use std::collections::BTreeSet;

use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row};

use super::{Chains, Place, Step};
use crate::journal::queue::{Done, Work};
use crate::journal::statement::{Statement, timestamp};
use crate::journal::transaction::Transaction;
use crate::journal::{Action, Journal, JournalError};
use crate::kinto::Timestamp;

/// Entries that are read at once.
const PORTION: usize = 4000;

impl Journal {
    /// Makes chains of entries for the objects that have none.
    pub async fn fill_chains(&self) -> Result<(), JournalError> {
        let mut place = Some(Place::default());
        let (mut portions, mut look) = (0, 1);
        while let Some(from) = place {
            place = match self.write(Work::Fill(from)).await? {
                Done::Filled(rest) => rest,
                _ => None,
            };
            portions += 1;
            if portions == look {
                // What was empty is asked in another way than what is large.
                self.look_at_chains().await?;
                look *= 4;
            }
        }
        Ok(())
    }
}

impl Transaction<'_> {
    /// Makes some chains; gives from where to go on.
    pub(in crate::journal) async fn fill(&mut self, from: &Place) -> sqlx::Result<Option<Place>> {
        self.store().await?;
        fill(self.connection, &mut self.chains, from).await.map(|(next, _)| next)
    }
}

/// Makes some chains; gives from where to go on, and of how many entries they are.
pub(in crate::journal) async fn fill(
    connection: &mut AnyConnection,
    chains: &mut Chains,
    from: &Place,
) -> sqlx::Result<(Option<Place>, u64)> {
    let select = Statement::new("SELECT uri, object_modified, action FROM sidecar_entries WHERE history = ");
    let select = select.bind(from.history).push(" AND uri > ").bind(from.uri.as_str());
    let select = select.push(&format!(" ORDER BY uri, last_modified LIMIT {PORTION}"));
    let mut entries = Vec::new();
    for row in select.fetch(connection).await? {
        entries.push((row.try_get::<String, _>(0)?, timestamp(&row, 1)?, row.try_get::<String, _>(2)?));
    }
    let Some((last, ..)) = entries.last().cloned() else {
        // Hidden histories are those of earlier lives.
        let next = Statement::new("SELECT id FROM sidecar_histories WHERE is_current = 1 AND id > ");
        let next = next.bind(from.history).push(" ORDER BY id LIMIT 1").first(connection).await?;
        let place = |row: AnyRow| Ok(Place { history: row.try_get(0)?, uri: String::new() });
        let next: sqlx::Result<Option<Place>> = next.map(place).transpose();
        return Ok((next?, 0));
    };
    if entries.len() == PORTION {
        // The last object may have more.
        entries.retain(|(uri, ..)| *uri != last);
        if entries.is_empty() {
            entries = of(connection, from.history, &last).await?;
        }
    }
    let uris: BTreeSet<String> = entries.iter().map(|(uri, ..)| uri.clone()).collect();
    // In a new journal none of them has one, which one question says of all.
    if is_any_between(connection, &uris).await? {
        chains.read(connection, &uris).await?;
    }
    let known: BTreeSet<String> = uris.iter().filter(|uri| chains.end(uri).is_some()).cloned().collect();
    for (uri, modified, action) in entries.iter().filter(|(uri, ..)| !known.contains(uri)) {
        let step = if action == Action::Create.as_str() { Step::Made } else { Step::Moved };
        chains.enter(uri, *modified, action == Action::Delete.as_str(), step);
    }
    chains.store(connection).await?;
    let uri = uris.into_iter().next_back().unwrap_or(last);
    Ok((Some(Place { history: from.history, uri }), entries.len() as u64))
}

/// Whether there is a chain from the first of these objects to the last.
async fn is_any_between(connection: &mut AnyConnection, uris: &BTreeSet<String>) -> sqlx::Result<bool> {
    let (Some(first), Some(last)) = (uris.first(), uris.last()) else { return Ok(false) };
    let select = Statement::new("SELECT uri FROM sidecar_versions WHERE uri >= ").bind(first.as_str());
    let select = select.push(" AND uri <= ").bind(last.as_str()).push(" ORDER BY uri, generation LIMIT 1");
    Ok(select.first(connection).await?.is_some())
}

/// All entries about an object.
async fn of(
    connection: &mut AnyConnection,
    history: i64,
    uri: &str,
) -> sqlx::Result<Vec<(String, Timestamp, String)>> {
    let select = Statement::new("SELECT object_modified, action FROM sidecar_entries WHERE history = ");
    let select = select.bind(history).push(" AND uri = ").bind(uri).push(" ORDER BY last_modified");
    let rows = select.fetch(connection).await?;
    rows.iter().map(|row| Ok((uri.to_owned(), timestamp(row, 0)?, row.try_get(1)?))).collect()
}
