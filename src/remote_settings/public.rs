//! The monitored collections that anybody may read, as a list.
//!
//! Whoever may read a bucket may read all that is in it, so the upstream is asked for each bucket first, and for each
//! collection only of those buckets that are not for everybody. Where all is for everybody, this list is that of `/v1`
//! itself, with all that was written for it. While the upstream does not say, what it said last holds, be it that the
//! process before this one was told.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use futures_util::{StreamExt, stream};
use tokio::time::Instant;

use crate::access::{Access, Requester, Verdict};
use crate::error::Error;
use crate::kinto::CollectionKey;
use crate::kinto::object::Object;
use crate::settings::InForce;
use crate::timeline::entries::{Entries, MonitorEntry};
use crate::warm::Warm;

/// How many questions of permission go up at once.
const AT_ONCE: usize = 8;

/// What anybody may read of the list of timestamps.
#[derive(Debug)]
pub struct Public {
    settings: InForce,
    warm: Arc<Warm>,
    last: ArcSwapOption<Known>,
}

/// What was found last.
#[derive(Debug)]
struct Known {
    /// The generation of the whole list.
    generation: u64,
    /// The permissions that it was found with.
    permissions: u64,
    asked: Instant,
    entries: Arc<Entries>,
}

impl Public {
    /// Nothing is known yet; what will be is good for `sidecar.permission_ttl`.
    pub fn new(settings: InForce, warm: Arc<Warm>) -> Self {
        Self { settings, warm, last: ArcSwapOption::empty() }
    }

    /// What anybody may read of `all`.
    pub async fn entries(&self, access: &Access, all: &Arc<Entries>) -> Result<Arc<Entries>, Error> {
        if let Some(entries) = self.at_once(access, all) {
            return Ok(entries);
        }
        let (permissions, asked, last) = (access.version(), Instant::now(), self.last.load_full());
        let before = self.warm.public();
        let shown = before.as_ref().map(|before| &before.0);
        let entries = Box::pin(found(&access.anybody(), all, last.as_deref(), shown)).await?;
        let keys: HashSet<CollectionKey> = entries.rows.iter().map(|entry| entry.key.clone()).collect();
        if before.is_none_or(|before| (&before.0, before.1) != (&keys, permissions)) {
            self.warm.note_public(keys, permissions);
        }
        let known = Known { generation: all.generation, permissions, asked, entries: Arc::clone(&entries) };
        self.last.store(Some(Arc::new(known)));
        Ok(entries)
    }

    /// The same, where nobody has to be asked for it.
    pub fn at_once(&self, access: &Access, all: &Entries) -> Option<Arc<Entries>> {
        let last = self.last.load();
        let last = last.as_ref()?;
        let is_known = (last.generation, last.permissions) == (all.generation, access.version())
            && last.asked.elapsed() < self.settings.now().permission_ttl;
        is_known.then(|| Arc::clone(&last.entries))
    }
}

async fn found(
    anybody: &Requester,
    all: &Arc<Entries>,
    last: Option<&Known>,
    before: Option<&HashSet<CollectionKey>>,
) -> Result<Arc<Entries>, Error> {
    let buckets: BTreeSet<&Arc<str>> = all.rows.iter().map(|entry| &entry.key.bucket).collect();
    let whole = buckets.into_iter().map(|bucket| async move {
        let object = Object::Bucket(bucket.to_string());
        let verdict = anybody.may_read_object(&object).await;
        // Where the upstream does not say, its collections are asked for.
        matches!(verdict, Ok(Verdict::Granted(_))).then_some(bucket)
    });
    let whole: Vec<_> = whole.collect();
    let whole: Vec<Option<&Arc<str>>> = stream::iter(whole).buffer_unordered(AT_ONCE).collect().await;
    let whole: HashSet<&Arc<str>> = whole.into_iter().flatten().collect();
    let others = all.rows.iter().filter(|entry| !whole.contains(&entry.key.bucket));
    let others = others.map(|entry| async move {
        match anybody.may_read(&entry.key).await {
            Ok(Verdict::Granted(_)) => Ok(Some(&entry.key)),
            Ok(Verdict::Refused(_)) => Ok(None),
            // What it was is more likely than anything else.
            Err(error) => before.map(|before| before.contains(&entry.key).then_some(&entry.key)).ok_or(error),
        }
    });
    let others: Vec<_> = others.collect();
    let mut others = stream::iter(others).buffer_unordered(AT_ONCE);
    let mut single = HashSet::new();
    while let Some(one) = others.next().await {
        single.extend(one?);
    }
    let is_public = |entry: &&MonitorEntry| whole.contains(&entry.key.bucket) || single.contains(&entry.key);
    let rows: Vec<&MonitorEntry> = all.rows.iter().filter(is_public).collect();
    if rows.len() == all.rows.len() {
        return Ok(Arc::clone(all));
    }
    if let Some(last) = last.filter(|last| last.generation == all.generation) {
        let keys = last.entries.rows.iter().map(|entry| &entry.key);
        if keys.eq(rows.iter().map(|entry| &entry.key)) {
            return Ok(Arc::clone(&last.entries));
        }
    }
    Ok(Arc::new(all.with(rows.into_iter().cloned().collect())))
}
