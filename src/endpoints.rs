//! What the sidecar answers itself: one file per endpoint.

use std::ops::ControlFlow;
use std::sync::Arc;

use http::header::{HOST, ORIGIN};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method};
use http_body::Body as _;
use tokio::time::Instant;

pub mod admin;
pub mod batch;
pub mod broadcasts;
pub mod changeset;
pub mod changeset_params;
pub mod database;
pub mod feed;
pub mod history;
pub mod list;
pub mod monitor_changes;
pub mod monitor_changeset;
pub mod own_bucket;
mod redirects;
pub mod root;
pub mod snapshot;

use crate::access::Credentials;
use crate::app::Core;
use crate::aside;
use crate::error::Error;
use crate::kinto::Timestamp;
use crate::route::Endpoint;
use crate::timeline::entries::Entries;
use crate::wire::body::Response;
use crate::wire::cache_control::{self, Served};
use crate::wire::cors::{self, Exposed};
use crate::wire::headers::insert_retry_after;
use crate::wire::peer::Peer;
use changeset_params::ChangesetParams;
use monitor_changes::{Context, Monitor};

/// Answers a request for one of the sidecar's own endpoints.
pub async fn answer(
    core: &Core,
    endpoint: Endpoint,
    request: &Parts,
    peer: &Peer,
) -> Result<Response, Error> {
    let exposed = match endpoint {
        Endpoint::MonitorChangeset | Endpoint::Changeset(_) => Exposed::Changeset,
        Endpoint::History(_) if request.method == Method::DELETE => Exposed::Plain,
        Endpoint::MonitorChanges | Endpoint::History(_) => Exposed::List,
        Endpoint::Snapshot(..) => Exposed::Snapshot,
        Endpoint::Broadcasts => Exposed::Plain,
    };
    let answered = match endpoint {
        Endpoint::Changeset(key) => changeset::answer(core, request, key).await,
        Endpoint::Broadcasts => {
            let (entries, _) = core.app.poller.entries(None).await?;
            broadcasts::respond(&core.app.broadcasts, &entries, &core.app.settings, request, Instant::now())
        }
        Endpoint::MonitorChanges | Endpoint::MonitorChangeset => {
            monitor(core, &endpoint, request, peer).await
        }
        Endpoint::History(bucket) => {
            let journal = core.app.history.journal(&core.upstream).await?.ok_or(Error::NotFound)?;
            history::answer(core, journal, &bucket, request, peer).await
        }
        Endpoint::Snapshot(key, moment) => {
            let journal = core.app.history.journal(&core.upstream).await?.ok_or(Error::NotFound)?;
            held(core, request, peer, snapshot::answer(core, journal, &key, &moment, request).await)
        }
    };
    let mut response = match answered {
        // What the client did wrong is told to scripts as any other answer of the endpoint.
        Err(error) if error.status().is_client_error() => refusal(error, &request.headers),
        answered => core.lent(answered?, &request.headers, peer)?,
    };
    let origins = &core.app.settings.kinto.cors_origins;
    cors::finish(response.headers_mut(), request.headers.get(ORIGIN), exposed, origins);
    Ok(response)
}

/// The answer to a request that failed, told to the log once.
pub(crate) fn fail(core: &Core, error: Error, origin: Option<&HeaderValue>) -> Response {
    match &error {
        Error::Internal(cause) => tracing::error!(%cause, "a request failed"),
        Error::Upstream(cause) => tracing::warn!(%cause, "the upstream did not answer"),
        _ => {}
    }
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

/// What somebody is told whose request is wrong. Some caches keep a 404 of their own accord: not for others, where it is
/// what one with credentials was told.
pub(crate) fn refusal(error: Error, request: &HeaderMap) -> Response {
    let mut response = error.into_response();
    if !Credentials::of(request).is_anonymous() {
        cache_control::keep_private(response.headers_mut());
    }
    response
}

/// An answer that was made for this client alone is held for as long as it is read.
fn held(
    core: &Core,
    request: &Parts,
    peer: &Peer,
    answer: Result<Response, Error>,
) -> Result<Response, Error> {
    let answer = answer?;
    let mut hold = core.hold(&request.headers, peer);
    hold.grow(usize::try_from(answer.body().size_hint().lower()).unwrap_or(usize::MAX))?;
    Ok(answer.map(|body| body.held(hold)))
}

/// Answers from the list of timestamps, brought up to what the request shows to be known to the client. What needs no
/// list costs the upstream nothing.
async fn monitor(core: &Core, endpoint: &Endpoint, request: &Parts, peer: &Peer) -> Result<Response, Error> {
    let app = &core.app;
    let settings = &app.settings;
    let credentials = Credentials::of(&request.headers);
    if !app.access.has_principal(&core.upstream, &credentials, &settings.changes.principals).await? {
        return Err(if credentials.is_anonymous() { Error::Unauthorized } else { Error::Forbidden });
    }
    let host = request.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let base_url = || list::base_url(settings, peer.scheme(), host);
    let context = Context { settings, now: Timestamp::now(), base_url: &base_url };
    let asked = match endpoint {
        Endpoint::MonitorChangeset => {
            monitor_changeset::check(&context, request)?.map_continue(Asked::Changeset)
        }
        _ => monitor_changes::check(&context, request)?.map_continue(Asked::List),
    };
    let asked = match asked {
        ControlFlow::Break(response) => return Ok(response),
        ControlFlow::Continue(asked) => asked,
    };
    let (expected, since) = match &asked {
        Asked::Changeset(params) => (Some(&*params.expected), params.since),
        Asked::List(asked) => asked.known(),
    };
    let (entries, is_stale) = app.poller.entries(changeset::newest(expected, since)).await?;
    let monitor = Monitor { entries: &entries, host: app.timeline.host(), context };
    let mut response = match asked {
        Asked::Changeset(params) => monitor_changeset::answer(&params, &monitor, request)?,
        Asked::List(asked) if asked.work(&entries) <= aside::LITTLE => asked.answer(&monitor, request)?,
        Asked::List(asked) => Box::pin(aside_from(core, asked, &entries, request, &context)).await?,
    };
    Served::from_memory(is_stale).insert(response.headers_mut());
    Ok(response)
}

/// As [`monitor`], for what takes long to select.
async fn aside_from(
    core: &Core,
    asked: monitor_changes::Asked,
    entries: &Arc<Entries>,
    request: &Parts,
    context: &Context<'_>,
) -> Result<Response, Error> {
    let (app, entries, request) = (Arc::clone(&core.app), Arc::clone(entries), request.clone());
    let (now, base_url) = (context.now, (context.base_url)());
    let answer = move || {
        let base_url = || base_url.clone();
        let context = Context { settings: &app.settings, now, base_url: &base_url };
        asked.answer(&Monitor { entries: &entries, host: app.timeline.host(), context }, &request)
    };
    aside::run(usize::MAX, answer).await?
}

/// A request for one of the two monitor endpoints that has passed all checks.
enum Asked {
    List(monitor_changes::Asked),
    Changeset(ChangesetParams),
}
