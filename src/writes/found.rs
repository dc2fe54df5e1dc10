//! What was found in the upstream, though nobody wrote it through the sidecar, as an outcome for the journal.

use std::collections::BTreeMap;

use super::changes;
use super::lives::is_another;
use super::question::LookupError;
use super::{Writes, versions};
use crate::journal::{Action, Change, IntentGroup, Journal, Known, Object, Outcome};
use crate::kinto::Timestamp;
use crate::upstream::kinto::KintoError;

impl Writes {
    /// What was found, as an outcome. A bucket that is another one than the journal knows counts as created.
    pub(super) async fn outcome_of_found(
        &self,
        journal: &Journal,
        closes: Option<IntentGroup>,
        changes: Vec<Change>,
    ) -> Result<Outcome, LookupError> {
        let objects: Vec<Object> = changes.iter().map(|change| change.object.clone()).collect();
        let known = journal.known(&objects).await?;
        let mut changes = self.present(&known, changes).await?;
        let mut ended = Vec::new();
        for change in changes.iter_mut().filter(|change| change.action.is_none()) {
            let Object::Bucket(bucket) = &change.object else { continue };
            let Some(life) = journal.life(bucket).await? else { continue };
            if is_another(journal, &self.source, bucket, change.modified).await? {
                change.action = Some(Action::Create);
                ended.push(life);
            }
        }
        let is_new = |change: &&Change| {
            change.action.is_none() && known.get(&change.object).is_none_or(|known| known.deleted)
        };
        let created = changes.iter().filter(is_new).flat_map(|change| changes::lists_in(&change.object));
        // Of a collection or bucket that nobody knew of, everything in it is news.
        let within: Vec<_> = created.map(|list| (list, Timestamp::ZERO)).collect();
        let mut outcome = Outcome { ended, ..changes::outcome(closes, changes) };
        outcome.watermarks.extend(within);
        Ok(outcome)
    }

    /// These changes without those that were overwritten since they were read. What is older than what is recorded of its
    /// object and is still there came last: Kinto on PostgreSQL takes the timestamp of a write before it waits for those that
    /// write the same object.
    async fn present(
        &self,
        known: &BTreeMap<Object, Known>,
        changes: Vec<Change>,
    ) -> Result<Vec<Change>, LookupError> {
        let mut present = Vec::with_capacity(changes.len());
        for change in changes {
            let Some(known) =
                known.get(&change.object).filter(|known| change.is_found && change.modified < known.modified)
            else {
                present.push(change);
                continue;
            };
            let now = match versions::look(&self.source, &change.object).await {
                Ok(now) => now,
                // Nobody can be asked.
                Err(KintoError::Absent | KintoError::Refused(_)) => None,
                Err(error) => return Err(error.into()),
            };
            let is_deletion = change.action == Some(Action::Delete);
            if now.is_some_and(|now| now.modified == change.modified && now.deleted == is_deletion) {
                let action = change.action.or(known.deleted.then_some(Action::Create));
                present.push(Change { action, is_found: false, ..change });
            }
        }
        Ok(present)
    }
}
