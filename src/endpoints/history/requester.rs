//! Whose history a request is about, and who asks.
//!
//! Follows `kinto.plugins.default_bucket`: `default` is a name for a bucket of the requester's own, which is made when
//! it is first asked for, and which nobody anonymous has.

use std::ops::ControlFlow;

use http::{HeaderMap, StatusCode};

use crate::access::{Credentials, Refusal};
use crate::app::Core;
use crate::endpoints::own_bucket;
use crate::error::Error;
use crate::kinto::DEFAULT_BUCKET;
use crate::wire::body::Response;

/// Who asks, and the bucket that they mean.
#[derive(Debug, Clone)]
pub struct Requester {
    /// The bucket's id.
    pub bucket: String,
    /// Who asks.
    pub credentials: Credentials,
}

impl Requester {
    /// Reads who asks for `bucket`, as it stands in the path. The refusal is the upstream's.
    pub async fn of(
        core: &Core,
        headers: &HeaderMap,
        bucket: &str,
    ) -> Result<ControlFlow<Response, Self>, Error> {
        let credentials = Credentials::of(headers);
        if bucket != DEFAULT_BUCKET {
            return Ok(ControlFlow::Continue(Self { bucket: bucket.to_owned(), credentials }));
        }
        let identity = core.app.access.identity(&core.upstream, &credentials).await?;
        let default = identity.default_bucket.filter(|_| identity.user_id.is_some());
        let answer = own_bucket::make(core, &format!("/buckets/{DEFAULT_BUCKET}"), &credentials).await?;
        match default {
            Some(own) => Ok(ControlFlow::Continue(Self { bucket: own.to_string(), credentials })),
            None if answer.status() == StatusCode::UNAUTHORIZED => {
                Ok(ControlFlow::Break(Refusal::new(answer).replay()))
            }
            // The upstream knows of no such alias.
            None => Ok(ControlFlow::Continue(Self { bucket: DEFAULT_BUCKET.to_owned(), credentials })),
        }
    }
}
