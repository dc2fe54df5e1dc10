//! The bucket that each requester has for themself and calls `default`, on the sidecar's own endpoints.
//!
//! Follows `kinto.plugins.default_bucket`: what is asked for there is made when it is first asked for. So permissions are
//! asked for under the bucket's real id. Only where that is not there, the upstream is asked under the name `default`, and
//! makes it.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, Response};

use crate::access::{Credentials, Verdict};
use crate::app::Core;
use crate::error::Error;
use crate::journal::Object;
use crate::kinto::{CollectionKey, RequestPath};
use crate::writes::Write;
use crate::writes::answer::Answer;

/// The collection that the requester means, and whether they may read it and all of its records.
pub async fn readable(
    core: &Core,
    key: CollectionKey,
    credentials: &Credentials,
) -> Result<(CollectionKey, Verdict), Error> {
    let access = &core.app.access;
    let real = access.resolve(&core.upstream, key.clone(), credentials).await?;
    let verdict = access.may_read(&core.upstream, &real, credentials).await?;
    if real == key || matches!(verdict, Verdict::Granted(_)) {
        return Ok((real, verdict));
    }
    make(core, &key.uri(), credentials).await?;
    let verdict = access.may_read(&core.upstream, &real, credentials).await?;
    Ok((real, verdict))
}

/// The same for a bucket and all that is in it.
pub async fn readable_bucket(
    core: &Core,
    bucket: &Arc<str>,
    credentials: &Credentials,
) -> Result<(Arc<str>, Verdict), Error> {
    let access = &core.app.access;
    let key = CollectionKey { bucket: Arc::clone(bucket), collection: "".into() };
    let real = access.resolve(&core.upstream, key, credentials).await?.bucket;
    let object = Object::Bucket(real.to_string());
    let verdict = access.may_read_object(&core.upstream, &object, credentials).await?;
    if real == *bucket || matches!(verdict, Verdict::Granted(_)) {
        return Ok((real, verdict));
    }
    make(core, &Object::Bucket(bucket.to_string()).to_string(), credentials).await?;
    let verdict = access.may_read_object(&core.upstream, &object, credentials).await?;
    Ok((real, verdict))
}

/// Has the upstream make what stands at a path below `/buckets/default`, and records what it made.
pub async fn make(core: &Core, uri: &str, credentials: &Credentials) -> Result<Response<Bytes>, Error> {
    let app = &core.app;
    let identity = app.access.identity(&core.upstream, credentials).await?;
    let own = identity.default_bucket.filter(|_| identity.user_id.is_some());
    let path = RequestPath::of_uri(uri);
    let read = Write::new(&Method::GET, path, &HeaderMap::new(), credentials.clone(), own.clone());
    let passing = app.writes.begin([read]).await?;
    let answer = core.upstream.ask_as(Method::GET, uri, credentials.headers(), Bytes::new()).await?;
    if let Some(own) = own.filter(|_| answer.status().is_success()) {
        app.access.invalidate_bucket(&own);
    }
    passing.answered([Answer::with_status(answer.status())]).await?;
    Ok(answer)
}
