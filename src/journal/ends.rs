//! When a life of an object ended. What came before belongs to somebody else, perhaps.
//!
//! Chains know it ([`in_chain`]): they go over all lives of a bucket, and have deletions whose entries were trimmed or never
//! made. Entries know it where they were imported after what follows on them. So what is somebody else's is asked of both
//! ([`version`], [`of_collections`]). What stands together in a history is told by the timestamps of its entries
//! ([`Question::end_before`](super::select::Question::end_before)), which versions do not have.

use std::collections::HashSet;

use sqlx::{AnyConnection, Row};

use super::statement::{Statement, timestamp};
use super::{Journal, JournalError, Object, PATIENCE};
use crate::kinto::Timestamp;

impl Journal {
    /// The newest version of an object that was its end.
    pub async fn ended(&self, object: &Object) -> Result<Option<Timestamp>, JournalError> {
        let ended = self.of_history(object.bucket(), async |reading, history, _| {
            let connection = reading.connection().await?;
            version(connection, history, object, Timestamp::LAST).await
        });
        Ok(ended.await?.flatten())
    }

    /// When a bucket was last deleted; zero where it never was. Whoever made it anew knows nothing of what was before.
    pub async fn bucket_ended(&self, bucket: &str) -> Result<Timestamp, JournalError> {
        self.engine.ask(PATIENCE, async |connection| of_bucket(connection, bucket).await).await
    }
}

/// When a bucket was last deleted; zero where it never was.
pub(super) async fn of_bucket(connection: &mut AnyConnection, bucket: &str) -> sqlx::Result<Timestamp> {
    let bucket = Object::Bucket(bucket.to_owned());
    Ok(in_chain(connection, &bucket, Timestamp::LAST).await?.unwrap_or_default())
}

/// When the last life of an object ended that was over at a moment.
pub(super) async fn in_chain(
    connection: &mut AnyConnection,
    object: &Object,
    moment: Timestamp,
) -> sqlx::Result<Option<Timestamp>> {
    let select = Statement::new("SELECT modified FROM sidecar_versions WHERE deleted = 1 AND uri = ");
    let select = select.bind(object.to_string()).push(" AND modified <= ").bind(moment);
    let row = select.push(" ORDER BY generation DESC LIMIT 1").first(connection).await?;
    row.map(|row| timestamp(&row, 0)).transpose()
}

/// The newest version at or before a moment that was an object's end, of the life that its bucket has now.
pub(super) async fn version(
    connection: &mut AnyConnection,
    history: i64,
    object: &Object,
    moment: Timestamp,
) -> sqlx::Result<Option<Timestamp>> {
    let former = of_bucket(connection, object.bucket()).await?;
    let known = in_chain(connection, object, moment).await?.filter(|ended| *ended > former);
    let select = Statement::new("SELECT object_modified FROM sidecar_entries WHERE history = ").bind(history);
    let select = select.push(" AND uri = ").bind(object.to_string()).push(" AND action = 'delete'");
    let select = select.push(" AND object_modified <= ").bind(moment);
    let row = select.push(" ORDER BY last_modified DESC LIMIT 1").first(connection).await?;
    Ok(known.max(row.map(|row| timestamp(&row, 0)).transpose()?))
}

/// The collections of a bucket that ended, and are there again or have entries that say so.
pub(super) async fn of_collections(
    connection: &mut AnyConnection,
    history: i64,
    bucket: &str,
) -> sqlx::Result<HashSet<String>> {
    let told = "SELECT DISTINCT uri FROM sidecar_entries WHERE resource_name = 'collection' \
                AND action = 'delete' AND history = ";
    let again = " UNION SELECT uri FROM sidecar_objects WHERE EXISTS (SELECT 1 FROM sidecar_versions \
                 WHERE sidecar_versions.uri = sidecar_objects.uri AND sidecar_versions.deleted = 1) AND list = ";
    let list = format!("{}/collections", Object::Bucket(bucket.to_owned()));
    let ended = Statement::new(told).bind(history).push(again).bind(list).fetch(connection).await?;
    ended.iter().map(|row| row.try_get(0)).collect()
}
