//! The sub-requests of a batch.
//!
//! Follows `BatchPayloadSchema` of `kinto.core.views.batch`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::access::Credentials;
use crate::endpoints::Endpoint;
use crate::handler::Core;
use crate::history;
use crate::route::Route;
use crate::settings::Settings;

/// The methods that Kinto takes.
const METHODS: [Method; 7] =
    [Method::GET, Method::HEAD, Method::DELETE, Method::TRACE, Method::POST, Method::PUT, Method::PATCH];

/// A batch, as far as it is read here.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Batch<'a> {
    #[serde(borrow)]
    defaults: Option<&'a RawValue>,
    #[serde(borrow)]
    requests: Vec<&'a RawValue>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Spec<'a> {
    #[serde(borrow, default)]
    method: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    path: Option<Cow<'a, str>>,
    #[serde(default)]
    headers: Option<BTreeMap<String, String>>,
    #[serde(borrow, default)]
    body: Option<&'a RawValue>,
}

/// One sub-request with the batch's defaults in it.
pub(super) struct SubRequest {
    pub(super) method: Method,
    /// With the API version, as it was asked for.
    pub(super) target: String,
    headers: BTreeMap<String, String>,
    body: Option<Box<RawValue>>,
    /// The endpoint, where it is the sidecar's.
    pub(super) own: Option<Endpoint>,
}

impl SubRequest {
    /// The target without its query.
    pub(super) fn path(&self) -> &str {
        self.target.split_once('?').map_or(&*self.target, |(path, _)| path)
    }

    /// The request as the history sees it.
    pub(super) fn recorded(&self, core: &Core, outer: &Parts, default: Option<&Arc<str>>) -> history::Write {
        let headers = self.headers_within(&outer.headers);
        let path = core.app.observer.decoded(self.path()).unwrap_or_default();
        let credentials = Credentials::of(&headers);
        history::Write::new(&self.method, &path, &headers, credentials, default)
            .with_body(self.body.as_ref().map_or(&[][..], |body| body.get().as_bytes()))
    }

    /// The batch's own headers, overridden by those of the sub-request.
    pub(super) fn headers_within(&self, outer: &HeaderMap) -> HeaderMap {
        let mut headers = outer.clone();
        for (name, value) in &self.headers {
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
                headers.insert(name, value);
            }
        }
        for name in [header::CONTENT_LENGTH, header::ACCEPT_ENCODING, header::ACCEPT] {
            headers.remove(name);
        }
        headers
    }
}

/// Reads the sub-requests; `None` where one is not as Kinto takes it.
pub(super) fn read(batch: &Batch<'_>, settings: &Settings) -> Option<Vec<SubRequest>> {
    let version = format!("/{}", settings.upstream.version);
    let defaults: Spec<'_> = match batch.defaults {
        Some(defaults) => serde_json::from_str(defaults.get()).ok()?,
        None => Spec::default(),
    };
    let request = |raw: &&RawValue| {
        let spec: Spec<'_> = serde_json::from_str(raw.get()).ok()?;
        let path = spec.path.or_else(|| defaults.path.clone()).filter(|path| path.starts_with('/'))?;
        let method = spec.method.or_else(|| defaults.method.clone()).unwrap_or(Cow::Borrowed("GET"));
        let method = METHODS.into_iter().find(|known| known.as_str() == method)?;
        let has_other_body = |body: Option<&RawValue>| body.is_some_and(|body| !body.get().starts_with('{'));
        if has_other_body(spec.body) || has_other_body(defaults.body) {
            return None;
        }
        let mut headers = defaults.headers.clone().unwrap_or_default();
        headers.extend(spec.headers.unwrap_or_default());
        let target = if path.starts_with(&version) { path.into_owned() } else { format!("{version}{path}") };
        let body = spec.body.or(defaults.body).map(ToOwned::to_owned);
        let mut request = SubRequest { method, target, headers, body, own: None };
        if let Route::Own(endpoint) = Route::of(request.path(), settings) {
            request.own = Some(endpoint);
        }
        Some(request)
    };
    batch.requests.iter().map(request).collect()
}

/// The batch without the sidecar's own sub-requests.
pub(super) fn rest_of(batch: &Batch<'_>, requests: &[SubRequest]) -> Bytes {
    let defaults = batch.defaults.map_or_else(String::new, |defaults| format!("\"defaults\":{defaults},"));
    let theirs = batch.requests.iter().zip(requests).filter(|(_, request)| request.own.is_none());
    let theirs: Vec<&str> = theirs.map(|(raw, _)| raw.get()).collect();
    format!("{{{defaults}\"requests\":[{}]}}", theirs.join(",")).into()
}
