//! Batches that are not read: whether they may write for all that, or Kinto refuses all of them for certain.

use http::Method;
use serde_json::value::RawValue;

use crate::endpoints::batch::json::{MOST_REQUESTS, Requests, is_empty, members, text};

/// The methods that Kinto takes.
const METHODS: [Method; 7] =
    [Method::GET, Method::HEAD, Method::DELETE, Method::TRACE, Method::POST, Method::PUT, Method::PATCH];

/// Whether some sub-request, however it may be written otherwise, is not a read, and Kinto may take it.
pub(super) fn may_write(whole: &RawValue) -> bool {
    let Some(members) = members(whole) else { return whole.get().starts_with('{') };
    let requests = members.get("requests").and_then(|requests| serde_json::from_str(requests.get()).ok());
    let is_list = requests.is_some();
    let Requests(requests) = requests.unwrap_or_default();
    if requests.len() > MOST_REQUESTS {
        return true;
    }
    let all = || members.get("defaults").into_iter().chain(&requests).copied();
    all().any(names_write) && !(is_list && all().any(is_refused))
}

fn names_write(raw: &RawValue) -> bool {
    let Some(members) = members(raw) else { return raw.get().starts_with('{') };
    let method = members.get("method").filter(|method| method.get().starts_with('"'));
    method.is_some_and(|method| {
        text(method).is_none_or(|method| !matches!(method.as_str(), "" | "GET" | "HEAD" | "OPTIONS"))
    })
}

/// Whether it has a member, a method or a path that Kinto does not take.
fn is_refused(raw: &RawValue) -> bool {
    let written = |raw: &RawValue| text(raw).filter(|text| !text.is_empty());
    members(raw).is_some_and(|members| {
        members.iter().any(|(name, value)| match &**name {
            "method" => written(value).is_some() && method(Some(*value)).is_none(),
            "path" => written(value).is_some_and(|path| !path.starts_with('/')),
            "headers" | "body" => false,
            _ => true,
        })
    })
}

/// The method, where Kinto takes it.
pub(super) fn method(raw: Option<&RawValue>) -> Option<Method> {
    let Some(raw) = raw.filter(|raw| !is_empty(raw)) else { return Some(Method::GET) };
    let method = text(raw)?;
    METHODS.into_iter().find(|known| known.as_str() == method)
}
