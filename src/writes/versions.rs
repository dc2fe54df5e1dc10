//! Reads versions of objects from the upstream.

use std::collections::BTreeSet;

use bytes::Bytes;
use serde_json::value::RawValue;

use super::answer::Version;
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
    /// Its objects, newest first as the upstream sorts them.
    pub(super) versions: Vec<(Object, Version)>,
    /// Those that are too large to be read, and their versions.
    pub(super) bare: Vec<(Object, Timestamp)>,
}

/// Reads what is newer in a list than `since`, or somewhat more, on all pages; `rest` is the rest of the query.
pub(super) async fn newer(
    source: &Source,
    list: &str,
    since: Timestamp,
    rest: &str,
) -> Result<Listing, KintoError> {
    whole(source, list, source.newer(list, since, rest).await?, true).await
}

/// Reads what is alive in a list.
pub(super) async fn alive(source: &Source, list: &str, query: &str) -> Result<Listing, KintoError> {
    whole(source, list, source.pages(format!("{list}?{query}")), false).await
}

async fn whole(
    source: &Source,
    list: &str,
    mut pages: Pages,
    has_tombstones: bool,
) -> Result<Listing, KintoError> {
    let resource = Resource::of(list);
    let (mut first, mut versions, mut bare) = (None, Vec::new(), Vec::new());
    loop {
        let mut page = match pages.next().await {
            Ok(Some(page)) => page,
            Ok(None) => break,
            // One odd row keeps nobody from the others.
            Err(KintoError::Oversize) => {
                let page = pages.bare().await?;
                first.get_or_insert(page.timestamp);
                for row in page.rows {
                    let Some(object) = object_in(&resource, &row.id) else { continue };
                    match alone(source, &object, row).await? {
                        Alone::Read(version) => versions.push((object, version)),
                        Alone::TooLarge(modified) => bare.push((object, modified)),
                        Alone::Gone => {}
                    }
                }
                continue;
            }
            Err(error) => return Err(error),
        };
        let timestamp = *first.get_or_insert(page.timestamp);
        if has_tombstones {
            source.tell_alive(list, timestamp, &mut page.rows, |_| false).await?;
        } else {
            page.rows.iter_mut().for_each(|row| row.deleted = false);
        }
        for row in page.rows {
            // What cannot be named by a path cannot be asked for, either.
            let Some(object) = object_in(&resource, &row.id) else { continue };
            versions.push((object, version(row)?));
        }
    }
    Ok(Listing { timestamp: first.unwrap_or_default(), versions, bare })
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
    Ok(Listing { timestamp: content.timestamp, versions, bare: Vec::new() })
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
