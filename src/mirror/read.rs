//! The questions that a mirror asks the upstream about one collection.

use bytes::Bytes;
use http::{HeaderMap, Method, Response, StatusCode, header};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::content::{Metadata, NewRow};
use crate::kinto::{CollectionKey, Timestamp};
use crate::upstream::{Upstream, UpstreamError};

/// Why a collection could not be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// There is no such collection.
    #[error("no such collection")]
    Gone,
    /// The service account may not read it.
    #[error("the service account may not read the collection ({0})")]
    Refused(StatusCode),
    /// The upstream could not be asked, or did not answer as Kinto does.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// The upstream answered with an error of its own.
    #[error("the upstream answered {0}")]
    Status(StatusCode),
    /// The upstream's answer could not be understood.
    #[error("the upstream's answer is not what Kinto gives: {0}")]
    Garbled(String),
    /// The collection kept changing while it was read.
    #[error("the collection kept changing while it was read")]
    Unsettled,
    /// The collection takes more memory than all mirrors together may.
    #[error("the collection is larger than sidecar.cache_size")]
    Oversize,
}

/// One page of a list.
#[derive(Debug)]
pub struct Page {
    /// The list's timestamp when the page was read.
    pub timestamp: Timestamp,
    /// The rows as Kinto sorted them.
    pub rows: Vec<NewRow>,
    /// Where the next page is, relative to the API root.
    pub next: Option<String>,
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
struct Head {
    id: String,
    last_modified: Timestamp,
    #[serde(default)]
    deleted: serde_json::Value,
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
}

impl Source {
    /// Asks as the service account.
    pub fn new(upstream: Upstream) -> Self {
        Self { upstream, credentials: None }
    }

    /// Asks as the requester whose credentials these headers are.
    pub fn on_behalf(upstream: Upstream, credentials: HeaderMap) -> Self {
        Self { upstream, credentials: Some(credentials) }
    }

    /// Reads the collection object; `None` where it is still the one of `known`.
    pub async fn metadata(
        &self,
        key: &CollectionKey,
        known: Option<Timestamp>,
    ) -> Result<Option<Metadata>, ReadError> {
        let mut headers = HeaderMap::new();
        if let Some(known) = known {
            headers.insert(header::IF_NONE_MATCH, known.etag());
        }
        let answer = self.ask(Method::GET, &key.uri(), headers).await?;
        if answer.status() == StatusCode::NOT_MODIFIED {
            return Ok(None);
        }
        refuse(answer.status())?;
        let body = answer.into_body();
        let Data { data } = parse::<Data<&RawValue>>(&body)?;
        let stamp: Stamp = parse(data.get().as_bytes())?;
        let json = body.slice_ref(data.get().as_bytes());
        Ok(Some(Metadata { json, last_modified: stamp.last_modified }))
    }

    /// Reads one object with its permissions, as the upstream shows it.
    pub async fn object(&self, uri: &str) -> Result<Bytes, ReadError> {
        let answer = self.ask(Method::GET, uri, HeaderMap::new()).await?;
        refuse(answer.status())?;
        Ok(answer.into_body())
    }

    /// The timestamp of a list.
    pub async fn list_timestamp(&self, uri: &str) -> Result<Timestamp, ReadError> {
        let answer = self.ask(Method::HEAD, uri, HeaderMap::new()).await?;
        refuse(answer.status())?;
        timestamp(answer.headers())
    }

    /// The records timestamp, and the number of live records.
    pub async fn head(&self, key: &CollectionKey) -> Result<(Timestamp, Option<u64>), ReadError> {
        let Census { timestamp, total, .. } = self.census(&key.records_uri()).await?;
        Ok((timestamp, total))
    }

    /// Asks a list, at this path and query, about itself.
    pub async fn census(&self, list: &str) -> Result<Census, ReadError> {
        let answer = self.ask(Method::HEAD, list, HeaderMap::new()).await?;
        refuse(answer.status())?;
        let headers = answer.headers();
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let date = text("date").and_then(|date| httpdate::parse_http_date(date).ok());
        Ok(Census {
            timestamp: timestamp(headers)?,
            total: text("total-objects").and_then(|total| total.parse().ok()),
            date: date.and_then(Timestamp::of),
        })
    }

    /// Reads one page of a list of rows at `path`, relative to the API root.
    pub async fn page(&self, path: &str) -> Result<Page, ReadError> {
        let answer = self.ask(Method::GET, path, HeaderMap::new()).await?;
        refuse(answer.status())?;
        let timestamp = timestamp(answer.headers())?;
        let next = match answer.headers().get("next-page") {
            None => None,
            Some(next) => Some(
                next.to_str()
                    .ok()
                    .and_then(|next| self.upstream.relative(next))
                    .ok_or_else(|| ReadError::Garbled("Next-Page leads elsewhere".into()))?,
            ),
        };
        let body = answer.into_body();
        let Data { data } = parse::<Data<Vec<&RawValue>>>(&body)?;
        let rows = data.into_iter().map(|json| {
            let head: Head = parse(json.get().as_bytes())?;
            Ok(NewRow {
                id: head.id.into(),
                last_modified: head.last_modified,
                deleted: head.deleted == serde_json::Value::Bool(true),
                json: body.slice_ref(json.get().as_bytes()),
            })
        });
        Ok(Page { timestamp, rows: rows.collect::<Result<_, ReadError>>()?, next })
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        mut headers: HeaderMap,
    ) -> Result<Response<Bytes>, UpstreamError> {
        match &self.credentials {
            None => self.upstream.ask(method, path, headers, Bytes::new()).await,
            Some(credentials) => {
                headers.extend(credentials.clone());
                self.upstream.ask_as(method, path, headers, Bytes::new()).await
            }
        }
    }
}

fn refuse(status: StatusCode) -> Result<(), ReadError> {
    match status {
        StatusCode::OK => Ok(()),
        StatusCode::NOT_FOUND | StatusCode::GONE => Err(ReadError::Gone),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(ReadError::Refused(status)),
        status => Err(ReadError::Status(status)),
    }
}

fn timestamp(headers: &HeaderMap) -> Result<Timestamp, ReadError> {
    headers
        .get(header::ETAG)
        .and_then(Timestamp::from_etag)
        .ok_or_else(|| ReadError::Garbled("a list without a timestamp as its ETag".into()))
}

fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, ReadError> {
    serde_json::from_slice(body).map_err(|error| ReadError::Garbled(error.to_string()))
}

impl From<ReadError> for crate::error::Error {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Gone => Self::NotFound,
            ReadError::Upstream(error) => Self::Upstream(error),
            // Kinto is overloaded, or a writer was faster: both pass.
            ReadError::Status(
                StatusCode::SERVICE_UNAVAILABLE | StatusCode::CONFLICT | StatusCode::TOO_MANY_REQUESTS,
            ) => Self::Unavailable { retry_after: None },
            ReadError::Garbled(_) | ReadError::Status(_) | ReadError::Refused(_) => {
                Self::Upstream(UpstreamError::Unexpected(error.to_string().into()))
            }
            ReadError::Unsettled | ReadError::Oversize => Self::Unavailable { retry_after: Some(1) },
        }
    }
}
