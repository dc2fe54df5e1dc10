//! Statements put together from pieces, for both engines: what is bound stands where the engine's placeholder will be.

use futures_util::stream::BoxStream;
use sqlx::any::{Any, AnyArguments, AnyRow};
use sqlx::query::Query;
use sqlx::{AnyConnection, Arguments, AssertSqlSafe, Row};

use super::engine::Kind;
#[cfg(test)]
use super::{hands, tally};
use crate::kinto::Timestamp;

/// Stands for a placeholder until it is known whose. No text has it otherwise.
const PLACEHOLDER: char = '\u{1}';
/// PostgreSQL: the lock that those who write hold, so that what one finds missing no other one adds meanwhile.
const WRITERS: i64 = 0x6b69_6e74_6f73_6a31;

/// A statement with what is bound to its placeholders.
#[derive(Default)]
pub(super) struct Statement {
    text: String,
    arguments: AnyArguments,
    /// How long the texts are that are bound.
    #[cfg(test)]
    bound: usize,
}

/// What can be bound to a placeholder.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Bound {
    /// An integer.
    Integer(i64),
    /// A text.
    Text(String),
    /// A text that is not there.
    NoText,
}

// === impl Bound ===

impl From<i64> for Bound {
    fn from(value: i64) -> Self {
        Self::Integer(value)
    }
}

impl From<bool> for Bound {
    fn from(value: bool) -> Self {
        Self::Integer(value.into())
    }
}

impl From<Timestamp> for Bound {
    fn from(value: Timestamp) -> Self {
        Self::Integer(i64::try_from(value.0).unwrap_or(i64::MAX))
    }
}

impl From<&str> for Bound {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl From<String> for Bound {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}

impl<T: Into<String>> From<Option<T>> for Bound {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::NoText, |text| Self::Text(text.into()))
    }
}

// === impl Statement ===

impl Statement {
    /// Begins with a text that has no placeholders.
    pub(super) fn new(text: &str) -> Self {
        Self { text: text.to_owned(), ..Self::default() }
    }

    /// Adds a text without placeholders.
    pub(super) fn push(mut self, text: &str) -> Self {
        self.text.push_str(text);
        self
    }

    /// Adds a placeholder.
    pub(super) fn bind(mut self, value: impl Into<Bound>) -> Self {
        let value = value.into();
        #[cfg(test)]
        if let Bound::Text(text) = &value {
            self.bound += text.len();
        }
        let added = match value {
            Bound::Integer(value) => self.arguments.add(value),
            Bound::Text(text) => self.arguments.add(text),
            Bound::NoText => self.arguments.add(None::<String>),
        };
        added.expect("integers and texts can be bound");
        self.text.push(PLACEHOLDER);
        self
    }

    /// Adds placeholders with commas between them.
    pub(super) fn list<V: Into<Bound>>(mut self, values: impl IntoIterator<Item = V>) -> Self {
        for (index, value) in values.into_iter().enumerate() {
            self = if index == 0 { self } else { self.push(", ") }.bind(value);
        }
        self
    }

    /// Adds rows of values: `(…), (…)`.
    pub(super) fn rows<V: Into<Bound>, R: IntoIterator<Item = V>>(
        mut self,
        rows: impl IntoIterator<Item = R>,
    ) -> Self {
        for (index, row) in rows.into_iter().enumerate() {
            self = self.push(if index == 0 { "(" } else { ", (" }).list(row).push(")");
        }
        self
    }

    /// Inserts rows into a table with columns, `table (column, …)`. PostgreSQL is given each column as one array: the
    /// statement is the same for however many rows, and each value costs it a fraction of what a placeholder does.
    pub(super) fn insert<const N: usize>(kind: Kind, into: &str, rows: Vec<[Bound; N]>) -> Self {
        let insert = Self::new("INSERT INTO ").push(into);
        match kind {
            Kind::Sqlite => insert.push(" VALUES ").rows(rows),
            Kind::Postgres => {
                let mut insert = insert.push(" SELECT * FROM unnest(");
                for column in 0..N {
                    insert = insert.push(if column == 0 { "CAST(" } else { ", CAST(" });
                    let values = || rows.iter().filter_map(|row| row.get(column));
                    let is_integer = values().any(|value| matches!(value, Bound::Integer(_)));
                    insert = insert.bind(array(values()));
                    insert = insert.push(if is_integer { " AS BIGINT[])" } else { " AS TEXT[])" });
                }
                insert.push(")")
            }
        }
    }

    /// The same statement, asking the engine how it would go about it.
    #[cfg(test)]
    pub(super) fn explained(mut self, how: &str) -> Self {
        self.text.insert_str(0, how);
        self
    }

    #[cfg(test)]
    pub(super) fn begins(&self, with: &str) -> bool {
        self.text.starts_with(with)
    }

    /// Gives all rows.
    pub(super) async fn fetch(self, connection: &mut AnyConnection) -> sqlx::Result<Vec<AnyRow>> {
        let rows = self.query(connection).fetch_all(connection);
        #[cfg(test)]
        let rows = hands::of_engine(rows);
        let rows = rows.await;
        #[cfg(test)]
        tally::read(rows.iter().flatten());
        rows
    }

