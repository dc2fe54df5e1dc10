//! The tables, and how an older journal becomes a present one.

use sqlx::{AnyConnection, Connection, Executor, Row};

use super::JournalError;
use super::engine::{Engine, Kind, opening};
use super::statement::Statement;
use crate::settings::JournalUrl;

/// The steps from nothing to the present schema; a journal's version is how many of them it has seen. Steps are never
/// changed once they were released. `{key}` is a key that the engine counts up, `{bytes}` makes a text compare byte by byte.
const STEPS: [&str; 1] = [include_str!("schema/1.sql")];
/// Says in an SQLite file whose it is: `KSJ1`.
const APPLICATION: i64 = 0x4b53_4a31;
/// PostgreSQL: the lock that those who write hold, so that what one finds missing no other one adds meanwhile.
const WRITERS: i64 = 0x6b69_6e74_6f73_6a31;

/// Brings the schema up to date, or refuses what is no journal or a newer one. Nothing is changed in what is refused.
pub(super) async fn prepare(engine: &Engine, url: &JournalUrl) -> Result<(), JournalError> {
    let failed = |error: sqlx::Error| opening(url, &error);
    let refused = |text: &str| JournalError::Unusable(format!("the journal {url:?} {text}").into());
    let mut writing = engine.writing().await.map_err(failed)?;
    let mut transaction = writing.connection().begin_with(engine.kind.begin()).await.map_err(failed)?;
    lock(engine.kind, &mut transaction).await.map_err(failed)?;
    let version = match version(engine.kind, &mut transaction).await.map_err(failed)? {
        Found::Nothing => 0,
        Found::Journal(version) => version,
        Found::SomethingElse => return Err(refused("belongs to something else; it was left as it is")),
        Found::Encoding(encoding) => {
            return Err(refused(&format!(
                "is in a database whose encoding is {encoding}; it has to be UTF8"
            )));
        }
    };
    if version > STEPS.len() {
        return Err(refused(&format!(
            "was written by a newer kinto-sidecar (its schema is {version}, this one knows {}); use that one, or export the \
             journal with it and import it here",
            STEPS.len()
        )));
    }
    for step in STEPS.iter().skip(version) {
        let step =
            step.replace("{key}", engine.kind.counted_key()).replace("{bytes}", engine.kind.bytewise());
        transaction.execute(sqlx::AssertSqlSafe(step)).await.map_err(failed)?;
    }
    // Written in any case: a journal that cannot be written is found now.
    let store = Statement::new("INSERT INTO sidecar_meta (name, value) VALUES ('schema', ")
        .bind(STEPS.len().to_string())
        .push(") ON CONFLICT (name) DO UPDATE SET value = excluded.value");
    store.execute(&mut transaction).await.map_err(failed)?;
    transaction.commit().await.map_err(failed)?;
    if engine.kind == Kind::Sqlite {
        // It stays in the file, for all connections.
        writing.connection().execute("PRAGMA journal_mode = WAL").await.map_err(failed)?;
    }
    Ok(())
}

/// Waits for its turn among those who write; until the end of the transaction.
pub(super) async fn lock(kind: Kind, connection: &mut AnyConnection) -> sqlx::Result<()> {
    if kind == Kind::Postgres {
        let lock = Statement::new("SELECT pg_advisory_xact_lock(").bind(WRITERS).push(")");
        lock.execute(connection).await?;
    }
    Ok(())
}

enum Found {
    Nothing,
    Journal(usize),
    SomethingElse,
    Encoding(String),
}

async fn version(kind: Kind, connection: &mut AnyConnection) -> sqlx::Result<Found> {
    let integer = async |connection: &mut AnyConnection, text: &str| {
        let row = Statement::new(text).first(connection).await?;
        row.map_or(Ok(0), |row| row.try_get::<i64, _>(0))
    };
    let is_there = match kind {
        Kind::Sqlite => {
            let tables = integer(connection, "SELECT count(*) FROM sqlite_master").await?;
            let application = integer(connection, "SELECT application_id FROM pragma_application_id").await?;
            if tables == 0 && application == 0 {
                connection
                    .execute(sqlx::AssertSqlSafe(format!("PRAGMA application_id = {APPLICATION}")))
                    .await?;
            } else if application != APPLICATION {
                return Ok(Found::SomethingElse);
            }
            tables > 0
        }
        Kind::Postgres => {
            let encoding = Statement::new("SHOW server_encoding").first(connection).await?;
            let encoding = encoding.map_or(Ok(String::new()), |row| row.try_get::<String, _>(0))?;
            if encoding != "UTF8" {
                return Ok(Found::Encoding(encoding));
            }
            let text = "SELECT count(*) FROM pg_catalog.pg_tables \
                        WHERE schemaname = current_schema() AND tablename = 'sidecar_meta'";
            integer(connection, text).await? > 0
        }
    };
    if !is_there {
        return Ok(Found::Nothing);
    }
    let row =
        Statement::new("SELECT value FROM sidecar_meta WHERE name = 'schema'").first(connection).await?;
    let value = row.map(|row| row.try_get::<String, _>(0)).transpose()?;
    Ok(value.and_then(|value| value.parse().ok()).map_or(Found::SomethingElse, Found::Journal))
}
