//! The sub-requests of a batch, read as Kinto reads them.
//!
//! Of members with one name the last counts; a default fills what is missing, and not what is empty; an empty method is
//! `GET`; a redirect is followed, once.
//!
//! Follows `BatchPayloadSchema` of `kinto.core.views.batch`, and `merge_dicts` and `build_request` of
//! `kinto.core.utils`.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::Method;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde_json::value::RawValue;

mod unread;

use super::headers::{env_name, trouble};
use super::json::{MOST_REQUESTS, Requests, is_empty, members, sent, text};
use crate::access::Credentials;
use crate::aside;
use crate::current::Part;
use crate::error::Error;
use crate::journal::Note;
use crate::kinto::{RequestPath, Sent};
use crate::query::Invalid;
use crate::route::{Endpoint, Route};
use crate::settings::Settings;
use crate::writes::Write;
use unread::method;

/// What a target may not hold as it is.
const ESCAPED: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'<')
    .add(b'>')
    .add(b'`')
    .add(b'{')
    .add(b'}')
    .add(b'|')
    .add(b'\\')
    .add(b'^');

/// SECURITY: the most that defaults may come to, in bytes, once they stand in each request; headers are kept one by one.
const MOST_OF_DEFAULTS: usize = 64 << 20;
const OF_HEADERS: usize = 16;
/// SECURITY: the most bytes in the headers of a request.
const LONGEST_HEADERS: usize = 64 << 10;

/// A batch that was read.
pub(super) struct Batch {
    /// Its sub-requests.
    pub(super) requests: Vec<SubRequest>,
    /// As they were sent.
    defaults: Option<Bytes>,
    /// How long it is, and how long with the defaults in each request.
    length: usize,
    expanded: usize,
}

/// A batch as it was sent.
struct Text<'a> {
    defaults: Option<&'a RawValue>,
    requests: Vec<&'a RawValue>,
}

/// What a batch is read with.
struct Context<'c> {
    settings: &'c Settings,
    /// The headers of the batch itself, and whose they are.
    headers: &'c HeaderMap,
    credentials: Credentials,
}

/// One sub-request with the batch's defaults in it.
pub(super) struct SubRequest {
    /// As it was sent.
    text: Bytes,
    pub(super) method: Method,
    /// With the API version, as it was asked for.
    pub(super) target: String,
    /// What its path names.
    pub(super) path: RequestPath,
    /// Why its path or its headers cannot be read exactly.
    trouble: Option<String>,
    headers: BTreeMap<String, String>,
    /// Who asks.
    pub(super) credentials: Credentials,
    /// The `data` of its body.
    data: Option<Box<RawValue>>,
    /// The endpoint, where it is the sidecar's.
    pub(super) own: Option<Endpoint>,
    /// What is said of it beside what it writes.
    pub(super) note: Option<Arc<Note>>,
}

/// How much work a batch is, in bytes: how long it is with the defaults in each request.
pub(super) fn work(body: &Bytes) -> usize {
    // What is long is much in any case.
    let text = Some(body).filter(|body| body.len() <= aside::LITTLE);
    let text = text.and_then(|body| Text::read(serde_json::from_slice(body).ok()?));
    body.len().saturating_add(text.map_or(0, |text| text.added()))
}

/// Reads a batch that came with these headers, and its sub-requests. `None` for what Kinto refuses in its own words; what
/// might write is refused here where it cannot be read.
pub(super) fn read(
    body: &Bytes,
    headers: &HeaderMap,
    settings: &Settings,
    most: Option<usize>,
) -> Result<Option<Batch>, Error> {
    if body.is_empty() {
        return Ok(None);
    }
    let whole: &RawValue =
        serde_json::from_slice(body).map_err(|error| invalid(format!("Invalid JSON: {error}")))?;
    let text = Text::read(whole);
    if text.as_ref().is_some_and(Text::is_too_large) {
        return Err(invalid("It is larger than is taken here".to_owned()));
    }
    let number = text.as_ref().map_or(0, |text| text.requests.len());
    if let Some(most) = most.filter(|most| number > *most) {
        let description = format!("Number of requests is limited to {most}");
        return Err(Invalid::one("body", "requests", description).into());
    }
    let context = Context { settings, headers, credentials: Credentials::of(headers) };
    let requests = text.as_ref().and_then(|text| text.requests(body, &context));
    let Some((text, requests)) = text.zip(requests) else {
        return if unread::may_write(whole) {
            Err(invalid("It is no batch as Kinto takes it".to_owned()))
        } else {
            Ok(None)
        };
    };
    // What is only read, and by Kinto, goes on as it came.
    if requests.iter().any(SubRequest::has_to_be_read) {
        for (index, request) in requests.iter().enumerate() {
            if let Some(trouble) = &request.trouble {
                return Err(invalid(format!("requests.{index} is not read: {trouble}")));
            }
        }
    }
    let defaults = text.defaults.map(|defaults| body.slice_ref(defaults.get().as_bytes()));
    let expanded = body.len().saturating_add(text.added());
    Ok(Some(Batch { requests, defaults, length: body.len(), expanded }))
}

