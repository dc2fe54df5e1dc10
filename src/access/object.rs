//! Who may read an object and all that is in it, and who may write a bucket.
//!
//! Whether somebody may read is what [`super::question`] finds out. Whether somebody may write is told by a write whose
//! precondition cannot hold: Kinto looks at permissions first.
//!
//! Whoever may not read a collection may yet read some of its records. Those are asked for all at once: a history has
//! many more records than collections.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, IF_MATCH};
use http::{Method, StatusCode};

use super::memory::{Answer, Name};
use super::{Access, Credentials, Granted, Refusal, Verdict, question};
use crate::error::Error;
use crate::journal::Object;
use crate::kinto::CollectionKey;
use crate::upstream::kinto::{ReadError, Source};
use crate::upstream::{Upstream, UpstreamError};

/// Greater than any timestamp that Kinto can store.
const IMPOSSIBLE: HeaderValue = HeaderValue::from_static("\"99999999999999999999\"");

/// Ids of records that somebody may read.
pub(super) type SharedRecords = Arc<HashSet<String>>;

impl Answer for SharedRecords {
    fn weight(&self) -> usize {
        self.iter().map(|id| id.len() + 2 * size_of::<String>()).sum()
    }
}

const GRANTED: Verdict = Verdict::Granted(Granted { metadata: None, stale: false });

impl Access {
    /// Whether the requester may read an object and, where it is a bucket or a collection, what is in it. Of an object that
    /// is not there, whether they might if it were.
    pub async fn may_read_object(
        &self,
        upstream: &Upstream,
        object: &Object,
        credentials: &Credentials,
    ) -> Result<Verdict, Error> {
        let Object::Record(bucket, collection, record) = object else {
            return self.may_read_in_bucket(upstream, object, credentials).await;
        };
        let parent = Object::Collection(bucket.clone(), collection.clone());
        let verdict = self.may_read_in_bucket(upstream, &parent, credentials).await?;
        if matches!(verdict, Verdict::Granted(_)) {
            return Ok(verdict);
        }
        let key = CollectionKey::new(bucket, collection);
        let shared = self.shared_records(upstream, key, credentials).await?;
        Ok(if shared.contains(record) { GRANTED } else { verdict })
    }

    /// The same for all but records.
    async fn may_read_in_bucket(
        &self,
        upstream: &Upstream,
        object: &Object,
        credentials: &Credentials,
    ) -> Result<Verdict, Error> {
        let verdict = self.may_read_whole(upstream, object, credentials).await?;
        match (&verdict, object) {
            // SECURITY: somebody between the sidecar and Kinto may have made this of a 403. The bucket is there to be read.
            (Verdict::Refused(refusal), Object::Collection(bucket, _) | Object::Group(bucket, _))
                if refusal.status() == StatusCode::NOT_FOUND =>
            {
                self.may_read_whole(upstream, &Object::Bucket(bucket.clone()), credentials).await
            }
            _ => Ok(verdict),
        }
    }

    async fn may_read_whole(
        &self,
        upstream: &Upstream,
        object: &Object,
        credentials: &Credentials,
    ) -> Result<Verdict, Error> {
        if let Object::Collection(bucket, collection) = object {
            return self.may_read(upstream, &CollectionKey::new(bucket, collection), credentials).await;
        }
        let name = Name::new("object", &[&object.to_string()], credentials);
        self.verdict(name, object.bucket(), || object.clone(), upstream, credentials).await
    }

    /// The records of a collection that are shared with somebody who may not read the collection.
    async fn shared_records(
        &self,
        upstream: &Upstream,
        key: CollectionKey,
        credentials: &Credentials,
    ) -> Result<SharedRecords, Error> {
        let name = Name::new("shared", &[&key.bucket, &key.collection], credentials);
        let epoch = self.epoch_for(&key.bucket, credentials);
        let question = || {
            let source = Source::on_behalf(upstream.clone(), credentials.headers());
            async move { ask_for_shared(&source, &key).await }
        };
        Ok(self.shared.get(name, &epoch, self.ttl, || None, question).await?)
    }

    /// Whether the requester may write a bucket. The upstream is asked each time.
    pub async fn may_write_bucket(
        &self,
        upstream: &Upstream,
        bucket: &str,
        credentials: &Credentials,
    ) -> Result<Verdict, Error> {
        let mut headers = credentials.headers();
        headers.insert(IF_MATCH, IMPOSSIBLE);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        // Even an upstream that heeds no precondition changes nothing then.
        let body = Bytes::from_static(b"{\"data\":{}}");
        let uri = Object::Bucket(bucket.to_owned()).to_string();
        let answer = upstream.ask_as(Method::PATCH, &uri, headers, body).await?;
        Ok(match answer.status() {
            StatusCode::PRECONDITION_FAILED => GRANTED,
            // The upstream is read-only.
            StatusCode::METHOD_NOT_ALLOWED => Verdict::Refused(Arc::new(Refusal::new(answer))),
            _ => question::refusal(answer)?,
        })
    }
}

async fn ask_for_shared(source: &Source, key: &CollectionKey) -> Result<SharedRecords, UpstreamError> {
    let mut shared = HashSet::new();
    let mut asked = source.page(&format!("{}?_fields=id", key.records_uri())).await;
    loop {
        let page = match asked {
            Ok(page) => page,
            Err(ReadError::Refused(_) | ReadError::Gone) => break,
            Err(ReadError::Upstream(error)) => return Err(error),
            Err(error) => return Err(UpstreamError::Unexpected(error.to_string().into())),
        };
        shared.extend(page.rows.into_iter().map(|row| row.id.to_string()));
        match page.next {
            Some(next) => asked = source.follow(next).await,
            None => break,
        }
    }
    Ok(Arc::new(shared))
}
