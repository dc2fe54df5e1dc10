//! Writes under way, and whose they are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;
use serde_json::value::RawValue;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row};

use super::rows::CHUNK;
use super::statement::{self, Bound, Statement, timestamp};
use super::{Change, Intent, IntentGroup, Object};
use crate::kinto::{Timestamp, segment};
use crate::query::members;

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

/// Where such rows stand, behind all intents of a group, and behind them those of whom nobody waits for.
const MADE_FROM: i64 = 1 << 32;
const PASSED_FROM: i64 = 2 << 32;

/// What some process is about to do with an object or with all of a list.
pub(super) struct OthersIntent {
    pub(super) group: i64,
    pub(super) owner: i64,
    pub(super) uri: String,
    /// Which version it made, where it says that.
    pub(super) made: Option<Timestamp>,
}

/// Says which versions the writes of a group made: the oldest of each object. What was said of other objects stands.
pub(super) async fn tell_made(
    connection: &mut AnyConnection,
    group: IntentGroup,
    owner: i64,
    changes: &[Change],
) -> sqlx::Result<()> {
    let mut oldest: BTreeMap<&Object, Timestamp> = BTreeMap::new();
    for change in changes {
        let known = oldest.entry(&change.object).or_insert(change.modified);
        *known = change.modified.min(*known);
    }
    let of_group = |text: &str| {
        let statement = Statement::new(text).bind(group.0).push(" AND position >= ").bind(MADE_FROM);
        statement.push(" AND position < ").bind(PASSED_FROM)
    };
    let uris: Vec<String> = oldest.keys().map(ToString::to_string).collect();
    for uris in uris.chunks(CHUNK) {
        let before = of_group("DELETE FROM sidecar_intents WHERE intent_group = ").push(" AND uri IN (");
        before.list(uris.iter().map(String::as_str)).push(")").execute(connection).await?;
    }
    let last = of_group("SELECT coalesce(max(position), 0) FROM sidecar_intents WHERE intent_group = ");
    let from = last.number(connection).await?.saturating_add(1).max(MADE_FROM);
    let rows = (from..).zip(oldest).map(|(position, (object, modified))| -> IntentRow {
        [
            group.0.into(),
            position.into(),
            owner.into(),
            object.bucket().into(),
            Bound::NoText,
            MADE.into(),
            object.to_string().into(),
            Bound::NoText,
            modified.into(),
            Bound::NoText,
        ]
    });
    write(connection, &rows.collect::<Vec<_>>()).await
}

/// Says of groups, or of all of some owners, that nobody waits for them: what they made counts as newer than anything.
pub(super) async fn pass_by(connection: &mut AnyConnection, of: &str, numbers: &[i64]) -> sqlx::Result<()> {
    for numbers in numbers.chunks(CHUNK) {
        let insert = Statement::new(
            "INSERT INTO sidecar_intents \
             (intent_group, position, owner, bucket, user_id, method, uri, sent, known, note) \
             SELECT intent_group, position + ",
        );
        let insert =
            insert.bind(PASSED_FROM).push(", owner, bucket, NULL, ").bind(MADE).push(", uri, NULL, ");
        let insert = insert.bind(Timestamp::LAST).push(", NULL FROM sidecar_intents WHERE position < ");
        let insert = insert.bind(MADE_FROM).push(&format!(" AND {of} IN (")).list(numbers.iter().copied());
        insert.push(") ON CONFLICT (intent_group, position) DO NOTHING").execute(connection).await?;
    }
    Ok(())
}

/// PostgreSQL: what others than this owner intend, or made, at these URIs. Those who write wait for their turn in the same
/// statement: what it does not see was begun after it.
pub(super) async fn of_others(
    connection: &mut AnyConnection,
    owner: i64,
    uris: &BTreeSet<String>,
    takes_turn: bool,
) -> sqlx::Result<Vec<OthersIntent>> {
    let mut found = Vec::new();
    for row in select_of_others(owner, uris, takes_turn).fetch(connection).await? {
        let Some(group) = row.try_get(0)? else { continue };
        let (mut uri, method): (String, String) = (row.try_get(2)?, row.try_get(3)?);
        if method == "POST" {
            let sent: Option<String> = row.try_get(5)?;
            let sent = sent.map(|sent| members(sent.as_bytes())).unwrap_or_default();
            let Some(id) = sent.get("id").and_then(Value::as_str) else { continue };
            uri = format!("{uri}/{}", segment(id));
        }
        let made = (method == MADE).then(|| timestamp(&row, 4)).transpose()?;
        found.push(OthersIntent { group, owner: row.try_get(1)?, uri, made });
    }
    Ok(found)
}

pub(super) fn select_of_others(owner: i64, uris: &BTreeSet<String>, takes_turn: bool) -> Statement {
    let uris = serde_json::to_string(uris).unwrap_or_default();
    let select = Statement::new(
        "SELECT intents.intent_group, intents.owner, intents.uri, intents.method, intents.known, \
         CASE WHEN intents.method = 'POST' THEN intents.sent END FROM (SELECT ",
    );
    let select = if takes_turn { statement::push_turn(select) } else { select.push("1") };
    // The turn is waited for, whatever is joined to it.
    let select =
        select.push(") AS turn LEFT JOIN sidecar_intents AS intents ON intents.owner <> ").bind(owner);
    let select =
        select.push(" AND intents.uri = ANY (ARRAY(SELECT json_array_elements_text(CAST(").bind(uris);
    // An object that is sent to a list without an id is given one that nobody else can name.
    select.push(" AS JSON)))) AND (intents.method <> 'POST' OR intents.sent LIKE '%\"id\":%')")
}

/// Removes groups.
pub(super) async fn remove(connection: &mut AnyConnection, groups: &[i64]) -> sqlx::Result<()> {
    for groups in groups.chunks(CHUNK) {
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

/// The open intents of other owners about some URIs.
pub(super) async fn of_others_about(
    connection: &mut AnyConnection,
    own: i64,
    uris: &[String],
) -> sqlx::Result<Vec<Intent>> {
    let mut intents = Vec::new();
    for uris in uris.chunks(CHUNK) {
        let select = Statement::new(
            "SELECT intent_group, bucket, user_id, method, uri, sent, known, note FROM sidecar_intents WHERE method <> ",
        );
        let select = select.bind(MADE).push(" AND owner <> ").bind(own);
        let select = select.push(" AND uri IN (").list(uris.iter().map(String::as_str)).push(")");
        for row in select.push(" ORDER BY intent_group, position").fetch(connection).await? {
            intents.push(intent(&row)?);
        }
    }
    Ok(intents)
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
