//! The sub-requests of a batch, read as Kinto reads them.
//!
//! Of members with one name the last counts; a default fills what is missing, and not what is empty; an empty method is
//! `GET`; a redirect is followed, once. How deep a body nests does not matter: it is looked at one level at a time.
//!
//! Follows `BatchPayloadSchema` of `kinto.core.views.batch`, and `merge_dicts` and `build_request` of
//! `kinto.core.utils`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::Method;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::access::Credentials;
use crate::aside;
use crate::error::Error;
use crate::forward::is_host;
use crate::kinto::{RequestPath, Sent};
use crate::route::Endpoint;
use crate::route::Route;
use crate::settings::Settings;
use crate::writes::Write;

/// The methods that Kinto takes.
const METHODS: [Method; 7] =
    [Method::GET, Method::HEAD, Method::DELETE, Method::TRACE, Method::POST, Method::PUT, Method::PATCH];

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

/// SECURITY: more requests than Kinto takes in any batch that somebody means.
const MOST_REQUESTS: usize = 5_000;
/// SECURITY: the most that defaults may come to, in bytes, once they stand in each request; headers are kept one by one.
const MOST_OF_DEFAULTS: usize = 64 << 20;
const OF_HEADERS: usize = 16;
/// SECURITY: the most bytes in the headers of a request.
const LONGEST_HEADERS: usize = 64 << 10;
/// SECURITY: more members than stand in anything here that Kinto takes.
const MOST_MEMBERS: usize = 100;
/// Longer data are not put together here.
const LONGEST_MERGED: usize = 1 << 20;

/// The requests of a batch, and no more of them than one too many.
#[derive(Deserialize, Default)]
struct Requests<'a>(#[serde(borrow, deserialize_with = "bounded")] Vec<&'a RawValue>);

