//! The one way to ask Kinto, as the service account or as a requester.
//!
//! Why there is no answer is one [`KintoError`], whose cases say what it means; each asker decides by them. Lists are read
//! by one stream of [`Pages`].

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, Response, StatusCode, header};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::kinto::{CollectionKey, Timestamp, is_absence, segment, selector};
use crate::upstream::{BatchSender, Suspense, Turn, Upstream, UpstreamError};
use crate::wire::body::Body;

mod batch;
mod error;
pub mod heads;
mod pages;
mod sizes;

pub use batch::answers_of_batch;
pub use error::KintoError;
pub use pages::{KintoPage, NewRow, Pages};
pub(super) use sizes::PageSizes;

/// How many objects one question names by their ids.
const IDS_AT_ONCE: usize = 50;

/// The collection object: its attributes, without permissions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// The attributes' JSON, to the byte.
    pub json: Bytes,
    /// The `last_modified` of the collection object, which is not that of its records.
    pub last_modified: Timestamp,
}

/// What a list says of itself without its rows.
#[derive(Debug, Clone, Copy)]
pub struct Census {
    /// The list's timestamp.
    pub timestamp: Timestamp,
    /// The number of live objects in it.
    pub total: Option<u64>,
    /// The upstream's time, where it says that: to the second.
    pub date: Option<Timestamp>,
}

#[derive(Deserialize)]
struct Data<T> {
    data: T,
}

#[derive(Deserialize)]
struct Stamp {
    last_modified: Timestamp,
}

/// Whom to ask, and on whose behalf.
#[derive(Debug, Clone)]
pub struct Source {
    upstream: Upstream,
    /// The requester's own credentials; the service account's where there are none here.
    credentials: Option<HeaderMap>,
    /// Whom to tell of each answer.
    suspense: Option<Arc<Suspense>>,
}

impl Source {
    /// Asks as the service account.
    pub fn new(upstream: Upstream) -> Self {
        Self { upstream, credentials: None, suspense: None }
    }

    /// Asks as the requester whose credentials these headers are.
    pub fn on_behalf(upstream: Upstream, credentials: HeaderMap) -> Self {
        Self { upstream, credentials: Some(credentials), suspense: None }
    }

    /// In whose name it asks.
    pub(super) fn sender(&self) -> BatchSender {
        if self.credentials.is_none() { BatchSender::Own } else { BatchSender::Requester }
    }

    /// Whether the upstream fails at present.
    pub fn fails(&self) -> bool {
        self.upstream.outage().lasts().is_some()
    }

    /// A place for all that is asked while it is held, see [`Upstream::turn`].
    pub async fn turn(&self) -> Result<Turn, UpstreamError> {
        self.upstream.turn().await
    }

    /// The same source, which tells those of each answer who wait for what comes of all of them.
    #[must_use]
    pub fn telling(&self, suspense: &Arc<Suspense>) -> Self {
        Self { suspense: Some(Arc::clone(suspense)), ..self.clone() }
    }

    /// Reads the collection object; `None` where it is still the one of `known`.
    pub async fn metadata(
        &self,
        key: &CollectionKey,
        known: Option<&Metadata>,
    ) -> Result<Option<Metadata>, KintoError> {
        let mut headers = HeaderMap::new();
        if let Some(known) = known {
            headers.insert(header::IF_NONE_MATCH, known.last_modified.etag());
        }
        let answer = self.ask(Method::GET, &key.uri(), headers).await?;
        if answer.status() == StatusCode::NOT_MODIFIED {
            return Ok(None);
        }
        KintoError::check(answer.status())?;
        let body = answer.into_body();
        let Data { data } = parse::<Data<&RawValue>>(&body)?;
        let stamp: Stamp = parse(data.get().as_bytes())?;
        let json = body.slice_ref(data.get().as_bytes());
        // Kinto has no 304 for an object whose timestamp is none.
        let is_known = known.is_some_and(|known| known.json == json);
        Ok((!is_known).then_some(Metadata { json, last_modified: stamp.last_modified }))
    }

    /// Reads what is at a path, whatever the upstream answers.
    pub async fn get(&self, path: &str) -> Result<Response<Bytes>, UpstreamError> {
        self.ask(Method::GET, path, HeaderMap::new()).await
    }

    /// Reads one object with its permissions, as the upstream shows it.
    pub async fn object(&self, uri: &str) -> Result<Bytes, KintoError> {
        let answer = self.get(uri).await?;
        KintoError::check(answer.status())?;
        Ok(answer.into_body())
    }

    /// The records timestamp, and the number of live records.
    pub async fn head(&self, key: &CollectionKey) -> Result<(Timestamp, Option<u64>), KintoError> {
        let Census { timestamp, total, .. } = self.census(&key.records_uri()).await?;
        Ok((timestamp, total))
    }

    /// Asks a list, at this path and query, about itself.
    pub async fn census(&self, list: &str) -> Result<Census, KintoError> {
        let answer = self.ask(Method::HEAD, list, HeaderMap::new()).await?;
        Census::of(&answer)
    }

