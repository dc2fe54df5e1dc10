//! The bucket that each requester has for themself and calls `default`, on the sidecar's own endpoints.
//!
//! Follows `kinto.plugins.default_bucket`: what is asked for there is made when it is first asked for. So permissions are
//! asked for under the bucket's real id. Only where that is not there, the upstream is asked under the name `default`, and
//! makes it.

use std::sync::Arc;

use http::StatusCode;

use crate::access::{Requester, Verdict};
use crate::app::Core;
use crate::error::Error;
use crate::journal::Object;
use crate::kinto::{CollectionKey, DEFAULT_BUCKET};
use crate::upstream::Refusal;

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
    core.app.writes.make(&key.uri(), requester).await?;
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
    core.app.writes.make(&Object::Bucket(bucket.to_string()).to_string(), requester).await?;
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
    let answer = core.app.writes.make(&format!("/buckets/{DEFAULT_BUCKET}"), requester).await?;
    match own {
        Some(own) => Ok(own.to_string()),
        None if answer.status() == StatusCode::UNAUTHORIZED => {
            Err(Error::Refused(Refusal::new(answer).into()))
        }
        // The upstream knows of no such alias.
        None => Ok(bucket.to_owned()),
    }
}
