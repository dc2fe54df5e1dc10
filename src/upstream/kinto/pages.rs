//! Lists, page by page.
//!
//! Whatever is read of a list is read here, so that no list leads on for ever and none is held without bounds. Each page of
//! a list begins with another row than those before. A page that was there already, whatever its address is, a page of
//! nothing that leads on, and more than any list takes are not followed.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::sizes::{PageSize, bare, limited, with_all_fields};
use super::{Data, KintoError, Source, in_list, parse, timestamp};
use crate::kinto::head::Head;
use crate::kinto::{Timestamp, is_segment};
use crate::upstream::UpstreamError;
use crate::wire::body::Body;

/// SECURITY: the most pages of one list.
const MOST: u32 = 1_000_000;

/// SECURITY: the most that a list of names may come to on all pages, in bytes.
const NAMES: usize = 64 << 20;

/// An object of a list.
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

/// One page of a list.
#[derive(Debug)]
pub struct KintoPage<R = NewRow> {
    /// The list's timestamp when the page was read.
    pub timestamp: Timestamp,
    /// The rows as Kinto sorted them. What looks like a tombstone counts as one: see [`Source::tell_alive`].
    pub rows: Vec<R>,
}

/// The pages of a list.
#[derive(Debug)]
pub struct Pages<R = NewRow> {
    source: Source,
    read: fn(Bytes) -> Result<Option<R>, KintoError>,
    /// Where the next page is, relative to the API root.
    next: Option<String>,
    /// The first page, where it was read already.
    first: Option<KintoPage<R>>,
    /// The timestamp of the list that is known.
    known: Option<Timestamp>,
    size: PageSize,
    way: Way,
    most: Most,
}

/// How much of a list is read.
#[derive(Debug, Clone, Copy)]
enum Most {
    /// All of it, a page at a time.
    All,
    /// More than a list of names has is none of Kinto's.
    Names,
    /// More bytes are not kept.
    Kept(usize),
}

/// How far a list was followed.
#[derive(Debug, Clone, Default)]
struct Way {
    count: u32,
    /// How one of the pages began, which is another one ever more seldom: so whatever is repeated is found, and little is
    /// kept.
    mark: u64,
    /// How many bytes all rows have.
    bytes: usize,
}

/// Why a list is not followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum Endless {
    /// A page came again.
    #[error("Next-Page leads to a page that was there before")]
    Again,
    /// A page has no rows, and a next page.
    #[error("Next-Page leads on from a page without rows")]
    Empty,
    /// There are too many.
    #[error("Next-Page leads on for longer than any list")]
    TooMany,
}

impl Source {
    /// A list of objects at `path`, relative to the API root.
    pub fn pages(&self, path: impl Into<String>) -> Pages {
        Pages::new(self, path.into(), |json| Ok(NewRow::of(json)))
    }

    /// A list of which a row says only what `R` has.
    pub fn pages_of<R: DeserializeOwned>(&self, path: impl Into<String>) -> Pages<R> {
        Pages::new(self, path.into(), |json| parse(&json).map(Some))
    }

    /// The ids in a list, as far as a path can name them.
    pub async fn ids(&self, list: &str) -> Result<Vec<Arc<str>>, KintoError> {
        let mut pages = self.pages(format!("{list}?_fields=id")).names();
        let mut ids = Vec::new();
        while let Some(page) = pages.next().await? {
            ids.extend(page.rows.into_iter().map(|row| row.id).filter(|id| is_segment(id)));
        }
        Ok(ids)
    }

    /// Reads what is newer in a list than `since`, tombstones included, or somewhat more; all of it for zero. `rest` is the
    /// rest of the query. The first page is read at once.
    ///
    /// Whatever is dated a day ahead, and so whatever `since` follows from it, the upstream refuses as a `_since`.
    pub async fn newer(&self, list: &str, since: Timestamp, rest: &str) -> Result<Pages, KintoError> {
        let begin = async |since: Timestamp| {
            let path = match since {
                // `_since=0` leaves out what is not above zero. Any filter of `last_modified` includes tombstones; this one
                // is true of all but the rows at a moment that nobody can know.
                Timestamp::ZERO => {
                    let moment = uuid::Uuid::new_v4().as_u64_pair().0 >> 24;
                    format!("{list}?not_last_modified={moment}{rest}")
                }
                since => format!("{list}?_since={since}{rest}"),
            };
            self.pages(path).begun().await
        };
        let asked = since.min(self.upstream.latest_since());
        match begin(asked).await {
            Err(KintoError::Status(StatusCode::BAD_REQUEST)) if asked > Timestamp::ZERO => {
                // That answer tells the upstream's time anew.
                let latest = self.upstream.latest_since();
                begin(if latest < asked { latest } else { Timestamp::ZERO }).await
            }
            pages => pages,
        }
    }
}

