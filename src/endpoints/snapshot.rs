//! `GET /buckets/{bucket}/snapshot/collections/{collection}@{timestamp}`: a collection's records as they were at a moment.
//!
//! The upstream has the records that did not change since. Of those that did, the journal knows the version of that moment.
//! A record that was deleted before the moment is not in the answer, though it may have been made again since. Where the
//! journal cannot know all of those versions, because entries were trimmed, purged or excluded, or because it began later, and
//! where the upstream fails and the moment is later than what is known of it, the answer says so in [`INCOMPLETE`].
//!
//! Follows `get_snapshot` of `kinto.plugins.history.views`. Its checks come in this order: method (405), timestamp (400),
//! permission (401, 403).

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use http::StatusCode;
use http::header::{HeaderName, HeaderValue};
use http::request::Parts;
use serde::Deserialize;
use serde_json::value::RawValue;

mod present;
pub mod restore;

use self::present::Present;
use super::history::opened::Opened;
use super::{history, list};
use crate::access::{Requester, Verdict};
use crate::app::Core;
use crate::error::Error;
use crate::journal::{Journal, Object, Sees};
use crate::kinto::python;
use crate::kinto::{CollectionKey, Timestamp, is_absence, selector};
use crate::query::{Invalid, Query, Rules};
use crate::upstream::kinto::NewRow;
use crate::wire::body::{Body, Response};
use crate::wire::cache_control::{self, Served};

/// `Snapshot-Incomplete: true`: versions that were current at the moment may be missing or be replaced by older ones.
pub const INCOMPLETE: HeaderName = HeaderName::from_static("snapshot-incomplete");

/// How many ids one question to the journal names.
const IDS_AT_ONCE: usize = 500;

#[derive(Deserialize)]
struct Version {
    id: String,
    last_modified: u64,
    #[serde(default)]
    deleted: bool,
}

/// An entry of a creation or a deletion.
#[derive(Deserialize)]
struct Coming {
    record_id: String,
    action: String,
}

/// Answers a request for a snapshot; `moment` is what stands behind the `@`.
pub async fn answer(
    core: &Core,
    key: &CollectionKey,
    moment: &str,
    request: &Parts,
) -> Result<Response, Error> {
    let Opened { journal, ref requester, bucket } = Opened::of(core, &key.bucket, request).await?;
    let moment = self::moment(moment)?;
    let collection = Object::Collection(bucket.clone(), key.collection.to_string());
    check_readable(core, requester, &collection).await?;
    core.app.writes.look_at_bucket(journal, &bucket, requester, None).await?;
    let key = CollectionKey { bucket: bucket.into(), collection: key.collection.clone() };
    let snapshot = PastCollection { core, journal, key, collection, moment };
    let present = if is_of_others(journal, requester, &snapshot.collection, moment).await? {
        Present::default()
    } else {
        present::records(core, &snapshot.key, requester).await?
    };
    let stale = present.stale;
    let (records, mut is_complete) = snapshot.take(present.rows).await?;
    // Of what came later, nothing is known.
    is_complete &= stale.is_none_or(|(known, _)| moment <= known);
    let mut chunks = vec![Bytes::from_static(b"{\"data\":[")];
    for (index, record) in records.into_iter().enumerate() {
        if index > 0 {
            chunks.push(Bytes::from_static(b","));
        }
        chunks.push(record.json);
    }
    chunks.push(Bytes::from_static(b"]}"));
    let mut response = list::json(Body::chunks(chunks));
    if !requester.is_anonymous() {
        cache_control::keep_private(response.headers_mut());
    }
    if let Some((_, read)) = stale {
        Served::Behind(read.elapsed().as_secs()).insert(response.headers_mut());
    } else if core.app.poller.is_behind() {
        Served::Behind(core.app.poller.behind_for()).insert(response.headers_mut());
    }
    if !is_complete {
        response.headers_mut().insert(INCOMPLETE, HeaderValue::from_static("true"));
    }
    Ok(response)
}

/// A collection at a moment.
struct PastCollection<'s> {
    core: &'s Core,
    journal: &'s Journal,
    key: CollectionKey,
    collection: Object,
    moment: Timestamp,
}

