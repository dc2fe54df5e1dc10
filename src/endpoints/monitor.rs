//! What both monitor endpoints answer from: the list of timestamps, for whoever may see it.

use std::ops::ControlFlow;
use std::sync::Arc;

use http::header::HOST;
use http::request::Parts;

use super::changeset_params::ChangesetParams;
use super::monitor_changes::{Context, ListRequest, Monitor};
use super::recent::Standing;
use super::{changeset, list, monitor_changes, monitor_changeset};
use crate::app::Core;
use crate::aside;
use crate::error::Error;
use crate::kinto::Timestamp;
use crate::route::Endpoint;
use crate::timeline::entries::Entries;
use crate::wire::body::Response;
use crate::wire::cache_control::Served;
use crate::wire::peer::Peer;

/// Answers from the list of timestamps, brought up to what the request shows to be known to the client. What needs no
/// list costs the upstream nothing.
pub async fn answer(
    core: &Core,
    endpoint: &Endpoint,
    request: &Parts,
    peer: &Peer,
) -> Result<Response, Error> {
    let app = &core.app;
    let settings = &app.settings;
    core.requester(&request.headers).check_principals(&settings.changes.principals).await?;
    let host = request.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let base_url = || list::base_url(settings, peer.scheme(), host);
    let context =
        Context { settings, now: Timestamp::now(), base_url: &base_url, dictionaries: &app.dictionaries };
    let asked = match endpoint {
        Endpoint::MonitorChangeset => {
            monitor_changeset::check(&context, request)?.map_continue(MonitorRequest::Changeset)
        }
        _ => monitor_changes::check(&context, request)?.map_continue(MonitorRequest::List),
    };
    let asked = match asked {
        ControlFlow::Break(response) => return Ok(response),
        ControlFlow::Continue(asked) => asked,
    };
    let (expected, since) = match &asked {
        MonitorRequest::Changeset(params) => (Some(&*params.expected), params.since),
        MonitorRequest::List(asked) => asked.known(),
    };
    let claimed = changeset::newest(expected, since);
    let (entries, is_stale) = app.poller.entries(claimed).await?;
    let monitor = Monitor { entries: &entries, host: app.timeline.host(), context };
    let mut response = match asked {
        MonitorRequest::Changeset(params) => {
            let mut answer = monitor_changeset::answer(&params, &monitor, request)?;
            let expiry = monitor.expiry(Some(&params.expected));
            monitor.insert_expiry(answer.headers_mut(), expiry, monitor.is_public());
            answer
        }
        MonitorRequest::List(asked) if asked.work(&entries) <= aside::LITTLE => {
            asked.answer(&monitor, request)?
        }
        MonitorRequest::List(asked) => Box::pin(aside_from(core, asked, &entries, request, &context)).await?,
    };
    Served::from_memory(is_stale.then(|| app.poller.behind_for())).insert(response.headers_mut());
    let is_known = claimed.is_none_or(|claimed| claimed <= entries.timestamp);
    if is_known && !is_stale && !entries.rows.is_empty() {
        let standing = Standing::on_entries(&entries, |core| core.app.poller.at_once());
        response.extensions_mut().insert(standing);
    }
    Ok(response)
}

/// As [`answer`], for what takes long to select.
async fn aside_from(
    core: &Core,
    asked: ListRequest,
    entries: &Arc<Entries>,
    request: &Parts,
    context: &Context<'_>,
) -> Result<Response, Error> {
    let (app, entries, request) = (Arc::clone(&core.app), Arc::clone(entries), request.clone());
    let (now, base_url) = (context.now, (context.base_url)());
    let answer = move || {
        let base_url = || base_url.clone();
        let context =
            Context { settings: &app.settings, now, base_url: &base_url, dictionaries: &app.dictionaries };
        asked.answer(&Monitor { entries: &entries, host: app.timeline.host(), context }, &request)
    };
    aside::run(usize::MAX, answer).await?
}

/// A request for one of the two monitor endpoints that has passed all checks.
enum MonitorRequest {
    List(ListRequest),
    Changeset(ChangesetParams),
}
