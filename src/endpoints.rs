//! What the sidecar answers itself: one file per endpoint, and around all of them what they have in common.
//!
//! ```text
//! the upstream's end of life ─► preflight ─► method ─► origin ─► the endpoint ─► refusals, loans ─► CORS ─► the upstream's advice
//! ```

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use http::header::ORIGIN;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode};

mod accept;
pub mod admin;
pub mod batch;
pub mod broadcasts;
pub mod changeset;
pub mod changeset_params;
pub mod database;
mod dockerflow;
pub mod feed;
pub mod history;
pub mod list;
mod media_type;
pub mod monitor;
pub mod monitor_changes;
pub mod monitor_changeset;
pub mod own_bucket;
mod parts;
pub mod recent;
mod redirects;
pub mod replication;
pub mod root;
pub mod snapshot;
mod v2;

use crate::access::Credentials;
use crate::app::Core;
use crate::error::Error;
use crate::route::{Endpoint, Manners};
use crate::upstream::UpstreamError;
use crate::wire::body::{Body, Response};
use crate::wire::cache_control;
use crate::wire::cors::{self, Exposed};
use crate::wire::headers::insert_retry_after;
use crate::wire::peer::Peer;

/// Answers a request for one of the sidecar's own endpoints. It carries the `Backoff` and the `Alert` that the upstream
/// sends to everybody; where the upstream has reached its end of life, its 410 is the answer.
pub async fn answer(
    core: &Arc<Core>,
    endpoint: Endpoint,
    request: &Parts,
    body: Body,
    peer: &Peer,
) -> Result<Response, Error> {
    check_lives(core).await?;
    advised(core, answer_part(core, endpoint, request, body, peer).await?)
}

/// Fails where the upstream has reached its end of life, and has not come back.
async fn check_lives(core: &Core) -> Result<(), Error> {
    if core.upstream.ended().is_some() {
        let asked = core.upstream.ask_as(Method::GET, "/", HeaderMap::new(), Bytes::new()).await;
        if let Err(error @ UpstreamError::Ended(_)) = asked {
            return Err(Error::Upstream(error));
        }
    }
    Ok(())
}

/// An answer with what the upstream says to everybody by now.
fn advised(core: &Core, mut response: Response) -> Result<Response, Error> {
    if let Some(ended) = core.upstream.ended() {
        return Err(Error::Upstream(UpstreamError::Ended(ended)));
    }
    if let Some(advice) = core.upstream.advice() {
        advice.insert(response.status(), response.headers_mut());
    }
    Ok(response)
}

/// As [`answer`], without what the upstream says to everybody: for a part of a larger answer.
async fn answer_part(
    core: &Arc<Core>,
    endpoint: Endpoint,
    request: &Parts,
    body: Body,
    peer: &Peer,
) -> Result<Response, Error> {
    let manners = endpoint.manners();
    let takes_credentials = endpoint.takes_credentials();
    let answered = match greeted(core, &endpoint, &manners, request).await {
        Ok(ControlFlow::Continue(())) => own(core, endpoint, request, body, peer).await,
        Ok(ControlFlow::Break(response)) => Ok(response),
        Err(error) => Err(error),
    };
    let mut response = match answered {
        // Scripts may read what the client did wrong like any other answer.
        Err(error) if error.status().is_client_error() => {
            let mut refusal = refusal(error, &request.headers);
            // Caches that keep what says nothing would give it to those who may.
            if matches!(refusal.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
                cache_control::keep_private(refusal.headers_mut());
            }
            refusal
        }
        answered => core.lent(answered?, &request.headers, peer)?,
    };
    // The answer to a deletion is no list.
    let exposed = if request.method == Method::DELETE { Exposed::Plain } else { manners.exposed };
    let origins = &core.app.settings.kinto.cors_origins;
    cors::finish(response.headers_mut(), request.headers.get(ORIGIN), exposed, origins);
    if takes_credentials {
        cors::allow_credentials(response.headers_mut());
    }
    Ok(response)
}

