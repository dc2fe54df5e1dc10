//! What an engine's errors mean.

use sqlx::error::DatabaseError;

use crate::journal::JournalError;
use crate::settings::JournalUrl;

/// PostgreSQL ended a transaction in which nothing was done for too long.
const POSTGRES_IDLE: &str = "25P03";
/// SQLite: not a database, corrupt, read-only (in its varieties), cannot be opened, not allowed.
const SQLITE_UNUSABLE: [&str; 12] =
    ["26", "11", "8", "264", "520", "776", "1032", "1288", "1544", "14", "3", "23"];
/// PostgreSQL: no such database, role or password; not allowed.
const POSTGRES_UNUSABLE: [&str; 4] = ["3D000", "28000", "28P01", "42501"];

/// PostgreSQL: a prepared statement is there already, or is not there: another connection's, as a pooler between has it.
const POSTGRES_POOLED: [&str; 2] = ["42P05", "26000"];
/// PostgreSQL: no such table.
const POSTGRES_LACKS: &str = "42P01";
/// SQLite: an error of the statement, and what it says of this one.
const SQLITE_LACKS: (&str, &str) = ("1", "no such table");
/// SQLite, the last byte of its codes: corrupt, not a database.
const SQLITE_DAMAGED: [u16; 2] = [11, 26];

/// What is wrong with a row, and not with the engine, begins so. PostgreSQL: data, constraints, limits.
const POSTGRES_OF_A_ROW: [&str; 3] = ["22", "23", "54"];
/// SQLite, the last byte of its codes: too large, a constraint, of another type.
const SQLITE_OF_A_ROW: [u16; 3] = [18, 19, 20];

/// What an error while the journal is opened means.
pub(in crate::journal) fn opening(url: &JournalUrl, error: &sqlx::Error) -> JournalError {
    let code = error.as_database_error().and_then(DatabaseError::code);
    match code.as_deref() {
        Some(code) if SQLITE_UNUSABLE.contains(&code) || POSTGRES_UNUSABLE.contains(&code) => {
            unusable(url, error)
        }
        _ if matches!(error, sqlx::Error::Configuration(_)) => unusable(url, error),
        _ => failed(error),
    }
}

pub(super) fn unusable(url: &JournalUrl, error: &sqlx::Error) -> JournalError {
    let hint = match (url, error) {
        (JournalUrl::Postgres(_), sqlx::Error::Configuration(_)) => {
            " (/, #, ? and % in a password are written %2F, %23, %3F and %25)"
        }
        _ => "",
    };
    JournalError::Unusable(format!("the journal {url:?} cannot be used: {}{hint}", message(error)).into())
}

/// Whether the engine ended the connection, and has refused nothing.
pub(in crate::journal) fn is_ended(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(DatabaseError::code).as_deref() == Some(POSTGRES_IDLE)
}

/// What an error means once the journal was open.
pub(in crate::journal) fn failed(error: &sqlx::Error) -> JournalError {
    let text = message(error).into();
    if is_of_a_row(error) { JournalError::Refused(text) } else { JournalError::Unavailable(text) }
}

/// Whether SQLite says that the file is damaged.
pub(in crate::journal) fn is_damaged(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(DatabaseError::code);
    let code = code.filter(|code| code.len() < 5).and_then(|code| code.parse::<u16>().ok());
    code.is_some_and(|code| SQLITE_DAMAGED.contains(&(code & 0xff)))
}

/// Whether a table of the journal is not there, which was there when the journal was opened.
pub(in crate::journal) fn is_lacking(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(lacks)
}

fn lacks(error: &dyn DatabaseError) -> bool {
    let (of_sqlite, words) = SQLITE_LACKS;
    match error.code().as_deref() {
        Some(POSTGRES_LACKS) => true,
        Some(code) => code == of_sqlite && error.message().starts_with(words),
        None => false,
    }
}

/// Whether the engine does not take what it was given, however often it is given it.
pub(in crate::journal) fn is_of_a_row(error: &sqlx::Error) -> bool {
    let Some(error) = error.as_database_error() else { return false };
    let Some(code) = error.code() else { return false };
    match code.parse::<u16>() {
        // PostgreSQL's have five characters.
        Ok(code_of_sqlite) if code.len() < 5 => SQLITE_OF_A_ROW.contains(&(code_of_sqlite & 0xff)),
        _ => POSTGRES_OF_A_ROW.iter().any(|class| code.starts_with(class)),
    }
}

fn message(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(error) => {
            let is_pooled = error.code().is_some_and(|code| POSTGRES_POOLED.contains(&&*code));
            let hint = if is_pooled {
                ": a pooler in transaction mode is between; use its session mode"
            } else if lacks(&**error) {
                ": bring back a backup (kinto-sidecar history verify says what is missing)"
            } else {
                ""
            };
            format!("{}{hint}", error.message())
        }
        sqlx::Error::PoolTimedOut => "it does not answer in time".to_owned(),
        sqlx::Error::Protocol(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::engine::Engine;

    #[tokio::test]
    async fn a_password_that_is_no_part_of_an_address_is_hinted_at() {
        let url = JournalUrl::Postgres("postgres://kinto:a/b@host/kinto".to_owned());
        let error = Engine::at(&url).await.map(drop).unwrap_err().to_string();
        assert!(error.contains("are written %2F, %23, %3F and %25") && !error.contains("a/b"), "{error}");
    }
}
