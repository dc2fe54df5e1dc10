//! A list from before this process: what it says is old until the upstream was asked for all of it.

use tokio::time::Instant;

use super::Timeline;
use super::collection_list::KeptList;
use crate::kinto::CollectionKey;

impl Timeline {
    /// Takes the list of the monitored collections as it was at `moment`, as far as they are monitored still.
    pub fn revive(&self, kept: &KeptList, moment: Instant) {
        let resources = self.resources();
        resources.set_listed(kept.keys().collect());
        for (key, timestamp) in self.monitored.revive(kept, moment, |key| resources.include(key)) {
            self.found(&key).revive(timestamp);
        }
    }

    /// When the list was last known to be good, where it is from before this process and not all of it was asked for
    /// since.
    pub fn revived(&self) -> Option<Instant> {
        if self.is_loaded() { None } else { self.monitored.revived() }
    }

    /// Takes out of a list from before this process what the upstream tells nobody now.
    pub fn drop_refused(&self, is_refused: impl Fn(&CollectionKey) -> bool) {
        if self.revived().is_none() {
            return;
        }
        for entry in &self.entries().rows {
            let was_told = self.known_clock(&entry.key).is_some_and(|clock| clock.last_answer().is_some());
            if !was_told && is_refused(&entry.key) {
                self.removed(&entry.key);
            }
        }
    }
}
