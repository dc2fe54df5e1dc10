//! The questions that a mirror asks the upstream about one collection.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::kinto::head::Head;
use crate::kinto::{CollectionKey, Timestamp, selector};
use crate::upstream::pages::Pages;
use crate::upstream::{Suspense, Upstream, UpstreamError};

/// How many objects one question names by their ids.
const IDS_AT_ONCE: usize = 50;

/// How many rows a page has that is read instead of one that is too large, from one to the next.
const SMALLER: [usize; 2] = [500, 20];

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

impl ReadError {
    /// Whether the upstream may say something else by and by, as opposed to an answer that says what it is asked for
    /// cannot be had.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Upstream(error) => !matches!(error, UpstreamError::Ended(_)),
            Self::Garbled(_) => true,
            Self::Status(status) => {
                !status.is_client_error()
                    || matches!(
                        *status,
                        StatusCode::REQUEST_TIMEOUT | StatusCode::CONFLICT | StatusCode::TOO_MANY_REQUESTS
                    )
            }
            Self::Gone | Self::Refused(_) | Self::Unsettled | Self::Oversize => false,
        }
    }
}

/// A row as read from the upstream.
#[derive(Debug, Clone)]
pub struct NewRow {
    /// The record's id.
    pub id: Arc<str>,
    /// Its timestamp.
    pub last_modified: Timestamp,
    /// Whether it is a tombstone.
    pub deleted: bool,
    /// Whether it says `"deleted": true`, which a live record may, too.
    pub is_marked: bool,
    /// Its JSON, to the byte.
    pub json: Bytes,
}

/// The collection object: its attributes, without permissions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// The attributes' JSON, to the byte.
    pub json: Bytes,
    /// The `last_modified` of the collection object, which is not that of its records.
    pub last_modified: Timestamp,
}

/// One page of a list.
#[derive(Debug)]
pub struct Page {
    /// The list's timestamp when the page was read.
    pub timestamp: Timestamp,
    /// The rows as Kinto sorted them. What looks like a tombstone counts as one: see [`Source::tell_alive`].
    pub rows: Vec<NewRow>,
    /// The next page.
    pub next: Option<Next>,
}

/// Where the next page of a list is.
#[derive(Debug)]
pub struct Next {
    /// Relative to the API root.
    path: String,
    pages: Pages,
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

