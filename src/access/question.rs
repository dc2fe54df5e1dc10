//! The question whether somebody may read an object and, where it is a bucket or a collection, all that is in it.
//!
//! A status alone does not tell. Kinto shows the attributes of a bucket or a collection to those, too, who may merely create
//! something in it, and a list with whatever they may see to those who may see one thing of it. But it says that something
//! is not there only to those who may read all that is. So two things are asked for with the requester's own credentials: the
//! object, and something in it with an id made up for the question. Both go up in one batch, or one after the other where
//! the upstream takes none.
//!
//! It is never asked below `/buckets/default`, where asking makes what is asked for.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Response, StatusCode};
use uuid::Uuid;

use super::{Granted, Requester, Verdict};
use crate::aside;
use crate::journal::Object;
use crate::kinto::is_absence;
use crate::upstream::kinto::{KintoError, answers_of_batch, last_modified};
use crate::upstream::{BatchSender, Refusal, UpstreamError};

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
    let paths = [uri, absent];
    let [uri, absent] = &paths;
    let (shown, absence) = match both(requester, &paths).await? {
        Some((shown, absence)) => (shown, Some(absence)),
        None => (requester.source().get(uri).await?, None),
    };
    if shown.status() != StatusCode::OK {
        return refusal(shown);
    }
    let absence = match absence {
        Some(absence) => absence,
        None => requester.source().get(absent).await?,
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
    let metadata = read(shown.into_body(), last_modified).await?;
    Ok(Verdict::Granted(Granted { metadata, stale: false }))
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
    paths: &[String; 2],
) -> Result<Option<(Response<Bytes>, Response<Bytes>)>, UpstreamError> {
    if requester.upstream().batches().refusal().is_some() {
        return Ok(None);
    }
    let answer = requester.source().batch(&Method::GET, paths).await?;
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
    let answers = read(answer.into_body(), |body| answers_of_batch(body, 2)).await?;
    let mut answers = answers.map_err(KintoError::into_failure)?.into_iter();
    Ok(answers.next().zip(answers.next()))
}
