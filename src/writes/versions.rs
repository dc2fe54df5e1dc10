//! Reads versions of objects from the upstream.

use std::collections::BTreeSet;

use bytes::Bytes;
use serde_json::value::RawValue;

use super::answer::Version;
use super::question::LookupError;
use super::write::object_in;
use crate::aside;
use crate::journal::{Journal, JournalError, Object};
use crate::kinto::{Resource, Timestamp};
use crate::mirror::content::{Content, Row};
use crate::upstream::UpstreamError;
use crate::upstream::kinto::{KintoError, NewRow, Pages, Source, in_list};

/// The rows of a list, and its timestamp when the first page was read.
#[derive(Debug)]
pub(super) struct Listing {
    /// The list's timestamp.
    pub(super) timestamp: Timestamp,
    /// That of its newest object.
    pub(super) newest: Timestamp,
    /// Its objects, newest first as the upstream sorts them.
    pub(super) versions: Vec<(Object, Version)>,
    /// Those that are too large to be read, and their versions.
    pub(super) bare: Vec<(Object, Timestamp)>,
}

/// A list that is read page by page.
struct Reading<'s> {
    source: &'s Source,
    list: &'s str,
    resource: Resource,
    pages: Pages,
    has_tombstones: bool,
    /// Its timestamp when the first page was read.
    first: Option<Timestamp>,
    newest: Timestamp,
    bare: Vec<(Object, Timestamp)>,
}

/// Reads what is newer in a list than `since`, or somewhat more, on all pages; `rest` is the rest of the query.
pub(super) async fn newer(
    source: &Source,
    list: &str,
    since: Timestamp,
    rest: &str,
) -> Result<Listing, KintoError> {
    Reading::new(source, list, source.newer(list, since, rest).await?, true).all().await
}

/// The same of what nobody recorded.
///
/// SECURITY: what anybody wrote through the sidecar is read again here soon after. No more than a page of it is held.
pub(super) async fn unrecorded(
    source: &Source,
    journal: &Journal,
    list: &str,
    since: Timestamp,
) -> Result<Listing, LookupError> {
    let mut reading = Reading::new(source, list, source.newer(list, since, "").await?, true);
    let mut kept = Vec::new();
    while let Some(mut versions) = reading.next().await? {
        let missing = missing(journal, &versions).await?;
        versions.retain(|(object, version)| missing.contains(&(object.clone(), version.modified)));
        kept.extend(versions);
    }
    Ok(reading.end(kept))
}

/// Reads what is alive in a list.
pub(super) async fn alive(source: &Source, list: &str, query: &str) -> Result<Listing, KintoError> {
    Reading::new(source, list, source.pages(format!("{list}?{query}")), false).all().await
}

impl<'s> Reading<'s> {
    fn new(source: &'s Source, list: &'s str, pages: Pages, has_tombstones: bool) -> Self {
        let (resource, first, newest, bare) = (Resource::of(list), None, Timestamp::ZERO, Vec::new());
        Self { source, list, resource, pages, has_tombstones, first, newest, bare }
    }

    /// All pages.
    async fn all(mut self) -> Result<Listing, KintoError> {
        let mut all = Vec::new();
        while let Some(versions) = self.next().await? {
            all.extend(versions);
        }
        Ok(self.end(all))
    }

    /// The next page.
    async fn next(&mut self) -> Result<Option<Vec<(Object, Version)>>, KintoError> {
        let mut versions = Vec::new();
        match self.pages.next().await {
            Ok(None) => return Ok(None),
            Ok(Some(mut page)) => {
                let timestamp = *self.first.get_or_insert(page.timestamp);
                if self.has_tombstones {
                    self.source.tell_alive(self.list, timestamp, &mut page.rows, |_| false).await?;
                } else {
                    page.rows.iter_mut().for_each(|row| row.deleted = false);
                }
                for row in page.rows {
                    // What cannot be named by a path cannot be asked for, either.
                    let Some(object) = object_in(&self.resource, &row.id) else { continue };
                    versions.push((object, version(row)?));
                }
            }
            // One odd row keeps nobody from the others.
            Err(KintoError::Oversize) => {
                let page = self.pages.bare().await?;
                self.first.get_or_insert(page.timestamp);
                for row in page.rows {
                    let Some(object) = object_in(&self.resource, &row.id) else { continue };
                    match alone(self.source, &object, row).await? {
                        Alone::Read(version) => versions.push((object, version)),
                        Alone::TooLarge(modified) => {
                            self.newest = self.newest.max(modified);
                            self.bare.push((object, modified));
                        }
                        Alone::Gone => {}
                    }
                }
            }
            Err(error) => return Err(error),
        }
        self.newest = self.newest.max(newest_of(&versions));
        Ok(Some(versions))
    }

