//! Questions about what is known, without entries.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::value::RawValue;
use sqlx::{AnyConnection, Row};

use super::entry::Told;
use super::rows::{recorded, states};
use super::statement::{Statement, timestamp};
use super::{Known, Life, Object};
use crate::kinto::Timestamp;

/// What is known of objects.
pub(super) async fn known(
    connection: &mut AnyConnection,
    objects: &[Object],
) -> sqlx::Result<BTreeMap<Object, Known>> {
    let uris: Vec<String> = objects.iter().map(Object::to_string).collect();
    let states = states(connection, &uris).await?.into_iter();
    Ok(states.filter_map(|(uri, state)| Some((Object::of_uri(&uri)?, state.known()))).collect())
}

/// The versions that are not recorded.
pub(super) async fn missing(
    connection: &mut AnyConnection,
    versions: Vec<(Object, Timestamp)>,
) -> sqlx::Result<Vec<(Object, Timestamp)>> {
    let uris: Vec<String> = versions.iter().map(|(object, _)| object.to_string()).collect();
    let states: HashMap<String, _> = states(connection, &uris).await?.into_iter().collect();
    let mut is_missing: Vec<bool> = Vec::with_capacity(versions.len());
    let mut unknown: BTreeMap<&str, Vec<Timestamp>> = BTreeMap::new();
    for (uri, (object, modified)) in uris.iter().zip(&versions) {
        let is_known = states.get(uri).is_some_and(|state| state.modified == *modified);
        is_missing.push(!is_known);
        if !is_known {
            unknown.entry(object.bucket()).or_default().push(*modified);
        }
    }
    let mut entries = HashSet::new();
    for (bucket, versions) in unknown {
        if let Some((history, _)) = history(connection, bucket).await? {
            entries.extend(recorded(connection, history, versions.into_iter()).await?);
        }
    }
    let versions = versions.into_iter().zip(uris).zip(is_missing);
    let versions =
        versions.map(|(((object, modified), uri), is_missing)| (object, (uri, modified), is_missing));
    let missing = versions.filter(|(_, version, is_missing)| *is_missing && !entries.contains(version));
    Ok(missing.map(|(object, (_, modified), _)| (object, modified)).collect())
}

/// The objects of a list that are known to be alive.
pub(super) async fn alive(
    connection: &mut AnyConnection,
    list: &str,
) -> sqlx::Result<Vec<(Object, Timestamp)>> {
    let select = "SELECT uri, modified FROM sidecar_objects WHERE deleted = 0 AND list = ";
    let mut alive = Vec::new();
    for row in Statement::new(select).bind(list).push(" ORDER BY uri").fetch(connection).await? {
        let uri: String = row.try_get(0)?;
        if let Some(object) = Object::of_uri(&uri) {
            alive.push((object, timestamp(&row, 1)?));
        }
    }
    Ok(alive)
}

/// The watermark of a list.
pub(super) async fn watermark(connection: &mut AnyConnection, list: &str) -> sqlx::Result<Option<Timestamp>> {
    let select = Statement::new("SELECT timestamp FROM sidecar_watermarks WHERE list = ").bind(list);
    select.first(connection).await?.map(|row| timestamp(&row, 0)).transpose()
}

/// A bucket's history, where there is one, with its timestamp.
pub(super) async fn history(
    connection: &mut AnyConnection,
    bucket: &str,
) -> sqlx::Result<Option<(i64, Timestamp)>> {
    let select =
        Statement::new("SELECT id, timestamp FROM sidecar_histories WHERE is_current = 1 AND bucket = ");
    let row = select.bind(bucket).first(connection).await?;
    row.map(|row| Ok((row.try_get(0)?, timestamp(&row, 1)?))).transpose()
}

/// The life of a bucket that is known to be there.
pub(super) async fn life(connection: &mut AnyConnection, bucket: &str) -> sqlx::Result<Option<Life>> {
    let uri = Object::Bucket(bucket.to_owned()).to_string();
    let is_there = states(connection, &[uri]).await?.iter().any(|(_, state)| !state.deleted);
    let found = history(connection, bucket).await?.filter(|_| is_there);
    Ok(found.map(|(history, _)| Life { bucket: bucket.to_owned(), history }))
}

/// What the newest entry about an object shows.
pub(super) async fn newest_data(
    connection: &mut AnyConnection,
    object: &Object,
) -> sqlx::Result<Option<Box<RawValue>>> {
    let Some((history, _)) = history(connection, object.bucket()).await? else { return Ok(None) };
    let select = Statement::new("SELECT json FROM sidecar_entries WHERE history = ").bind(history);
    let select = select.push(" AND uri = ").bind(object.to_string());
    let row = select.push(" ORDER BY last_modified DESC LIMIT 1").first(connection).await?;
    let json: Option<String> = row.map(|row| row.try_get(0)).transpose()?;
    let told = json.as_deref().and_then(|json| serde_json::from_str::<Told<'_>>(json).ok());
    Ok(told.map(|told| told.target.data.to_owned()))
}
