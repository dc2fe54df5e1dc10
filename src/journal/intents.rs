//! Writes under way, and whose they are.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::value::RawValue;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row};

use super::statement::{Bound, Statement, timestamp};
use super::{Intent, IntentGroup, Object};
use crate::kinto::Timestamp;

/// An intent as a row of its table.
pub(super) type IntentRow = [Bound; 10];

/// A group of intents as rows.
pub(super) fn rows(group: IntentGroup, owner: i64, intents: &[Intent]) -> impl Iterator<Item = IntentRow> {
    (0_i64..).zip(intents).map(move |(position, intent)| {
        [
            group.0.into(),
            position.into(),
            owner.into(),
            intent.bucket.as_str().into(),
            intent.user_id.as_deref().into(),
            intent.method.as_str().into(),
            intent.uri.as_str().into(),
            intent.sent.as_deref().map(RawValue::get).into(),
            intent.known.into(),
            intent.note.as_deref().and_then(|note| serde_json::to_string(note).ok()).into(),
        ]
    })
}

/// Writes intents down.
pub(super) async fn write(connection: &mut AnyConnection, rows: &[IntentRow]) -> sqlx::Result<()> {
    for rows in rows.chunks(200) {
        let insert = Statement::new(
            "INSERT INTO sidecar_intents \
             (intent_group, position, owner, bucket, user_id, method, uri, sent, known, note) VALUES ",
        );
        insert.rows(rows.iter().cloned()).execute(connection).await?;
    }
    Ok(())
}

/// The method of rows that say which version of an object a write made: nobody sends it.
const MADE: &str = "MADE";

/// Behind all intents of a group.
const BEHIND: i64 = 1 << 32;

/// What some process is about to do, or which version (`known`) it made.
pub(super) struct OthersIntent {
    pub(super) group: i64,
    pub(super) uri: String,
    pub(super) is_made: bool,
    pub(super) deletes: bool,
    pub(super) known: Timestamp,
}

/// The versions that the writes of a group made, as rows.
pub(super) fn made(
    group: IntentGroup,
    owner: i64,
    versions: &[(Object, Timestamp)],
) -> impl Iterator<Item = IntentRow> {
    (BEHIND..).zip(versions).map(move |(position, (object, modified))| {
        [
            group.0.into(),
            position.into(),
            owner.into(),
            object.bucket().into(),
            Bound::NoText,
            MADE.into(),
            object.to_string().into(),
            Bound::NoText,
            (*modified).into(),
            Bound::NoText,
        ]
    })
}

/// What others than this owner intend, or made, at these URIs.
pub(super) async fn of_others(
    connection: &mut AnyConnection,
    owner: i64,
    uris: &[String],
) -> sqlx::Result<Vec<OthersIntent>> {
    let mut found = Vec::new();
    for uris in uris.chunks(super::rows::CHUNK) {
        let select = "SELECT intent_group, uri, method, known FROM sidecar_intents WHERE owner <> ";
        let select = Statement::new(select).bind(owner).push(" AND uri IN (");
        for row in select.list(uris.iter().map(String::as_str)).push(")").fetch(connection).await? {
            let method: String = row.try_get(2)?;
            let (is_made, deletes) = (method == MADE, method == "DELETE");
            found.push(OthersIntent {
                group: row.try_get(0)?,
                uri: row.try_get(1)?,
                is_made,
                deletes,
                known: timestamp(&row, 3)?,
            });
        }
    }
    Ok(found)
}

/// Removes groups.
pub(super) async fn remove(connection: &mut AnyConnection, groups: &[i64]) -> sqlx::Result<()> {
    for groups in groups.chunks(super::rows::CHUNK) {
        let delete = Statement::new("DELETE FROM sidecar_intents WHERE intent_group IN (");
        delete.list(groups.iter().copied()).push(")").execute(connection).await?;
    }
    Ok(())
}

/// Makes the intents of some owners another's.
pub(super) async fn adopt(connection: &mut AnyConnection, from: &[i64], to: i64) -> sqlx::Result<()> {
    let update = Statement::new("UPDATE sidecar_intents SET owner = ").bind(to).push(" WHERE owner IN (");
    update.list(from.iter().copied()).push(")").execute(connection).await.map(drop)
}

/// The owners of open intents.
pub(super) async fn owners(connection: &mut AnyConnection) -> sqlx::Result<Vec<i64>> {
    let rows = Statement::new("SELECT DISTINCT owner FROM sidecar_intents").fetch(connection).await?;
    rows.iter().map(|row| row.try_get(0)).collect()
}

/// The groups of these owners.
pub(super) async fn of_owners(
    connection: &mut AnyConnection,
    owners: &[i64],
) -> sqlx::Result<Vec<(IntentGroup, Vec<Intent>)>> {
    let select = Statement::new(
        "SELECT intent_group, bucket, user_id, method, uri, sent, known, note FROM sidecar_intents WHERE owner IN (",
    );
    let select = select.list(owners.iter().copied()).push(") AND method <> ").bind(MADE);
    let select = select.push(" ORDER BY intent_group, position");
    let mut groups: BTreeMap<i64, Vec<Intent>> = BTreeMap::new();
    for row in select.fetch(connection).await? {
        groups.entry(row.try_get(0)?).or_default().push(intent(&row)?);
    }
    Ok(groups.into_iter().map(|(group, intents)| (IntentGroup(group), intents)).collect())
}

/// The groups with an intent in this bucket or in none; all groups where no bucket is named.
pub(super) async fn open(
    connection: &mut AnyConnection,
    bucket: Option<&str>,
) -> sqlx::Result<Vec<IntentGroup>> {
    let select = Statement::new("SELECT DISTINCT intent_group FROM sidecar_intents");
    let select = match bucket {
        Some(bucket) => select.push(" WHERE bucket IN (").list([bucket, ""]).push(")"),
        None => select,
    };
    let rows = select.fetch(connection).await?;
    rows.iter().map(|row| row.try_get(0).map(IntentGroup)).collect()
}

fn intent(row: &AnyRow) -> sqlx::Result<Intent> {
    let sent: Option<String> = row.try_get(5)?;
    let note: Option<String> = row.try_get(7)?;
    Ok(Intent {
        bucket: row.try_get(1)?,
        user_id: row.try_get(2)?,
        method: row.try_get(3)?,
        uri: row.try_get(4)?,
        sent: sent.and_then(|sent| RawValue::from_string(sent).ok()),
        known: timestamp(row, 6)?,
        note: note.and_then(|note| serde_json::from_str(&note).ok()).map(Arc::new),
        length: 0,
    })
}
