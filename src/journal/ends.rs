//! When a life of an object ended. It is asked in three ways, each of which has an answer of its own:
//!
//! - of chains ([`in_chain`]), which go over all lives of a bucket, and know of deletions whose entries were trimmed or never
//!   made: what came before belongs to somebody else, perhaps;
//! - of the entries of the history that a bucket has now, by the versions that they are about ([`version`]): what was there
//!   at a moment of Kinto's;
//! - of the same, by the timestamps of the entries ([`entry_before`]): what stands together in the history.

use futures_util::TryStreamExt;
use sqlx::AnyConnection;

use super::select::Question;
use super::statement::{Statement, timestamp, truth};
use super::{Journal, JournalError, Object, PATIENCE};
use crate::kinto::Timestamp;

impl Journal {
    /// The newest version of an object that was its end.
    pub async fn ended(&self, object: &Object) -> Result<Option<Timestamp>, JournalError> {
        let ended = self.of_history(object.bucket(), async |connection, history, _| {
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
    let uri = Object::Bucket(bucket.to_owned()).to_string();
    Ok(in_chain(connection, &uri).await?.unwrap_or_default())
}

/// When the last life of an object ended that is over.
pub(super) async fn in_chain(connection: &mut AnyConnection, uri: &str) -> sqlx::Result<Option<Timestamp>> {
    let select = Statement::new("SELECT modified FROM sidecar_versions WHERE deleted = 1 AND uri = ");
    let select = select.bind(uri).push(" ORDER BY generation DESC LIMIT 1");
    select.first(connection).await?.map(|row| timestamp(&row, 0)).transpose()
}

/// The newest version at or before a moment that was an object's end.
pub(super) async fn version(
    connection: &mut AnyConnection,
    history: i64,
    object: &Object,
    moment: Timestamp,
) -> sqlx::Result<Option<Timestamp>> {
    let select = Statement::new("SELECT object_modified FROM sidecar_entries WHERE history = ").bind(history);
    let select = select.push(" AND uri = ").bind(object.to_string()).push(" AND action = 'delete'");
    let select = select.push(" AND object_modified <= ").bind(moment);
    let row = select.push(" ORDER BY last_modified DESC LIMIT 1").first(connection).await?;
    row.map(|row| timestamp(&row, 0)).transpose()
}

/// The entry of an object's last deletion before another entry, of those that the requester sees; zero where there is none.
pub(super) async fn entry_before(
    connection: &mut AnyConnection,
    question: &mut Question<'_, '_>,
    object: &Object,
    before: Timestamp,
) -> sqlx::Result<Timestamp> {
    let uri = object.to_string();
    let select = question.sight(Statement::new("SELECT last_modified, "));
    let select = select.push(" FROM sidecar_entries WHERE history = ").bind(question.history);
    let select = question.seen(select).push(" AND uri = ").bind(&*uri);
    let select = select.push(" AND action = 'delete' AND last_modified < ").bind(before);
    let mut stream = select.push(" ORDER BY last_modified DESC").stream(connection);
    while let Some(row) = stream.try_next().await? {
        if truth(&row, 1)? || question.verdict(&uri)? {
            return timestamp(&row, 0);
        }
    }
    Ok(Timestamp::ZERO)
}