impl NewRow {
    fn of(json: Bytes) -> Option<Self> {
        let head = Head::of(&json)?;
        Some(Self {
            id: head.id.into(),
            last_modified: head.last_modified,
            deleted: head.is_tombstone,
            is_marked: head.is_marked,
            json,
        })
    }
}

// === impl Pages ===

impl<R> Pages<R> {
    fn new(source: &Source, path: String, read: fn(Bytes) -> Result<Option<R>, KintoError>) -> Self {
        let (way, most) = (Way::default(), Most::All);
        let size = source.upstream.page_sizes().of(&path);
        Self { source: source.clone(), read, next: Some(path), first: None, known: None, size, way, most }
    }

    /// A list of names, which is held as a whole.
    #[must_use]
    pub fn names(self) -> Self {
        Self { most: Most::Names, ..self }
    }

    /// A list of which no more than so many bytes are kept: [`KintoError::Oversize`] where it has more.
    #[must_use]
    pub fn kept(self, bytes: usize) -> Self {
        Self { most: Most::Kept(bytes), ..self }
    }

    /// A list that has no pages at all where its timestamp is still this one.
    #[must_use]
    pub fn unless(self, known: Option<Timestamp>) -> Self {
        Self { known, ..self }
    }

    /// Reads the first page.
    pub async fn begun(mut self) -> Result<Self, KintoError> {
        match self.read().await {
            // It is there, and read as whoever wants it reads it.
            Err(KintoError::Oversize) => {}
            page => self.first = page?,
        }
        Ok(self)
    }

    /// The first page, which every list has.
    pub async fn first(&mut self) -> Result<KintoPage<R>, KintoError> {
        self.next().await?.ok_or_else(|| KintoError::Unreadable("a list without pages".into()))
    }

    /// Whether there is another page.
    pub fn has_next(&self) -> bool {
        self.first.is_some() || self.next.is_some()
    }

    /// The next page; `None` behind the last one.
    pub async fn next(&mut self) -> Result<Option<KintoPage<R>>, KintoError> {
        let page = match self.first.take() {
            Some(page) => Some(page),
            None => self.read().await?,
        };
        self.way.check(self.most)?;
        Ok(page)
    }

    /// Reads a page: a smaller one where the whole is more than may be held.
    async fn read(&mut self) -> Result<Option<KintoPage<R>>, KintoError> {
        let Some(path) = self.next.take() else { return Ok(None) };
        loop {
            let asked = self.size.rows().map_or_else(|| path.clone(), |rows| limited(&path, rows));
            match self.page(&asked).await {
                Err(KintoError::Upstream(UpstreamError::TooLarge)) if self.size.shrink() => {
                    self.source.upstream.page_sizes().keep(&path, &self.size);
                }
                // A single row, which no page is small enough for.
                Err(KintoError::Upstream(UpstreamError::TooLarge)) => {
                    self.next = Some(asked);
                    return Err(KintoError::Oversize);
                }
                page => return page,
            }
        }
    }

    /// Where the page behind the one with these headers is.
    fn next_of(&self, headers: &HeaderMap) -> Result<Option<String>, KintoError> {
        let Some(next) = headers.get("next-page") else { return Ok(None) };
        let relative = next.to_str().ok().and_then(|next| self.source.upstream.relative(next));
        relative.map(Some).ok_or_else(|| KintoError::Unreadable("Next-Page leads elsewhere".into()))
    }