/// What stands directly in an object.
type Members<'a> = BTreeMap<String, &'a RawValue>;

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
pub(super) fn read(body: &Bytes, headers: &HeaderMap, settings: &Settings) -> Result<Option<Batch>, Error> {
    let whole: &RawValue =
        serde_json::from_slice(body).map_err(|error| invalid(format!("Invalid JSON: {error}")))?;
    let text = Text::read(whole);
    if text.as_ref().is_some_and(Text::is_too_large) {
        return Err(invalid("It is larger than is taken here".to_owned()));
    }
    let context = Context { settings, headers, credentials: Credentials::of(headers) };
    let requests = text.as_ref().and_then(|text| text.requests(body, &context));
    let Some((text, requests)) = text.zip(requests) else {
        return if may_write(whole) {
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
    Error::InvalidParameter { location: "body", name: String::new(), message }
}

// === impl Batch ===

impl Batch {
    /// How much work it is to do something with all of it, in bytes.
    pub(super) fn work(&self) -> usize {
        self.expanded
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
                "body" => spec.body = Some(value).filter(|body| body.get().starts_with('{')).map(Some)?,
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
            Ok(path) => (path, headers_trouble(&headers)),
            Err(trouble) => (RequestPath::unread(), Some(format!("the path: {trouble}"))),
        };
        let credentials = context.credentials.clone();
        let data = sent(spec.body, defaults.body);
        let mut request = Self { text, method, target, path, trouble, headers, credentials, data, own: None };
        let names_somebody = |name: &String| matches!(&*env_name(name), "authorization" | "cookie");
        if request.headers.keys().any(names_somebody) {
            request.credentials = Credentials::of(&request.headers_within(context.headers));
        }
        let escaped = request.escaped();
        let escaped = escaped.split_once('?').map_or(&*escaped, |(path, _)| path);
        if let Route::Own(endpoint) = Route::of(escaped, context.settings) {
            request.own = Some(endpoint);
        }
        Some(request)
    }

    /// The target as a request of its own has it.
    pub(super) fn escaped(&self) -> String {
        utf8_percent_encode(&self.target, ESCAPED).to_string()
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
        Write::new(&self.method, self.path.clone(), &headers, credentials, default)
            .with_data(self.data.as_deref())
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

/// A header's name as WSGI knows it: the case does not count, nor whether it has `-` or `_`.
fn env_name(name: &str) -> String {
    name.to_ascii_lowercase().replace('_', "-")
}

/// Why the headers of a sub-request cannot be carried by a request of its own, or say two things.
fn headers_trouble(headers: &BTreeMap<String, String>) -> Option<String> {
    let mut known = BTreeSet::new();
    for (name, value) in headers {
        let env_name = env_name(name);
        let is_printable = value.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
        let is_meant = match env_name.as_str() {
            // Kinto leaves out the one that is spelt so, and takes any other for the length of the body.
            "content-length" => name == "Content-Length",
            // SECURITY: Kinto looks for a path in a URL that begins with the host.
            "host" => is_host(value.as_bytes()),
            _ => true,
        };
        let is_carried = is_printable && value.trim() == value && is_meant;
        if !is_carried || HeaderName::try_from(name).is_err() {
            return Some(format!("the header {name:?} cannot be carried"));
        }
        if !known.insert(env_name) {
            return Some(format!("the header {name:?} is given twice"));
        }
    }
    None
}

/// The `data` that is sent: the default fills what is missing in it.
fn sent(body: Option<&RawValue>, default: Option<&RawValue>) -> Option<Box<RawValue>> {
    let data = |body: Option<&RawValue>| members(body?)?.get("data").map(|data| (*data).to_owned());
    let (own, default) = (data(body), data(default));
    match (&own, &default) {
        (Some(own), Some(default)) if default.get().starts_with('{') => {
            if own.get().len() + default.get().len() > LONGEST_MERGED {
                return None;
            }
            let mut merged: BTreeMap<String, Box<RawValue>> = serde_json::from_str(default.get()).ok()?;
            let own: BTreeMap<String, Box<RawValue>> = serde_json::from_str(own.get()).ok()?;
            let both_nest = own.iter().any(|(name, own)| {
                own.get().starts_with('{')
                    && merged.get(name).is_some_and(|default| default.get().starts_with('{'))
            });
            merged.extend(own);
            // What they make together is seen in the answer.
            if both_nest { None } else { serde_json::value::to_raw_value(&merged).ok() }
        }
        _ => own.or(default),
    }
}

/// Whether some sub-request, however it may be written otherwise, is not a read.
fn may_write(whole: &RawValue) -> bool {
    let names_write = |raw: &&RawValue| {
        let Some(members) = members(raw) else { return raw.get().starts_with('{') };
        let method = members.get("method").filter(|method| method.get().starts_with('"'));
        method.is_some_and(|method| {
            text(method).is_none_or(|method| !matches!(method.as_str(), "" | "GET" | "HEAD" | "OPTIONS"))
        })
    };
    let Some(members) = members(whole) else { return whole.get().starts_with('{') };
    let requests = members.get("requests").and_then(|requests| serde_json::from_str(requests.get()).ok());
    let Requests(requests) = requests.unwrap_or_default();
    members.get("defaults").is_some_and(names_write)
        || requests.len() > MOST_REQUESTS
        || requests.iter().any(names_write)
}

fn bounded<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<&'a RawValue>, D::Error> {
    struct List;

    impl<'de> Visitor<'de> for List {
        type Value = Vec<&'de RawValue>;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("a list")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
            let mut requests = Vec::new();
            while requests.len() <= MOST_REQUESTS
                && let Some(request) = items.next_element()?
            {
                requests.push(request);
            }
            while items.next_element::<IgnoredAny>()?.is_some() {}
            Ok(requests)
        }
    }

    deserializer.deserialize_seq(List)
}

/// What stands in an object; `None` where it is none, or holds more than is looked at.
fn members(raw: &RawValue) -> Option<Members<'_>> {
    struct Object;

    impl<'de> Visitor<'de> for Object {
        type Value = Option<Members<'de>>;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
            let mut read = Members::new();
            while let Some((name, value)) = members.next_entry()? {
                read.insert(name, value);
                if read.len() > MOST_MEMBERS {
                    while members.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                    return Ok(None);
                }
            }
            Ok(Some(read))
        }
    }

    serde_json::Deserializer::from_str(raw.get()).deserialize_map(Object).ok()?
}

