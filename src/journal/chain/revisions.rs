//! What versions are called, for those who are told of them. A version that is told and in no chain is entered first.

use std::collections::{BTreeSet, HashMap};

use sqlx::{AnyConnection, Row};

use super::{COLUMNS, Chains, Link, Named, Revision, Seen, Step, ends};
use crate::journal::engine::DEADLINE;
use crate::journal::queue::{self, Done, Work};
use crate::journal::rows::CHUNK;
use crate::journal::statement::Statement;
use crate::journal::transaction::Transaction;
use crate::journal::{Journal, JournalError, PATIENCE};
use crate::kinto::Timestamp;

impl Journal {
    /// The names of versions, in their order. What is newer than its object's chain is entered there first.
    pub async fn revisions(&self, seen: Vec<Seen>) -> Result<Vec<Named>, JournalError> {
        let named = self.named(&seen, false).await?;
        let unknown = seen.iter().zip(&named).filter(|(_, named)| named.is_none());
        let unknown: Vec<Seen> = unknown.map(|(seen, _)| seen.clone()).collect();
        let named = if unknown.is_empty() {
            named
        } else {
            for unknown in unknown.chunks(CHUNK) {
                self.write(Work::Enter { seen: unknown.to_vec(), after: None }).await?;
            }
            self.named(&seen, true).await?
        };
        named.into_iter().map(|named| named.ok_or_else(queue::gone)).collect()
    }

    /// Enters a version that Kinto was seen to have after the chain of its object had ended with another one for some time;
    /// its name, unless the chain has gone on meanwhile.
    pub async fn enter_after(&self, seen: Seen, end: Revision) -> Result<Named, JournalError> {
        self.write(Work::Enter { seen: vec![seen.clone()], after: Some(end) }).await?;
        self.named(&[seen], false).await?.pop().flatten().ok_or_else(queue::gone)
    }

    /// The chains of objects, each from its newest version on.
    pub async fn chains(&self, uris: &[String]) -> Result<HashMap<String, Vec<Link>>, JournalError> {
        self.engine.ask(PATIENCE, async |connection| whole(connection, uris).await).await
    }

    /// Tells this journal's chains from those of all others: when they began, in microseconds.
    pub async fn chains_began(&self) -> Result<String, JournalError> {
        self.engine.ask(DEADLINE, async |connection| began(connection).await).await
    }

    /// The names of versions as they are; `None` for those that are to be entered. Those that were just entered have theirs,
    /// also where the object was made anew since, and dated before them.
    pub(in crate::journal) async fn named(
        &self,
        seen: &[Seen],
        are_entered: bool,
    ) -> Result<Vec<Option<Named>>, JournalError> {
        let named = async |connection: &mut AnyConnection| named(connection, seen, are_entered).await;
        let named = self.engine.ask(PATIENCE, named).await?;
        // What cannot be kept is in no chain, and each version of it is a first one.
        let first = |Seen { uri, modified, deleted }: &Seen| {
            (!self.keeps(uri)).then(|| Named::Known(Revision::next(None, uri, *modified, *deleted)))
        };
        Ok(named.into_iter().zip(seen).map(|(named, seen)| named.or_else(|| first(seen))).collect())
    }
}

async fn named(
    connection: &mut AnyConnection,
    seen: &[Seen],
    are_entered: bool,
) -> sqlx::Result<Vec<Option<Named>>> {
    let uris: Vec<&str> = seen.iter().map(|seen| seen.uri.as_str()).collect();
    let ends: HashMap<String, Link> = ends(connection, &uris).await?.into_iter().collect();
    let may_be_there = |end: &Link, seen: &Seen| are_entered || is_not_next(end, seen);
    let is_past =
        |seen: &Seen| ends.get(&seen.uri).is_some_and(|end| may_be_there(end, seen) && !is_end(end, seen));
    let past: Vec<&Seen> = seen.iter().filter(|seen| is_past(seen)).collect();
    let mut earlier: HashMap<(String, Timestamp, bool), Revision> = HashMap::new();
    for past in past.chunks(CHUNK / 2) {
        let select = Statement::new(&format!("SELECT {COLUMNS} FROM sidecar_versions v WHERE v.uri IN ("));
        let select = select.list(past.iter().map(|seen| seen.uri.as_str())).push(") AND v.modified IN (");
        let select = select.list(past.iter().map(|seen| seen.modified)).push(") ORDER BY v.generation");
        for row in select.fetch(connection).await? {
            let (uri, link) = Link::read(&row)?;
            earlier.insert((uri, link.modified, link.deleted), link.revision);
        }
    }
    let name = |seen: &Seen| {
        let end = ends.get(&seen.uri)?;
        if is_end(end, seen) {
            return Some(Named::Known(end.revision));
        }
        if !may_be_there(end, seen) {
            return None;
        }
        let known = earlier.get(&(seen.uri.clone(), seen.modified, seen.deleted));
        Some(known.map_or(Named::Older(end.revision), |known| Named::Passed(*known, end.revision)))
    };
    Ok(seen.iter().map(name).collect())
}

/// Whether a version has the name of the end of its chain. For an object that is gone, any deletion does.
fn is_end(end: &Link, seen: &Seen) -> bool {
    end.is_of(seen.modified, seen.deleted) || end.deleted && seen.deleted
}

fn is_not_next(end: &Link, seen: &Seen) -> bool {
    seen.modified < end.modified || seen.modified == end.modified && (end.deleted || !seen.deleted)
}

/// The chains of objects, each from its newest version on.
pub(in crate::journal) async fn whole(
    connection: &mut AnyConnection,
    uris: &[String],
) -> sqlx::Result<HashMap<String, Vec<Link>>> {
    let mut chains: HashMap<String, Vec<Link>> = HashMap::new();
    for uris in uris.chunks(CHUNK) {
        let select = Statement::new(&format!("SELECT {COLUMNS} FROM sidecar_versions v WHERE v.uri IN ("));
        let select = select.list(uris.iter().map(String::as_str)).push(") ORDER BY v.uri, v.generation DESC");
        for row in select.fetch(connection).await? {
            let (uri, link) = Link::read(&row)?;
            chains.entry(uri).or_default().push(link);
        }
    }
    Ok(chains)
}

/// When the chains of this journal began.
pub(in crate::journal) async fn began(connection: &mut AnyConnection) -> sqlx::Result<String> {
    let select = Statement::new("SELECT value FROM sidecar_meta WHERE name = 'chains'");
    select.first(connection).await?.map_or_else(|| Ok(String::new()), |row| row.try_get(0))
}

impl Transaction<'_> {
    /// Enters versions that were seen; with `after`, only where the chain still ends with that.
    pub(in crate::journal) async fn enter(
        &mut self,
        seen: &[Seen],
        after: Option<Revision>,
    ) -> sqlx::Result<Done> {
        let uris: BTreeSet<String> = seen.iter().map(|seen| seen.uri.clone()).collect();
        self.chains.read(self.connection, &uris).await?;
        for Seen { uri, modified, deleted } in seen {
            let chains: &mut Chains = &mut self.chains;
            match after {
                None => chains.enter(uri, *modified, *deleted, Step::Moved),
                Some(after) if chains.end(uri).is_some_and(|end| end.revision == after) => {
                    chains.append(uri, *modified, *deleted, true);
                }
                Some(_) => {}
            }
        }
        Ok(Done::Nothing)
    }
}
