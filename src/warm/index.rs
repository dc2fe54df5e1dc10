//! The index: what is kept, and times of this process as the next one can read them.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::kinto::Timestamp;
use crate::timeline::collection_list::KeptList;

#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Index {
    /// Whose data it is.
    pub(super) upstream: String,
    /// When the list was last known to be good.
    pub(super) good: u64,
    pub(super) list: Option<KeptList>,
    /// Bucket and collection.
    #[serde(default)]
    pub(super) public: Option<Vec<(String, String)>>,
    pub(super) mirrors: Vec<KeptMirror>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KeptMirror {
    pub(super) bucket: String,
    pub(super) collection: String,
    pub(super) file: String,
    /// When it was last read.
    pub(super) read: u64,
    /// The `last_modified` of the collection object that everybody was shown.
    pub(super) metadata: Option<u64>,
    /// When the upstream last said that everybody may read it.
    pub(super) asked: u64,
}
impl Index {
    /// Whether the two differ in nothing but times.
    pub(super) fn says_the_same(&self, other: &Self) -> bool {
        let without_times = |mirror: &KeptMirror| KeptMirror { read: 0, asked: 0, ..mirror.clone() };
        (&self.list, &self.public) == (&other.list, &other.public)
            && self.mirrors.iter().map(without_times).eq(other.mirrors.iter().map(without_times))
    }
}
/// A moment of this process as a time, in milliseconds since 1970.
pub(super) fn time(moment: Instant) -> u64 {
    Timestamp::now().back(moment.elapsed()).0
}

/// The moment of a time; now for one that is yet to come.
pub(super) fn moment(time: u64) -> Instant {
    let now = Instant::now();
    now.checked_sub(since(time)).unwrap_or(now)
}

pub(super) fn since(time: u64) -> Duration {
    Duration::from_millis(Timestamp::now().0.saturating_sub(time))
}
