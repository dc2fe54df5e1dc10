//! `POST /batch`: sub-requests for the sidecar's own endpoints among others.
//!
//! The sidecar answers its own; the upstream gets the rest as one batch, in one transaction, and goes first, so that a
//! changeset behind a write shows it. A batch with nothing of the sidecar's goes up as it came. Whatever the upstream
//! has against the rest is the answer to the whole.
//!
//! Follows `kinto.core.views.batch`, and `build_request` and `build_response` of `kinto.core.utils`.

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use http::header::{self, HeaderMap};
use http::request::Parts;
use serde::Deserialize;
use serde_json::value::RawValue;

mod headers;
mod json;
mod own;
mod request;
mod shortened;

use super::{list, media_type};
use crate::app::Core;
use crate::aside;
use crate::current;
use crate::error::Error;
use crate::forward;
use crate::journal::Note;
use crate::kinto::Timestamp;
use crate::route::Endpoint;
use crate::upstream::UpstreamError;
use crate::wire::body::{Body, Response};
use crate::wire::buffers::Hold;
use crate::wire::cors::{self, Exposed};
use crate::wire::peer::Peer;
use crate::writes::Write;
use crate::writes::answer::Answer;
use request::{Batch, SubRequest};

#[derive(Deserialize)]
struct Answers<'a> {
    #[serde(borrow)]
    responses: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct Answered<'a> {
    status: u16,
    #[serde(borrow, default)]
    body: Option<&'a RawValue>,
    #[serde(default)]
    headers: AnsweredHeaders,
}

#[derive(Deserialize, Default)]
struct AnsweredHeaders {
    #[serde(rename = "ETag")]
    etag: Option<String>,
}

impl AnsweredHeaders {
    fn modified(&self) -> Option<Timestamp> {
        Timestamp::from_etag_text(self.etag.as_deref()?)
    }
}

/// Answers a batch whose body was read.
/// What is in memory of it is held for as long as the answer is.
pub async fn answer(
    core: &Arc<Core>,
    parts: Parts,
    body: Bytes,
    peer: &Peer,
    mut hold: Hold,
) -> Result<Response, Error> {
    let settings = &core.app.settings;
    check_charset(&parts.headers)?;
    // SECURITY: nothing is made of a batch that the upstream would refuse as a whole. Where it does not say how many it takes,
    // the settings do.
    let most = match core.upstream.described().await {
        Ok(description) => description.batch_max_requests(),
        Err(_) => Some(settings.kinto.batch_max_requests),
    };
    let read = {
        let (app, body, headers) = (Arc::clone(&core.app), body.clone(), parts.headers.clone());
        move || request::read(&body, &headers, &app.settings, most)
    };
    let Some(mut batch) = aside::for_write(request::work(&body), read).await?? else {
        // The upstream says what is wrong with it.
        let (answer, body) = forward::exchange(core, parts, body, peer, &mut hold).await?;
        return Ok(Response::from_parts(answer, Body::full(body).held(hold)));
    };
    let is_recursive = batch.requests.iter().any(|request| request.target.contains("/batch"));
    for request in &mut batch.requests {
        let is_of_history = request.own.as_ref().is_some_and(Endpoint::is_of_history);
        if is_recursive || is_of_history && core.app.history.journal(&core.upstream).await?.is_none() {
            request.own = None;
        }
    }
    let batch = Arc::new(batch);
    let requests = &batch.requests;
    current::with(|current| current.note_parts(requests.iter().map(SubRequest::part)));
    // Kinto refuses a batch that says that it is something else than JSON. It would not see one whose sub-requests are all the
    // sidecar's own, so such a batch is passed on as it is.
    let is_other = parts.headers.contains_key(header::CONTENT_TYPE) && !media_type::is_json(&parts.headers);
    if is_other && requests.iter().all(|request| request.own.is_some()) {
        let (answer, body) = forward::exchange(core, parts, body, peer, &mut hold).await?;
        return Ok(Response::from_parts(answer, Body::full(body).held(hold)));
    }
    if requests.iter().all(|request| request.own.is_none()) {
        let Exchanged { answer, body, .. } = exchange(core, &parts, body, &batch, peer, &mut hold).await?;
        return Ok(Response::from_parts(answer, Body::full(body).held(hold)));
    }
    media_type::check_sender(&parts.headers)?;
    super::check_lives(core).await?;
    let origin = parts.headers.get(header::ORIGIN);
    cors::check_origin(&parts.headers, &settings.kinto.cors_origins)?;

    let ours = own::requests(core, &batch, &parts).await?;
    let mut answered = Vec::new().into_iter();
    if requests.iter().any(|request| request.own.is_none()) {
        let rest = {
            let batch = Arc::clone(&batch);
            move || batch.rest()
        };
        let rest = aside::for_write(batch.work(), rest).await?;
        hold.grow(rest.len())?;
        let Exchanged { answer, body, each } = exchange(core, &parts, rest, &batch, peer, &mut hold).await?;
        if answer.status != StatusCode::OK {
            return Ok(Response::from_parts(answer, Body::full(body).held(hold)));
        }
        answered = each.into_iter();
    }
    let mut ours = own::answers(core, ours, peer).await.into_iter();
    let mut whole = vec![Body::full("{\"responses\":[")];
    for (index, request) in requests.iter().enumerate() {
        if index > 0 {
            whole.push(Body::full(","));
        }
        let unavailable = Error::Unavailable { retry_after: None };
        if request.own.is_some() {
            whole.extend(ours.next().ok_or(unavailable)?);
        } else {
            whole.push(Body::full(answered.next().ok_or(unavailable)?));
        }
    }
    whole.push(Body::full("]}"));
    let body = Body::sequence(whole).held(hold);
    let mut response = list::json(body);
    cors::finish(response.headers_mut(), origin, Exposed::Plain, &settings.kinto.cors_origins);
    super::advised(core, response)
}

