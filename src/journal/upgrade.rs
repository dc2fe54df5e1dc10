//! How a journal of before there were chains gets those of its entries: bit by bit, with a mark of how far it is, so that a
//! process that is killed in the middle leaves to the next one only what is left.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use sqlx::{AnyConnection, Connection, Row};

use super::chain::fill::fill;
use super::chain::{Chains, Place};
use super::engine::Kind;
use super::statement::{self, Statement};

/// The entry of `sidecar_meta` that is there for as long as chains are to be made: `{history} {uri}`.
const MARK: &str = "filling";

/// How far it is.
#[derive(Debug, Default)]
pub struct Upgrade {
    done: AtomicU64,
    all: AtomicU64,
}

// === impl Upgrade ===

impl Upgrade {
    /// How many entries are done, and how many were to be; `None` where nothing is under way.
    pub fn progress(&self) -> Option<(u64, u64)> {
        let all = self.all.load(Relaxed);
        (all > 0).then(|| (self.done.load(Relaxed), all))
    }

    /// Makes what is left to make, if anything is. On PostgreSQL other processes may do some of it.
    pub(super) async fn run(&self, kind: Kind, connection: &mut AnyConnection) -> sqlx::Result<()> {
        let Some(from) = kind.at_last(mark(connection)).await? else { return Ok(()) };
        let left = u64::try_from(kind.at_last(left(connection, &from)).await?).unwrap_or(0);
        self.done.store(0, Relaxed);
        self.all.store(left, Relaxed);
        tracing::info!("the journal is of an earlier version: {left} entries are brought up to date first");
        let done = self.fill(kind, connection).await;
        self.all.store(0, Relaxed);
        done?;
        tracing::info!("the journal is up to date");
        Ok(())
    }

    async fn fill(&self, kind: Kind, connection: &mut AnyConnection) -> sqlx::Result<()> {
        while let Some(entries) = kind.at_last(portion(kind, connection)).await? {
            self.done.fetch_add(entries, Relaxed);
        }
        Ok(())
    }
}

/// Makes some of what is left to make, if anything is; of how many entries.
async fn portion(kind: Kind, connection: &mut AnyConnection) -> sqlx::Result<Option<u64>> {
    let mut transaction = connection.begin_with(kind.begin()).await?;
    statement::lock(kind, &mut transaction).await?;
    let Some(from) = mark(&mut transaction).await? else { return Ok(None) };
    let (next, entries) = fill(&mut transaction, &mut Chains::default(), &from).await?;
    set_mark(&mut transaction, next.as_ref()).await?;
    transaction.commit().await?;
    Ok(Some(entries))
}

/// Notes that chains are to be made of all entries.
pub(super) async fn begin(connection: &mut AnyConnection) -> sqlx::Result<()> {
    set_mark(connection, Some(&Place::default())).await
}

/// From where on they are to be made, where they are.
pub(super) async fn mark(connection: &mut AnyConnection) -> sqlx::Result<Option<Place>> {
    let select = Statement::new("SELECT value FROM sidecar_meta WHERE name = ").bind(MARK);
    let Some(row) = select.first(connection).await? else { return Ok(None) };
    let value: String = row.try_get(0)?;
    let (history, uri) = value.split_once(' ').unwrap_or_default();
    Ok(Some(Place { history: history.parse().unwrap_or_default(), uri: uri.to_owned() }))
}

async fn set_mark(connection: &mut AnyConnection, place: Option<&Place>) -> sqlx::Result<()> {
    let statement = match place {
        Some(Place { history, uri }) => Statement::new("INSERT INTO sidecar_meta (name, value) VALUES (")
            .bind(MARK)
            .push(", ")
            .bind(format!("{history} {uri}"))
            .push(") ON CONFLICT (name) DO UPDATE SET value = excluded.value"),
        None => Statement::new("DELETE FROM sidecar_meta WHERE name = ").bind(MARK),
    };
    statement.execute(connection).await.map(drop)
}

/// How many entries come after a place.
async fn left(connection: &mut AnyConnection, from: &Place) -> sqlx::Result<i64> {
    Statement::new("SELECT count(*) FROM sidecar_entries WHERE history IN (SELECT id FROM sidecar_histories WHERE is_current = 1)")
        .push(" AND (history > ")
        .bind(from.history)
        .push(" OR history = ")
        .bind(from.history)
        .push(" AND uri > ")
        .bind(from.uri.as_str())
        .push(")")
        .number(connection)
        .await
}
