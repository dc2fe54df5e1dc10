//! Reads what is in a list that is watched, and records what nobody recorded.

use std::collections::HashSet;

use super::Watcher;
use crate::journal::{Action, Change, JournalError, Object, Outcome};
use crate::kinto::{CollectionKey, Resource, Timestamp};
use crate::metrics;
use crate::mirror::Freshness;
use crate::settings::Backfill;
use crate::upstream::kinto::{KintoError, in_list};
use crate::writes::answer::Version;
use crate::writes::authors::{self, Authors};
use crate::writes::changes::changed;
use crate::writes::lookup;
use crate::writes::question::LookupError;
use crate::writes::versions::{self, Listing};

/// How many ids one question names.
const IDS_AT_ONCE: usize = 50;
/// How many objects are told to the journal at once.
const AT_ONCE: usize = 500;

impl Watcher {
    /// A list that was never read. Gives its timestamp, and that of its newest object. What the journal knows of it, as it passed
    /// through, and has another version by now, was written elsewhere meanwhile, perhaps in another bucket under the same name.
    pub(super) async fn first_sight(&self, uri: &str) -> Result<(Timestamp, Timestamp), LookupError> {
        let Listing { timestamp, newest, mut versions, bare } = match self.settings.now().history.backfill {
            Backfill::Current => match self.mirrored(uri, None).await? {
                Some(listed) => listed,
                None => versions::alive(&self.room.source, uri, "").await?,
            },
            Backfill::None => versions::alive(&self.room.source, uri, "_fields=last_modified").await?,
        };
        versions.reverse();
        // What is being written is told of by those who write it.
        self.others_settled(uri).await?;
        let moved = self.moved(&versions).await?;
        self.record_named(uri, &moved).await?;
        let mut outcome = Outcome::default();
        let moved: HashSet<&Object> = moved.iter().collect();
        for (object, version) in versions.into_iter().filter(|(object, _)| !moved.contains(object)) {
            let date = Some(version.modified);
            let change = changed(version, object, None);
            match self.settings.now().history.backfill {
                Backfill::Current => {
                    outcome.changes.push(Change { action: Some(Action::Create), date, ..change });
                }
                Backfill::None => outcome.known.push(Change { data: None, ..change }),
            }
            if outcome.changes.len() + outcome.known.len() == AT_ONCE {
                self.journal.settle(std::mem::take(&mut outcome)).await?;
            }
        }
        outcome.known.extend(bare.into_iter().map(|(object, modified)| Change::bare(object, None, modified)));
        outcome.watermarks.push((uri.to_owned(), timestamp));
        self.journal.settle(outcome).await?;
        Ok((timestamp, newest))
    }

    /// Records the versions of these objects that nobody recorded.
    pub(super) async fn record_named(&self, uri: &str, objects: &[Object]) -> Result<(), LookupError> {
        for objects in objects.chunks(IDS_AT_ONCE) {
            let named = format!("&in_id={}", in_list(objects.iter().map(Object::id)));
            let listing = versions::newer(&self.room.source, uri, Timestamp::ZERO, &named).await?;
            self.record_missing(uri, listing.versions, None).await?;
            self.pass_by(uri, listing.bare).await?;
        }
        Ok(())
    }

    /// Of these, what the journal knows to be there in another version. Of a record, an older one was just written over.
    async fn moved(&self, versions: &[(Object, Version)]) -> Result<Vec<Object>, JournalError> {
        let objects: Vec<Object> = versions.iter().map(|(object, _)| object.clone()).collect();
        let known = self.journal.known(&objects).await?;
        let moved = versions.iter().filter(|(object, version)| {
            let is_newer = |known: Timestamp| {
                known < version.modified || known != version.modified && matches!(object, Object::Bucket(_))
            };
            known.get(object).is_some_and(|known| !known.deleted && is_newer(known.modified))
        });
        Ok(moved.map(|(object, _)| object.clone()).collect())
    }

    /// What is newer than the watermark, less the overlap. Gives the same.
    pub(super) async fn delta(
        &self,
        uri: &str,
        watermark: Timestamp,
    ) -> Result<(Timestamp, Timestamp), LookupError> {
        let since = watermark.back(self.settings.now().overlap);
        let Listing { timestamp, newest, versions, bare } = match self.mirrored(uri, Some(since)).await? {
            Some(listed) => listed,
            None => versions::unrecorded(&self.room.source, &self.journal, uri, since).await?,
        };
        self.pass_by(uri, bare).await?;
        self.record_missing(uri, versions, Some(timestamp)).await?;
        Ok((timestamp, newest))
    }