/// Refuses a charset by which Kinto might read another text than is read here: a write in it would go unnoticed.
fn check_charset(headers: &HeaderMap) -> Result<(), Error> {
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    let Some(content_type) = types.next() else { return Ok(()) };
    let is_known = |parameter: &str| match parameter.split_once('=') {
        Some((name, charset)) if name.trim().eq_ignore_ascii_case("charset") => {
            let charset = charset.trim().trim_matches('"');
            ["utf-8", "utf8", "us-ascii", "ascii"].iter().any(|known| charset.eq_ignore_ascii_case(known))
        }
        _ => true,
    };
    // Python's white space is more than ASCII's.
    let is_read = content_type.to_str().is_ok_and(|value| value.split(';').skip(1).all(is_known));
    if is_read && types.next().is_none() {
        return Ok(());
    }
    Err(Error::InvalidJson("the Content-Type of a batch is not JSON in UTF-8".to_owned()))
}

/// What the upstream answered a batch with.
pub(super) struct Exchanged {
    pub(super) answer: http::response::Parts,
    pub(super) body: Bytes,
    /// The sub-answers, as far as they are ones.
    pub(super) each: Vec<Bytes>,
}

/// Writes on somebody's behalf, as they would by a batch of their own: `parts` is their request, and each write has what is
/// said of it.
pub(super) async fn write(
    core: &Core,
    parts: &Parts,
    writes: &[(String, Arc<Note>)],
    peer: &Peer,
    hold: &mut Hold,
) -> Result<Exchanged, Error> {
    let requests: Vec<&str> = writes.iter().map(|(request, _)| request.as_str()).collect();
    let body = Bytes::from(format!("{{\"requests\":[{}]}}", requests.join(",")));
    let read = {
        let (app, body, headers) = (Arc::clone(&core.app), body.clone(), parts.headers.clone());
        move || request::read(&body, &headers, &app.settings, None)
    };
    let batch = aside::for_write(request::work(&body), read).await??;
    let mut batch = batch.ok_or_else(|| Error::Internal("a batch of writes that is none".into()))?;
    for (request, (_, note)) in batch.requests.iter_mut().zip(writes) {
        request.note = Some(Arc::clone(note));
    }
    exchange(core, parts, body, &Arc::new(batch), peer, hold).await
}

/// Gives the upstream its part of a batch, and has what it wrote known.
async fn exchange(
    core: &Core,
    parts: &Parts,
    body: Bytes,
    batch: &Arc<Batch>,
    peer: &Peer,
    hold: &mut Hold,
) -> Result<Exchanged, Error> {
    // What is written down of its requests has the defaults in each.
    hold.grow(batch.added())?;
    let mut defaults = Vec::new();
    for request in batch.theirs() {
        let requester = core.access.requester(request.credentials.clone());
        defaults.push(requester.default_bucket(&request.path).await?);
    }
    let read = {
        let (batch, headers) = (Arc::clone(batch), parts.headers.clone());
        move || -> Arc<[Write]> {
            batch.theirs().zip(defaults).map(|(request, default)| request.write(&headers, default)).collect()
        }
    };
    let writes = aside::for_write(batch.work(), read).await?;
    let is_read = writes.iter().all(Write::is_nothing);
    let passing = core.app.writes.begin(writes).await?;
    let mut parts = parts.clone();
    // What comes back has to be read here.
    parts.headers.remove(header::ACCEPT_ENCODING);
    let (answer, body, is_shortened) = if is_read {
        let (answer, body) = forward::exchange(core, parts, body, peer, hold).await?;
        (answer, body, false)
    } else {
        let answer = forward::stream(core, forward::with_body(parts, body), peer).await?;
        let (answer, body) = answer.into_parts();
        let (body, is_shortened) = shortened::read(body, core.app.settings.limits.body_limit(), hold).await?;
        (answer, body, is_shortened)
    };
    if answer.status != StatusCode::OK {
        passing.failed(answer.status).await?;
        return Ok(Exchanged { answer, body, each: Vec::new() });
    }
    let read = {
        let body = body.clone();
        move || read_answers(&body)
    };
    let length = body.len();
    let (each, answers) =
        if is_read { aside::run(length, read).await } else { aside::for_write(length, read).await }?;
    match answers {
        Some(answers) => passing.answered(answers).await?,
        None => passing.doubtful().await?,
    }
    if is_shortened {
        return Err(UpstreamError::TooLarge.into());
    }
    Ok(Exchanged { answer, body, each })
}

/// The answers in the answer to a batch, and what they say, where all of them can be read.
fn read_answers(body: &Bytes) -> (Vec<Bytes>, Option<Arc<[Answer]>>) {
    let Ok(Answers { responses }) = serde_json::from_slice(body) else { return (Vec::new(), None) };
    let read = |raw: &&RawValue| {
        let answer: Answered<'_> = serde_json::from_str(raw.get()).ok()?;
        let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let part = answer.body.map(|part| body.slice_ref(part.get().as_bytes()));
        Some(Answer::read(status, &part.unwrap_or_default(), answer.headers.modified()))
    };
    let answers = responses.iter().map(read).collect();
    (responses.iter().map(|raw| body.slice_ref(raw.get().as_bytes())).collect(), answers)
}
