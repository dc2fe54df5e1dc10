//! The versions before deletions, as the history shows them to a reader.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::access::Requester;
use crate::error::Error;
use crate::feeds::snapshot::FeedRow;
use crate::history::{History, Visible};
use crate::journal::{Action, Object, SeenEntry, Touched};
use crate::kinto::{CollectionKey, Timestamp};

/// Looks into the history of a collection's records for one reader.
#[derive(Debug)]
pub struct Previous {
    /// The histories.
    pub history: Arc<History>,
    /// Who reads: they are shown what they may see of the history now.
    pub requester: Requester,
    /// The collection.
    pub key: CollectionKey,
}

/// Versions before deletions by the ids of what was deleted, as JSON.
pub type PreviousVersions = HashMap<Arc<str>, Box<RawValue>>;

/// SECURITY: how many rows a reader is told of at once: versions are as large as whoever wrote them liked.
pub const AT_ONCE: usize = 8;
/// SECURITY: how many bytes of the history are read at once for them. Those of one row alone may be more.
const ENOUGH: usize = 2 << 20;

/// What is read of an entry.
#[derive(Deserialize)]
struct Read<'e> {
    action: String,
    #[serde(borrow)]
    target: Target<'e>,
}

#[derive(Deserialize)]
struct Target<'e> {
    #[serde(borrow)]
    data: &'e RawValue,
    #[serde(borrow, default)]
    previous: Option<&'e RawValue>,
}

#[derive(Deserialize)]
struct Version {
    last_modified: Timestamp,
}

impl<'e> Read<'e> {
    fn is_deletion(&self) -> bool {
        self.action == Action::Delete.as_str()
    }

    /// The versions that it has, newest first.
    fn versions(&self) -> impl Iterator<Item = &'e RawValue> {
        let own = Some(self.target.data).filter(|_| !self.is_deletion());
        own.into_iter().chain(self.target.previous)
    }
}

fn modified(data: &RawValue) -> Option<Timestamp> {
    let version: Version = serde_json::from_str(data.get()).ok()?;
    Some(version.last_modified)
}

impl Previous {
    /// The versions before the deletions among some rows, where the history has them.
    pub async fn of(&self, rows: &[&FeedRow]) -> Result<PreviousVersions, Error> {
        let mut versions = PreviousVersions::new();
        let deleted: Vec<&FeedRow> = rows.iter().copied().filter(|row| row.deleted).collect();
        if deleted.is_empty() {
            return Ok(versions);
        }
        let Some(journal) = self.history.journal(self.requester.upstream()).await? else {
            return Ok(versions);
        };
        let visible = match self.history.visible(journal, &self.key.bucket, &self.requester).await {
            Err(Error::Refused(_)) => return Ok(versions),
            visible => visible?,
        };
        for deleted in deleted.chunks(AT_ONCE) {
            self.look_up(&visible, deleted, &mut versions).await?;
        }
        Ok(versions)
    }

    async fn look_up(
        &self,
        visible: &Visible,
        deleted: &[&FeedRow],
        versions: &mut PreviousVersions,
    ) -> Result<(), Error> {
        let touched = |row: &FeedRow, entry| {
            let (bucket, collection) = (self.key.bucket.to_string(), self.key.collection.to_string());
            let object = Object::Record(bucket, collection, row.id.to_string());
            Touched { object, entries: vec![entry], lost: None }
        };
        let of_all: Vec<Touched> = deleted.iter().map(|row| touched(row, Timestamp::LAST)).collect();
        let newest = visible.around(&of_all).await?.into_iter().map(|around| around.newest);
        let newest: Vec<Timestamp> =
            newest.map(|newest| newest.map_or(Timestamp::LAST, |(entry, _)| entry)).collect();
        let of_newest: Vec<Touched> =
            deleted.iter().zip(&newest).map(|(row, entry)| touched(row, *entry)).collect();
        let before = visible.around(&of_newest).await?;
        let both = newest.into_iter().zip(before.into_iter().map(|around| around.before));
        let known: Vec<(&FeedRow, (Timestamp, Option<Timestamp>))> =
            deleted.iter().copied().zip(both).collect();
        let entries = |(_, (newest, before)): &(_, (Timestamp, Option<Timestamp>))| {
            [*newest].into_iter().chain(*before).collect::<BTreeSet<Timestamp>>()
        };
        let mut rest = &*known;
        while !rest.is_empty() {
            let needed: Vec<_> = rest.iter().map(|row| (entries(row), 0)).collect();
            let (number, _) = visible.fitting(&needed, ENOUGH).await?;
            let (some, others) = rest.split_at(number.min(rest.len()));
            let seen = visible.entries_at(&some.iter().flat_map(entries).collect(), &BTreeSet::new()).await?;
            take(some, &seen, versions);
            rest = others;
        }
        Ok(())
    }
}

/// Takes the versions before deletions out of the entries about them: the newest of each row, and the one before.
fn take(
    deleted: &[(&FeedRow, (Timestamp, Option<Timestamp>))],
    seen: &[SeenEntry],
    versions: &mut PreviousVersions,
) {
    let seen: HashMap<Timestamp, &SeenEntry> =
        seen.iter().map(|entry| (entry.last_modified, entry)).collect();
    let read = |entry: Timestamp| -> Option<Read<'_>> {
        serde_json::from_str(seen.get(&entry)?.json.as_ref()?.get()).ok()
    };
    for (row, (newest, before)) in deleted {
        let newest = read(*newest);
        let before = before.and_then(read);
        let is_this = newest.as_ref().is_some_and(|entry| {
            entry.is_deletion() && modified(entry.target.data) == Some(row.last_modified)
        });
        let known = newest.iter().flat_map(Read::versions).chain(before.iter().flat_map(Read::versions));
        // A deletion can be dated back; and where another one is the newest, this is not about the same.
        let is_before =
            |data: &&RawValue| is_this || modified(data).is_some_and(|version| version < row.last_modified);
        if let Some(version) = known.into_iter().find(is_before) {
            versions.insert(Arc::clone(&row.id), version.to_owned());
        }
    }
}
