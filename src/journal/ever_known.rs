//! The records of a collection that were ever known, also in the lives that the collection had before.

use std::sync::Arc;

use futures_util::TryStreamExt;
use sqlx::{AnyConnection, Row};

use super::rows::below;
use super::statement::{Statement, timestamp, truth};
use super::{Journal, JournalError, Object, PATIENCE, ends};
use crate::kinto::{CollectionKey, Timestamp};

/// Records that were ever known, as they were last.
#[derive(Debug, Default)]
pub struct EverKnown {
    /// Newest first.
    pub records: Vec<LastVersion>,
    /// The newest version that found no room.
    pub left_out: Option<Timestamp>,
    /// When the bucket was last deleted, zero where it never was: what is older was another owner's, perhaps.
    pub former: Timestamp,
}

/// The last version of a record that was ever known.
#[derive(Debug, Clone)]
pub struct LastVersion {
    /// The record's id.
    pub id: Arc<str>,
    /// Its last version, or its deletion.
    pub modified: Timestamp,
    /// Whether it was deleted.
    pub deleted: bool,
    /// Where it went with a former life of the collection: when it was made, as far as that is known; nobody can have read it
    /// before. Else zero.
    pub born: Timestamp,
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// Whether records of the collection's present life are wanted, too.
    pub present: bool,
    /// How many bytes all may take; of more than find room, the newest are given.
    pub room: u64,
    /// How many bytes a record takes beside its URI.
    pub each: usize,
}

impl Journal {
    /// The records of a collection that were ever known.
    pub async fn ever_known(&self, key: &CollectionKey, wanted: Wanted) -> Result<EverKnown, JournalError> {
        let known = async |connection: &mut AnyConnection| ever_known(connection, key, wanted).await;
        self.engine.ask(PATIENCE, known).await
    }
}

async fn ever_known(
    connection: &mut AnyConnection,
    key: &CollectionKey,
    wanted: Wanted,
) -> sqlx::Result<EverKnown> {
    let former = ends::of_bucket(connection, &key.bucket).await?;
    let mut known = EverKnown { former, ..EverKnown::default() };
    // What went with its bucket is told to nobody who reads the next one.
    let collection = Object::Collection(key.bucket.to_string(), key.collection.to_string());
    let ended =
        ends::in_chain(connection, &collection, Timestamp::LAST).await?.filter(|ended| *ended > former);
    if ended.is_none() && !wanted.present {
        return Ok(known);
    }
    let (from, to) = below(&key.records_uri());
    let room = i64::try_from(wanted.room).unwrap_or(i64::MAX);
    let bytes = format!("LENGTH(uri) + {}", wanted.each);
    let taken = format!("SUM({bytes}) OVER (ORDER BY modified DESC, uri)");
    let columns = format!("uri, modified, deleted, born, {taken} AS taken, {bytes} AS bytes");
    let mut select =
        Statement::new("SELECT uri, modified, deleted, taken, born FROM (SELECT ").push(&columns);
    select = select.push(" FROM (");
    if wanted.present {
        select = select.push("SELECT uri, modified, deleted, 0 AS born FROM sidecar_objects WHERE uri >= ");
        select = select.bind(from.as_str()).push(" AND uri < ").bind(to.as_str());
    }
    if wanted.present && ended.is_some() {
        select = select.push(" UNION ALL ");
    }
    if let Some(ended) = ended {
        // What nothing is known of in the present life went with the last one, unless it was deleted before.
        select = select
            .push("SELECT v.uri, CASE v.deleted WHEN 1 THEN v.modified ELSE ")
            .bind(ended)
            .push(
                " END AS modified, 1 AS deleted, COALESCE((SELECT f.modified FROM sidecar_versions f \
                 WHERE f.uri = v.uri AND f.generation = 1 AND f.follows = 1), 1) AS born \
                 FROM sidecar_versions v WHERE v.uri >= ",
            )
            .bind(from.as_str())
            .push(" AND v.uri < ")
            .bind(to.as_str())
            .push(" AND v.modified > ")
            .bind(former)
            .push(" AND (v.deleted = 1 OR v.modified <= ")
            .bind(ended)
            .push(
                ") AND NOT EXISTS (SELECT 1 FROM sidecar_versions n WHERE n.uri = v.uri AND n.generation > v.generation) \
                 AND NOT EXISTS (SELECT 1 FROM sidecar_objects o WHERE o.uri = v.uri)",
            );
    }
    // With the first that finds no room.
    let select =
        select.push(") AS known) AS counted WHERE taken - bytes <= ").bind(room).push(" ORDER BY taken");
    let mut rows = select.stream(connection);
    while let Some(row) = rows.try_next().await? {
        let modified = timestamp(&row, 1)?;
        if row.try_get::<i64, _>(3)? > room {
            known.left_out = Some(modified);
        } else if let Some(object) = Object::of_uri(row.try_get::<&str, _>(0)?) {
            let deleted = truth(&row, 2)?;
            let born = timestamp(&row, 4)?;
            known.records.push(LastVersion { id: object.id().into(), modified, deleted, born });
        }
    }
    Ok(known)
}
