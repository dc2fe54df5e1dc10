//! The tables, and how an older journal becomes a present one.

use std::collections::BTreeMap;

use sqlx::{AnyConnection, AssertSqlSafe, Connection, Executor, Row};

use super::engine::{DEADLINE, Engine, Kind, bounded, opening};
use super::rows::now_microseconds;
use super::statement::{Statement, lock, pragma};
use super::steps::STEPS;
use super::upgrade::{self, Upgrade};
use super::{JournalError, much};
use crate::settings::JournalUrl;

/// The first schema that has chains.
const CHAINS: usize = 2;
/// Says in an SQLite file whose it is: `KSJ1`.
const APPLICATION: i64 = 0x4b53_4a31;

/// All tables.
pub(super) const TABLES: [&str; 12] = [
    "meta", "histories", "entries", "tombstones", "gaps", "reader_sets", "readers", "objects", "watermarks",
    "intents", "versions", "checkpoints",
];

/// Brings the schema up to date, or refuses what is no journal or a newer one. Nothing is changed in what is refused.
pub(super) async fn prepare(
    engine: &Engine,
    url: &JournalUrl,
    upgrade: &Upgrade,
) -> Result<(), JournalError> {
    let failed = |error: sqlx::Error| opening(url, &error);
    let mut writing = engine.writing().await.map_err(failed)?;
    if engine.kind == Kind::Sqlite && is_empty(writing.connection()).await.map_err(failed)? {
        // Pages that are free can be given back to the file system. It has to be said first.
        writing.connection().execute("PRAGMA auto_vacuum = INCREMENTAL").await.map_err(failed)?;
    }
    let kind = engine.kind;
    let mut transaction =
        kind.at_last(writing.connection().begin_with(kind.begin())).await.map_err(failed)?;
    kind.at_last(lock(kind, &mut transaction)).await.map_err(failed)?;
    let found = kind.at_last(version(kind, &mut transaction)).await.map_err(failed)?;
    let version = found.known(url)?;
    if version == 0 && kind == Kind::Sqlite {
        let mark = AssertSqlSafe(format!("PRAGMA application_id = {APPLICATION}"));
        transaction.execute(mark).await.map_err(failed)?;
    }
    for step in STEPS.iter().skip(version) {
        kind.at_last(transaction.execute(written_for(kind, step))).await.map_err(failed)?;
    }
    if version < CHAINS {
        kind.at_last(begin_chains(&mut transaction)).await.map_err(failed)?;
        if version > 0 {
            kind.at_last(upgrade::begin(&mut transaction)).await.map_err(failed)?;
        }
    }
    // Written in any case: a journal that cannot be written is found now.
    let store = Statement::new("INSERT INTO sidecar_meta (name, value) VALUES ('schema', ")
        .bind(STEPS.len().to_string())
        .push(") ON CONFLICT (name) DO UPDATE SET value = excluded.value");
    kind.at_last(store.execute(&mut transaction)).await.map_err(failed)?;
    kind.at_last(transaction.commit()).await.map_err(failed)?;
    if kind == Kind::Sqlite {
        // It stays in the file, for all connections.
        writing.connection().execute("PRAGMA journal_mode = WAL").await.map_err(failed)?;
    }
    upgrade.run(kind, writing.connection()).await.map_err(failed)
}

/// Whether that takes long, as much of what is there has to be looked at; changes nothing.
pub(super) async fn takes_long(engine: &Engine, url: &JournalUrl) -> Result<bool, JournalError> {
    let failed = |error: sqlx::Error| opening(url, &error);
    let mut writing = engine.writing().await.map_err(failed)?;
    let found = bounded(DEADLINE, version(engine.kind, writing.connection())).await.map_err(failed)?;
    Ok(match found.known(url)? {
        0 => false,
        old if old < CHAINS => true,
        _ => {
            let connection = writing.connection();
            bounded(DEADLINE, upgrade::mark(connection)).await.map_err(failed)?.is_some()
                || bounded(DEADLINE, much::is_to_do(connection)).await.map_err(failed)?
        }
    })
}

/// A step in the words of an engine.
fn written_for(kind: Kind, step: &str) -> AssertSqlSafe<String> {
    let step = step.replace("{key}", kind.counted_key()).replace("{bytes}", kind.bytewise());
    AssertSqlSafe(step.replace("{rowless}", kind.rowless()).replace("{shared}", kind.shared()))
}

/// Says when chains began.
async fn begin_chains(connection: &mut AnyConnection) -> sqlx::Result<()> {
    let began = Statement::new("INSERT INTO sidecar_meta (name, value) VALUES ('chains', ");
    began.bind(now_microseconds().to_string()).push(")").execute(connection).await.map(drop)
}