fn invalid(message: String) -> Error {
    Invalid::one("body", "", message).into()
}

// === impl Batch ===

impl Batch {
    /// How much work it is to do something with all of it, in bytes.
    pub(super) fn work(&self) -> usize {
        self.expanded
    }

    /// How much longer it is with the defaults in each request, in bytes.
    pub(super) fn added(&self) -> usize {
        self.expanded.saturating_sub(self.length)
    }

    /// The upstream's sub-requests.
    pub(super) fn theirs(&self) -> impl Iterator<Item = &SubRequest> {
        self.requests.iter().filter(|request| request.own.is_none())
    }

    /// The batch without the sidecar's own sub-requests.
    pub(super) fn rest(&self) -> Bytes {
        let mut rest = BytesMut::with_capacity(self.length);
        rest.extend_from_slice(b"{");
        if let Some(defaults) = &self.defaults {
            rest.extend_from_slice(b"\"defaults\":");
            rest.extend_from_slice(defaults);
            rest.extend_from_slice(b",");
        }
        rest.extend_from_slice(b"\"requests\":[");
        for (index, request) in self.theirs().enumerate() {
            if index > 0 {
                rest.extend_from_slice(b",");
            }
            rest.extend_from_slice(&request.text);
        }
        rest.extend_from_slice(b"]}");
        rest.freeze()
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        aside::let_go(self.work(), std::mem::take(&mut self.requests));
    }
}

// === impl Text ===

impl<'b> Text<'b> {
    fn read(whole: &'b RawValue) -> Option<Self> {
        let members = members(whole)?;
        let is_known = |name: &String| matches!(name.as_str(), "defaults" | "requests");
        let Requests(requests) = serde_json::from_str(members.get("requests")?.get()).ok()?;
        members.keys().all(is_known).then_some(Self { defaults: members.get("defaults").copied(), requests })
    }

    /// Whether it would take much more room once it is read.
    fn is_too_large(&self) -> bool {
        self.requests.len() > MOST_REQUESTS || self.added() > MOST_OF_DEFAULTS
    }

    /// What the defaults come to once they stand in each request, in bytes.
    fn added(&self) -> usize {
        let headers = self.defaults.and_then(members).and_then(|defaults| defaults.get("headers").copied());
        let length = |raw: Option<&RawValue>| raw.map_or(0, |raw| raw.get().len());
        let each = length(self.defaults).saturating_add(OF_HEADERS * length(headers));
        each.saturating_mul(self.requests.len())
    }

    /// The sub-requests; `None` where one is not as Kinto takes it.
    fn requests(&self, body: &Bytes, context: &Context<'_>) -> Option<Vec<SubRequest>> {
        let defaults = match self.defaults {
            Some(defaults) => Spec::read(defaults)?,
            None => Spec::default(),
        };
        let path = defaults.path.filter(|path| !is_empty(path)).map(text);
        let is_path = path.is_none_or(|path| path.is_some_and(|path| path.starts_with('/')));
        if !is_path || method(defaults.method).is_none() {
            return None;
        }
        let request = |raw: &&RawValue| {
            let text = body.slice_ref(raw.get().as_bytes());
            SubRequest::read(text, &Spec::read(raw)?, &defaults, context)
        };
        self.requests.iter().map(request).collect()
    }
}

/// What a sub-request says itself, or what the defaults say.
#[derive(Default)]
struct Spec<'b> {
    method: Option<&'b RawValue>,
    path: Option<&'b RawValue>,
    headers: Option<BTreeMap<String, String>>,
    body: Option<&'b RawValue>,
}