    async fn page(&mut self, path: &str) -> Result<Option<KintoPage<R>>, KintoError> {
        let mut headers = HeaderMap::new();
        if let Some(known) = self.known {
            headers.insert(header::IF_NONE_MATCH, known.etag());
        }
        let answer = self.source.ask(Method::GET, path, headers).await?;
        if answer.status() == StatusCode::NOT_MODIFIED && self.known.is_some() {
            return Ok(None);
        }
        KintoError::check(answer.status())?;
        self.known = None;
        let timestamp = timestamp(answer.headers())?;
        let next = self.next_of(answer.headers())?;
        let body = answer.into_body();
        let Data { data } = parse::<Data<Vec<&RawValue>>>(&body)?;
        let bytes = data.iter().map(|row| row.get().len()).sum::<usize>();
        self.way.bytes += bytes;
        self.size.grow(data.len(), bytes);
        if next.is_some() {
            self.way.lead_on(data.first().map(|row| row.get()))?;
        }
        if next.is_none() && self.way.bytes <= self.size.most() {
            self.source.upstream.page_sizes().forget(path);
        }
        self.next = next;
        let rows = data.into_iter().filter_map(|json| {
            let row = (self.read)(body.slice_ref(json.get().as_bytes())).transpose();
            if row.is_none() {
                tracing::warn!(path, "the upstream lists an object without an id");
            }
            row
        });
        Ok(Some(KintoPage { timestamp, rows: rows.collect::<Result<_, _>>()? }))
    }
}

impl Pages<NewRow> {
    /// The next page with its one row, but for all that it says beside its id and its timestamp: for whoever was told that it
    /// is [`KintoError::Oversize`]. Another row may have come first meanwhile.
    pub async fn bare(&mut self) -> Result<KintoPage, KintoError> {
        let path = self.next.take().ok_or(KintoError::Oversize)?;
        let page = self.page(&bare(&path)).await?;
        let page = page.ok_or_else(|| KintoError::Unreadable("a list without rows".into()))?;
        self.way.bytes += self.size.most() + 1;
        self.next = self.next.take().map(|next| with_all_fields(&next));
        Ok(page)
    }

    /// The same page, and the answer with its row, of whatever version, as it comes.
    pub async fn large_row(&mut self) -> Result<(KintoPage, Body), KintoError> {
        let path = self.next.clone().ok_or(KintoError::Oversize)?;
        let mut page = self.bare().await?;
        // No tombstone is large.
        page.rows.iter_mut().for_each(|row| row.deleted = false);
        let row = page.rows.first().ok_or(KintoError::Unsettled)?;
        let answer = self.source.get_on(&format!("{path}&in_id={}", in_list([&*row.id].into_iter()))).await?;
        KintoError::check(answer.status())?;
        if timestamp(answer.headers())? != page.timestamp {
            return Err(KintoError::Unsettled);
        }
        Ok((page, answer.into_body()))
    }
}

impl Way {
    /// Whether no more was read than may be.
    fn check(&self, most: Most) -> Result<(), KintoError> {
        match most {
            Most::Names if self.bytes > NAMES => Err(Endless::TooMany.into()),
            Most::Kept(most) if self.bytes > most => Err(KintoError::Oversize),
            _ => Ok(()),
        }
    }

    /// A page whose first row is this one has a next page.
    fn lead_on(&mut self, first: Option<&str>) -> Result<(), Endless> {
        let first = first.ok_or(Endless::Empty)?;
        self.count += 1;
        if self.count > MOST {
            return Err(Endless::TooMany);
        }
        let mut hasher = DefaultHasher::new();
        first.hash(&mut hasher);
        let first = hasher.finish();
        if self.count > 1 && self.mark == first {
            return Err(Endless::Again);
        }
        if self.count.is_power_of_two() {
            self.mark = first;
        }
        Ok(())
    }
}

impl From<Endless> for KintoError {
    fn from(error: Endless) -> Self {
        Self::Unreadable(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_that_come_again_are_found() {
        for (before, cycle) in [(0_usize, 1), (0, 7), (5, 1), (100, 33)] {
            let mut way = Way::default();
            let names = (0..before).map(|number| format!("b{number}"));
            let again = (0..cycle).map(|number| format!("c{number}")).cycle();
            let found =
                names.chain(again).take(4 * (before + cycle)).find_map(|name| way.lead_on(Some(&name)).err());
            assert_eq!(found, Some(Endless::Again), "{before} {cycle}");
        }
    }

    #[test]
    fn what_has_no_end_is_not_followed() {
        let mut way = Way::default();
        assert_eq!(way.lead_on(None), Err(Endless::Empty));
        way.bytes = NAMES;
        assert!(way.check(Most::Names).is_ok());
        way.bytes += 1;
        assert!(matches!(way.check(Most::Names), Err(KintoError::Unreadable(_))));
        assert!(way.check(Most::All).is_ok());
        assert!(matches!(way.check(Most::Kept(NAMES)), Err(KintoError::Oversize)));
    }
}
