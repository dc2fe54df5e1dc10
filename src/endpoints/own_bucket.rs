//! The bucket that each requester has for themself and calls `default`, on the sidecar's own endpoints.
//!
//! Follows `kinto.plugins.default_bucket`: what is asked for there is made when it is first asked for. So permissions are
//! asked for under the bucket's real id. Only where that is not there, the upstream is asked under the name `default`, and
//! makes it.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};

use crate::access::{Requester, Verdict};
use crate::app::Core;
use crate::error::Error;
use crate::journal::Object;
use crate::kinto::{CollectionKey, DEFAULT_BUCKET, RequestPath};
use crate::upstream::Refusal;
use crate::writes::Write;
use crate::writes::answer::Answer;

/// The collection that the requester means, and whether they may read it and all of its records.
pub async fn readable(
    core: &Core,
    key: CollectionKey,
    requester: &Requester,
) -> Result<(CollectionKey, Verdict), Error> {
    let bucket = requester.resolve(&key.bucket).await?;
    let real = CollectionKey { bucket, collection: Arc::clone(&key.collection) };
    let verdict = requester.may_read(&real).await?;
    if real == key || matches!(verdict, Verdict::Granted(_)) {
        return Ok((real, verdict));
    }
    make(core, &key.uri(), requester).await?;
    let verdict = requester.may_read(&real).await?;
    Ok((real, verdict))
}

/// The same for a bucket and all that is in it.
pub async fn readable_bucket(
    core: &Core,
    bucket: &Arc<str>,
    requester: &Requester,
) -> Result<(Arc<str>, Verdict), Error> {
    let real = requester.resolve(bucket).await?;
    let object = Object::Bucket(real.to_string());
    let verdict = requester.may_read_object(&object).await?;
    if real == *bucket || matches!(verdict, Verdict::Granted(_)) {
        return Ok((real, verdict));
    }
    make(core, &Object::Bucket(bucket.to_string()).to_string(), requester).await?;
    let verdict = requester.may_read_object(&object).await?;
    Ok((real, verdict))
}

/// The bucket whose history the requester means, which is made if it is their own. It fails with the upstream's refusal of
/// somebody who has none.
pub async fn of_history(core: &Core, bucket: &str, requester: &Requester) -> Result<String, Error> {
    if bucket != DEFAULT_BUCKET {
        return Ok(bucket.to_owned());
    }
    let own = requester.identity().await?.default_bucket;
    let answer = make(core, &format!("/buckets/{DEFAULT_BUCKET}"), requester).await?;
    match own {
        Some(own) => Ok(own.to_string()),
        None if answer.status() == StatusCode::UNAUTHORIZED => {
            Err(Error::Refused(Refusal::new(answer).into()))
        }
        // The upstream knows of no such alias.
        None => Ok(bucket.to_owned()),
    }
}

/// Has the upstream make what stands at a path below `/buckets/default`, and records what it made.
pub async fn make(core: &Core, uri: &str, requester: &Requester) -> Result<http::Response<Bytes>, Error> {
    let app = &core.app;
    let own = requester.identity().await?.default_bucket;
    let path = RequestPath::of_uri(uri);
    let credentials = requester.credentials.clone();
    let read = Write::new(&Method::GET, path, &HeaderMap::new(), credentials, own.clone());
    let passing = app.writes.begin([read]).await?;
    let answer = requester.source().get(uri).await?;
    if let Some(own) = own.filter(|_| answer.status().is_success()) {
        app.access.invalidate_bucket(&own);
    }
    passing.answered([Answer::with_status(answer.status())]).await?;
    Ok(answer)
}
