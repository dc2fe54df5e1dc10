//! Whether a journal is whole: the file, the tables, and that they say of each entry what the entry itself says.

use sqlx::{AnyConnection, Executor, Row};

use super::engine::{Kind, failed};
use super::statement::{Statement, pragma, timestamp};
use super::transaction::is_hidden;
use super::transfer::check_entry;
use super::view::JournalView;
use super::{JournalError, much, schema};
use crate::kinto::Timestamp;

/// The most problems of one kind that are named.
const NAMED: usize = 10;
/// Entries that are read at once.
const BATCH: usize = 200;

/// What was found.
#[derive(Debug, Default)]
pub struct Verified {
    /// What there is: a word and what it says, for people.
    pub facts: Vec<(&'static str, String)>,
    /// What is wrong.
    pub problems: Vec<String>,
}

/// A bucket's history.
struct Found {
    name: String,
    id: i64,
    timestamp: Timestamp,
    counted: i64,
}

impl JournalView {
    /// Reads all of it.
    pub async fn verify(&self) -> Result<Verified, JournalError> {
        let mut verified = Verified::default();
        match self.look_at_all(&mut verified).await {
            Ok(()) => {}
            Err(error @ sqlx::Error::Database(_)) if !verified.problems.is_empty() => {
                // What is damaged cannot be read, which was said.
                verified.problems.push(format!("not all of it can be read: {error}"));
            }
            Err(error) => return Err(failed(&error)),
        }
        Ok(verified)
    }

    async fn look_at_all(&self, verified: &mut Verified) -> sqlx::Result<()> {
        let mut writing = self.engine.writing().await?;
        let connection = writing.connection();
        if self.engine.kind == Kind::Sqlite {
            verified.file(connection).await?;
        }
        connection.execute(self.engine.kind.begin_reading()).await?;
        verified.schema(self.engine.kind, connection).await?;
        verified.histories(connection).await?;
        verified.strays(connection).await?;
        connection.execute("COMMIT").await.map(drop)
    }
}

impl Verified {
    fn say(&mut self, word: &'static str, text: String) {
        self.facts.push((word, text));
    }

