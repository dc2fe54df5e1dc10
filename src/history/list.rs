//! Reads versions of objects from the upstream.

use serde_json::value::RawValue;

use super::answer::Version;
use super::write::{list_of, object_in};
use crate::journal::Object;
use crate::kinto::{Timestamp, selector};
use crate::mirror::content::{Content, NewRow, Row};
use crate::mirror::read::{ReadError, Source};

/// The rows of a list, and its timestamp when the first page was read.
#[derive(Debug)]
pub(super) struct Listed {
    /// The list's timestamp.
    pub(super) timestamp: Timestamp,
    /// Its objects, newest first as the upstream sorts them.
    pub(super) versions: Vec<(Object, Version)>,
}

/// Reads what a query selects of a list, on all pages.
pub(super) async fn read(source: &Source, list: &str, query: &str) -> Result<Listed, ReadError> {
    let mut page = source.page(&format!("{list}?{query}")).await?;
    let timestamp = page.timestamp;
    let mut versions = Vec::new();
    loop {
        for row in page.rows {
            // What cannot be named by a path cannot be asked for, either.
            let Some(object) = object_in(list, &row.id) else { continue };
            versions.push((object, version(row)?));
        }
        match page.next {
            Some(next) => page = source.page(&next).await?,
            None => return Ok(Listed { timestamp, versions }),
        }
    }
}

/// What a mirror has of a list of records: the live ones, or what is newer than `since` or was found late.
pub(super) fn of_content(
    list: &str,
    content: &Content,
    since: Option<Timestamp>,
) -> Result<Listed, ReadError> {
    let is_wanted = |row: &&Row| match since {
        None => !row.deleted,
        Some(since) => row.last_modified > since || row.late.is_some(),
    };
    let mut versions = Vec::new();
    // Of what went with its collection, Kinto makes no versions.
    for row in content.rows().iter().filter(|row| is_wanted(row) && !row.invented) {
        let Some(object) = object_in(list, &row.id) else { continue };
        let row = NewRow {
            id: row.id.clone(),
            last_modified: row.last_modified,
            deleted: row.deleted,
            json: content.json(row),
        };
        versions.push((object, version(row)?));
    }
    Ok(Listed { timestamp: content.timestamp, versions })
}

/// The present version of an object, or its tombstone; `None` where there is neither.
pub(super) async fn look(source: &Source, object: &Object) -> Result<Option<Version>, ReadError> {
    match source.object(&object.to_string()).await {
        Ok(body) => Version::of_answer(&body)
            .map(Some)
            .ok_or_else(|| ReadError::Garbled("an object without id and last_modified".into())),
        Err(ReadError::Gone) => {
            // Kinto: tombstones are shown where the timestamp is part of the selection.
            let query = format!("_since=0&id={}", selector(object.id()));
            match read(source, &list_of(object), &query).await {
                Ok(listed) => Ok(listed.versions.into_iter().map(|(_, version)| version).next()),
                Err(ReadError::Gone) => Ok(None),
                Err(error) => Err(error),
            }
        }
        Err(error) => Err(error),
    }
}

fn version(row: NewRow) -> Result<Version, ReadError> {
    let garbled = |error: &dyn std::fmt::Display| ReadError::Garbled(error.to_string());
    let text = String::from_utf8(row.json.into()).map_err(|error| garbled(&error))?;
    Ok(Version {
        id: row.id.to_string(),
        modified: row.last_modified,
        deleted: row.deleted,
        data: RawValue::from_string(text).map_err(|error| garbled(&error))?,
        permissions: None,
    })
}