fn text(raw: &RawValue) -> Option<String> {
    serde_json::from_str(raw.get()).ok()
}

/// What Python takes for false.
fn is_empty(raw: &RawValue) -> bool {
    let raw = raw.get();
    let is_bare = |open: char, close: char| {
        raw.strip_prefix(open)
            .and_then(|raw| raw.strip_suffix(close))
            .is_some_and(|raw| raw.trim().is_empty())
    };
    let is_zero = raw.parse::<f64>().is_ok_and(|number| number == 0.0);
    matches!(raw, "null" | "false" | "\"\"") || is_zero || is_bare('[', ']') || is_bare('{', '}')
}

/// The method, where Kinto takes it.
fn method(raw: Option<&RawValue>) -> Option<Method> {
    let Some(raw) = raw.filter(|raw| !is_empty(raw)) else { return Some(Method::GET) };
    let method = text(raw)?;
    METHODS.into_iter().find(|known| known.as_str() == method)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests(body: &str) -> Result<Option<Vec<SubRequest>>, String> {
        let read = read(&body.to_owned().into(), &HeaderMap::new(), &Settings::default());
        let read = read.map_err(|error| error.to_string())?;
        Ok(read.map(|mut batch| std::mem::take(&mut batch.requests)))
    }

    fn read_as(body: &str) -> Vec<(String, String)> {
        let requests = requests(body).unwrap().unwrap();
        requests.into_iter().map(|request| (request.method.to_string(), request.target)).collect()
    }

    #[test]
    fn the_last_of_members_counts_and_defaults_fill_what_is_missing() {
        for (body, method, target) in [
            (r#"{"requests":[],"requests":[{"path":"/a"}]}"#, "GET", "/v1/a"),
            (
                r#"{"requests":[{"path":"/a","path":"/b","method":"GET","m\u0065thod":"PUT"}]}"#,
                "PUT",
                "/v1/b",
            ),
            (r#"{"defaults":{"method":"PUT"},"requests":[{"path":"/v1/a"}]}"#, "PUT", "/v1/a"),
            (r#"{"defaults":{"method":"PUT"},"requests":[{"path":"/v1/a","method":null}]}"#, "GET", "/v1/a"),
            (r#"{"defaults":{"method":"PUT"},"requests":[{"path":"/v1/a","method":""}]}"#, "GET", "/v1/a"),
            (r#"{"defaults":{"path":"/d","method":0},"requests":[{"method":"PATCH"}]}"#, "PATCH", "/v1/d"),
            (r#"{"requests":[{"path":"/v1a","method":"DELETE"}]}"#, "DELETE", "/v1a"),
        ] {
            assert_eq!(read_as(body), [(method.to_owned(), target.to_owned())], "{body}");
        }
    }

    #[test]
    fn bodies_may_nest_as_deep_as_kinto_takes_them() {
        let body = format!(
            r#"{{"requests":[{{"path":"/a","method":"PUT","body":{{"data":{{"x":{}{}}}}}}}]}}"#,
            "[".repeat(990),
            "]".repeat(990)
        );
        assert_eq!(read_as(&body), [("PUT".to_owned(), "/v1/a".to_owned())]);
    }

    #[test]
    fn what_might_write_and_is_not_read_is_refused() {
        for body in [
            "{\"requests\":[{\"path\":\"/a\",\"method\":\"PUT\"}]}\0",
            r#"{"requests":[{"path":"/a","method":"PUT","x":1}]}"#,
            r#"{"requests":[{"path":"/a","method":"PUT"},null]}"#,
            r#"{"requests":[{"path":"/a","method":"PUT","headers":{"X":1}}]}"#,
            r#"{"requests":[{"path":"//v1/a","method":"PUT"}]}"#,
            r#"{"requests":[{"path":"/a"},{"path":"/é"},{"path":"/b","method":"DELETE"}]}"#,
            r#"{"requests":[{"path":"/a/?x=/v1/a/b","method":"PUT"}]}"#,
        ] {
            assert!(requests(body).is_err(), "{body}");
        }
        for body in ["[]", r#"{"requests":[{"path":"a"}]}"#, r#"{"requests":{"path":"/a","method":"PUT"}}"#] {
            assert!(matches!(requests(body), Ok(None)), "{body}");
        }
        assert!(requests(r#"{"requests":[{"path":"//a","headers":{"X ":"é"}}]}"#).unwrap().is_some());
    }

    #[test]
    fn what_would_take_much_more_room_is_refused() {
        let of = |defaults: &str, number: usize| {
            requests(&format!(
                r#"{{"defaults":{defaults},"requests":[{}{{"path":"/a"}}]}}"#,
                r#"{"path":"/a"},"#.repeat(number - 1)
            ))
        };
        let headers: Vec<String> = (0..4_000).map(|number| format!(r#""X-{number}":"""#)).collect();
        let headers = format!(r#"{{"headers":{{{}}}}}"#, headers.join(","));
        assert_eq!(of("{}", 5_000).unwrap().unwrap().len(), 5_000);
        assert!(of("{}", 5_001).is_err());
        assert!(of(&headers, 10).unwrap().is_some() && of(&headers, 200).is_err());
        assert!(of(&format!(r#"{{"body":{{"data":"{}"}}}}"#, "x".repeat(1 << 20)), 100).is_err());
        let many: Vec<String> = (0..200).map(|number| format!(r#""m{number}":1"#)).collect();
        let many = many.join(",");
        for body in [
            format!(r#"{{{many},"requests":[{{"path":"/a","method":"PUT"}}]}}"#),
            format!(r#"{{"requests":[{{{many},"path":"/a","method":"PUT"}}]}}"#),
            format!(r#"{{"x":1,"requests":[{}1]}}"#, "1,".repeat(MOST_REQUESTS)),
        ] {
            assert!(requests(&body).is_err(), "{body}");
        }
        let body =
            format!(r#"{{"requests":[{{"path":"/a","method":"PUT","body":{{{many},"data":{{}}}}}}]}}"#);
        assert!(requests(&body).unwrap().is_some());
    }

    #[test]
    fn headers_that_cannot_be_carried_are_refused_beside_a_write() {
        let write = |headers: &str| {
            requests(&format!(r#"{{"requests":[{{"path":"/a","method":"PUT","headers":{headers}}}]}}"#))
        };
        for headers in [
            r#"{"Authorization":"Basic eDp5\n"}"#,
            r#"{"Authorization":" Basic eDp5"}"#,
            r#"{"Authorization":"Basic\teDp5"}"#,
            r#"{"Authorization":"Basic é"}"#,
            r#"{"Author\u0131zation":"Basic eDp5"}"#,
            r#"{"Authorization ":"Basic eDp5"}"#,
            r#"{"Authorization":"a","authorization":"b"}"#,
            r#"{"If-Match":"a","if_match":"b"}"#,
            r#"{"content-length":"0"}"#,
            r#"{"Host":"h/v1/buckets/default"}"#,
            r#"{"":"a"}"#,
        ] {
            assert!(write(headers).is_err(), "{headers}");
        }
        let headers =
            r#"{"authorization":"Basic eDp5","Content-Length":"3","Host":"h:1","response_behavior":"light"}"#;
        let written = write(headers).unwrap().unwrap();
        let within = written[0].headers_within(&HeaderMap::new());
        assert_eq!(within["authorization"], "Basic eDp5");
        assert_eq!(within["response-behavior"], "light");
        let read = r#"{"requests":[{"path":"/a","headers":{"Authorization":"Basic eDp5\n"}}]}"#;
        assert!(requests(read).is_ok());
    }
}