    /// SQLite's own check of the file.
    async fn file(&mut self, connection: &mut AnyConnection) -> sqlx::Result<()> {
        let size = pragma(connection, "page_size").await?;
        let pages = pragma(connection, "page_count").await?.saturating_mul(size);
        let free = pragma(connection, "freelist_count").await?.saturating_mul(size);
        self.say("size", format!("{pages} bytes, {free} of them free"));
        let check = Statement::new(&format!("PRAGMA integrity_check({NAMED})")).fetch(connection).await;
        let rows = match check {
            Ok(rows) => rows,
            Err(sqlx::Error::Database(error)) => {
                self.problems.push(format!("the file is damaged: {}", error.message()));
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        for row in rows {
            let found: String = row.try_get(0)?;
            if found != "ok" {
                self.problems.push(format!("the file is damaged: {found}"));
            }
        }
        Ok(())
    }

    async fn schema(&mut self, kind: Kind, connection: &mut AnyConnection) -> sqlx::Result<()> {
        self.say("schema", schema::present().to_string());
        let is_left_out = much::is_to_do(connection).await?;
        if is_left_out {
            let text = "some are left out for as long as an import goes on; where none does, the next start makes them";
            self.say("indexes", text.to_owned());
        }
        for missing in schema::missing(kind, connection).await? {
            if is_left_out && much::leaves_out(&missing) {
                continue;
            }
            self.problems.push(format!("{missing} is missing, or is not as it was made"));
        }
        Ok(())
    }

    async fn histories(&mut self, connection: &mut AnyConnection) -> sqlx::Result<()> {
        let select = "SELECT bucket, id, timestamp, entries FROM sidecar_histories WHERE is_current = 1 ORDER BY bucket";
        let rows = Statement::new(select).fetch(connection).await?;
        let (mut buckets, mut entries) = (0, 0_u64);
        for row in rows {
            let found = Found {
                name: row.try_get(0)?,
                id: row.try_get(1)?,
                timestamp: timestamp(&row, 2)?,
                counted: row.try_get(3)?,
            };
            let number = self.entries(connection, &found).await?;
            self.order(connection, &found).await?;
            if is_hidden(&found.name) {
                self.say(
                    "hidden",
                    format!(
                        "{number} entries of {}, a bucket that vanished without a deletion and was made anew",
                        found.name
                    ),
                );
            } else {
                buckets += 1;
            }
            entries += number;
        }
        self.say("entries", format!("{entries}, of {buckets} buckets"));
        let open = "SELECT count(DISTINCT intent_group) FROM sidecar_intents";
        let open = Statement::new(open).number(connection).await?;
        self.say("open", format!("{open} writes under way"));
        Ok(())
    }

    /// The entries of a history, one by one; how many there are.
    async fn entries(&mut self, connection: &mut AnyConnection, history: &Found) -> sqlx::Result<u64> {
        let name = &history.name;
        let (mut after, mut number, mut wrong) = (Timestamp::ZERO, 0_u64, 0);
        loop {
            let select = "SELECT last_modified, id, uri, object_modified, action, user_id, date, json FROM sidecar_entries \
                          WHERE history = ";
            let select = Statement::new(select).bind(history.id).push(" AND last_modified > ").bind(after);
            let rows =
                select.push(&format!(" ORDER BY last_modified LIMIT {BATCH}")).fetch(connection).await?;
            if rows.is_empty() {
                break;
            }
            for row in rows {
                after = timestamp(&row, 0)?;
                number += 1;
                let Err(reason) = check_entry(&row) else { continue };
                wrong += 1;
                if wrong <= NAMED {
                    self.problems.push(format!("the entry {after} of {name}: {reason}"));
                }
            }
        }
        if wrong > NAMED {
            self.problems.push(format!("{} more entries of {name} like these", wrong - NAMED));
        }
        if after > history.timestamp {
            self.problems.push(format!(
                "the history of {name} has an entry of {after}, later than its own timestamp {}",
                history.timestamp
            ));
        }
        if u64::try_from(history.counted) != Ok(number) {
            let counted = history.counted;
            self.problems.push(format!("the history of {name} counts {counted} entries, and has {number}"));
        }
        Ok(number)
    }

    /// Whether entries about one object stand in the order of its versions.
    async fn order(&mut self, connection: &mut AnyConnection, history: &Found) -> sqlx::Result<()> {
        let inner = "SELECT count(*) FROM (SELECT object_modified, lag(object_modified) OVER \
                     (PARTITION BY uri ORDER BY last_modified) AS before FROM sidecar_entries WHERE history = ";
        let select =
            Statement::new(inner).bind(history.id).push(") AS versions WHERE object_modified < before");
        let number = select.number(connection).await?;
        if number > 0 {
            self.say(
                "order",
                format!(
                    "{number} entries of {} show an older version than the one before: the object was made again, or dated \
                     back in Kinto",
                    history.name
                ),
            );
        }
        Ok(())
    }

    /// Rows that belong to nothing.
    async fn strays(&mut self, connection: &mut AnyConnection) -> sqlx::Result<()> {
        for (what, select) in [
            (
                "versions do not follow on the one before in the chain of their object",
                "SELECT count(*) FROM (SELECT generation, lag(generation) OVER (PARTITION BY uri ORDER BY generation) \
                 AS before FROM sidecar_versions) AS versions WHERE generation <> before + 1",
            ),
            (
                "entries belong to no history",
                "SELECT count(*) FROM sidecar_entries WHERE history NOT IN (SELECT id FROM sidecar_histories)",
            ),
            (
                "entries have lost who may read them",
                "SELECT count(*) FROM sidecar_entries WHERE reader_set NOT IN (SELECT id FROM sidecar_reader_sets)",
            ),
        ] {
            let number = Statement::new(select).number(connection).await?;
            if number > 0 {
                self.problems.push(format!("{number} {what}"));
            }
        }
        Ok(())
    }
}
