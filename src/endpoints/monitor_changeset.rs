//! `GET /buckets/monitor/collections/changes/changeset`: the list of timestamps in one document. No I/O.
//!
//! Public, with `bucket=` and `collection=` filters. Follows `get_changeset` of kinto-changes 4.1.2, and
//! remote-settings where that is asked for. Newest first; without any filter it is a slice of bytes that the snapshot keeps.

use std::ops::ControlFlow;
use std::sync::Arc;

use http::request::Parts;

use super::changeset_params::{ChangesetParams, timestamp};
use super::list;
use super::monitor_changes::{Context, Monitor};
use crate::endpoints::redirects;
use crate::error::Error;
use crate::settings::Compat;
use crate::timeline::entries;
use crate::wire::body::Response;
use crate::wire::tagged::Coded;

/// Checks a request for the changeset: what needs no list is answered at once (`Break`).
pub fn check(
    context: &Context<'_>,
    request: &Parts,
) -> Result<ControlFlow<Response, ChangesetParams>, Error> {
    let Context { settings, now, .. } = *context;
    let params = ChangesetParams::parse(request.uri.query(), settings.compat)?;
    let detour = redirects::quoted_expected(&params.expected, request, settings, now)
        .or_else(|| redirects::stale(timestamp(&params.expected), params.since, settings, now))
        .or_else(|| redirects::old_since(params.since, request, settings, now));
    Ok(detour.map_or(ControlFlow::Continue(params), ControlFlow::Break))
}

/// Answers from a list that is at least as new as `_expected`. For how long the answer may be kept is left to the caller.
pub fn answer(params: &ChangesetParams, monitor: &Monitor<'_>, request: &Parts) -> Result<Response, Error> {
    let timestamp = monitor.timestamp();
    // An empty list's timestamp is the present, which no snapshot keeps.
    let own;
    let document = if monitor.entries.rows.is_empty() {
        own = Arc::new(entries::document(&opening(monitor), &[], monitor.host));
        &own
    } else {
        monitor.entries.rendered.changeset(&monitor.entries.rows, monitor.host, || opening(monitor))
    };
    // A timestamp does not name a content: a late row, or a removed collection, comes without a newer one.
    let tag = format!("{timestamp}-{:016x}", document.digest());
    let terms = monitor.context.dictionaries.terms(request);
    let mut is_whole = false;
    let coded = if let Some(known) = Coded::known(&request.headers, &tag, terms.encoding)? {
        known
    } else {
        let (count, others) = select(monitor, params);
        is_whole = count == monitor.entries.rows.len();
        document.encode(count, &others, &terms)
    };
    let mut response = coded.answer(Some(&tag));
    document.offer(monitor.context.dictionaries, &terms, is_whole, request, &mut response);
    list::insert_modified(response.headers_mut(), timestamp);
    Ok(response)
}

/// What comes before the first row.
fn opening(monitor: &Monitor<'_>) -> String {
    let metadata = match monitor.context.settings.compat {
        Compat::KintoChanges => serde_json::json!({}),
        Compat::RemoteSettings => serde_json::json!({ "bucket": monitor.context.settings.changes.bucket }),
    };
    format!("{{\"metadata\":{metadata},\"timestamp\":{},\"changes\":[", monitor.timestamp())
}

/// How many of the first rows are selected, and which of the others.
fn select(monitor: &Monitor<'_>, params: &ChangesetParams) -> (usize, Vec<usize>) {
    let (mut count, mut others) = monitor.after(params.since);
    if params.bucket.is_some() || params.collection.is_some() {
        let rows = &monitor.entries.rows;
        let is = |wanted: &Option<String>, id: &str| wanted.as_deref().is_none_or(|wanted| wanted == id);
        let wanted = |index: &usize| {
            rows.get(*index).is_some_and(|entry| {
                is(&params.bucket, &entry.key.bucket) && is(&params.collection, &entry.key.collection)
            })
        };
        others = (0..count).chain(others).filter(wanted).collect();
        // Where they are all wanted, nothing was filtered.
        count = if others.len() == rows.len() { std::mem::take(&mut others).len() } else { 0 };
    }
    if let Some(limit) = params.limit_within(monitor.context.settings.kinto.paginate_by) {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        count = count.min(limit);
        others.truncate(limit - count);
    }
    (count, others)
}

#[cfg(test)]
mod tests;
