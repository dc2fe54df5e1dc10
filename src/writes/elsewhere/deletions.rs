//! Tells the journal of deletions from before its time, as long as the upstream still lists them: readers of Remote Settings
//! may come for them after the upstream has purged them.

use super::Watcher;
use crate::journal::{Action, Change, Outcome};
use crate::kinto::{CollectionKey, Resource, Timestamp};
use crate::mirror::deletions::mark_of;
use crate::settings::Compat;
use crate::writes::changes::changed;
use crate::writes::question::LookupError;
use crate::writes::versions::{self, Listing};

/// How many objects are told to the journal at once.
const AT_ONCE: usize = 500;

impl Watcher {
    /// Sees to it that all deletions in a list of monitored records are known from now on.
    pub(super) async fn keep_deletions(&self, list: &str) -> Result<(), LookupError> {
        let Some(key) = self.read_by_clients_that_were_away(list) else { return Ok(()) };
        let deletions = self.mirrors.deletions();
        if deletions.complete_since(&key).is_some() {
            return Ok(());
        }
        let since = match self.journal.watermark(&mark_of(list)).await? {
            Some(since) => since,
            None => self.learn_deletions(list).await?,
        };
        deletions.are_complete_since(&key, since);
        Ok(())
    }

    fn read_by_clients_that_were_away(&self, list: &str) -> Option<CollectionKey> {
        let Resource::Records(bucket, collection) = Resource::of(list) else { return None };
        let key = CollectionKey::new(&bucket, &collection);
        let is_monitored = self.room.effects.timeline.resources().include(&key);
        (self.settings.now().compat == Compat::RemoteSettings && is_monitored).then_some(key)
    }

    /// A list is gone.
    pub(super) fn forget_deletions(&self, list: &str) {
        if let Some(key) = self.read_by_clients_that_were_away(list) {
            self.mirrors.deletions().forget(&key);
        }
    }

    async fn learn_deletions(&self, list: &str) -> Result<Timestamp, LookupError> {
        let deleted = "&deleted=true&_fields=last_modified,deleted";
        let Listing { timestamp, versions, .. } =
            versions::newer(&self.room.source, list, Timestamp::ZERO, deleted).await?;
        let mut outcome = Outcome::default();
        for (object, version) in versions.into_iter().filter(|(_, version)| version.deleted) {
            let change = changed(version, object, None);
            outcome.known.push(Change { action: Some(Action::Delete), data: None, is_found: true, ..change });
            if outcome.known.len() == AT_ONCE {
                self.journal.settle(std::mem::take(&mut outcome)).await?;
            }
        }
        outcome.watermarks.push((mark_of(list), timestamp));
        self.journal.settle(outcome).await?;
        Ok(timestamp)
    }
}
