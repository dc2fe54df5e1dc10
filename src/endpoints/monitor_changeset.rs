//! `GET /buckets/monitor/collections/changes/changeset`: the list of timestamps in one document. No I/O.
//!
//! Public, with `bucket=` and `collection=` filters. Follows `get_changeset` of kinto-changes 4.1.2, and
//! remote-settings where that is asked for. Newest first; without any filter it is a slice of bytes that the snapshot keeps.

use http::header::{ETAG, HeaderValue, IF_NONE_MATCH, LAST_MODIFIED};
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode};

use super::changeset_params::ChangesetParams;
use super::detour;
use super::list;
use super::monitor_changes::{METHODS, Monitor};
use crate::body::Body;
use crate::cors::{self, Exposed};
use crate::error::{Error, Response};
use crate::settings::Compat;
use crate::timeline::rendered::Document;

/// Answers a request for the changeset, whatever its method. CORS headers are left to [`cors::finish`].
///
/// The caller has seen to it that the list is at least as new as `_expected`.
pub fn respond(monitor: &Monitor<'_>, request: &Parts) -> Result<Response, Error> {
    let settings = monitor.settings;
    if request.method == Method::OPTIONS {
        return Ok(cors::preflight(
            &request.headers,
            METHODS,
            Exposed::Changeset,
            &settings.kinto.cors_origins,
        )?);
    }
    list::check_method(&request.method)?;
    list::check_accept(&request.headers)?;
    cors::check_origin(&request.headers, &settings.kinto.cors_origins)?;

    let params = ChangesetParams::parse(request.uri.query(), settings.compat, monitor.now)?;
    let (now, base_url) = (monitor.now, monitor.base_url);
    let detour = detour::quoted_expected(&params.expected, request, base_url, settings, now)
        .or_else(|| detour::stale(params.expected_timestamp(), params.since, settings, now))
        .or_else(|| detour::old_since(params.since, request, base_url, settings, now));
    if let Some(response) = detour {
        return Ok(response);
    }

    let timestamp = monitor.timestamp();
    // An empty list's timestamp is the present, which no snapshot keeps.
    let own;
    let document = if monitor.entries.rows.is_empty() {
        own = Document::new(&opening(monitor), &[], monitor.host);
        &own
    } else {
        monitor.entries.rendered.changeset(&monitor.entries.rows, monitor.host, || opening(monitor))
    };
    let etag = etag(monitor, document);
    let mut response = if etag.as_ref().is_some_and(|etag| is_known(&request.headers, etag)) {
        let mut response = list::json(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        let (count, others) = select(monitor, &params);
        list::json(Body::chunks(document.select(count, &others)))
    };
    let headers = response.headers_mut();
    headers.extend(etag.map(|etag| (ETAG, etag)));
    if let Ok(date) = HeaderValue::try_from(timestamp.http_date()) {
        headers.insert(LAST_MODIFIED, date);
    }
    monitor.insert_expiry(headers, Some(&params.expected));
    Ok(response)
}

/// What comes before the first row.
fn opening(monitor: &Monitor<'_>) -> String {
    let metadata = match monitor.settings.compat {
        Compat::KintoChanges => serde_json::json!({}),
        Compat::RemoteSettings => serde_json::json!({ "bucket": monitor.settings.changes.bucket }),
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
    if let Some(limit) = params.limit_within(monitor.settings.kinto.paginate_by) {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        count = count.min(limit);
        others.truncate(limit - count);
    }
    (count, others)
}

/// A timestamp does not name a content: a late row, or a removed collection, comes without a newer one.
fn etag(monitor: &Monitor<'_>, document: &Document) -> Option<HeaderValue> {
    HeaderValue::try_from(format!("\"{}-{:016x}\"", monitor.timestamp(), document.digest())).ok()
}

/// Whether the client has the content of this `ETag`. `*` is passed over, as in the plugin.
fn is_known(headers: &HeaderMap, etag: &HeaderValue) -> bool {
    let known = headers.get_all(IF_NONE_MATCH).iter().filter_map(|known| known.to_str().ok());
    let mut tags = known.flat_map(|known| known.split(',')).map(|tag| tag.trim().trim_start_matches("W/"));
    tags.any(|tag| tag.as_bytes() == etag.as_bytes())
}

#[cfg(test)]
mod tests;