/// Whether nothing was ever written to a file.
async fn is_empty(connection: &mut AnyConnection) -> sqlx::Result<bool> {
    Ok(pragma(connection, "page_count").await? == 0)
}

/// Sees whether there is a journal that can be read as it is; changes nothing.
pub(super) async fn look(engine: &Engine, url: &JournalUrl) -> Result<bool, JournalError> {
    let version = examine(engine, url).await?;
    if (1..STEPS.len()).contains(&version) {
        return Err(refused(url, "is of an older kinto-sidecar; start this one with it once"));
    }
    Ok(version > 0)
}

/// The version of a journal that this process could bring up to date and use, 0 where there is none yet; changes nothing.
pub(super) async fn examine(engine: &Engine, url: &JournalUrl) -> Result<usize, JournalError> {
    let failed = |error: sqlx::Error| opening(url, &error);
    let mut writing = engine.writing().await.map_err(failed)?;
    bounded(DEADLINE, version(engine.kind, writing.connection())).await.map_err(failed)?.known(url)
}

/// The version of the present schema.
pub(super) fn present() -> usize {
    STEPS.len()
}

/// An error where a table is not there.
pub(super) async fn look_for_tables(connection: &mut AnyConnection) -> sqlx::Result<()> {
    let looks = TABLES.map(|table| format!("SELECT 1 FROM sidecar_{table} WHERE 1 = 0"));
    Statement::new(&looks.join(" UNION ALL ")).fetch(connection).await.map(drop)
}

/// What of the schema is not there, or (SQLite) is not as it is made.
pub(super) async fn missing(kind: Kind, connection: &mut AnyConnection) -> sqlx::Result<Vec<String>> {
    const MADE: &str = "SELECT type || ' ' || name, sql FROM sqlite_master WHERE sql IS NOT NULL";
    let pairs = async |connection: &mut AnyConnection, text: &str| {
        let rows = Statement::new(text).fetch(connection).await?;
        rows.iter()
            .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
            .collect::<sqlx::Result<BTreeMap<String, String>>>()
    };
    let mut model = AnyConnection::connect("sqlite::memory:").await?;
    for step in STEPS {
        model.execute(written_for(Kind::Sqlite, step)).await?;
    }
    let expected = pairs(&mut model, MADE).await?;
    let found = match kind {
        Kind::Sqlite => pairs(connection, MADE).await?,
        Kind::Postgres => {
            let text = "SELECT 'table ' || CAST(tablename AS TEXT), '' FROM pg_catalog.pg_tables WHERE schemaname = current_schema() \
                        UNION SELECT 'index ' || CAST(indexname AS TEXT), '' FROM pg_catalog.pg_indexes \
                        WHERE schemaname = current_schema()";
            pairs(connection, text).await?
        }
    };
    let is_there = |name: &String, sql: &String| match kind {
        Kind::Sqlite => found.get(name) == Some(sql),
        Kind::Postgres => found.contains_key(name) || name.contains("sqlite_"),
    };
    Ok(expected.iter().filter(|(name, sql)| !is_there(name, sql)).map(|(name, _)| name.clone()).collect())
}

fn refused(url: &JournalUrl, text: &str) -> JournalError {
    JournalError::Unusable(format!("the journal {url:?} {text}").into())
}

enum Found {
    Nothing,
    Journal(usize),
    SomethingElse,
    Encoding(String),
}

impl Found {
    /// The version; 0 where there is nothing yet.
    fn known(self, url: &JournalUrl) -> Result<usize, JournalError> {
        match self {
            Self::Nothing => Ok(0),
            Self::Journal(version) if version <= STEPS.len() => Ok(version),
            Self::Journal(version) => Err(refused(
                url,
                &format!(
                    "was written by a newer kinto-sidecar (its schema is {version}, this one knows {}); use that one, or \
                     export the journal with it and import it here",
                    STEPS.len()
                ),
            )),
            Self::SomethingElse => Err(refused(url, "belongs to something else; it was left as it is")),
            Self::Encoding(encoding) => Err(refused(
                url,
                &format!("is in a database whose encoding is {encoding}; it has to be UTF8"),
            )),
        }
    }
}

async fn version(kind: Kind, connection: &mut AnyConnection) -> sqlx::Result<Found> {
    let is_there = match kind {
        Kind::Sqlite => {
            let tables = Statement::new("SELECT count(*) FROM sqlite_master").number(connection).await?;
            let application = pragma(connection, "application_id").await?;
            let is_empty = tables == 0 && application == 0;
            if !is_empty && application != APPLICATION {
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
            Statement::new(text).number(connection).await? > 0
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