impl PastCollection<'_> {
    /// The records of the moment, newest first, found from those of the present and its tombstones; and whether all of
    /// them are known.
    async fn take(&self, present: Vec<NewRow>) -> Result<(Vec<NewRow>, bool), Error> {
        let (mut records, changed): (Vec<_>, Vec<_>) =
            present.into_iter().partition(|row| row.last_modified <= self.moment);
        let mut is_complete = true;
        if !changed.is_empty() {
            let changed: Vec<String> = changed.iter().map(|row| row.id.to_string()).collect();
            let (versions, has_gaps) =
                self.journal.versions_at(&self.collection, &changed, self.moment).await?;
            let versions: Vec<NewRow> = versions.into_iter().filter_map(row).collect();
            let known: HashSet<&str> = versions.iter().map(|version| &*version.id).collect();
            let unknown: Vec<&str> =
                changed.iter().map(String::as_str).filter(|id| !known.contains(id)).collect();
            // Any of the changes may be of an author who is not recorded.
            let has_exclusions = !self.core.app.settings.history.exclude_user_ids.is_empty();
            is_complete = !has_gaps && !has_exclusions && self.were_created_since(&unknown).await?;
            records.extend(versions);
        }
        records.retain(|row| !row.deleted);
        records.sort_by_key(|row| std::cmp::Reverse(row.last_modified));
        Ok((records, is_complete))
    }

    /// Whether all these records were made since the moment, of which the journal knows no version of them: the first entry
    /// of each is its creation.
    async fn were_created_since(&self, ids: &[&str]) -> Result<bool, Error> {
        let rules = Rules { paginate_by: None, max_fetch_size: None, ..history::rules(self.core) };
        let mut firsts: HashMap<String, bool> = HashMap::new();
        for ids in ids.chunks(IDS_AT_ONCE) {
            let query = format!(
                "in_action=create,delete&resource_name=record&collection_id={}&in_record_id={}&_sort=last_modified\
                 &_fields=record_id,action",
                selector(&self.key.collection),
                ids.iter().map(|id| selector(id)).collect::<Vec<_>>().join(",")
            );
            let query = Query::parse(Some(&query), &rules)?;
            let page = self.journal.page(&self.key.bucket, &query, &Sees::Everything).await?;
            for row in page.rows {
                if let Ok(Coming { record_id, action }) = serde_json::from_str(row.get()) {
                    firsts.entry(record_id).or_insert(action == "create");
                }
            }
        }
        Ok(ids.iter().all(|id| firsts.get(*id) == Some(&true)))
    }
}

/// Whether a collection has ended since a moment, and the requester may read the one in its place only: it may be another's.
async fn is_of_others(
    journal: &Journal,
    requester: &Requester,
    collection: &Object,
    moment: Timestamp,
) -> Result<bool, Error> {
    if journal.ended(collection).await?.is_none_or(|ended| ended <= moment) {
        return Ok(false);
    }
    let bucket = Object::Bucket(collection.bucket().to_owned());
    Ok(matches!(requester.may_read_object(&bucket).await?, Verdict::Refused(_)))
}

/// Refuses those who may not read the collection, or might not if it were there.
async fn check_readable(core: &Core, requester: &Requester, collection: &Object) -> Result<(), Error> {
    let Verdict::Refused(refusal) = requester.may_read_object(collection).await? else { return Ok(()) };
    let impossible = impossible(core, requester, collection, refusal.status()).await?;
    Err(impossible.unwrap_or(Error::Refused(refusal)))
}

/// What Kinto tells everybody here of an id that no bucket or no collection can have. Somebody who was refused is not told
/// elsewhere, so the service account asks. The ids that Kinto's own generators make cost no question.
async fn impossible(
    core: &Core,
    requester: &Requester,
    collection: &Object,
    refused: StatusCode,
) -> Result<Option<Error>, Error> {
    let is_told = refused == StatusCode::BAD_REQUEST;
    let source = if is_told { requester.source() } else { core.access.source() };
    for object in collection.parents().chain([collection.clone()]) {
        let (id, kind) = (object.id(), object.resource().as_str());
        let is_usual = id.starts_with(|first: char| first.is_ascii_alphanumeric())
            && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
        if is_usual && !is_told {
            continue;
        }
        let answer = source.get(&object.to_string()).await?;
        if answer.status() == StatusCode::BAD_REQUEST && is_absence(answer.status(), answer.body(), kind) {
            return Ok(Some(Error::ImpossibleId { kind, id: id.to_owned() }));
        }
    }
    Ok(None)
}

/// A version of a record as the journal keeps it.
fn row(json: Box<RawValue>) -> Option<NewRow> {
    let Version { id, last_modified, deleted } = serde_json::from_str(json.get()).ok()?;
    let json: Box<str> = json.into();
    Some(NewRow {
        id: id.into(),
        last_modified: Timestamp(last_modified),
        deleted,
        is_marked: deleted,
        json: json.into_string().into(),
    })
}

/// The moment that a path names: a timestamp as Kinto reads it, or a date of RFC 3339.
fn moment(text: &str) -> Result<Timestamp, Error> {
    if let Some(moment) = crate::kinto::moment(text).filter(|_| text.contains(':')) {
        return Ok(moment);
    }
    let moment = python::Integer::parse(text).filter(|moment| moment.value >= 0).ok_or_else(|| {
        Invalid::one("path", "timestamp", format!("Invalid timestamp {}", python::repr(&text.into())))
    })?;
    Ok(Timestamp(u64::try_from(moment.value).unwrap_or(u64::MAX)))
}