    /// Whether the upstream fails at present.
    pub fn fails(&self) -> bool {
        self.upstream.outage().lasts().is_some()
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
    ) -> Result<Option<Metadata>, ReadError> {
        let mut headers = HeaderMap::new();
        if let Some(known) = known {
            headers.insert(header::IF_NONE_MATCH, known.last_modified.etag());
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
        // Kinto has no 304 for an object whose timestamp is none.
        let is_known = known.is_some_and(|known| known.json == json);
        Ok((!is_known).then_some(Metadata { json, last_modified: stamp.last_modified }))
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

    /// Asks several things in one batch.
    pub async fn batch(&self, body: String) -> Result<Response<Bytes>, UpstreamError> {
        let json = HeaderValue::from_static("application/json");
        let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, json)]);
        self.send(Method::POST, "/batch", headers, body.into()).await
    }

    /// The greatest `_since` that the upstream takes, on the safe side.
    pub fn latest_since(&self) -> Timestamp {
        self.upstream.latest_since()
    }

    /// Reads the first page of what is newer in a list than `since`, tombstones included, or somewhat more; all of it for
    /// zero. `rest` is the rest of the query.
    ///
    /// Whatever is dated a day ahead, and so whatever `since` follows from it, the upstream refuses as a `_since`.
    pub async fn newer(&self, list: &str, since: Timestamp, rest: &str) -> Result<Page, ReadError> {
        let path = |since: Timestamp| match since {
            // `_since=0` leaves out what is not above zero. Any filter of `last_modified` includes tombstones; this one
            // is true of all but the rows at a moment that nobody can know.
            Timestamp::ZERO => {
                let moment = uuid::Uuid::new_v4().as_u64_pair().0 >> 24;
                format!("{list}?not_last_modified={moment}{rest}")
            }
            since => format!("{list}?_since={since}{rest}"),
        };
        let asked = since.min(self.upstream.latest_since());
        match self.page(&path(asked)).await {
            Err(ReadError::Status(StatusCode::BAD_REQUEST)) if asked > Timestamp::ZERO => {
                // That answer tells the upstream's time anew.
                let latest = self.upstream.latest_since();
                self.page(&path(if latest < asked { latest } else { Timestamp::ZERO })).await
            }
            page => page,
        }
    }

    /// Finds which of these rows of a list only look like tombstones; whether the list was still the one of `timestamp`
    /// then: if not, one of them may have been changed meanwhile, and is there in a newer version. `is_known` says of which rows it is known that they are tombstones.
    ///
    /// An object whose data is `"deleted": true` cannot be told from a tombstone. Without a filter of `last_modified`,
    /// the upstream shows only what is alive.
    pub async fn tell_alive(
        &self,
        list: &str,
        timestamp: Timestamp,
        rows: &mut [NewRow],
        is_known: impl Fn(Timestamp) -> bool,
    ) -> Result<bool, ReadError> {
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
        let mut page = self.page(&format!("{list}?{filter}&_fields=id")).await?;
        let mut is_same = true;
        loop {
            is_same &= page.timestamp == timestamp;
            for alive in page.rows {
                if let Some(row) = suspects.get_mut(&alive.id) {
                    row.deleted = row.last_modified != alive.last_modified;
                }
            }
            match page.next {
                Some(next) => page = self.follow(next).await?,
                None => return Ok(is_same),
            }
        }
    }

    /// Reads one page of a list of rows at `path`, relative to the API root: a smaller one where the whole is more than may
    /// be held.
    pub async fn page(&self, path: &str) -> Result<Page, ReadError> {
        self.page_after(path, Pages::default()).await
    }

    /// Reads the page that follows another one.
    pub async fn follow(&self, next: Next) -> Result<Page, ReadError> {
        self.page_after(&next.path, next.pages).await
    }

    async fn page_after(&self, path: &str, pages: Pages) -> Result<Page, ReadError> {
        let mut asked = Cow::Borrowed(path);
        for rows in SMALLER {
            match self.whole_page(&asked, &pages).await {
                Err(ReadError::Upstream(UpstreamError::TooLarge)) => asked = limited(path, rows).into(),
                page => return page,
            }
        }
        self.whole_page(&asked, &pages).await
    }

    async fn whole_page(&self, path: &str, pages: &Pages) -> Result<Page, ReadError> {
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
        let next = match next {
            Some(path) => {
                let mut pages = pages.clone();
                let led = pages.lead_on(data.first().map(|row| row.get()), body.len());
                led.map_err(|error| ReadError::Garbled(error.to_string()))?;
                Some(Next { path, pages })
            }
            None => None,
        };
        let rows = data.into_iter().filter_map(|json| {
            let Some(head) = Head::of(json.get().as_bytes()) else {
                tracing::warn!(path, "the upstream lists an object without an id");
                return None;
            };
            Some(NewRow {
                id: head.id.into(),
                last_modified: head.last_modified,
                deleted: head.is_tombstone,
                is_marked: head.is_marked,
                json: body.slice_ref(json.get().as_bytes()),
            })
        });
        Ok(Page { timestamp, rows: rows.collect(), next })
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
    ) -> Result<Response<Bytes>, UpstreamError> {
        self.send(method, path, headers, Bytes::new()).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        mut headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response<Bytes>, UpstreamError> {
        let answer = match &self.credentials {
            None => self.upstream.ask(method, path, headers, body).await,
            Some(credentials) => {
                headers.extend(credentials.clone());
                self.upstream.ask_as(method, path, headers, body).await
            }
        };
        if let Some(suspense) = &self.suspense {
            suspense.heard();
        }
        answer
    }
}

/// Ids as the value of an `in_id`.
pub fn in_list<'a>(ids: impl Iterator<Item = &'a str>) -> String {
    ids.map(selector).collect::<Vec<_>>().join(",")
}

/// The same list with pages of so many rows.
fn limited(path: &str, rows: usize) -> String {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let others =
        query.split('&').filter(|parameter| !parameter.is_empty() && !parameter.starts_with("_limit="));
    let limit = format!("_limit={rows}");
    format!("{path}?{}", others.chain([limit.as_str()]).collect::<Vec<_>>().join("&"))
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

#[cfg(test)]
mod tests {
    use super::limited;

    #[test]
    fn a_smaller_page_is_of_the_same_list() {
        assert_eq!(
            limited("/buckets/a/collections/b/records", 20),
            "/buckets/a/collections/b/records?_limit=20"
        );
        assert_eq!(limited("/r?_since=1&_limit=500&_token=x", 20), "/r?_since=1&_token=x&_limit=20");
    }
}
