//! `POST /buckets/{bucket}/history/revert`: writes back what was before selected entries, or before a selection such as that
//! of a diff, as ordinary writes of the requester's own.
//!
//! Whatever was done since is left alone, unless it is to be overwritten. It is not atomic: each line of the
//! answer tells of one object, and the last one how it ended. The same request again does what was left.

use std::collections::HashMap;
use std::sync::Arc;

use http::header::{self, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Uri};

pub(in crate::endpoints) mod fields;
mod judged;
pub(in crate::endpoints) mod options;
pub(in crate::endpoints) mod run;
mod shown;
pub(in crate::endpoints) mod step;
pub(in crate::endpoints) mod told;

use super::diff;
use super::opened::Opened;
use crate::access::Requester;
use crate::app::Core;
use crate::current;
use crate::error::Error;
use crate::history::Visible;
use crate::journal::{Object, Touched, Touches};
use crate::query::Invalid;
use crate::wire::body::{Body, Response};
use crate::wire::buffers::Hold;
use crate::wire::peer::Peer;
use crate::wire::{cache_control, headers};
use options::{Chosen, Members, Options};
use run::{Run, Work};
use told::Told;

/// SECURITY: the most bytes that are held to write and to read batches, beside what is undone.
const HELD: usize = 4 << 20;

/// Has nginx pass on what it gets at once.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Answers a request to undo something.
pub async fn answer(
    core: &Arc<Core>,
    bucket: &str,
    request: &Parts,
    body: Body,
    peer: &Peer,
) -> Result<Response, Error> {
    let opened = Opened::of(core, bucket, request).await?;
    let visible = opened.visible(core).await?;
    let mut hold = core.hold(&request.headers, peer);
    let mut members = Members::read(core, request, body, &mut hold).await?;
    let options = members.options();
    let chosen = visible.disclose(members.chosen(core, request.uri.query())).await?;
    let touched = touched(&visible, &chosen, &mut hold).await?;
    let call = Call { core, request, peer, requester: opened.requester };
    call.begin(options, hold, Work { visible, touched, unknown: Vec::new() }).await
}

/// A request that writes by batches, and whose answer is lines.
pub(in crate::endpoints) struct Call<'c> {
    pub(in crate::endpoints) core: &'c Arc<Core>,
    pub(in crate::endpoints) request: &'c Parts,
    pub(in crate::endpoints) peer: &'c Peer,
    pub(in crate::endpoints) requester: Requester,
}

impl Call<'_> {
    /// Begins the answer, and does the work while it is read.
    pub(in crate::endpoints) async fn begin(
        self,
        options: Options,
        mut hold: Hold,
        work: Work,
    ) -> Result<Response, Error> {
        let Self { core, request, peer, requester } = self;
        let user_id = requester.identity().await?.user_id;
        let described = core.upstream.described().await;
        let limit = described.ok().and_then(|described| described.batch_max_requests());
        let limit = limit.unwrap_or(core.app.settings.kinto.batch_max_requests).max(1);
        hold.grow(HELD)?;
        let (sender, body) = Body::channel();
        let run = Run {
            core: Arc::clone(core),
            parts: of_batches(core, request)?,
            peer: peer.clone(),
            requester,
            told: Told::new(sender, options.dry_run, user_id.clone()),
            options: Arc::new(options),
            user_id,
            limit,
            hold,
            pending: Vec::new(),
            pending_bytes: 0,
        };
        // It ends by itself where nobody reads on, and never in the middle of a batch.
        current::spawn(run.work(work));
        let mut response = Response::new(body);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
        headers.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
        headers::insert_kinto_defaults(headers);
        cache_control::forbid(headers);
        Ok(response)
    }
}

/// The objects that are to be undone, with what they take held.
async fn touched(visible: &Visible, chosen: &Chosen, hold: &mut Hold) -> Result<Vec<Touched>, Error> {
    let entries = match chosen {
        Chosen::Entries(entries) => entries,
        Chosen::Selection(selection) => {
            return Ok(diff::touched(visible, &selection.query, selection.versions, hold).await?.objects);
        }
    };
    let body = hold.bytes();
    let (mut all, mut found, mut bytes) = (HashMap::<Object, Touched>::new(), 0, 0);
    for query in options::queries(entries) {
        // The deletion of a collection is one entry, and takes any number of records along.
        let most = diff::MOST.saturating_sub(bytes);
        let Touches { objects, is_all, room: _room, .. } =
            visible.touched(&query, None, most, Some(hold)).await?;
        for touched in objects {
            bytes += touched.weight();
            found += touched.entries.len();
            match all.get_mut(&touched.object) {
                Some(known) => {
                    known.entries.extend(touched.entries);
                    known.entries.sort_unstable();
                    known.lost = known.lost.max(touched.lost);
                }
                None => _ = all.insert(touched.object.clone(), touched),
            }
        }
        hold.set(body + bytes)?;
        if !is_all {
            return Err(diff::too_many(all.len()));
        }
    }
    hold.set(bytes)?;
    if found < entries.len() {
        let missing = entries.len() - found;
        return Err(Invalid::unnamed(format!("{missing} of the entries are not in this history")).into());
    }
    Ok(all.into_values().collect())
}

/// The requester's own request, as the one of a batch: what it says of its body and of its answer is not the batch's.
fn of_batches(core: &Core, request: &Parts) -> Result<Parts, Error> {
    let mut parts = request.clone();
    parts.method = Method::POST;
    let path = format!("/{}/batch", core.app.settings.upstream.version);
    parts.uri = Uri::try_from(path).map_err(|error| Error::Internal(error.into()))?;
    for name in [
        header::IF_MATCH,
        header::IF_NONE_MATCH,
        header::IF_MODIFIED_SINCE,
        header::IF_UNMODIFIED_SINCE,
        header::CONTENT_ENCODING,
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::EXPECT,
        header::ACCEPT,
        header::ACCEPT_ENCODING,
        header::RANGE,
        header::ORIGIN,
    ] {
        parts.headers.remove(name);
    }
    parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(parts)
}
