//! What makes it quick to write much at once.
//!
//! SQLite keeps each index up with each row, all over the file, and makes a whole one out of rows in a third of that time. So
//! most indexes are left out of a journal that is empty, until all is in it. A mark says so: whoever opens the journal next
//! makes them where the import was killed.
//!
//! PostgreSQL chooses an index by what it knows of a table, which it learns a minute later by itself. Until then it reads most
//! of a table that was empty.

use sqlx::{AnyConnection, AssertSqlSafe, Connection, Executor};

use super::engine::{Kind, failed};
use super::statement::Statement;
use super::steps::STEPS;
use super::{Journal, JournalError};

/// The entry of `sidecar_meta` that is there for as long as indexes are to be made.
const MARK: &str = "indexes";
/// How those begin that are left out.
const INDEX: &str = "CREATE INDEX sidecar_entries_";
/// What is asked for while much is written.
const NEEDED: [&str; 1] = ["version"];
/// What much is written to.
const ANALYZE: &str = "ANALYZE sidecar_entries; ANALYZE sidecar_tombstones; ANALYZE sidecar_versions; \
                       ANALYZE sidecar_objects";

impl Journal {
    /// Leaves indexes out where nothing is there yet, until [`Self::make_indexes`].
    pub async fn leave_indexes_out(&self) -> Result<(), JournalError> {
        if self.engine.kind != Kind::Sqlite {
            return Ok(());
        }
        let mut writing = self.engine.writing().await.map_err(|error| failed(&error))?;
        leave_out(writing.connection()).await.map_err(|error| failed(&error))
    }

    /// Makes the indexes that were left out.
    pub async fn make_indexes(&self) -> Result<(), JournalError> {
        let mut writing = self.engine.writing().await.map_err(|error| failed(&error))?;
        writing.expect_indexes(self.engine.kind).await.map_err(|error| failed(&error))?;
        make(self.engine.kind, writing.connection()).await.map_err(|error| failed(&error))
    }

    /// Has the engine look how much there is.
    pub async fn look_at_sizes(&self) -> Result<(), JournalError> {
        if self.engine.kind != Kind::Postgres {
            return Ok(());
        }
        let mut writing = self.engine.writing().await.map_err(|error| failed(&error))?;
        self.engine
            .kind
            .at_last(writing.connection().execute(ANALYZE))
            .await
            .map_err(|error| failed(&error))?;
        Ok(())
    }
}

async fn leave_out(connection: &mut AnyConnection) -> sqlx::Result<()> {
    let mut transaction = connection.begin_with(Kind::Sqlite.begin()).await?;
    if Statement::new("SELECT 1 FROM sidecar_entries LIMIT 1").first(&mut transaction).await?.is_some() {
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
pub(super) async fn make(kind: Kind, connection: &mut AnyConnection) -> sqlx::Result<()> {
    if kind != Kind::Sqlite || !is_to_do(connection).await? {
        return Ok(());
    }
    for (_, index) in indexes() {
        let index = index.replacen("CREATE INDEX", "CREATE INDEX IF NOT EXISTS", 1);
        connection.execute(AssertSqlSafe(index)).await?;
    }
    Statement::new("DELETE FROM sidecar_meta WHERE name = ").bind(MARK).execute(connection).await.map(drop)
}

/// The indexes that are left out, with what makes them.
fn indexes() -> impl Iterator<Item = (&'static str, &'static str)> {
    let lines = STEPS.iter().flat_map(|step| step.lines());
    lines
        .filter_map(|line| Some((line.strip_prefix(INDEX)?.split_once(' ')?.0, line)))
        .filter(|(name, _)| !NEEDED.contains(name))
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
