//! `GET /buckets/monitor/collections/changes/records`: the list of timestamps, as a full Kinto list. No I/O.
//!
//! Rows exist only here: `{"id","last_modified","bucket","collection","host"}`. What most clients ask for (all rows, or those
//! after `_since`, newest first) is a slice of bytes that the snapshot keeps; the rest goes through [`crate::query`].
//!
//! Follows `Changes` of kinto-changes 4.1.2. Its checks come in this order: parameters (400), `_expected` below `_since`
//! (204, in remote-settings' way), old `_since` (307), preconditions (304, 412), filters (400).

use std::ops::ControlFlow;
use std::time::{Duration, SystemTime};

use http::request::Parts;
use http::{HeaderMap, Method};

use super::changeset_params::timestamp;
use super::list::{self, PreconditionOutcome, Preconditions};
use crate::endpoints::redirects;
use crate::error::Error;
use crate::kinto::Timestamp;
use crate::query::{Given, Page, Parameters, Query, Rules};
use crate::settings::{Compat, Settings};
use crate::timeline::entries::{Entries, MonitorEntry};
use crate::wire::body::{Body, Response};
use crate::wire::cache_control::{self, Caching};
use crate::wire::dictionaries::Dictionaries;
use crate::wire::tagged::Coded;
use crate::wire::vary;

mod fast_query;
mod row;

use fast_query::Plain;
use row::{FIELDS, ListRow, SinceRule};

/// What a request for a monitor endpoint is checked with, before the list is looked at.
#[derive(Clone, Copy)]
pub struct Context<'m> {
    /// All settings.
    pub settings: &'m Settings,
    /// This machine's clock.
    pub now: Timestamp,
    /// Scheme and host of the request, as [`list::base_url`] gives them; asked for only where they are needed.
    pub base_url: &'m (dyn Fn() -> String + Sync),
    /// What clients may still have of the list.
    pub dictionaries: &'m Dictionaries,
}

/// What both monitor endpoints answer from.
#[derive(Debug, Clone, Copy)]
pub struct Monitor<'m> {
    /// The list at this moment.
    pub entries: &'m Entries,
    /// The `host` of each row.
    pub host: &'m str,
    /// What the request was checked with.
    pub context: Context<'m>,
}

/// A request that has passed all checks for which the list is not needed.
#[derive(Debug)]
pub struct ListRequest {
    preconditions: Preconditions,
    since: Option<Timestamp>,
    expected: Option<String>,
    /// What it selects; `None` for a request that wants rows as they are rendered.
    given: Option<Given>,
}

/// Checks a request for the list: what needs no list is answered at once (`Break`).
pub fn check(context: &Context<'_>, request: &Parts) -> Result<ControlFlow<Response, ListRequest>, Error> {
    let Context { settings, now, .. } = *context;
    list::check_accept(&request.headers)?;
    let asked = ListRequest::read(request, now)?;
    let expected = asked.expected.as_deref().and_then(timestamp);
    let detour = redirects::stale(expected, asked.since, settings, now)
        .or_else(|| redirects::old_since(asked.since, request, settings, now));
    Ok(detour.map_or(ControlFlow::Continue(asked), ControlFlow::Break))
}

// === impl ListRequest ===

impl ListRequest {
    fn read(request: &Parts, now: Timestamp) -> Result<Self, Error> {
        let query = request.uri.query();
        let mut faults = Vec::new();
        let preconditions = Preconditions::read(&request.headers, &mut faults);
        if let Some(plain) = Plain::read(query, now).filter(|_| faults.is_empty()) {
            let expected = plain.expected.map(str::to_owned);
            return Ok(Self { preconditions, since: plain.since, expected, given: None });
        }
        let parameters = Parameters::parse(query)?;
        let given = Given::read(&parameters, faults)?;
        let since = given.since();
        let expected = parameters.values("_expected").and_then(<[String]>::last).cloned();
        Ok(Self { preconditions, since, expected, given: Some(given) })
    }

    /// The `_expected` and the `_since` that show what the client has heard of already.
    pub fn known(&self) -> (Option<&str>, Option<Timestamp>) {
        (self.expected.as_deref(), self.since)
    }

    /// How many bytes have to be looked at to answer from a list.
    pub fn work(&self, entries: &Entries) -> usize {
        self.given
            .as_ref()
            .map_or(0, |given| given.conditions() * entries.rows.len() * size_of::<MonitorEntry>())
    }

    /// Answers from a list that is at least as new as what the client has heard of.
    pub fn answer(&self, monitor: &Monitor<'_>, request: &Parts) -> Result<Response, Error> {
        let timestamp = monitor.timestamp();
        let response = match self.preconditions.verdict(timestamp) {
            // A late row is news although the timestamp did not move.
            PreconditionOutcome::NotModified if !monitor.entries.has_late_at(timestamp) => {
                if monitor.context.settings.compat == Compat::KintoChanges {
                    return Ok(list::not_modified(timestamp));
                }
                // "Nothing new" is the answer to this client alone: a cache must not give it to others.
                let mut response = list::json(Body::full("{\"data\":[]}"));
                list::insert_timestamp(response.headers_mut(), timestamp);
                cache_control::forbid(response.headers_mut());
                return Ok(response);
            }
            PreconditionOutcome::Failed => return Ok(list::precondition_failed(timestamp)),
            PreconditionOutcome::Proceed | PreconditionOutcome::NotModified => match &self.given {
                None => monitor.rendered(self.since, request),
                Some(given) => monitor.selected(given, request)?,
            },
        };
        Ok(monitor.finish_list(response, self.expected.as_deref()))
    }
}

