//! `POST /buckets/{bucket}/snapshot/collections/{collection}@{moment}/restore`: a collection's records become what they were
//! at a moment, as by a revert of all that was done to them since.
//!
//! A collection that is gone is made again, as it last was, before its records are.

use std::collections::HashSet;
use std::slice;
use std::sync::Arc;

use http::request::Parts;
use serde_json::Value;

use super::present::Present;
use crate::access::Requester;
use crate::app::Core;
use crate::endpoints::history::diff;
use crate::endpoints::history::opened::Opened;
use crate::endpoints::history::revert::Call;
use crate::endpoints::history::revert::options::Members;
use crate::endpoints::history::revert::run::Work;
use crate::error::Error;
use crate::history::Visible;
use crate::history::difference::{Looking, Side};
use crate::journal::{Object, Touched, Versions};
use crate::kinto::{CollectionKey, Timestamp};
use crate::query::{Filter, Operator, Query};
use crate::upstream::UpstreamError;
use crate::wire::body::{Body, Response};
use crate::wire::buffers::Hold;
use crate::wire::peer::Peer;

/// Answers a request to restore a collection; `moment` is what stands behind the `@`.
pub async fn answer(
    core: &Arc<Core>,
    key: &CollectionKey,
    moment: &str,
    request: &Parts,
    body: Body,
    peer: &Peer,
) -> Result<Response, Error> {
    let opened = Opened::of(core, &key.bucket, request).await?;
    let moment = super::moment(moment)?;
    let collection = Object::Collection(opened.bucket.clone(), key.collection.to_string());
    // Somebody who may read a part of it only would be told what changed in the rest.
    super::check_readable(core, &opened.requester, &collection).await?;
    let visible = opened.visible(core).await?;
    let Opened { bucket, requester, .. } = opened;
    let mut hold = core.hold(&request.headers, peer);
    let mut members = Members::read(core, request, body, &mut hold).await?;
    let options = members.options();
    members.refuse_parameters(request.uri.query())?;
    members.end()?;
    let within = Filter {
        field: "collection_id".to_owned(),
        operator: Operator::Eq,
        value: Value::from(&*key.collection),
    };
    let versions = Versions { after: moment, until: Timestamp::LAST };
    let query = Query::of_filters(vec![within]);
    let mut touched = diff::touched(&visible, &query, versions, &mut hold).await?.objects;
    let looking = core.hold(&request.headers, peer);
    if !is_gone(&visible, &collection, &touched, looking).await? {
        touched.retain(|touched| touched.object != collection);
    }
    let key = CollectionKey { bucket: bucket.into(), collection: key.collection.clone() };
    let unknown = unknown(core, &key, &requester, moment, &touched, &mut hold).await?;
    let call = Call { core, request, peer, requester };
    call.begin(options, hold, Work { visible, touched, unknown }).await
}

/// Whether the collection is there no more.
async fn is_gone(
    visible: &Visible,
    collection: &Object,
    touched: &[Touched],
    hold: Hold,
) -> Result<bool, Error> {
    let Some(own) = touched.iter().find(|touched| touched.object == *collection) else { return Ok(false) };
    let looked = Looking::at(visible, slice::from_ref(own), 1, hold).next().await?;
    let found = looked.and_then(|(_, found)| found.into_iter().next());
    Ok(found.is_some_and(|difference| matches!(difference.now, Side::Absent)))
}

/// The records that changed since the moment of which the history does not know it yet.
async fn unknown(
    core: &Core,
    key: &CollectionKey,
    requester: &Requester,
    moment: Timestamp,
    touched: &[Touched],
    hold: &mut Hold,
) -> Result<Vec<Object>, Error> {
    let known: HashSet<&Object> = touched.iter().map(|touched| &touched.object).collect();
    let present = Present::after(core, key, requester, moment, hold).await?;
    if present.stale.is_some() {
        // What changed meanwhile would be left as it is.
        return Err(UpstreamError::Unavailable.into());
    }
    let changed = present.changed.into_iter().filter(|(_, is_gone)| !is_gone);
    let record = |id: &str| Object::Record(key.bucket.to_string(), key.collection.to_string(), id.to_owned());
    Ok(changed.map(|(id, _)| record(&id)).filter(|record| !known.contains(record)).collect())
}
