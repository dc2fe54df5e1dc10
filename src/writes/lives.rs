//! Whether a bucket is the one that the journal knows, or another one under its name.
//!
//! A bucket that is deleted takes its history along. One that vanishes without that (its storage was flushed, Kinto was
//! restarted empty, or with an older backup) leaves it behind, and whoever makes a bucket of that name must not be shown what
//! others did in theirs. Where a passing write makes the bucket, the upstream's 201 tells that it is another one: the journal
//! knew it to be there when the write began. Where the bucket was made elsewhere, it is another one if nothing is in it any
//! more that the journal knows, in the version that the journal knows.

use std::collections::HashMap;

use super::answer::Version;
use super::changes::changed;
use super::lookup;
use super::question::LookupError;
use super::{Write, Writes, versions};
use crate::access::Requester;
use crate::error::Error;
use crate::journal::{Action, Change, Journal, JournalError, Life, Object};
use crate::kinto::Timestamp;
use crate::upstream::kinto::{KintoError, Source};

/// In how many collections it is looked for records that are still there.
const COLLECTIONS: usize = 20;

/// The lives of the buckets that these writes may make, as far as they are known to be there.
pub(super) async fn of_writes(journal: &Journal, writes: &[Write]) -> Result<Vec<Life>, JournalError> {
    let mut lives = Vec::new();
    for bucket in writes.iter().filter_map(Write::made_bucket) {
        lives.extend(journal.life(&bucket).await?);
    }
    Ok(lives)
}

/// The lives of buckets that were made by a write which did not show their names before it was sent.
pub(super) async fn of_answers(journal: &Journal, changes: &[Change]) -> Result<Vec<Life>, JournalError> {
    let mut lives = Vec::new();
    for change in changes.iter().filter(|change| change.action == Some(Action::Create)) {
        let Object::Bucket(bucket) = &change.object else { continue };
        let known = journal.known(std::slice::from_ref(&change.object)).await?;
        // It may have been found meanwhile.
        if known.get(&change.object).is_some_and(|known| known.modified != change.modified) {
            lives.extend(journal.life(bucket).await?);
        }
    }
    Ok(lives)
}

impl Writes {
    /// Looks whether a bucket is still the one whose history is about to be shown, where it has another version than was
    /// recorded. `shown` is the version that the requester was shown, where they were.
    pub async fn look_at_bucket(
        &self,
        journal: &Journal,
        bucket: &str,
        requester: &Requester,
        shown: Option<Timestamp>,
    ) -> Result<(), Error> {
        let object = Object::Bucket(bucket.to_owned());
        let objects = std::slice::from_ref(&object);
        let is_alive = |known: Option<Timestamp>| known.is_some() && known != shown;
        let known = async || {
            let known = journal.known(objects).await?;
            let alive = known.get(&object).filter(|known| !known.deleted);
            Ok::<_, JournalError>(alive.map(|known| known.modified))
        };
        if !is_alive(known().await?) {
            return Ok(());
        }
        let version = match versions::look(&self.source, &object).await {
            Ok(None) | Err(KintoError::Refused(_)) => versions::look(&requester.source(), &object).await,
            looked => looked,
        };
        let Some(version) = version.ok().flatten().filter(|version| !version.deleted) else { return Ok(()) };
        if known().await? == Some(version.modified) {
            return Ok(());
        }
        lookup::others_settled(self, journal, Some(bucket), true).await?;
        if known().await?.is_none_or(|known| known == version.modified) {
            return Ok(());
        }
        self.found(journal, object, version).await
    }

    async fn found(&self, journal: &Journal, object: Object, version: Version) -> Result<(), Error> {
        let change = Change { is_found: true, ..changed(version, object, None) };
        match self.outcome_of_found(journal, None, vec![change]).await {
            // What the same bucket became is found as everything else that passes elsewhere.
            Ok(outcome) if outcome.ended.is_empty() => Ok(()),
            Ok(outcome) => journal.settle(outcome).await.map(drop).map_err(Error::from),
            Err(LookupError::Read(error)) => Err(error.into()),
            Err(LookupError::Journal(error)) => Err(error.into()),
            Err(LookupError::Other(error)) => Err(error),
        }
    }
}

/// Whether a bucket of this version is not the one that the journal knows: something that was in that is gone without a
/// trace, or nothing is there in the version that is known. Where the journal knows of nothing in it, or what is there cannot
/// be read, nobody can tell.
pub(super) async fn is_another(
    journal: &Journal,
    source: &Source,
    bucket: &str,
    version: Timestamp,
) -> Result<bool, LookupError> {
    let mut is_any_known = false;
    let mut is_any_there = false;
    let mut collections = Vec::new();
    let uri = Object::Bucket(bucket.to_owned()).to_string();
    for list in ["groups", "collections"].map(|kind| format!("{uri}/{kind}")) {
        let known = journal.alive(&list).await?;
        if known.is_empty() {
            continue;
        }
        is_any_known = true;
        // With `_since`, tombstones are listed, too.
        let Some(there) = versions(source, &format!("{list}?_since=0&_fields=last_modified")).await? else {
            return Ok(false);
        };
        if known.iter().any(|(object, _)| !there.contains_key(object)) {
            return Ok(true);
        }
        is_any_there |= has_any(&known, &there, version);
        collections = known;
    }
    for (collection, _) in collections.into_iter().take(COLLECTIONS) {
        if is_any_there {
            break;
        }
        let list = format!("{collection}/records");
        let known = journal.alive(&list).await?;
        if known.is_empty() {
            continue;
        }
        match versions(source, &format!("{list}?_fields=last_modified")).await? {
            Some(there) => is_any_there = has_any(&known, &there, version),
            None => return Ok(false),
        }
    }
    Ok(is_any_known && !is_any_there)
}

/// Whether one of these objects is there in the version that is known. What is newer than its bucket may have been recorded
/// since that was made.
fn has_any(known: &[(Object, Timestamp)], there: &HashMap<Object, Timestamp>, bucket: Timestamp) -> bool {
    known.iter().any(|(object, modified)| *modified <= bucket && there.get(object) == Some(modified))
}

/// What is in a list; `None` where that may not be read.
async fn versions(source: &Source, list: &str) -> Result<Option<HashMap<Object, Timestamp>>, LookupError> {
    let (list, query) = list.split_once('?').unwrap_or((list, ""));
    match versions::alive(source, list, query).await {
        Ok(listed) => Ok(Some(
            listed.versions.into_iter().map(|(object, version)| (object, version.modified)).collect(),
        )),
        Err(KintoError::Absent) => Ok(Some(HashMap::new())),
        Err(KintoError::Refused(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