    /// What came of it, with these versions.
    fn end(self, versions: Vec<(Object, Version)>) -> Listing {
        let Self { first, newest, bare, .. } = self;
        Listing { timestamp: first.unwrap_or_default(), newest, versions, bare }
    }
}

fn newest_of(versions: &[(Object, Version)]) -> Timestamp {
    versions.iter().map(|(_, version)| version.modified).max().unwrap_or_default()
}

/// What there is of an object that a list named when it was asked about the one row of a page that was too large.
enum Alone {
    Read(Version),
    /// It is too large itself. The version that the list named.
    TooLarge(Timestamp),
    /// It went meanwhile, which moves its list.
    Gone,
}

/// Asks for an object alone: another than the one that was too large may have come first in its list meanwhile.
async fn alone(source: &Source, object: &Object, row: NewRow) -> Result<Alone, KintoError> {
    match source.object(&object.to_string()).await {
        Ok(body) => {
            let version = read(body).await?;
            Ok(Alone::Read(Version { permissions: None, ..version }))
        }
        Err(KintoError::Upstream(UpstreamError::TooLarge)) => Ok(Alone::TooLarge(row.last_modified)),
        // A tombstone has nothing but what the list was asked for.
        Err(KintoError::Absent) if row.deleted => Ok(Alone::Read(version(row)?)),
        Err(KintoError::Absent) => Ok(Alone::Gone),
        Err(error) => Err(error),
    }
}

/// What a mirror has of a list of records: the live ones, or what is newer than `since` or was found late.
pub(super) fn of_content(
    list: &str,
    content: &Content,
    since: Option<Timestamp>,
) -> Result<Listing, KintoError> {
    let is_wanted = |row: &&Row| match since {
        None => !row.deleted,
        Some(since) => row.last_modified > since || row.late.is_some(),
    };
    let list = Resource::of(list);
    let mut versions = Vec::new();
    // Of what went with its collection, Kinto makes no versions.
    for row in content.rows().iter().filter(|row| is_wanted(row) && !row.invented) {
        let Some(object) = object_in(&list, &row.id) else { continue };
        let row = NewRow {
            id: row.id.clone(),
            last_modified: row.last_modified,
            deleted: row.deleted,
            is_marked: row.is_marked,
            json: content.json(row),
        };
        versions.push((object, version(row)?));
    }
    let newest = newest_of(&versions);
    Ok(Listing { timestamp: content.timestamp, newest, versions, bare: Vec::new() })
}

/// The present version of an object, or its tombstone; `None` where there is neither.
pub(super) async fn look(source: &Source, object: &Object) -> Result<Option<Version>, KintoError> {
    match source.object(&object.to_string()).await {
        Ok(body) => read(body).await.map(Some),
        Err(KintoError::Absent) => {
            let named = format!("&in_id={}", in_list([object.id()].into_iter()));
            match newer(source, &object.list(), Timestamp::ZERO, &named).await {
                Ok(listed) => Ok(listed.versions.into_iter().map(|(_, version)| version).next()),
                Err(KintoError::Absent) => Ok(None),
                Err(error) => Err(error),
            }
        }
        Err(error) => Err(error),
    }
}

async fn read(object: Bytes) -> Result<Version, KintoError> {
    let version = aside::for_write(object.len(), move || Version::of_object(&object)).await.ok().flatten();
    version.ok_or_else(|| KintoError::Unreadable("an object without id and last_modified".into()))
}

/// Of these versions, those that are not recorded.
pub(super) async fn missing(
    journal: &Journal,
    versions: &[(Object, Version)],
) -> Result<BTreeSet<(Object, Timestamp)>, JournalError> {
    let versions = versions.iter().map(|(object, version)| (object.clone(), version.modified)).collect();
    Ok(journal.missing(versions).await?.into_iter().collect())
}

fn version(row: NewRow) -> Result<Version, KintoError> {
    let garbled = |error: &dyn std::fmt::Display| KintoError::Unreadable(error.to_string());
    let text = String::from_utf8(row.json.into()).map_err(|error| garbled(&error))?;
    Ok(Version {
        id: row.id.to_string(),
        modified: row.last_modified,
        deleted: row.deleted,
        data: RawValue::from_string(text).map_err(|error| garbled(&error))?,
        permissions: None,
    })
}