// === impl Monitor ===

impl Monitor<'_> {
    /// The list's timestamp: that of its newest row, or the present where there is none.
    pub fn timestamp(&self) -> Timestamp {
        if self.entries.rows.is_empty() { self.context.now } else { self.entries.timestamp }
    }

    fn rows(&self) -> impl Iterator<Item = ListRow<'_>> {
        let since_rule = self.since_rule();
        self.entries.rows.iter().map(move |entry| ListRow { entry, host: self.host, since_rule })
    }

    fn since_rule(&self) -> SinceRule {
        SinceRule { first_known: self.entries.first_known, overlap: self.context.settings.overlap }
    }

    /// How many of the first rows a `_since` selects, and which of the others.
    pub(super) fn after(&self, since: Option<Timestamp>) -> (usize, Vec<usize>) {
        let rows = &self.entries.rows;
        let Some(since) = since else { return (rows.len(), Vec::new()) };
        let rule = self.since_rule();
        let newer = rows.partition_point(|entry| rule.is_newer(entry, since));
        let late = rows.iter().enumerate().skip(newer).filter(|(_, entry)| entry.is_late_for(since));
        (newer, late.map(|(index, _)| index).collect())
    }

    fn rendered(&self, since: Option<Timestamp>, request: &Parts) -> Response {
        let (newer, late) = self.after(since);
        let document = self.entries.rendered.list(&self.entries.rows, self.host);
        let terms = self.context.dictionaries.terms(request);
        let mut response = document.encode(newer, &late, &terms).answer(None);
        document.offer(self.context.dictionaries, &terms, since.is_none(), request, &mut response);
        if request.method == Method::HEAD {
            list::insert_total(response.headers_mut(), newer + late.len());
        }
        response
    }

    fn selected(&self, given: &Given, request: &Parts) -> Result<Response, Error> {
        let rules = Rules {
            known_fields: &FIELDS,
            text_fields: &[],
            in_like: false,
            paginate_by: self.context.settings.kinto.paginate_by,
            max_fetch_size: None,
            now: self.context.now,
        };
        let query = Query::of(given, &rules)?;
        let Page { rows, next, total } = query.select(self.rows());
        let mut text = String::from("{\"data\":[");
        for (index, row) in rows.iter().enumerate() {
            if index > 0 {
                text.push(',');
            }
            row.write(&mut text, query.fields.as_deref());
        }
        text.push_str("]}");
        let mut response = Coded::plain(Body::full(text), None).answer(None);
        let headers = response.headers_mut();
        if let (Some(token), Some(limit)) = (next, query.limit) {
            let path = request.uri.path();
            let url = list::next_page(&(self.context.base_url)(), path, request.uri.query(), limit, &token);
            headers.extend(url.map(|url| (list::NEXT_PAGE, url)));
            if self.context.settings.kinto.http_host.as_deref().is_none_or(str::is_empty) {
                vary::by(headers, "Host");
            }
        }
        if query.uses_to {
            headers.insert(list::ALERT, list::TO_IS_DEPRECATED);
        }
        if request.method == Method::HEAD {
            list::insert_total(headers, total);
        }
        Ok(response)
    }

    fn finish_list(&self, mut response: Response, expected: Option<&str>) -> Response {
        let headers = response.headers_mut();
        list::insert_timestamp(headers, self.timestamp());
        cache_control::forbid(headers);
        self.insert_expiry(headers, self.expiry(expected), self.is_public());
        response
    }

    /// The expiry that settings of Kinto's give to the monitor endpoints.
    pub(super) fn expiry(&self, expected: Option<&str>) -> Option<i64> {
        let settings = self.context.settings;
        cache_control::expiry(settings, &settings.changes.bucket, &settings.changes.collection, expected)
    }

    /// Whether anybody may read the list.
    pub(super) fn is_public(&self) -> bool {
        let principals = &self.context.settings.changes.principals;
        principals.iter().any(|principal| principal == "system.Everyone")
    }

    /// For how long an answer may be kept, and whether by others than who asked for it.
    pub(super) fn insert_expiry(&self, headers: &mut HeaderMap, expiry: Option<i64>, is_public: bool) {
        let Context { settings, now, .. } = self.context;
        let changes = &settings.changes;
        Caching {
            settings,
            bucket: &changes.bucket,
            collection: &changes.collection,
            expiry,
            is_public,
            now: SystemTime::UNIX_EPOCH + Duration::from_millis(now.0),
        }
        .insert(headers);
    }
}

impl std::fmt::Debug for Context<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Context").field("now", &self.now).finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(super) mod tests;
