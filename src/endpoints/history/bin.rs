//! `GET /buckets/{bucket}/history/deleted`: what is gone and can be brought back, newest deletion first, as a list that the
//! history's filters select from. A `HEAD` tells how much that is, on all pages.

use http::Method;
use http::request::Parts;
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::opened::Opened;
use super::selection::Selection;
use crate::app::Core;
use crate::endpoints::list;
use crate::error::Error;
use crate::history::Visible;
use crate::history::difference::{Difference, Looking, Side};
use crate::journal::{EntriesPage, Touched};
use crate::kinto::Timestamp;
use crate::query::{Filter, Operator, Parameters, Query};
use crate::wire::body::{Body, Response};
use crate::wire::buffers::Hold;
use crate::wire::cache_control;
use crate::wire::peer::Peer;

/// SECURITY: the most bytes of a page, before what the objects were is read.
const PAGE: usize = 4 << 20;
/// The most objects that are looked at together.
const TOGETHER: usize = 1_000;

/// Something that was deleted.
#[derive(Serialize)]
struct Deleted<'d> {
    uri: String,
    resource_name: &'static str,
    /// The entry of its deletion.
    entry: Option<&'d String>,
    last_modified: u64,
    user_id: Option<&'d String>,
    /// The last version of it; none where that is not known, and cannot be brought back.
    data: Option<&'d RawValue>,
}

/// Answers a request for what was deleted.
pub async fn answer(core: &Core, bucket: &str, request: &Parts, peer: &Peer) -> Result<Response, Error> {
    let opened = Opened::of(core, bucket, request).await?;
    list::check_accept(&request.headers)?;
    let visible = opened.visible(core).await?;
    let query = Parameters::parse(request.uri.query())
        .and_then(|parameters| Selection::filters(core, &parameters, Vec::new()));
    let mut query = visible.disclose(query.map_err(Error::from)).await?;
    let is_deletion =
        Filter { field: "action".to_owned(), operator: Operator::Eq, value: Value::from("delete") };
    query.filters.push(is_deletion);
    query.most_bytes = Some(PAGE);
    let mut hold = core.hold(&request.headers, peer);
    if request.method == Method::HEAD {
        let (total, timestamp) = count(&visible, query.whole(), hold).await?;
        let mut response = list::json(Body::empty());
        let headers = response.headers_mut();
        list::insert_timestamp(headers, timestamp);
        list::insert_total(headers, total);
        cache_control::forbid(headers);
        return Ok(response);
    }
    let EntriesPage { rows, next, timestamp, room, .. } = visible.page(&query, Some(&hold)).await?;
    let touched: Vec<Touched> = rows.iter().filter_map(|row| Touched::of_entry(row)).collect();
    hold.set(touched.iter().map(Touched::weight).sum())?;
    drop((rows, room));
    let names = hold.bytes();
    let mut text = String::from("{\"data\":[");
    let mut looking = Looking::at(&visible, &touched, TOGETHER, core.hold(&request.headers, peer));
    while let Some((_, found)) = looking.next().await? {
        for row in found.iter().filter(|found| is_gone(found)).filter_map(row) {
            if !text.ends_with('[') {
                text.push(',');
            }
            hold.set(hold.bytes().max(names + 2 * (text.len() + row.len())))?;
            text.push_str(&row);
        }
    }
    text.push_str("]}");
    hold.set(text.len())?;
    let mut response = list::json(Body::full(text));
    let headers = response.headers_mut();
    list::insert_timestamp(headers, timestamp);
    if let (Some(token), Some(limit)) = (next, query.limit) {
        let next = opened.next_page(core, "history/deleted", request, peer, (limit, &token));
        headers.extend(next.map(|next| (list::NEXT_PAGE, next)));
    }
    cache_control::forbid(headers);
    Ok(response.map(|body| body.held(hold)))
}

/// How much is gone, and the timestamp of the history.
async fn count(visible: &Visible, mut query: Query, mut hold: Hold) -> Result<(usize, Timestamp), Error> {
    let mut total = 0;
    loop {
        let EntriesPage { rows, next, timestamp, room, .. } = visible.page(&query, Some(&hold)).await?;
        let touched: Vec<Touched> = rows.iter().filter_map(|row| Touched::of_entry(row)).collect();
        hold.set(touched.iter().map(Touched::weight).sum())?;
        drop((rows, room));
        let mut looking = Looking::at(visible, &touched, TOGETHER, hold.another());
        while let Some((_, found)) = looking.next().await? {
            total += found.iter().filter(|found| is_gone(found)).count();
        }
        match next {
            Some(token) => query = query.page(&token)?,
            None => return Ok((total, timestamp)),
        }
    }
}

/// Whether it is not there again, and was not deleted again since.
fn is_gone(difference: &Difference) -> bool {
    matches!(difference.now, Side::Absent) && difference.conflict.is_none()
}

/// As it is told.
fn row(difference: &Difference) -> Option<String> {
    let row = Deleted {
        uri: difference.object.to_string(),
        resource_name: difference.object.resource().as_str(),
        entry: difference.entries.first(),
        last_modified: difference.last_modified.0,
        user_id: difference.user_ids.first(),
        data: difference.before.present().map(|before| &*before.data),
    };
    serde_json::to_string(&row).ok()
}
