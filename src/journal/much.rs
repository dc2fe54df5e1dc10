//! What makes it quick to write much at once.
//!
//! An engine keeps each index up with each row, all over its files, and makes a whole one out of rows in a third of that time.
//! So most indexes are left out of a journal that is empty, until all is in it. A mark says so: whoever opens the journal next
//! makes them where the import was killed. They are left out where no other process uses the journal; one that begins to while
//! the import goes on makes them, and the import goes on with them.
//!
//! PostgreSQL chooses an index by what it knows of a table, which it learns a minute later by itself. Until then it reads most
//! of a table that was empty.

use sqlx::{AnyConnection, AssertSqlSafe, Connection, Executor};

use super::engine::{Engine, Kind, failed};
use super::statement::{Statement, lock};
use super::steps::STEPS;
use super::{Journal, JournalError, owner};

/// The entry of `sidecar_meta` that is there for as long as indexes are to be made.
const MARK: &str = "indexes";
/// How those begin that are left out.
const INDEX: &str = "CREATE INDEX sidecar_entries_";
/// What is asked for while much is written.
const NEEDED: [&str; 1] = ["version"];
/// Of how few rows PostgreSQL learns how many there are.
const FEW_ROWS: &str = "SET default_statistics_target = 5";
/// What entries are written to.
const ANALYZE: &str = "ANALYZE sidecar_entries; ANALYZE sidecar_tombstones; ANALYZE sidecar_objects";
/// What chains are written to.
const ANALYZE_CHAINS: &str = "ANALYZE sidecar_versions";
/// PostgreSQL: what is held by whoever makes indexes, so that two processes do not make the same one.
const MAKERS: i64 = 0x6b69_6e74_6f73_6a32;
/// PostgreSQL: somebody else reads or writes a table for longer than its lock is waited for.
const LOCKED: &str = "55P03";

impl Journal {
    /// Leaves indexes out where nothing is there yet, until [`Self::make_indexes`].
    pub async fn leave_indexes_out(&self) -> Result<(), JournalError> {
        let mut writing = self.engine.writing().await.map_err(|error| failed(&error))?;
        let kind = self.engine.kind;
        match kind.at_last(leave_out(kind, self.owner.number, writing.connection())).await {
            Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some(LOCKED) => Ok(()),
            done => done.map_err(|error| failed(&error)),
        }
    }

    /// Makes the indexes that were left out.
    pub async fn make_indexes(&self) -> Result<(), JournalError> {
        make(&self.engine, None).await.map_err(|error| failed(&error))
    }

    /// Has the engine look how many entries there are.
    pub async fn look_at_entries(&self) -> Result<(), JournalError> {
        self.look(&[FEW_ROWS, ANALYZE]).await
    }

    /// Has the engine look how many versions there are.
    pub async fn look_at_chains(&self) -> Result<(), JournalError> {
        self.look(&[FEW_ROWS, ANALYZE_CHAINS]).await
    }

    /// Has the engine look what there is, for whoever asks later.
    pub async fn look_closely(&self) -> Result<(), JournalError> {
        self.look(&[ANALYZE, ANALYZE_CHAINS]).await
    }

    async fn look(&self, told: &[&'static str]) -> Result<(), JournalError> {
        let kind = self.engine.kind;
        if kind != Kind::Postgres {
            return Ok(());
        }
        let look = async {
            let mut writing = self.engine.writing().await?;
            for told in told {
                kind.at_last(writing.connection().execute(*told)).await?;
            }
            Ok(())
        };
        look.await.map_err(|error| failed(&error))
    }
}

async fn leave_out(kind: Kind, own: i64, connection: &mut AnyConnection) -> sqlx::Result<()> {
    let mut transaction = connection.begin_with(kind.begin()).await?;
    lock(kind, &mut transaction).await?;
    if Statement::new("SELECT 1 FROM sidecar_entries LIMIT 1").first(&mut transaction).await?.is_some() {
        return Ok(());
    }
    // Whoever is not among them yet looks for the mark when it is.
    if kind == Kind::Postgres && owner::living(&mut transaction).await?.iter().any(|living| *living != own) {
        return Ok(());
    }
    for (name, _) in indexes() {
        transaction.execute(AssertSqlSafe(format!("DROP INDEX IF EXISTS sidecar_entries_{name}"))).await?;
    }
    let mark = Statement::new("INSERT INTO sidecar_meta (name, value) VALUES (").bind(MARK);
    mark.push(", 'left out') ON CONFLICT DO NOTHING").execute(&mut transaction).await?;
    transaction.commit().await
}

/// Whether indexes are to be made.
pub(super) async fn is_to_do(connection: &mut AnyConnection) -> sqlx::Result<bool> {
    let select = Statement::new("SELECT 1 FROM sidecar_meta WHERE name = ").bind(MARK);
    Ok(select.first(connection).await?.is_some())
}

/// Makes indexes, where they are to be made: one after the other, so that who is killed leaves the rest to the next one.
/// The log is told so first.
pub(super) async fn make(engine: &Engine, told: Option<&str>) -> sqlx::Result<()> {
    let kind = engine.kind;
    let mut writing = engine.writing().await?;
    if !kind.at_last(is_marked(kind, writing.connection())).await? {
        return Ok(());
    }
    if let Some(told) = told {
        tracing::info!("{told}");
    }
    writing.expect_indexes(kind).await?;
    let connection = writing.connection();
    if kind == Kind::Postgres {
        // Until the connection ends.
        Statement::new("SELECT pg_advisory_lock(").bind(MAKERS).push(")").execute(connection).await?;
    }
    for (_, index) in indexes() {
        let index = index.replacen("CREATE INDEX", "CREATE INDEX IF NOT EXISTS", 1);
        connection.execute(AssertSqlSafe(index)).await?;
    }
    Statement::new("DELETE FROM sidecar_meta WHERE name = ").bind(MARK).execute(connection).await.map(drop)
}

/// Whether indexes are to be made, once nobody is about to leave them out.
async fn is_marked(kind: Kind, connection: &mut AnyConnection) -> sqlx::Result<bool> {
    let mut transaction = connection.begin_with(kind.begin()).await?;
    lock(kind, &mut transaction).await?;
    is_to_do(&mut transaction).await
}

/// The indexes that are left out, with what makes them.
fn indexes() -> impl Iterator<Item = (&'static str, &'static str)> {
    let lines = STEPS.iter().flat_map(|step| step.lines());
    lines
        .filter_map(|line| Some((line.strip_prefix(INDEX)?.split_once(' ')?.0, line)))
        .filter(|(name, _)| !NEEDED.contains(name))
}

/// Whether that is one of them, `index {name}`.
pub(super) fn leaves_out(text: &str) -> bool {
    indexes().any(|(name, _)| text == format!("index sidecar_entries_{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_are_known_from_the_schema() {
        let names: Vec<&str> = indexes().map(|(name, _)| name).collect();
        assert!(names.len() > 8 && names.contains(&"uri") && !names.contains(&"version"), "{names:?}");
        assert!(indexes().all(|(_, index)| index.ends_with(';') && !index.contains('{')));
    }
}
