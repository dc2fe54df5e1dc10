//! What a collection has now: what of it came after a moment, and where the rest is.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::time::Instant;

use crate::access::Requester;
use crate::app::Core;
use crate::error::Error;
use crate::kinto::{CollectionKey, Timestamp};
use crate::mirror::{Freshness, State};
use crate::upstream::kinto::{KintoError, Source};
use crate::wire::buffers::Hold;

/// How often a collection that keeps changing is read on.
pub(super) const TRIES: usize = 10;

/// What is held of a record that changed, beside its id.
const CHANGED: usize = 160;

/// A collection now, and how far it is known.
#[derive(Debug, Default)]
pub(super) struct Present {
    /// The ids of what came after the moment, and whether each is gone by it.
    pub(super) changed: Vec<(Arc<str>, bool)>,
    /// Where the upstream fails, the last moment of which they are, and when they were read.
    pub(super) stale: Option<(Timestamp, Instant)>,
    pub(super) rest: Rest,
}

/// Where the rest of a collection is.
#[derive(Debug, Default)]
pub(super) enum Rest {
    /// There is no such collection.
    #[default]
    Nowhere,
    /// In memory.
    Kept(Arc<State>),
    /// It can be read from the upstream, for as long as the list has this timestamp.
    Upstream(Source, Timestamp),
}

impl Present {
    /// Looks at a collection, at its mirror or at the upstream. What the service account may not read is read as the
    /// requester, who may.
    pub(super) async fn after(
        core: &Core,
        key: &CollectionKey,
        requester: &Requester,
        moment: Timestamp,
        hold: &mut Hold,
    ) -> Result<Self, Error> {
        let mirror = core.app.mirrors.mirror(key);
        mirror.clock().used();
        let source = match core.app.mirrors.current(&mirror, None).await {
            Ok((state, freshness)) => return Self::of(state, freshness, moment, hold),
            Err(KintoError::Oversize) => core.access.source(),
            Err(KintoError::Refused(_)) => requester.source(),
            Err(KintoError::Absent) => return Ok(Self::default()),
            Err(error) => return Err(error.into()),
        };
        match Self::read(source, key, moment, hold).await {
            Err(Error::NotFound) => Ok(Self::default()),
            read => read,
        }
    }

    fn of(
        state: Arc<State>,
        freshness: Freshness,
        moment: Timestamp,
        hold: &mut Hold,
    ) -> Result<Self, Error> {
        let content = &state.content;
        let newer = content.rows().iter().take_while(|row| row.last_modified > moment);
        hold.grow(newer.clone().map(|row| row.id.len() + CHANGED).sum())?;
        let changed = newer.map(|row| (row.id.clone(), row.deleted)).collect();
        let is_stale = freshness == Freshness::Stale;
        let stale = is_stale.then_some((content.timestamp, state.began));
        Ok(Self { changed, stale, rest: Rest::Kept(state) })
    }

    /// Reads all pages of what is newer, and then what changed in the meantime.
    async fn read(
        source: Source,
        key: &CollectionKey,
        moment: Timestamp,
        hold: &mut Hold,
    ) -> Result<Self, Error> {
        let uri = key.records_uri();
        let mut changed: HashMap<Arc<str>, (Timestamp, bool)> = HashMap::new();
        let mut since = moment;
        for _ in 0..TRIES {
            let mut pages = source.newer(&uri, since, "&_fields=id,last_modified,deleted").await?;
            let mut page = pages.first().await?;
            let began = page.timestamp;
            loop {
                page.rows.retain(|row| row.last_modified > moment);
                source.tell_alive(&uri, began, &mut page.rows, |_| false).await?;
                hold.grow(page.rows.iter().map(|row| row.id.len() + CHANGED).sum())?;
                for row in page.rows {
                    let known = changed.entry(row.id.clone()).or_default();
                    *known = (*known).max((row.last_modified, row.deleted));
                }
                match pages.next().await? {
                    Some(next) => page = next,
                    None if page.timestamp == began => {
                        let changed = changed.into_iter().map(|(id, (_, deleted))| (id, deleted)).collect();
                        return Ok(Self { changed, stale: None, rest: Rest::Upstream(source, began) });
                    }
                    None => break,
                }
            }
            since = began;
        }
        Err(KintoError::Unsettled.into())
    }
}
