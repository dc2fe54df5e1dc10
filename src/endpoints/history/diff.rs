//! `GET` and `HEAD /buckets/{bucket}/history/diff?from={moment}&to={moment}`: what was done between two moments, object by
//! object: how it was before and after, and the patch (RFC 6902) from the one to the other.
//!
//! Its checks come in the order of the history's own.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::Method;
use http::request::Parts;

use super::opened::Opened;
use super::selection::Selection;
use crate::app::Core;
use crate::aside;
use crate::endpoints::list::{self, PreconditionOutcome, Preconditions};
use crate::error::Error;
use crate::history::Visible;
use crate::history::difference::{Difference, Looking};
use crate::journal::{Touched, Touches, Versions};
use crate::kinto::Timestamp;
use crate::query::{Fault, Invalid, Parameters, Query};
use crate::wire::body::{Body, Response};
use crate::wire::buffers::Hold;
use crate::wire::cache_control;
use crate::wire::peer::Peer;

/// SECURITY: the most bytes of a page; `Next-Page` leads on. A single object may be larger.
const PAGE: usize = 8 << 20;
/// SECURITY: the most bytes that the names of all selected objects and entries take.
pub(super) const MOST: usize = 32 << 20;
/// The most objects that are looked at together.
const TOGETHER: usize = 1_000;

/// Answers a request for what was done in a bucket.
pub async fn answer(core: &Core, bucket: &str, request: &Parts, peer: &Peer) -> Result<Response, Error> {
    let opened = Opened::of(core, bucket, request).await?;
    list::check_accept(&request.headers)?;
    let visible = opened.visible(core).await?;
    let read = || -> Result<_, Error> {
        let mut faults: Vec<Fault> = Vec::new();
        let preconditions = Preconditions::read(&request.headers, &mut faults);
        let parameters = Parameters::parse(request.uri.query())?;
        Ok((preconditions, Selection::read(core, &parameters, faults)?))
    };
    let (preconditions, selection) = visible.disclose(read()).await?;
    // What is recorded later is in no answer that has this timestamp.
    let timestamp = visible.timestamp().await?;
    let mut hold = core.hold(&request.headers, peer);
    let touches = touched(&visible, &selection.query, selection.versions, &mut hold).await?;
    match preconditions.verdict(timestamp) {
        PreconditionOutcome::Proceed => {}
        PreconditionOutcome::NotModified => return Ok(list::not_modified(timestamp)),
        PreconditionOutcome::Failed => return Ok(list::precondition_failed(timestamp)),
    }
    let page = Page { visible: &visible, selection: &selection };
    let reading = core.hold(&request.headers, peer);
    let mut response = if request.method == Method::HEAD {
        let mut response = list::json(Body::empty());
        list::insert_total(response.headers_mut(), page.count(&touches, reading).await?);
        response
    } else {
        let (text, next) = page.read(touches, reading, &mut hold).await?;
        hold.set(text.len())?;
        let mut response = list::json(Body::full(text));
        if let Some(token) = next {
            let next = opened.next_page(core, "history/diff", request, peer, (page.limit(), &token));
            response.headers_mut().extend(next.map(|next| (list::NEXT_PAGE, next)));
        }
        response
    };
    list::insert_timestamp(response.headers_mut(), timestamp);
    cache_control::forbid(response.headers_mut());
    Ok(response.map(|body| body.held(hold)))
}

/// The objects that a selection is about. What they take is held.
pub(in crate::endpoints) async fn touched(
    visible: &Visible,
    query: &Query,
    versions: Versions,
    hold: &mut Hold,
) -> Result<Touches, Error> {
    let touches = visible.touched(query, Some(versions), MOST, Some(hold)).await?;
    if !touches.is_all {
        return Err(too_many(touches.objects.len()));
    }
    hold.set(touches.objects.iter().map(Touched::weight).sum())?;
    Ok(touches)
}

/// So many objects, and more, are selected.
pub(super) fn too_many(number: usize) -> Error {
    Invalid::unnamed(format!(
        "more than {number} objects are selected, which is too much at once: narrow it down by from, to or filters"
    ))
    .into()
}

/// A page of differences, newest first.
struct Page<'p> {
    visible: &'p Visible,
    selection: &'p Selection,
}

impl Page<'_> {
    /// The most objects of a page.
    fn limit(&self) -> usize {
        self.selection.limit.unwrap_or(usize::MAX)
    }

    /// How many objects are not as they were before.
    async fn count(&self, touches: &Touches, reading: Hold) -> Result<usize, Error> {
        let mut looking = Looking::at(self.visible, &touches.objects, TOGETHER, reading);
        let mut count = 0;
        while let Some((_, found)) = looking.next().await? {
            count += found.len();
        }
        Ok(count)
    }

    /// The text of the page, and the token of the next one.
    async fn read(
        &self,
        touches: Touches,
        reading: Hold,
        hold: &mut Hold,
    ) -> Result<(String, Option<String>), Error> {
        let names = hold.bytes();
        let mut objects = touches.objects;
        if let Some(token) = &self.selection.token {
            let (last, uri) = read_token(token).ok_or_else(|| Invalid::query("_token", "Invalid token"))?;
            let is_later = |touched: &Touched| {
                touched.last() < last || touched.last() == last && touched.object.to_string() > uri
            };
            objects.retain(is_later);
        }
        let mut text = String::from("{\"data\":[");
        let mut number = 0;
        let mut last: Option<(Timestamp, String)> = None;
        let mut looking = Looking::at(self.visible, &objects, TOGETHER.min(self.limit()), reading);
        while let Some((_, found)) = looking.next().await? {
            let bytes = found.iter().map(Difference::weight).sum();
            let rows: Vec<(Timestamp, String, String)> = aside::run(bytes, move || {
                let row = |difference: Difference| {
                    (difference.last_modified, difference.object.to_string(), difference.json())
                };
                found.into_iter().map(row).collect()
            })
            .await?;
            for (at, uri, row) in rows {
                let is_full = number == self.limit() || number > 0 && text.len() + row.len() > PAGE;
                if is_full {
                    text.push_str("]}");
                    return Ok((text, last.map(|(at, uri)| write_token(at, &uri))));
                }
                if number > 0 {
                    text.push(',');
                }
                hold.set(hold.bytes().max(names + 2 * (text.len() + row.len())))?;
                text.push_str(&row);
                number += 1;
                last = Some((at, uri));
            }
        }
        text.push_str("]}");
        Ok((text, None))
    }
}

fn write_token(last: Timestamp, uri: &str) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(format!("{last} {uri}"))
}

fn read_token(token: &str) -> Option<(Timestamp, String)> {
    let text = String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
    let (last, uri) = text.split_once(' ')?;
    Some((Timestamp(last.parse().ok()?), uri.to_owned()))
}
