//! All records and tombstones that a collection has now.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::time::Instant;

use crate::access::Requester;
use crate::app::Core;
use crate::kinto::{CollectionKey, Timestamp};
use crate::mirror::Freshness;
use crate::upstream::kinto::{KintoError, NewRow, Source};

/// How often a collection that keeps changing is read on.
const TRIES: usize = 10;

/// The rows of a collection, and how far they are known.
#[derive(Debug, Default)]
pub(super) struct Present {
    pub(super) rows: Vec<NewRow>,
    /// Where the upstream fails, the last moment of which they are, and when they were read.
    pub(super) stale: Option<(Timestamp, Instant)>,
}

/// The rows of a collection, from its mirror or from the upstream; none where there is no such collection. What the
/// service account may not read is read as the requester, who may.
pub(super) async fn records(
    core: &Core,
    key: &CollectionKey,
    requester: &Requester,
) -> Result<Present, KintoError> {
    let mirror = core.app.mirrors.mirror(key);
    mirror.clock().used();
    let read = match core.app.mirrors.current(&mirror, None).await {
        Ok((state, freshness)) => {
            let content = &state.content;
            let rows = content.rows().iter().map(|row| NewRow {
                id: row.id.clone(),
                last_modified: row.last_modified,
                deleted: row.deleted,
                is_marked: row.is_marked,
                json: content.json(row),
            });
            let is_stale = freshness == Freshness::Stale;
            let stale = is_stale.then_some((content.timestamp, state.began));
            return Ok(Present { rows: rows.collect(), stale });
        }
        Err(KintoError::Oversize) => read(&core.access.source(), key).await,
        Err(KintoError::Refused(_)) => read(&requester.source(), key).await,
        Err(error) => Err(error),
    };
    match read {
        Err(KintoError::Absent) => Ok(Present::default()),
        read => read.map(|rows| Present { rows, stale: None }),
    }
}

/// Reads all pages, and then what changed in the meantime.
async fn read(source: &Source, key: &CollectionKey) -> Result<Vec<NewRow>, KintoError> {
    let mut rows: HashMap<Arc<str>, NewRow> = HashMap::new();
    let mut since = Timestamp::ZERO;
    for _ in 0..TRIES {
        let uri = key.records_uri();
        let mut pages = source.newer(&uri, since, "").await?;
        let mut page = pages.first().await?;
        let began = page.timestamp;
        loop {
            source.tell_alive(&uri, began, &mut page.rows, |_| false).await?;
            for row in page.rows {
                let is_newer = rows.get(&row.id).is_none_or(|known| known.last_modified < row.last_modified);
                if is_newer {
                    rows.insert(row.id.clone(), row);
                }
            }
            match pages.next().await? {
                Some(next) => page = next,
                None if page.timestamp == began => return Ok(rows.into_values().collect()),
                None => break,
            }
        }
        since = began;
    }
    Err(KintoError::Unsettled)
}
