//! `GET /buckets/{bucket}/snapshot/collections/{collection}@{timestamp}`: a collection's records as they were at a moment.
//!
//! The upstream has the records that did not change since. Of those that did, the journal knows the version of that moment.
//! A record that was deleted before the moment is not in the answer, though it may have been made again since. Where the
//! journal cannot know all of those versions, because entries were trimmed, purged or excluded, or because it began later, and
//! where the upstream fails and the moment is later than what is known of it, the answer says so in [`INCOMPLETE`].
//!
//! Follows `get_snapshot` of `kinto.plugins.history.views`. Its checks come in this order: method (405), timestamp (400),
//! permission (401, 403).

use std::sync::Arc;

use http::StatusCode;
use http::header::{HeaderName, HeaderValue};
use http::request::Parts;

mod present;
pub mod restore;
mod written;

use self::present::{Present, Rest};
use self::written::{Listed, Snapshot, Unchanged, Versions};
use super::history::opened::Opened;
use super::list;
use crate::access::{Requester, Verdict};
use crate::app::Core;
use crate::error::Error;
use crate::journal::{Journal, Object, PastVersion};
use crate::kinto::python;
use crate::kinto::{CollectionKey, Timestamp, is_absence};
use crate::query::Invalid;
use crate::upstream::kinto::KintoError;
use crate::wire::body::Response;
use crate::wire::cache_control::{self, Served};
use crate::wire::peer::Peer;

/// `Snapshot-Incomplete: true`: versions that were current at the moment may be missing or be replaced by older ones.
pub const INCOMPLETE: HeaderName = HeaderName::from_static("snapshot-incomplete");

/// Answers a request for a snapshot; `moment` is what stands behind the `@`.
pub async fn answer(
    core: &Core,
    key: &CollectionKey,
    moment: &str,
    request: &Parts,
    peer: &Peer,
) -> Result<Response, Error> {
    let Opened { journal, ref requester, bucket } = Opened::of(core, &key.bucket, request).await?;
    let moment = self::moment(moment)?;
    let collection = Object::Collection(bucket.clone(), key.collection.to_string());
    check_readable(core, requester, &collection).await?;
    core.app.writes.look_at_bucket(journal, &bucket, requester, None).await?;
    let key = CollectionKey { bucket: bucket.as_str().into(), collection: key.collection.clone() };
    let is_of_others = is_of_others(journal, requester, &collection, moment).await?;
    let mut tries = present::TRIES;
    let (present, unchanged, mut hold) = loop {
        let mut hold = core.hold(&request.headers, peer);
        if is_of_others {
            break (Present::default(), Unchanged::None, hold);
        }
        let present = Present::after(core, &key, requester, moment, &mut hold).await?;
        let (source, timestamp) = match &present.rest {
            Rest::Nowhere => break (present, Unchanged::None, hold),
            Rest::Kept(state) => {
                let kept = Unchanged::Kept(Arc::clone(state));
                break (present, kept, hold);
            }
            Rest::Upstream(source, timestamp) => (source, *timestamp),
        };
        tries -= 1;
        match Listed::begin(core, source, &key, moment, timestamp).await {
            // It changed meanwhile.
            Err(KintoError::Unsettled) if tries > 0 => {}
            listed => break (present, Unchanged::Listed(Box::new(listed?)), hold),
        }
    };
    let changed: Vec<&str> = present.changed.iter().map(|(id, _)| &**id).collect();
    let past = journal.versions_at(&collection, &changed, moment).await?;
    // Any of the changes may be of an author who is not recorded.
    let has_exclusions = !core.app.settings.history.exclude_user_ids.is_empty();
    let is_complete = changed.is_empty() || !past.has_gaps && !has_exclusions && past.are_others_newer;
    hold.set(past.versions.len() * size_of::<PastVersion>())?;
    let versions = Versions::new(journal, &bucket, past.versions, hold.another());
    let snapshot = Snapshot { key, moment, unchanged, versions };
    let mut response = list::json(snapshot.written(core, hold).await?);
    // Of what came later, nothing is known.
    let is_complete = is_complete && present.stale.is_none_or(|(known, _)| moment <= known);
    if let Rest::Kept(state) = &present.rest
        && let Some(lent) = state.stock.lent(state.content.weight())
    {
        response.extensions_mut().insert(lent);
    }
    if !requester.is_anonymous() {
        cache_control::keep_private(response.headers_mut());
    }
    if let Some((_, read)) = present.stale {
        Served::Behind(read.elapsed().as_secs()).insert(response.headers_mut());
    } else if core.app.poller.is_behind() {
        Served::Behind(core.app.poller.behind_for()).insert(response.headers_mut());
    }
    if !is_complete {
        response.headers_mut().insert(INCOMPLETE, HeaderValue::from_static("true"));
    }
    Ok(response)
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