/// The checks that come first. Some requests are answered by them (`Break`), such as a browser's whether it may send one.
async fn greeted(
    core: &Core,
    endpoint: &Endpoint,
    manners: &Manners,
    request: &Parts,
) -> Result<ControlFlow<Response>, Error> {
    if matches!(endpoint, Endpoint::V2(_)) {
        // It has manners of its own.
        return Ok(ControlFlow::Continue(()));
    }
    let origins = &core.app.settings.kinto.cors_origins;
    if request.method == Method::OPTIONS {
        let preflight = cors::preflight(&request.headers, manners.methods, manners.exposed, origins)?;
        return Ok(ControlFlow::Break(preflight));
    }
    if !manners.knows(&request.method) {
        // Kinto: whoever has no bucket of their own is refused before the method is looked at.
        if let Endpoint::History(bucket) | Endpoint::Diff(bucket) | Endpoint::Bin(bucket) = endpoint {
            Box::pin(own_bucket::of_history(core, bucket, &core.requester(&request.headers))).await?;
        }
        return Err(Error::MethodNotAllowed { allow: manners.methods });
    }
    cors::check_origin(&request.headers, origins)?;
    Ok(ControlFlow::Continue(()))
}

async fn own(
    core: &Arc<Core>,
    endpoint: Endpoint,
    request: &Parts,
    body: Body,
    peer: &Peer,
) -> Result<Response, Error> {
    match endpoint {
        Endpoint::Changeset(key) => changeset::answer(core, request, key).await,
        Endpoint::MonitorChanges | Endpoint::MonitorChangeset => {
            monitor::answer(core, &endpoint, request, peer).await
        }
        // Boxed: these futures would be moved with those of all others.
        Endpoint::Broadcasts => Box::pin(broadcasts::answer(core, None)).await,
        Endpoint::Feed(subject) => Box::pin(feed::answer(core, subject, request, body, peer)).await,
        Endpoint::Database(key) => Box::pin(database::answer(core, key, request)).await,
        Endpoint::Replication(key, asked) => {
            Box::pin(replication::answer(core, key, asked, request, body, peer)).await
        }
        Endpoint::History(bucket) => Box::pin(history::answer(core, &bucket, request, peer)).await,
        Endpoint::Diff(bucket) => Box::pin(history::diff::answer(core, &bucket, request, peer)).await,
        Endpoint::Bin(bucket) => Box::pin(history::bin::answer(core, &bucket, request, peer)).await,
        Endpoint::Revert(bucket) => {
            Box::pin(history::revert::answer(core, &bucket, request, body, peer)).await
        }
        Endpoint::Restore(key, moment) => {
            Box::pin(snapshot::restore::answer(core, &key, &moment, request, body, peer)).await
        }
        Endpoint::V2(v2) => Box::pin(v2::answer(core, v2, request, peer)).await,
        Endpoint::Snapshot(key, moment) => {
            Box::pin(snapshot::answer(core, &key, &moment, request, peer)).await
        }
    }
}

/// Tells the log why a request failed, where that is nobody's who asked.
fn log(error: &Error) {
    match error {
        Error::Internal(cause) => tracing::error!(%cause, "a request failed"),
        Error::Upstream(cause) => tracing::warn!(%cause, "the upstream did not answer"),
        _ => {}
    }
}

/// The answer to a request that failed, told to the log once.
pub(crate) fn fail(core: &Core, error: Error, origin: Option<&HeaderValue>) -> Response {
    log(&error);
    let kinto = &core.app.settings.kinto;
    let mut response = error.into_response();
    let status = response.status();
    if let Some(advice) = core.upstream.advice() {
        advice.insert(status, response.headers_mut());
    }
    insert_retry_after(response.headers_mut(), status, kinto.retry_after_seconds);
    cors::allow_error(response.headers_mut(), origin, &kinto.cors_origins);
    response
}

/// The answer to a request that is wrong. Some caches keep a 404 without being told to. They must not give one that was
/// sent to somebody with credentials to anybody else.
fn refusal(error: Error, request: &HeaderMap) -> Response {
    // The upstream's own words go as it sent them.
    let is_replayed = matches!(error, Error::Refused(_));
    let mut response = error.into_response();
    if !is_replayed && !Credentials::of(request).is_anonymous() {
        cache_control::keep_private(response.headers_mut());
    }
    response
}
