//! Compares a content with a listing of the collection, and finds what deltas do not show: rows committed late or dated
//! back, rows that vanished without a tombstone.
//!
//! The listing is not read at one moment, so it only raises suspicions; each is settled by reading the rows themselves.

use std::collections::HashMap;
use std::sync::Arc;

use super::content::{Content, Update};
use crate::kinto::{CollectionKey, Timestamp};
use crate::upstream::kinto::{KintoError, Source, in_list};

/// How many ids one question names.
const IDS_AT_ONCE: usize = 50;

/// More suspicions than this are settled by reading everything.
const MANY: usize = 400;

/// What a comparison found.
#[derive(Debug)]
pub enum Comparison {
    /// The listing and the content agree.
    None,
    /// These rows differ.
    Some(Box<Update>),
    /// So much differs that everything had better be read.
    Many,
}

/// Compares `content` with what the upstream lists. Tombstones that it lists no more are gone, too, unless they are kept.
pub async fn compare(
    source: &Source,
    key: &CollectionKey,
    content: &Content,
    keeps_deleted: bool,
) -> Result<Comparison, KintoError> {
    metrics::counter!("kinto_sidecar_mirror_comparisons_total").increment(1);
    let listed = listing(source, key).await?;
    let known: HashMap<&str, _> =
        content.rows().iter().filter(|row| !row.invented).map(|row| (&*row.id, row)).collect();
    let mut suspects: Vec<Arc<str>> = Vec::new();
    for (id, (last_modified, is_marked)) in &listed {
        // What is newer than the content comes with the next delta.
        if *last_modified > content.timestamp {
            continue;
        }
        match known.get(&**id) {
            // What is dated so may change without another date.
            Some(row)
                if row.last_modified == *last_modified
                    && row.is_marked == *is_marked
                    && *last_modified > Timestamp::ZERO => {}
            // A tombstone of what was never known changes nothing for anybody who follows this mirror.
            _ => suspects.push(id.clone()),
        }
    }
    let mut update = Update::default();
    for row in known.values().filter(|row| !listed.contains_key(&*row.id)) {
        if row.deleted {
            if !keeps_deleted {
                update.gone.insert(row.id.clone());
            }
        } else {
            suspects.push(row.id.clone());
        }
    }
    if suspects.len() > MANY {
        return Ok(Comparison::Many);
    }
    for ids in suspects.chunks(IDS_AT_ONCE) {
        let uri = key.records_uri();
        let named = format!("&in_id={}", in_list(ids.iter().map(|id| &**id)));
        let mut missing: std::collections::HashSet<Arc<str>> = ids.iter().cloned().collect();
        let mut pages = source.newer(&uri, Timestamp::ZERO, &named).await?;
        while let Some(mut page) = pages.next().await? {
            let is_certain = source.tell_alive(&uri, page.timestamp, &mut page.rows, |_| false).await?;
            for row in page.rows {
                missing.remove(&row.id);
                // Where somebody writes meanwhile, the next comparison will tell.
                if row.last_modified <= content.timestamp && (is_certain || !row.deleted) {
                    update.rows.push(row);
                }
            }
        }
        update.gone.extend(missing);
    }
    let found = update.rows.len() + update.gone.len();
    metrics::counter!("kinto_sidecar_mirror_mended_rows_total").increment(found as u64);
    Ok(if found == 0 { Comparison::None } else { Comparison::Some(Box::new(update)) })
}

async fn listing(
    source: &Source,
    key: &CollectionKey,
) -> Result<HashMap<Arc<str>, (Timestamp, bool)>, KintoError> {
    let mut listed = HashMap::new();
    let fields = "last_modified,deleted";
    let wanted = format!("&_fields={fields}&_sort=-last_modified");
    let mut pages = source.newer(&key.records_uri(), Timestamp::ZERO, &wanted).await?;
    while let Some(page) = pages.next().await? {
        for row in page.rows {
            // A row that moved between two pages stands in both; its newer place counts.
            let place = listed.entry(row.id).or_insert((row.last_modified, row.is_marked));
            if row.last_modified > place.0 {
                *place = (row.last_modified, row.is_marked);
            }
        }
    }
    Ok(listed)
}
