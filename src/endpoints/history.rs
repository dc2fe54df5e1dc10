//! `GET`, `HEAD` and `DELETE /buckets/{bucket}/history`: what happened in a bucket, as a full Kinto list.
//!
//! Follows `History` of `kinto.plugins.history.views`. Its checks come in this order: whose bucket it is (401), method
//! (405), `Accept` (406), permission (401, 403), parameters (400), preconditions (304, 412), filters (400). A `HEAD`
//! tells how many entries are selected, too.

use std::ops::ControlFlow;

use http::Method;
use http::request::Parts;
use serde_json::Value;

pub mod bin;
pub mod diff;
pub(super) mod opened;
pub mod revert;
mod selection;

use super::list::{self, PreconditionOutcome, Preconditions};
use crate::access::Verdict;
use crate::app::Core;
use crate::error::Error;
use crate::journal::{EntriesCount, EntriesPage, Object};
use crate::kinto::Timestamp;
use crate::query::{Fault, Filter, Given, Invalid, Operator, Parameters, Query, Rules};
use crate::wire::body::{Body, Response};
use crate::wire::cache_control;
use crate::wire::peer::Peer;
use opened::Opened;

/// The fields that entries may have.
const FIELDS: [&str; 15] = [
    "user_id", "uri", "action", "date", "resource_name", "bucket_id", "collection_id", "group_id",
    "record_id", "target", "reason", "reverts", "id", "last_modified", "deleted",
];

/// SECURITY: the most bytes of a page; `Next-Page` leads on.
const PAGE: usize = 8 << 20;

/// The longest token of a page: the address of the next page has to fit into a head.
const LONGEST_TOKEN: usize = 8 << 10;

/// Ids of objects are texts, also where they look like numbers.
const IDS: [&str; 4] = ["bucket_id", "collection_id", "group_id", "record_id"];

/// A deletion in a batch is of entries up to this timestamp.
#[derive(Debug, Clone, Copy)]
pub(super) struct Until(pub(super) Timestamp);

/// Answers a request for the history of a bucket.
pub async fn answer(core: &Core, bucket: &str, request: &Parts, peer: &Peer) -> Result<Response, Error> {
    let opened = Opened::of(core, bucket, request).await?;
    list::check_accept(&request.headers)?;
    let listing = Listing { core, opened: &opened, request, peer };
    if request.method == Method::DELETE { listing.delete().await } else { listing.read().await }
}

/// The rules of the list language for histories.
pub(super) fn rules(core: &Core) -> Rules<'static> {
    let kinto = &core.app.settings.kinto;
    Rules {
        known_fields: &FIELDS,
        text_fields: &IDS,
        in_like: true,
        paginate_by: kinto.paginate_by,
        max_fetch_size: Some(kinto.storage_max_fetch_size),
        now: Timestamp::now(),
    }
}

/// `_changed=true`: entries that repeat the one before are not wanted.
fn changed(parameters: &Parameters, faults: &mut Vec<Fault>) -> bool {
    let mut changed = false;
    for value in parameters.values("_changed").unwrap_or_default() {
        match value.as_str() {
            "true" => changed = true,
            "false" => changed = false,
            other => faults.push(Fault::query("_changed", format!("\"{other}\" is neither true nor false"))),
        }
    }
    changed
}

/// A request to read entries or to delete them.
struct Listing<'l> {
    core: &'l Core,
    opened: &'l Opened<'l>,
    request: &'l Parts,
    peer: &'l Peer,
}

