//! Processes that share a journal record the versions of one object in their order, as the writes of one process do.
//!
//! Who has an answer sees the open intents of other processes about the same objects, in the transaction that records what
//! the answer says. Where there are none, whatever comes later is newer, and all is recorded. Where there are some, only what
//! they have said to be older than their own is; of the rest it says which versions they are, and waits until each of
//! those others is settled, or has said that what it made is newer. Nobody waits before it has said so, and the oldest of
//! all waits for nobody who has an answer.
//!
//! Nobody waits for a process that is dead: what it left open is looked up by another one. One that hangs is waited for
//! once: then the journal says, to all, that it is passed by.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::AnyConnection;

use super::intents::{self, OthersIntent};
use super::{Change, IntentGroup, Outcome, owner};
use crate::kinto::Timestamp;

/// The place of a group of writes among those of other processes.
#[derive(Debug, Clone)]
pub struct Among {
    pub(super) group: IntentGroup,
    /// Those that may have made older versions; all that are there where that was not looked at yet.
    pub(super) others: Option<BTreeSet<i64>>,
}

/// What has to be recorded after what others record.
#[derive(Debug)]
pub(super) struct Behind {
    pub(super) rest: Outcome,
    pub(super) others: BTreeSet<i64>,
}

/// Open groups of living processes, by number.
#[derive(Debug, Default)]
pub(super) struct Others(BTreeMap<i64, Other>);

/// What a process is about to do with some objects, by their URIs or those of their lists.
#[derive(Debug, Default)]
struct Other {
    about: BTreeSet<String>,
    /// The oldest of the versions that it made and has not recorded.
    made: BTreeMap<String, Timestamp>,
}

// === impl Among ===

impl Among {
    /// Of writes that were answered now.
    pub fn of(group: IntentGroup) -> Self {
        Self { group, others: None }
    }

    fn includes(&self, group: i64) -> bool {
        self.others.as_ref().is_none_or(|others| others.contains(&group))
    }
}

// === impl Others ===

impl Others {
    /// Looks at the open groups about some URIs. It waits for the turn among those who write first, if that is wanted.
    pub(super) async fn look(
        connection: &mut AnyConnection,
        own: i64,
        uris: &BTreeSet<String>,
        takes_turn: bool,
    ) -> sqlx::Result<Self> {
        let rows = intents::of_others(connection, own, uris, takes_turn).await?;
        if rows.is_empty() {
            return Ok(Self::default());
        }
        let living = owner::living(connection).await?;
        let mut others = Self::default();
        for row in rows.into_iter().filter(|row| living.contains(&row.owner)) {
            others.add(row);
        }
        Ok(others)
    }

    fn add(&mut self, row: OthersIntent) {
        let OthersIntent { group, uri, made, .. } = row;
        let other = self.0.entry(group).or_default();
        match made {
            // Who was passed by stays so.
            Some(made) => {
                let known = other.made.entry(uri).or_insert(made);
                *known = made.max(*known);
            }
            None => _ = other.about.insert(uri),
        }
    }

    /// Those among which somebody finds itself.
    pub(super) fn groups(&self, among: &Among) -> BTreeSet<i64> {
        self.0.keys().copied().filter(|group| among.includes(*group)).collect()
    }

    /// Those that are about any object of these changes.
    pub(super) fn about(&self, changes: &[Change]) -> BTreeSet<i64> {
        let is_about = |other: &Other| changes.iter().any(|change| other.is_about(change));
        self.0.iter().filter(|(_, other)| is_about(other)).map(|(group, _)| *group).collect()
    }

    /// Whether no older version of the object than this can come from others.
    pub(super) fn let_pass(&self, among: &Among, change: &Change) -> bool {
        let mut others = self.0.iter().filter(|(group, _)| among.includes(**group));
        others.all(|(_, other)| other.lets_pass(change))
    }
}

impl Other {
    fn is_about(&self, change: &Change) -> bool {
        self.about.contains(&change.object.to_string()) || self.about.contains(&change.object.list())
    }

    fn lets_pass(&self, change: &Change) -> bool {
        let (uri, list) = (change.object.to_string(), change.object.list());
        let made = self.made.get(&uri).max(self.made.get(&list));
        !self.is_about(change) || made.is_some_and(|made| *made > change.modified)
    }
}

/// Where intents of others about the objects of these changes are.
pub(super) fn uris(changes: &[Change]) -> impl Iterator<Item = String> {
    changes.iter().flat_map(|change| [change.object.to_string(), change.object.list()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Object;

    fn row(group: i64, uri: &str, made: Option<u64>) -> OthersIntent {
        OthersIntent { group, owner: 1, uri: uri.to_owned(), made: made.map(Timestamp) }
    }

    fn change(uri: &str, modified: u64) -> Change {
        Change::bare(Object::of_uri(uri).unwrap(), None, Timestamp(modified))
    }

    #[test]
    fn nobody_waits_for_a_newer_version_and_everybody_for_an_older_or_an_unknown_one() {
        let among = Among::of(IntentGroup(9));
        let change = change("/buckets/a", 5);
        for (rows, lets_pass) in [
            (vec![], true),
            (vec![row(1, "/buckets/a", None)], false),
            (vec![row(1, "/buckets", None)], false),
            (vec![row(1, "/buckets/a", None), row(1, "/buckets/a", Some(4))], false),
            (vec![row(1, "/buckets/a", None), row(1, "/buckets/a", Some(6))], true),
            (vec![row(1, "/buckets", None), row(1, "/buckets/a", Some(6))], true),
            (
                vec![row(1, "/buckets/a", None), row(2, "/buckets/a", None), row(2, "/buckets/a", Some(6))],
                false,
            ),
            (vec![row(1, "/buckets/b", None)], true),
        ] {
            let mut others = Others::default();
            for row in rows {
                others.add(row);
            }
            assert_eq!(others.let_pass(&among, &change), lets_pass, "{others:?}");
            let nobody = Among { others: Some(BTreeSet::new()), ..among.clone() };
            assert!(others.let_pass(&nobody, &change), "who came later makes newer versions");
        }
    }
}