    /// Records those of `versions` of a list that nobody recorded, and that it was read up to `watermark`.
    pub(super) async fn record_missing(
        &self,
        uri: &str,
        versions: Vec<(Object, Version)>,
        watermark: Option<Timestamp>,
    ) -> Result<(), LookupError> {
        let mut missing = versions::missing(&self.journal, &versions).await?;
        if !missing.is_empty() {
            self.others_settled(uri).await?;
            // What is news may be in another bucket under the same name.
            if let Some((object, _)) = versions.first().filter(|_| uri != "/buckets") {
                let nobody = self.room.effects.access.anybody();
                self.room.look_at_bucket(&self.journal, object.bucket(), &nobody, None).await?;
            }
            missing = versions::missing(&self.journal, &versions).await?;
        }
        let mut changes: Vec<Change> = versions
            .into_iter()
            .filter(|(object, version)| missing.contains(&(object.clone(), version.modified)))
            .map(|(object, version)| Change { is_found: true, ..changed(version, object, None) })
            .collect();
        let buckets = changes.iter().filter(|change| matches!(change.object, Object::Bucket(_)));
        buckets.for_each(|change| self.room.effects.bucket_changed(change.object.bucket()));
        self.name_authors(&mut changes).await?;
        changes.sort_by_key(|change| change.modified);
        let mut outcome = self.room.outcome_of_found(&self.journal, None, changes).await?;
        outcome.watermarks.extend(watermark.map(|watermark| (uri.to_owned(), watermark)));
        self.journal.settle(outcome).await?;
        Ok(())
    }

    /// Tells the log of versions that are too large to be read, and have no entry. The journal knows of them from then on.
    async fn pass_by(&self, uri: &str, bare: Vec<(Object, Timestamp)>) -> Result<(), LookupError> {
        if self.journal.missing(bare.clone()).await?.is_empty() {
            return Ok(());
        }
        self.others_settled(uri).await?;
        let mut outcome = Outcome::default();
        for (object, modified) in self.journal.missing(bare).await? {
            tracing::error!(uri = %object, %modified, "a change has no entry: {object} is too large to be read");
            metrics::journal::count_left_out();
            let known = Change::bare(object, Some(Action::Update), modified);
            outcome.known.push(Change { is_found: true, ..known });
        }
        self.journal.settle(outcome).await?;
        Ok(())
    }

    /// Names the authors of what writes made that nobody has recorded in time: those that nobody waits for any more, and those
    /// of another process that hangs.
    async fn name_authors(&self, changes: &mut [Change]) -> Result<(), LookupError> {
        let objects: Vec<Object> = changes.iter().map(|change| change.object.clone()).collect();
        let others =
            if objects.is_empty() { Vec::new() } else { self.journal.others_intents_about(&objects).await? };
        let mut asked = Authors::default();
        for change in changes {
            match self.room.lingering.maker_of(change, &mut asked).await? {
                Some(intent) => (change.user_id, change.note) = (intent.user_id, intent.note),
                None => change.user_id = authors::among_others(&others, change),
            }
        }
        Ok(())
    }

    /// Waits until the writes under way that may have to do with a list have recorded what they wrote.
    async fn others_settled(&self, uri: &str) -> Result<(), JournalError> {
        let bucket = match Resource::of(uri) {
            Resource::Records(bucket, _) | Resource::Collections(bucket) | Resource::Groups(bucket) => {
                Some(bucket)
            }
            _ => None,
        };
        lookup::others_settled(&self.room, &self.journal, bucket.as_deref(), false).await
    }

    /// The records of a collection as its mirror has them, where it has one: those who ask for changesets and the history
    /// share each read. `None` for all other lists.
    async fn mirrored(&self, uri: &str, since: Option<Timestamp>) -> Result<Option<Listing>, KintoError> {
        let Resource::Records(bucket, collection) = Resource::of(uri) else { return Ok(None) };
        let key = CollectionKey::new(&bucket, &collection);
        let Some(mirror) = self.mirrors.known(&key).filter(|mirror| mirror.state().is_some()) else {
            return Ok(None);
        };
        match self.mirrors.current(&mirror, Some(mirror.clock().timestamp())).await {
            Ok((state, Freshness::Hit | Freshness::Refreshed)) => {
                versions::of_content(uri, &state.content, since).map(Some)
            }
            Ok((_, Freshness::Stale)) | Err(KintoError::Oversize) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
