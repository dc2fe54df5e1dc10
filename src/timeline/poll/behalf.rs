//! The collections of a bucket as one of its readers is shown them, where the service account may not see them.

use std::sync::Arc;

use super::{PollError, Poller};
use crate::access::Requester;
use crate::kinto::{CollectionKey, Timestamp, segment};
use crate::timeline::collection_list::CollectionList;
use crate::upstream::kinto::KintoError;
use crate::upstream::kinto::heads::Heads;

impl Poller {
    /// Reads a list of a bucket's collections with somebody's credentials; it is nobody else's, and not kept up.
    pub async fn bucket_as(
        &self,
        requester: &Requester,
        bucket: &str,
    ) -> Result<Arc<CollectionList>, PollError> {
        let (upstream, source) = (requester.upstream(), requester.source());
        let ids = match source.ids(&format!("/buckets/{}/collections", segment(bucket))).await {
            // They were just told that they may read it.
            Err(KintoError::Absent) => Vec::new(),
            ids => ids?,
        };
        let keys: Vec<_> = ids.iter().map(|id| CollectionKey::new(bucket, id)).collect();
        let heads = Heads::new(source, self.settings.clone());
        let at_once = heads.at_once(upstream.described().await.ok().as_deref());
        let mut entries: Vec<(Timestamp, CollectionKey)> = Vec::new();
        for keys in keys.chunks(at_once) {
            for (key, head) in keys.iter().zip(heads.ask(keys).await.map_err(KintoError::from)?.heads) {
                match head {
                    Ok((timestamp, _)) => entries.push((timestamp, key.clone())),
                    // What they may not read is not theirs to be told of.
                    Err(KintoError::Absent | KintoError::Refused(_)) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        entries.sort();
        let list = CollectionList::new(self.timeline.host().to_owned());
        for (timestamp, key) in &entries {
            list.enter(key, *timestamp);
        }
        list.set_loaded();
        Ok(Arc::new(list))
    }
}