impl Listing<'_> {
    async fn read(&self) -> Result<Response, Error> {
        let core = self.core;
        let visible = self.opened.visible(core).await?;
        let mut query = match visible.disclose(self.selection().await).await? {
            ControlFlow::Continue(query) => query,
            ControlFlow::Break(response) => return visible.check().await.map(|()| response),
        };
        let mut hold = core.hold(&self.request.headers, self.peer);
        query.most_bytes = Some(PAGE);
        // Kinto: only a `HEAD` counts. Counting takes longer than reading a page.
        let mut response = if self.request.method == Method::HEAD {
            let EntriesCount { total, sees_any, timestamp } = visible.count(&query).await?;
            let none = EntriesPage { rows: Vec::new(), next: None, sees_any, timestamp, room: None };
            let mut response = self.respond(none, &query);
            list::insert_total(response.headers_mut(), total);
            // How long it would be is not known.
            response.map(|_| Body::empty())
        } else {
            let mut page = visible.page(&query, Some(&hold)).await?;
            if page.next.as_ref().is_some_and(|token| token.len() > LONGEST_TOKEN) {
                let reason = "The page ends with a value that is too long to lead to the next one";
                return Err(Invalid::query("_sort", reason).into());
            }
            // Its rows, and its text.
            hold = page.room.take().unwrap_or(hold);
            let length = page.rows.iter().map(|row| row.get().len()).sum();
            let response = self.respond(page, &query);
            hold.set(length)?;
            response
        };
        cache_control::forbid(response.headers_mut());
        Ok(response.map(|body| body.held(hold)))
    }

    async fn delete(&self) -> Result<Response, Error> {
        let Self { core, opened: Opened { journal, requester, bucket }, .. } = *self;
        if let Verdict::Refused(refusal) = requester.may_write(&Object::Bucket(bucket.to_owned())).await? {
            return Err(Error::Refused(refusal));
        }
        core.app.writes.look_at_bucket(journal, bucket, requester, None).await?;
        let (preconditions, given, changed) = self.parameters()?;
        if !preconditions.is_none() {
            let timestamp = journal.timestamp(bucket).await?;
            if !preconditions.allow_deletion(timestamp) {
                return Ok(list::precondition_failed(timestamp));
            }
        }
        let query = Query::of(&given.without_fields(), &rules(core))?.only_changes(changed);
        let mut query = query.for_deletion()?;
        if let Some(Until(until)) = self.request.extensions.get() {
            let (field, value) = ("last_modified".to_owned(), Value::from(until.0));
            query.filters.push(Filter { field, operator: Operator::Max, value });
        }
        query.most_bytes = Some(PAGE);
        let mut hold = core.hold(&self.request.headers, self.peer);
        // What is looked through, and the tombstones.
        hold.grow(2 * PAGE)?;
        let (mut deleted, mut rest) = journal.delete(bucket, &query).await?;
        while let Some(query) = rest {
            hold.grow(PAGE)?;
            let (more, left) = journal.delete(bucket, &query).await?;
            deleted.rows.extend(more.rows);
            (deleted.next, deleted.timestamp, rest) = (more.next, more.timestamp, left);
        }
        deleted.next = deleted.next.filter(|token| token.len() <= LONGEST_TOKEN);
        Ok(self.respond(deleted, &query).map(|body| body.held(hold)))
    }

    /// What the request selects, unless its preconditions are answer enough.
    async fn selection(&self) -> Result<ControlFlow<Response, Query>, Error> {
        let (preconditions, given, changed) = self.parameters()?;
        if !preconditions.is_none() {
            let timestamp = self.opened.journal.timestamp(&self.opened.bucket).await?;
            match preconditions.verdict(timestamp) {
                PreconditionOutcome::Proceed => {}
                PreconditionOutcome::NotModified => {
                    return Ok(ControlFlow::Break(list::not_modified(timestamp)));
                }
                PreconditionOutcome::Failed => {
                    return Ok(ControlFlow::Break(list::precondition_failed(timestamp)));
                }
            }
        }
        Ok(ControlFlow::Continue(Query::of(&given, &rules(self.core))?.only_changes(changed)))
    }

    /// Preconditions, what is given of the list language, and whether only what changed is wanted.
    fn parameters(&self) -> Result<(Preconditions, Given, bool), Error> {
        let mut faults = Vec::new();
        let preconditions = Preconditions::read(&self.request.headers, &mut faults);
        let parameters = Parameters::parse(self.request.uri.query())?;
        let changed = changed(&parameters, &mut faults);
        let given = Given::read(&parameters, faults)?;
        Ok((preconditions, given, changed))
    }

    fn respond(&self, page: EntriesPage, query: &Query) -> Response {
        let length: usize = page.rows.iter().map(|row| row.get().len() + 1).sum();
        let mut text = String::with_capacity(length + 11);
        text.push_str("{\"data\":[");
        for (index, row) in page.rows.iter().enumerate() {
            if index > 0 {
                text.push(',');
            }
            text.push_str(row.get());
        }
        text.push_str("]}");
        let mut response = list::json(Body::full(text));
        let headers = response.headers_mut();
        list::insert_timestamp(headers, page.timestamp);
        if let (Some(token), Some(limit)) = (page.next, query.limit) {
            let page = (limit, &*token);
            let next = self.opened.next_page(self.core, "history", self.request, self.peer, page);
            headers.extend(next.map(|next| (list::NEXT_PAGE, next)));
        }
        if query.uses_to {
            headers.insert(list::ALERT, list::TO_IS_DEPRECATED);
        }
        response
    }
}