    /// Gives the rows one by one.
    pub(super) fn stream(self, connection: &mut AnyConnection) -> BoxStream<'_, sqlx::Result<AnyRow>> {
        let rows = self.query(connection).fetch(connection);
        #[cfg(test)]
        let rows = hands::rows_of_engine(rows);
        rows
    }

    /// Gives the first row.
    pub(super) async fn first(self, connection: &mut AnyConnection) -> sqlx::Result<Option<AnyRow>> {
        let row = self.query(connection).fetch_optional(connection);
        #[cfg(test)]
        let row = hands::of_engine(row);
        let row = row.await;
        #[cfg(test)]
        tally::read(row.iter().flatten());
        row
    }

    /// Gives the integer that the first row begins with; 0 where there is no row.
    pub(super) async fn number(self, connection: &mut AnyConnection) -> sqlx::Result<i64> {
        self.first(connection).await?.map_or(Ok(0), |row| row.try_get(0))
    }

    /// Gives how many rows were changed.
    pub(super) async fn execute(self, connection: &mut AnyConnection) -> sqlx::Result<u64> {
        #[cfg(test)]
        return tally::execute(self, connection).await;
        #[cfg(not(test))]
        return self.execute_uncounted(connection).await;
    }

    pub(super) async fn execute_uncounted(self, connection: &mut AnyConnection) -> sqlx::Result<u64> {
        let done = self.query(connection).execute(connection);
        #[cfg(test)]
        let done = hands::of_engine(done);
        Ok(done.await?.rows_affected())
    }

    /// The statement in the words of the engine. SQLite looks for a placeholder that has a number among all others, and
    /// PostgreSQL knows none without.
    fn query(self, connection: &AnyConnection) -> Query<'static, Any, AnyArguments> {
        #[cfg(test)]
        tally::sent(self.text.len() + self.bound);
        let text = match Kind::of(connection) {
            Kind::Postgres => numbered(&self.text),
            Kind::Sqlite => self.text.replace(PLACEHOLDER, "?"),
        };
        sqlx::query_with(AssertSqlSafe(text), self.arguments)
    }
}

/// Values as PostgreSQL writes an array of them.
fn array<'v>(values: impl Iterator<Item = &'v Bound>) -> String {
    let mut array = String::from("{");
    for value in values {
        if array.len() > 1 {
            array.push(',');
        }
        match value {
            Bound::Integer(number) => array.push_str(&number.to_string()),
            Bound::NoText => array.push_str("NULL"),
            Bound::Text(text) => {
                array.push('"');
                let mut rest = text.as_str();
                while let Some(at) = rest.find(['"', '\\']) {
                    let (plain, from_here) = rest.split_at(at);
                    let (escaped, after) = from_here.split_at(1);
                    array.extend([plain, "\\", escaped]);
                    rest = after;
                }
                array.push_str(rest);
                array.push('"');
            }
        }
    }
    array.push('}');
    array
}

fn numbered(text: &str) -> String {
    let mut numbered = String::with_capacity(text.len() * 2);
    for (number, piece) in text.split(PLACEHOLDER).enumerate() {
        if number > 0 {
            numbered.push('$');
            numbered.push_str(&number.to_string());
        }
        numbered.push_str(piece);
    }
    numbered
}

/// An integer column as a timestamp.
pub(super) fn timestamp(row: &AnyRow, column: usize) -> sqlx::Result<Timestamp> {
    let value: i64 = row.try_get(column)?;
    Ok(Timestamp(u64::try_from(value).unwrap_or_default()))
}

/// An integer column as a truth.
pub(super) fn truth(row: &AnyRow, column: usize) -> sqlx::Result<bool> {
    Ok(row.try_get::<i64, _>(column)? != 0)
}

/// A number that SQLite knows of a database.
pub(super) async fn pragma(connection: &mut AnyConnection, name: &str) -> sqlx::Result<i64> {
    Statement::new(&format!("SELECT {name} FROM pragma_{name}")).number(connection).await
}

/// Waits for its turn among those who write; until the end of the transaction.
pub(super) async fn lock(kind: Kind, connection: &mut AnyConnection) -> sqlx::Result<()> {
    if kind == Kind::Postgres {
        push_turn(Statement::new("SELECT ")).execute(connection).await?;
    }
    Ok(())
}

/// PostgreSQL: the same as a column of a statement.
pub(super) fn push_turn(statement: Statement) -> Statement {
    statement.push("pg_advisory_xact_lock(").bind(WRITERS).push(")")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_as_an_array_whatever_is_in_them() {
        let values =
            [Bound::Integer(-5), Bound::NoText, "a\"b\\{,}ä".into(), "\\\"".into(), "".into(), "NULL".into()];
        assert_eq!(array(values.iter()), r#"{-5,NULL,"a\"b\\{,}ä","\\\"","","NULL"}"#);
        assert_eq!(array([].iter()), "{}");
    }
}
