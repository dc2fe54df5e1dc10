//! The sub-requests of a batch that the sidecar answers itself.
//!
//! All that can be wrong with one is found before the upstream has any of the batch, or is told in its own place: what was
//! written cannot be taken back.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;
use http::header::{self, HeaderMap, HeaderName};
use http::request::Parts;
use http::{Method, StatusCode, Uri};
use http_body::Body as _;
use percent_encoding::percent_decode_str;
use serde_json::Value;
use serde_json::value::RawValue;

use super::request::Batch;
use crate::app::Core;
use crate::aside;
use crate::endpoints::history::Until;
use crate::endpoints::{answer_part, fail};
use crate::error::Error;
use crate::route::{Endpoint, Route};
use crate::wire::body::{self, Body, Response};
use crate::wire::peer::Peer;

/// The most that a sub-answer of the sidecar's may take that says why there is none, in bytes.
const LARGEST_TEXT: usize = 1 << 20;

/// One of them.
pub(super) struct OwnRequest {
    endpoint: Endpoint,
    /// Its head, or why it cannot have one.
    parts: Result<Parts, Error>,
}

/// One's answer in the list of answers: before the body, the body, and after it.
pub(super) type OwnAnswer = [Body; 3];

/// Those of a batch whose head is `outer`.
pub(super) async fn requests(core: &Core, batch: &Batch, outer: &Parts) -> Result<Vec<OwnRequest>, Error> {
    let mut ours = Vec::new();
    for request in &batch.requests {
        let Some(endpoint) = request.own.clone() else { continue };
        let Ok(uri) = request.escaped().parse() else {
            ours.push(OwnRequest { endpoint, parts: Err(Error::BadRequest("the path is too long")) });
            continue;
        };
        let mut parts = outer.clone();
        parts.method = request.method.clone();
        parts.headers = request.headers_within(&outer.headers);
        parts.uri = uri;
        if let Endpoint::History(bucket) = &endpoint
            && parts.method == Method::DELETE
        {
            // What the rest of the batch writes is entered before this is answered, and stays, as with the plugin.
            let bucket = core.requester(&parts.headers).resolve(&bucket.as_str().into()).await?;
            let journal = core.app.history.journal(&core.upstream).await?.ok_or(Error::NotFound)?;
            parts.extensions.insert(Until(journal.timestamp(&bucket).await?));
        }
        ours.push(OwnRequest { endpoint, parts: Ok(parts) });
    }
    Ok(ours)
}

/// Their answers. A history that was deleted from is read without what was deleted: then they are asked one after the other.
pub(super) async fn answers(core: &Arc<Core>, ours: Vec<OwnRequest>, peer: &Peer) -> Vec<OwnAnswer> {
    if !ours.iter().any(OwnRequest::is_deletion) {
        return join_all(ours.into_iter().map(|own| own.answer(core, peer))).await;
    }
    let mut answers = Vec::new();
    for own in ours {
        answers.push(Box::pin(own.answer(core, peer)).await);
    }
    answers
}

impl OwnRequest {
    fn is_deletion(&self) -> bool {
        self.parts.as_ref().is_ok_and(|parts| parts.method == Method::DELETE)
    }

    async fn answer(self, core: &Arc<Core>, peer: &Peer) -> OwnAnswer {
        let mut parts = match self.parts {
            Ok(parts) => parts,
            Err(error) => return element("", &Method::GET, fail(core, error, None)).await,
        };
        let settings = &core.app.settings;
        let answer = one(core, self.endpoint, &parts, peer).await;
        let answer = match followed(&answer).map(|uri| (Route::of(uri.path(), settings), uri)) {
            Some((Route::Own(endpoint), uri)) => {
                parts.uri = uri;
                one(core, endpoint, &parts, peer).await
            }
            _ => answer,
        };
        element(parts.uri.path(), &parts.method, answer).await
    }
}

/// An answer as an element of the list of answers.
async fn element(path: &str, method: &Method, answer: Response) -> OwnAnswer {
    let (mut answer, body) = answer.into_parts();
    let length = body.size_hint().exact().filter(|length| *length > 0 && *method != Method::HEAD);
    if let Some(length) = length {
        answer.headers.insert(header::CONTENT_LENGTH, length.into());
    }
    let path = Value::from(percent_decode_str(path).decode_utf8_lossy());
    let (status, headers) = (answer.status.as_u16(), Value::from_iter(named(&answer.headers)));
    let head = format!("{{\"path\":{path},\"status\":{status},\"headers\":{headers},\"body\":");
    let is_json = answer.headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    let body = if *method == Method::HEAD {
        Body::full("\"\"")
    } else if is_json && answer.status == StatusCode::OK {
        // It is the sidecar's own, however long it is.
        body
    } else {
        Body::full(text(body).await.unwrap_or_else(|error| {
            tracing::debug!(%error, "an answer in a batch has no body");
            Bytes::from_static(b"null")
        }))
    };
    [Body::full(head), body, Body::full("}")]
}

/// A short body as JSON.
async fn text(body: Body) -> Result<Bytes, Error> {
    let text = body::read_limited(body, LARGEST_TEXT).await?;
    aside::run(text.len(), move || embedded(&text)).await
}

/// A short answer as JSON: what is none is a text.
fn embedded(body: &Bytes) -> Bytes {
    let text = std::str::from_utf8(body).unwrap_or_default();
    match serde_json::from_str::<&RawValue>(text) {
        Ok(_) => body.clone(),
        Err(_) => Value::from(text).to_string().into(),
    }
}

async fn one(core: &Arc<Core>, endpoint: Endpoint, parts: &Parts, peer: &Peer) -> Response {
    let answered = answer_part(core, endpoint, parts, Body::empty(), peer).await;
    answered.unwrap_or_else(|error| fail(core, error, parts.headers.get(header::ORIGIN)))
}

/// Where an answer leads: Kinto follows redirects of sub-requests, once, whatever host they name.
fn followed(answer: &Response) -> Option<Uri> {
    if !answer.status().is_redirection() {
        return None;
    }
    let location: Uri = answer.headers().get(header::LOCATION)?.to_str().ok()?.parse().ok()?;
    Some(location.into_parts().path_and_query?.into())
}

/// Headers under the names that Kinto writes them with.
fn named(headers: &HeaderMap) -> BTreeMap<String, String> {
    let name = |name: &HeaderName| {
        if name == header::ETAG {
            return "ETag".to_owned();
        }
        let words = name.as_str().split('-').map(|word| {
            let mut letters = word.chars();
            letters
                .next()
                .map_or_else(String::new, |first| first.to_ascii_uppercase().to_string() + letters.as_str())
        });
        words.collect::<Vec<_>>().join("-")
    };
    let pairs = headers.iter().filter_map(|(key, value)| Some((name(key), value.to_str().ok()?.to_owned())));
    pairs.collect()
}