    /// The greatest `_since` that the upstream takes, on the safe side.
    pub fn latest_since(&self) -> Timestamp {
        self.upstream.latest_since()
    }

    /// Finds which of these rows of a list only look like tombstones; whether the list was still the one of `timestamp`
    /// then: if not, one of them may have been changed meanwhile, and is there in a newer version. `is_known` says of which
    /// rows it is known that they are tombstones.
    ///
    /// An object whose data is `"deleted": true` cannot be told from a tombstone. Without a filter of `last_modified`,
    /// the upstream shows only what is alive.
    pub async fn tell_alive(
        &self,
        list: &str,
        timestamp: Timestamp,
        rows: &mut [NewRow],
        is_known: impl Fn(Timestamp) -> bool,
    ) -> Result<bool, KintoError> {
        let mut suspects: HashMap<Arc<str>, &mut NewRow> = rows
            .iter_mut()
            .filter(|row| row.deleted && !is_known(row.last_modified))
            .map(|row| (row.id.clone(), row))
            .collect();
        if suspects.is_empty() {
            return Ok(true);
        }
        let filter = if suspects.len() > IDS_AT_ONCE {
            "deleted=true".to_owned()
        } else {
            format!("in_id={}", in_list(suspects.keys().map(|id| &**id)))
        };
        let mut pages = self.pages(format!("{list}?{filter}&_fields=id"));
        let mut is_same = true;
        while let Some(page) = pages.next().await? {
            is_same &= page.timestamp == timestamp;
            for alive in page.rows {
                if let Some(row) = suspects.get_mut(&alive.id) {
                    row.deleted = row.last_modified != alive.last_modified;
                }
            }
        }
        Ok(is_same)
    }

    /// Whether all of a list can be seen, of objects of a `kind`; the refusal where it cannot. Lists have just what somebody
    /// is shown, but that something is not there Kinto says only to those who may read all that is.
    pub async fn lacks_some(&self, list: &str, kind: &str) -> Result<Option<StatusCode>, KintoError> {
        let absent = format!("{list}/{}", uuid::Uuid::new_v4());
        let answer = self.get(&absent).await?;
        let status = answer.status();
        let is_refused = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
        Ok((is_refused && !is_absence(status, answer.body(), kind)).then_some(status))
    }

    /// Whether there is no such bucket. Kinto has an empty list of what is in none.
    pub async fn lacks_bucket(&self, bucket: &str) -> Result<bool, KintoError> {
        let path = format!("/buckets/{}", segment(bucket));
        Ok(self.ask(Method::HEAD, &path, HeaderMap::new()).await?.status() == StatusCode::NOT_FOUND)
    }

    /// As [`Self::get`], for an answer that is read while it comes.
    async fn get_on(&self, path: &str) -> Result<Response<Body>, UpstreamError> {
        self.upstream.ask_on(Method::GET, path, self.signed(HeaderMap::new()), Bytes::new()).await
    }

    /// These headers with the credentials of whoever asks.
    fn signed(&self, mut headers: HeaderMap) -> HeaderMap {
        let Some(credentials) = &self.credentials else { return self.upstream.authorized(headers) };
        headers.extend(credentials.clone());
        headers
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
    ) -> Result<Response<Bytes>, UpstreamError> {
        self.send(method, path, headers, Bytes::new()).await
    }

    /// Asks for anything.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response<Bytes>, UpstreamError> {
        let answer = self.upstream.ask_as(method, path, self.signed(headers), body).await;
        if let Some(suspense) = &self.suspense {
            suspense.heard();
        }
        answer
    }
}

impl Census {
    /// What an answer to a `HEAD` says.
    fn of(answer: &Response<Bytes>) -> Result<Self, KintoError> {
        KintoError::check(answer.status())?;
        let headers = answer.headers();
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let date = text("date").and_then(|date| httpdate::parse_http_date(date).ok());
        Ok(Self {
            timestamp: timestamp(headers)?,
            total: text("total-objects").and_then(|total| total.parse().ok()),
            date: date.and_then(Timestamp::of),
        })
    }
}

/// The timestamp of an object, as an answer shows it.
pub fn last_modified(body: &[u8]) -> Option<Timestamp> {
    parse::<Data<Stamp>>(body).ok().map(|object| object.data.last_modified)
}

/// Ids as the value of an `in_id`.
pub fn in_list<'a>(ids: impl Iterator<Item = &'a str>) -> String {
    ids.map(selector).collect::<Vec<_>>().join(",")
}

fn timestamp(headers: &HeaderMap) -> Result<Timestamp, KintoError> {
    headers
        .get(header::ETAG)
        .and_then(Timestamp::from_etag)
        .ok_or_else(|| KintoError::Unreadable("a list without a timestamp as its ETag".into()))
}

fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, KintoError> {
    serde_json::from_slice(body).map_err(|error| KintoError::Unreadable(error.to_string()))
}
