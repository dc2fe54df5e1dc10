//! Space: how much there is of it, what a copy takes, and what is given back to the file system once nothing is in it any more.
//!
//! A page of SQLite's that nothing is in stays in the file and is used again. While a sidecar runs, it gives pages back in
//! small steps where many are free. A journal of a version that did not (0.1.0) learns it when it is compacted.

use std::path::Path;

use sqlx::{AnyConnection, Executor};

use super::engine::{DEADLINE, Engine, Kind, failed};
use super::file::beside;
use super::statement::{Statement, pragma};
use super::view::JournalView;
use super::{Journal, JournalError};
use crate::metrics::journal::JournalSize;
use crate::settings::JournalUrl;

/// Pages given back in one step.
const STEP: i64 = 256;
/// So many pages stay free in any case, to be used again.
const SPARE: i64 = 256;
/// Beside them, of so many pages one may be free.
const SPARE_PART: i64 = 16;

/// How large the file of a journal was, and is, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compacted {
    /// Before.
    pub before: u64,
    /// After.
    pub after: u64,
}

/// Gives some pages back where many are free; says whether it did.
pub(super) async fn give_back(kind: Kind, connection: &mut AnyConnection) -> sqlx::Result<bool> {
    if kind != Kind::Sqlite || pragma(connection, "auto_vacuum").await? == 0 {
        return Ok(false);
    }
    let free = pragma(connection, "freelist_count").await?;
    let pages = pragma(connection, "page_count").await?;
    let surplus = free - SPARE - pages / SPARE_PART;
    if surplus <= 0 {
        return Ok(false);
    }
    let step = format!("PRAGMA incremental_vacuum({})", surplus.min(STEP));
    Statement::new(&step).fetch(connection).await?;
    Ok(true)
}

impl Journal {
    /// How much it holds.
    pub async fn size(&self) -> Result<JournalSize, JournalError> {
        self.engine.ask(DEADLINE, async |connection| size(&self.engine, connection).await).await
    }

    /// Makes the file of a journal as small as it can be, while no other process uses it. It has to be there.
    pub async fn compact(url: &JournalUrl) -> Result<Compacted, JournalError> {
        let engine = Engine::at(url).await?;
        let JournalUrl::Sqlite(path) = url else {
            return Err(JournalError::Unusable("only a journal in SQLite has a file to be compacted".into()));
        };
        let length = || std::fs::metadata(path).map_or(0, |metadata| metadata.len());
        let before = length();
        let compact = async {
            let mut writing = engine.writing().await?;
            for statement in ["PRAGMA auto_vacuum = INCREMENTAL", "VACUUM", "PRAGMA wal_checkpoint(TRUNCATE)"]
            {
                writing.connection().execute(statement).await?;
            }
            Ok(())
        };
        compact.await.map_err(|error: sqlx::Error| failed(&error))?;
        Ok(Compacted { before, after: length() })
    }
}

async fn size(engine: &Engine, connection: &mut AnyConnection) -> sqlx::Result<JournalSize> {
    let entries =
        "SELECT CAST(coalesce(sum(entries), 0) AS BIGINT) FROM sidecar_histories WHERE is_current = 1";
    let entries = number(connection, entries).await?;
    let open_intents = number(connection, "SELECT count(*) FROM sidecar_intents").await?;
    let bytes = match (engine.kind, &engine.file) {
        (Kind::Postgres, _) => {
            let size = "SELECT CAST(coalesce(sum(pg_total_relation_size(c.oid)), 0) AS BIGINT) FROM pg_catalog.pg_class c \
                        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
                        WHERE n.nspname = current_schema() AND c.relkind = 'r' AND c.relname LIKE 'sidecar\\_%'";
            number(connection, size).await?
        }
        (Kind::Sqlite, Some(file)) => {
            let length = |file: &Path| std::fs::metadata(file).map_or(0, |metadata| metadata.len());
            length(file).saturating_add(length(&beside(file, "-wal")))
        }
        (Kind::Sqlite, None) => {
            let pages = pragma(connection, "page_count").await?;
            let bytes = pages.saturating_mul(pragma(connection, "page_size").await?);
            u64::try_from(bytes).unwrap_or_default()
        }
    };
    Ok(JournalSize { entries, bytes, open_intents })
}

async fn number(connection: &mut AnyConnection, select: &str) -> sqlx::Result<u64> {
    let number = Statement::new(select).number(connection).await?;
    Ok(u64::try_from(number).unwrap_or_default())
}

impl JournalView {
    /// Writes a copy of the journal, as it is at this moment, into a file that is empty.
    pub async fn back_up(&self, file: &Path) -> Result<(), JournalError> {
        let file = file.to_str().ok_or_else(|| {
            JournalError::Unusable(format!("the path {} is not UTF-8", file.display()).into())
        })?;
        let copy = async {
            let mut writing = self.engine.writing().await?;
            Statement::new("VACUUM INTO ").bind(file).execute(writing.connection()).await
        };
        copy.await.map(drop).map_err(|error| failed(&error))
    }
}