impl<'b> Spec<'b> {
    fn read(raw: &'b RawValue) -> Option<Self> {
        let mut spec = Self::default();
        for (name, value) in members(raw)? {
            match name.as_str() {
                "method" => spec.method = Some(value),
                "path" => spec.path = Some(value),
                "headers" if value.get().len() > LONGEST_HEADERS => return None,
                "headers" => spec.headers = Some(serde_json::from_str(value.get()).ok()?),
                "body" if !value.get().starts_with('{') => return None,
                "body" => spec.body = Some(value),
                _ => return None,
            }
        }
        Some(spec)
    }
}

// === impl SubRequest ===

impl SubRequest {
    fn read(text: Bytes, spec: &Spec<'_>, defaults: &Spec<'_>, context: &Context<'_>) -> Option<Self> {
        let version = &*context.settings.upstream.version;
        let path = self::text(spec.path.or(defaults.path)?).filter(|path| path.starts_with('/'))?;
        let method = method(spec.method.or(defaults.method))?;
        let mut headers = defaults.headers.clone().unwrap_or_default();
        headers.extend(spec.headers.clone().unwrap_or_default());
        let has_version = path.strip_prefix('/').is_some_and(|path| path.starts_with(version));
        let target = if has_version { path } else { format!("/{version}{path}") };
        let (path, trouble) = match RequestPath::read(&target, version, Sent::InBatch) {
            Ok(path) => (path, trouble(&headers)),
            Err(trouble) => (RequestPath::unread(), Some(format!("the path: {trouble}"))),
        };
        let credentials = context.credentials.clone();
        let data = sent(spec.body, defaults.body);
        let mut request =
            Self { text, method, target, path, trouble, headers, credentials, data, own: None, note: None };
        let names_somebody = |name: &String| matches!(&*env_name(name), "authorization" | "cookie");
        if request.headers.keys().any(names_somebody) {
            request.credentials = Credentials::of(&request.headers_within(context.headers));
        }
        request.own = request.endpoint(context.settings);
        if request.own.is_none() && context.settings.kinto.trailing_slash_redirect_enabled {
            request.follow_slash(context.settings);
        }
        Some(request)
    }

    /// The endpoint, where it is the sidecar's.
    fn endpoint(&self, settings: &Settings) -> Option<Endpoint> {
        let escaped = self.escaped();
        let path = escaped.split_once('?').map_or(&*escaped, |(path, _)| path);
        match Route::of(path, settings) {
            Route::Own(endpoint) => Some(endpoint).filter(Endpoint::is_in_batches),
            _ => None,
        }
    }

    /// Kinto redirects away the slash at the end of what it does not know, and follows that itself. It does not know the
    /// sidecar's endpoints.
    fn follow_slash(&mut self, settings: &Settings) {
        let end = self.target.find('?').unwrap_or(self.target.len());
        let (path, query) = self.target.split_at(end);
        if let Some(without) = path.strip_suffix('/') {
            let without = format!("{without}{query}");
            let as_sent = std::mem::replace(&mut self.target, without);
            self.own = self.endpoint(settings);
            if self.own.is_none() {
                self.target = as_sent;
            }
        }
    }

    /// The target as a request of its own has it.
    pub(super) fn escaped(&self) -> String {
        utf8_percent_encode(&self.target, ESCAPED).to_string()
    }

    /// What the log says of it.
    pub(super) fn part(&self) -> Part {
        Part { method: self.method.clone(), target: self.target.clone() }
    }

    /// Whether more than passing it on depends on how it is read.
    fn has_to_be_read(&self) -> bool {
        !matches!(self.method, Method::GET | Method::HEAD)
            || self.own.is_some()
            || self.path.is_in_default_bucket()
    }

    /// What it may write; `default` is the requester's own bucket.
    pub(super) fn write(&self, outer: &HeaderMap, default: Option<Arc<str>>) -> Write {
        let (headers, credentials) = (self.headers_within(outer), self.credentials.clone());
        let write = Write::new(&self.method, self.path.clone(), &headers, credentials, default);
        let mut write = write.with_data(self.data.as_deref());
        write.note.clone_from(&self.note);
        write
    }

    /// The batch's own headers, overridden by those of the sub-request.
    pub(super) fn headers_within(&self, outer: &HeaderMap) -> HeaderMap {
        let mut headers = outer.clone();
        for (name, value) in &self.headers {
            let name = HeaderName::try_from(env_name(name));
            if let (Ok(name), Ok(value)) = (name, HeaderValue::try_from(value)) {
                headers.insert(name, value);
            }
        }
        for name in [header::CONTENT_LENGTH, header::ACCEPT_ENCODING, header::ACCEPT] {
            headers.remove(name);
        }
        headers
    }
}

#[cfg(test)]
mod tests;
