//! The question whether somebody may read an object and, where it is a bucket or a collection, all that is in it.
//!
//! A status alone does not tell. Kinto shows the attributes of a bucket or a collection to those, too, who may merely create
//! something in it, and a list with whatever they may see to those who may see one thing of it. But it says that something
//! is not there only to those who may read all that is. So two things are asked for with the requester's own credentials: the
//! object, and something in it with an id made up for the question. Both go up in one batch, or one after the other where
//! the upstream takes none.
//!
//! It is never asked below `/buckets/default`, where asking makes what is asked for.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{Response, StatusCode};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{Granted, Refusal, Requester, Verdict};
use crate::aside;
use crate::journal::Object;
use crate::kinto::{Timestamp, batch_path, is_absence};
use crate::upstream::{BatchSender, UpstreamError};

#[derive(Deserialize)]
struct Shown {
    data: ShownData,
}

#[derive(Deserialize)]
struct ShownData {
    last_modified: Timestamp,
}

#[derive(Deserialize)]
struct Batch<'b> {
    #[serde(borrow)]
    responses: Vec<SubAnswer<'b>>,
}

#[derive(Deserialize)]
struct SubAnswer<'b> {
    status: u16,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(borrow, default)]
    body: Option<&'b RawValue>,
}

/// Asks for an object, and for something in it that nobody has.
pub(super) async fn ask_to_read(requester: &Requester, object: &Object) -> Result<Verdict, UpstreamError> {
    let uri = object.to_string();
    let (list, kind) = match object {
        Object::Bucket(_) => ("groups", "group"),
        Object::Collection(..) => ("records", "record"),
        Object::Group(..) | Object::Record(..) => {
            let answer = requester.source().get(&uri).await?;
            return if answer.status() == StatusCode::OK { granted(answer).await } else { refusal(answer) };
        }
    };
    let absent = format!("{uri}/{list}/{}", Uuid::new_v4());
    let together = both(requester, [&uri, &absent]).await?;
    let (shown, absence) = match together {
        Some((shown, absence)) => (shown, Some(absence)),
        None => (requester.source().get(&uri).await?, None),
    };
    if shown.status() != StatusCode::OK {
        return refusal(shown);
    }
    let absence = match absence {
        Some(absence) => absence,
        None => requester.source().get(&absent).await?,
    };
    if is_absence(absence.status(), absence.body(), kind) { granted(shown).await } else { refusal(absence) }
}

/// What the upstream answers to somebody who may not.
pub(super) fn refusal(answer: Response<Bytes>) -> Result<Verdict, UpstreamError> {
    match answer.status() {
        // Kinto says 400 of an id that its generator would not make.
        StatusCode::BAD_REQUEST
        | StatusCode::UNAUTHORIZED
        | StatusCode::FORBIDDEN
        | StatusCode::NOT_FOUND
        | StatusCode::GONE => Ok(Verdict::Refused(Arc::new(Refusal::new(answer)))),
        status => Err(UpstreamError::of_status(status, "a question of permission")),
    }
}

async fn granted(shown: Response<Bytes>) -> Result<Verdict, UpstreamError> {
    let shown = read(shown.into_body(), |body| serde_json::from_slice::<Shown>(body).ok()).await?;
    Ok(Verdict::Granted(Granted { metadata: shown.map(|shown| shown.data.last_modified), stale: false }))
}

/// Reads an answer. How large an object is, is up to who writes it.
async fn read<T: Send + 'static>(
    body: Bytes,
    parse: impl FnOnce(&[u8]) -> T + Send + 'static,
) -> Result<T, UpstreamError> {
    let read = aside::run(body.len(), move || parse(&body)).await;
    read.map_err(|error| UpstreamError::Unexpected(error.to_string().into()))
}

/// Asks for both at once; `None` where the upstream takes no batch.
async fn both(
    requester: &Requester,
    paths: [&str; 2],
) -> Result<Option<(Response<Bytes>, Response<Bytes>)>, UpstreamError> {
    if requester.upstream().batches().refusal().is_some() {
        return Ok(None);
    }
    let requests = paths.map(|path| json!({"path": batch_path(path)}));
    let body = json!({"defaults": {"method": "GET"}, "requests": requests}).to_string();
    let answer = requester.source().batch(body).await?;
    match answer.status() {
        StatusCode::OK => {}
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
            return Err(UpstreamError::of_status(answer.status(), "a question of permission"));
        }
        status => {
            requester.upstream().batches().answered(status, BatchSender::Requester);
            return Ok(None);
        }
    }
    let answers = read(answer.into_body(), two_of_batch).await?;
    answers.map(Some).ok_or_else(|| UpstreamError::Unexpected("an answer to a batch that is none".into()))
}

fn two_of_batch(body: &[u8]) -> Option<(Response<Bytes>, Response<Bytes>)> {
    let batch: Batch<'_> = serde_json::from_slice(body).ok()?;
    let [shown, absence] = &*batch.responses else { return None };
    Some((single(shown)?, single(absence)?))
}

/// A sub-answer as the answer that it would be by itself.
fn single(answer: &SubAnswer<'_>) -> Option<Response<Bytes>> {
    let body = answer.body.map_or_else(Bytes::new, |body| Bytes::copy_from_slice(body.get().as_bytes()));
    let mut single = Response::new(body);
    *single.status_mut() = StatusCode::from_u16(answer.status).ok()?;
    let pairs = answer.headers.iter();
    let pairs = pairs.filter_map(|(name, value)| {
        Some((HeaderName::try_from(name).ok()?, HeaderValue::try_from(value).ok()?))
    });
    *single.headers_mut() = pairs.collect();
    Some(single)
}
