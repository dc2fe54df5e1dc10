//! Processes that share a journal record the versions of one object in their order, as the writes of one process do.
//!
//! Who has an answer looks for open intents of other processes about the same objects. Where there are none, whatever comes
//! later is newer. Where there are some, it says which versions it made, and waits until each of those others is settled, or
//! has said that what it made is newer. The oldest of all waits for nobody who has an answer.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sqlx::AnyConnection;
use tokio::time::{Instant, sleep};

use super::engine::{DEADLINE, Kind};
use super::intents::{self, OthersIntent};
use super::queue::Work;
use super::{Change, IntentGroup, Journal, JournalError, Object};
use crate::kinto::Timestamp;

/// How long somebody waits: another process that hangs delays no writes of the object for longer.
const PATIENCE: Duration = Duration::from_secs(2);
const BETWEEN_LOOKS: Duration = Duration::from_millis(10);

/// The oldest version of each object that some writes made.
type Oldest = BTreeMap<Object, Timestamp>;

/// What others are about to do with the same objects.
#[derive(Debug, Default)]
struct Other {
    about: BTreeSet<Object>,
    made: Oldest,
}

/// Other processes that were about to write the same objects when a write was answered.
#[derive(Debug)]
pub struct Others {
    journal: Journal,
    groups: BTreeSet<i64>,
    made: Oldest,
}

impl Journal {
    /// Looks for other processes on this journal that write the same objects as the writes of `group`, which were answered
    /// and made these changes, and tells them so.
    pub async fn others(
        &self,
        group: IntentGroup,
        changes: &[Change],
    ) -> Result<Option<Others>, JournalError> {
        if self.engine.kind == Kind::Sqlite || changes.is_empty() {
            return Ok(None);
        }
        let mut made = Oldest::new();
        for change in changes {
            let oldest = made.entry(change.object.clone()).or_insert(change.modified);
            *oldest = change.modified.min(*oldest);
        }
        let groups: BTreeSet<i64> = self.others_about(&made).await?.into_keys().collect();
        if groups.is_empty() {
            return Ok(None);
        }
        self.write(Work::Made(group, made.clone().into_iter().collect())).await?;
        Ok(Some(Others { journal: self.clone(), groups, made }))
    }

    async fn others_about(&self, made: &Oldest) -> Result<BTreeMap<i64, Other>, JournalError> {
        let uris: BTreeSet<String> =
            made.keys().flat_map(|object| [object.to_string(), object.list()]).collect();
        let uris: Vec<String> = uris.into_iter().collect();
        let rows = async |connection: &mut AnyConnection| {
            intents::of_others(connection, self.owner.number, &uris).await
        };
        let rows = self.engine.ask(DEADLINE, rows).await?;
        let mut others: BTreeMap<i64, Other> = BTreeMap::new();
        for OthersIntent { group, uri, is_made, deletes, known } in rows {
            let object = Object::of_uri(&uri).filter(|object| made.contains_key(object));
            let about = match object {
                Some(object) => vec![object],
                // Who makes something in a list gives it an id of its own.
                None if deletes => made.keys().filter(|object| object.list() == uri).cloned().collect(),
                None => continue,
            };
            let other = others.entry(group).or_default();
            if is_made {
                other.made.extend(about.into_iter().map(|object| (object, known)));
            } else {
                other.about.extend(about);
            }
        }
        Ok(others)
    }
}

impl Others {
    /// Waits until they have recorded what they made before.
    pub async fn first(self) -> Result<(), JournalError> {
        let until = Instant::now() + PATIENCE;
        loop {
            let others = self.journal.others_about(&self.made).await?;
            // Who came later makes newer versions.
            let mut others = others.iter().filter(|(group, _)| self.groups.contains(group));
            if others.all(|(_, other)| other.is_past(&self.made)) || Instant::now() > until {
                return Ok(());
            }
            sleep(BETWEEN_LOOKS).await;
        }
    }
}

impl Other {
    /// Whether nobody has to wait for it who made these.
    fn is_past(&self, made: &Oldest) -> bool {
        self.about.iter().all(|object| self.made.get(object) > made.get(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_waits_for_a_newer_version_and_everybody_for_an_older_or_an_unknown_one() {
        let object = |id: &str| Object::Bucket(id.to_owned());
        let made = |version| Oldest::from([(object("a"), Timestamp(version))]);
        let other = |version: Option<u64>| Other {
            about: BTreeSet::from([object("a")]),
            made: version.map(made).unwrap_or_default(),
        };
        assert!(!other(None).is_past(&made(5)));
        assert!(!other(Some(4)).is_past(&made(5)));
        assert!(other(Some(6)).is_past(&made(5)));
        assert!(Other::default().is_past(&made(5)), "of another object");
    }
}
