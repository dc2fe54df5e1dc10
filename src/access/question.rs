//! The question whether somebody may read an object and, where it is a bucket or a collection, all that is in it.
//!
//! A status alone does not tell. Kinto shows the attributes of a bucket or a collection to those, too, who may merely create
//! something in it, and a list with whatever they may see to those who may see one thing of it. But it says that something
//! is not there only to those who may read all that is. So the object is asked for with the requester's own credentials, and
//! something of each kind that is in it, with an id made up for the question: Kinto's settings may let somebody read one kind
//! and not another. All go up in one batch, or one after the other where the upstream takes none.
//!
//! It is never asked below `/buckets/default`, where asking makes what is asked for.

use std::iter;
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

/// Asks for an object, and for something of each kind in it that nobody has.
pub(super) async fn ask_to_read(requester: &Requester, object: &Object) -> Result<Verdict, UpstreamError> {
    let (uri, absent) = (object.to_string(), absent_in(object));
    let at_once = if absent.is_empty() {
        None
    } else {
        let paths: Vec<String> =
            iter::once(&uri).chain(absent.iter().map(|(path, _)| path)).cloned().collect();
        at_once(requester, &paths).await?
    };
    let mut answers = at_once.unwrap_or_default().into_iter();
    let mut answer = async |path: &str| match answers.next() {
        Some(answer) => Ok(answer),
        None => requester.source().get(path).await,
    };
    let shown = answer(&uri).await?;
    if shown.status() != StatusCode::OK {
        return refusal(shown);
    }
    for (path, kind) in absent {
        let absence = answer(&path).await?;
        if !is_absence(absence.status(), absence.body(), kind) {
            return refusal(absence);
        }
    }
    granted(shown).await
}

/// What nobody has in an object, and what Kinto says is not there.
fn absent_in(object: &Object) -> Vec<(String, &'static str)> {
    let made_up = Uuid::new_v4();
    match object {
        Object::Bucket(_) => vec![
            (format!("{object}/groups/{made_up}"), "group"),
            (format!("{object}/collections/{made_up}"), "collection"),
            (format!("{object}/collections/{made_up}/records/{made_up}"), "collection"),
        ],
        Object::Collection(..) => vec![(format!("{object}/records/{made_up}"), "record")],
        Object::Group(..) | Object::Record(..) => Vec::new(),
    }
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

/// Asks for all at once; `None` where the upstream takes no batch.
async fn at_once(
    requester: &Requester,
    paths: &[String],
) -> Result<Option<Vec<Response<Bytes>>>, UpstreamError> {
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
    let questions = paths.len();
    let answers = read(answer.into_body(), move |body| answers_of_batch(body, questions)).await?;
    answers.map(Some).map_err(KintoError::into_failure)
}
