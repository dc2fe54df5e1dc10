//! Who may read an object and all that is in it, and who may write one.
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
use http::{HeaderMap, Method, StatusCode};

use super::memory::{Answer, Name};
use super::{Granted, Requester, Verdict, question};
use crate::error::Error;
use crate::journal::Object;
use crate::kinto::CollectionKey;
use crate::upstream::kinto::{KintoError, Source};
use crate::upstream::{Refusal, UpstreamError};

/// Greater than any timestamp that Kinto can store.
const IMPOSSIBLE: HeaderValue = HeaderValue::from_static("\"99999999999999999999\"");

/// Ids of records that somebody may read.
pub(super) type SharedRecords = Arc<HashSet<String>>;

impl Answer for SharedRecords {
    fn weight(&self) -> usize {
        self.iter().map(|id| id.len() + 2 * size_of::<String>()).sum()
    }
}

impl Requester {
    /// Whether they may read a collection, which is the collection object and all of its records. `key` is not in the
    /// bucket that everybody calls `default`: see [`Self::resolve`].
    pub async fn may_read(&self, key: &CollectionKey) -> Result<Verdict, Error> {
        let name = Name::collection(key, &self.credentials);
        let collection = || Object::Collection(key.bucket.to_string(), key.collection.to_string());
        self.verdict(name, &key.bucket, collection).await
    }

    /// What is remembered of a permission, or what the upstream says of it now. While it fails, its last yes to those who
    /// show no credentials holds: of what was public it cannot say that it is public no more. Of somebody with credentials
    /// it could have said that they were withdrawn.
    async fn verdict(
        &self,
        name: Name,
        bucket: &str,
        object: impl FnOnce() -> Object,
    ) -> Result<Verdict, Error> {
        let (permissions, epoch) = (self.permissions(), self.access.epoch_for(bucket, &self.credentials));
        let question = || {
            let (object, requester) = (object(), self.clone());
            async move {
                let said = question::ask_to_read(&requester, &object).await;
                let outcome = match &said {
                    Ok(Verdict::Granted(_)) => "granted",
                    Ok(Verdict::Refused(_)) => "refused",
                    Err(_) => "failed",
                };
                metrics::counter!("kinto_sidecar_permission_questions_total", "outcome" => outcome)
                    .increment(1);
                said
            }
        };
        let last = || {
            let remembered =
                || permissions.verdicts.given(name, &epoch, permissions.settings.now().stale_if_error);
            self.is_anonymous().then(remembered).flatten()
        };
        let patience = || last().map(|_| permissions.settings.now().limits.upstream_connect_timeout);
        let error = match permissions.verdicts.get(name, &epoch, permissions.ttl(), patience, question).await
        {
            Ok(verdict) => return Ok(verdict),
            Err(error) => error,
        };
        if let Some(Verdict::Granted(granted)) = last() {
            return Ok(Verdict::Granted(Granted { stale: true, ..granted }));
        }
        tracing::warn!(%error, "the upstream does not say who may read what");
        Err(Error::Unavailable { retry_after: None })
    }

    /// Whether the requester may read an object and, where it is a bucket or a collection, what is in it. Of an object that
    /// is not there, whether they might if it were.
    pub async fn may_read_object(&self, object: &Object) -> Result<Verdict, Error> {
        let Object::Record(bucket, collection, record) = object else {
            return self.may_read_in_bucket(object).await;
        };
        let parent = Object::Collection(bucket.clone(), collection.clone());
        let verdict = self.may_read_in_bucket(&parent).await?;
        if matches!(verdict, Verdict::Granted(_)) {
            return Ok(verdict);
        }
        let key = CollectionKey::new(bucket, collection);
        let shared = self.shared_records(key).await?;
        Ok(if shared.contains(record) { Verdict::open() } else { verdict })
    }

    /// The same for all but records.
    async fn may_read_in_bucket(&self, object: &Object) -> Result<Verdict, Error> {
        let verdict = self.may_read_whole(object).await?;
        match (&verdict, object) {
            // SECURITY: somebody between the sidecar and Kinto may have made this of a 403. The bucket is there to be read.
            (Verdict::Refused(refusal), Object::Collection(bucket, _) | Object::Group(bucket, _))
                if refusal.status() == StatusCode::NOT_FOUND =>
            {
                self.may_read_whole(&Object::Bucket(bucket.clone())).await
            }
            _ => Ok(verdict),
        }
    }

    async fn may_read_whole(&self, object: &Object) -> Result<Verdict, Error> {
        if let Object::Collection(bucket, collection) = object {
            return self.may_read(&CollectionKey::new(bucket, collection)).await;
        }
        let name = Name::new("object", &[&object.to_string()], &self.credentials);
        self.verdict(name, object.bucket(), || object.clone()).await
    }

    /// The records of a collection that are shared with somebody who may not read the collection.
    async fn shared_records(&self, key: CollectionKey) -> Result<SharedRecords, Error> {
        let name = Name::new("shared", &[&key.bucket, &key.collection], &self.credentials);
        let epoch = self.access.epoch_for(&key.bucket, &self.credentials);
        let question = || {
            let source = self.source();
            async move { ask_for_shared(&source, &key).await }
        };
        let permissions = self.permissions();
        Ok(permissions.shared.get(name, &epoch, permissions.ttl(), || None, question).await?)
    }

    /// Whether the requester may write an object. The upstream is asked each time.
    pub async fn may_write(&self, object: &Object) -> Result<Verdict, Error> {
        let json = HeaderValue::from_static("application/json");
        let headers = HeaderMap::from_iter([(IF_MATCH, IMPOSSIBLE), (CONTENT_TYPE, json)]);
        // Even an upstream that heeds no precondition changes nothing then.
        let body = Bytes::from_static(b"{\"data\":{}}");
        let answer = self.source().send(Method::PATCH, &object.to_string(), headers, body).await?;
        Ok(match answer.status() {
            StatusCode::PRECONDITION_FAILED => Verdict::open(),
            // The upstream is read-only.
            StatusCode::METHOD_NOT_ALLOWED => Verdict::Refused(Arc::new(Refusal::new(answer))),
            _ => question::refusal(answer)?,
        })
    }
}

async fn ask_for_shared(source: &Source, key: &CollectionKey) -> Result<SharedRecords, UpstreamError> {
    let mut shared = HashSet::new();
    let mut pages = source.pages(format!("{}?_fields=id", key.records_uri())).names();
    loop {
        match pages.next().await {
            Ok(Some(page)) => shared.extend(page.rows.into_iter().map(|row| row.id.to_string())),
            Ok(None) | Err(KintoError::Refused(_) | KintoError::Absent) => return Ok(Arc::new(shared)),
            Err(error) => return Err(error.into_failure()),
        }
    }
}
