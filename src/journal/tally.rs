//! What a transaction of the writer comes to, counted where statements are sent.

use std::sync::Arc;

use parking_lot::Mutex;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row};

use super::statement::Statement;

tokio::task_local! {
    static COUNTED: Tallies;
}

/// Texts that may be long in what is removed.
const LONG: [(&str, &str); 3] = [
    ("DELETE FROM sidecar_entries ", "json"),
    ("DELETE FROM sidecar_objects ", "permissions"),
    ("DELETE FROM sidecar_reader_sets ", "principals"),
];
const READERS: &str = "INSERT INTO sidecar_readers ";

/// What one transaction came to.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tally {
    /// Whether an operator asked for it.
    pub(super) is_import: bool,
    pub(super) statements: usize,
    /// Rows that were read, written or removed, but for those of readers that were written.
    pub(super) rows: usize,
    pub(super) readers: usize,
    /// Bytes.
    pub(super) sent: usize,
    pub(super) read: usize,
    pub(super) removed: usize,
}

/// Those of a journal, in their order.
pub(super) type Tallies = Arc<Mutex<Vec<Tally>>>;

/// Counts what a transaction comes to, also where it is given up.
pub(super) async fn count<T>(tallies: Tallies, is_import: bool, transaction: impl Future<Output = T>) -> T {
    tallies.lock().push(Tally { is_import, ..Tally::default() });
    COUNTED.scope(tallies, transaction).await
}

/// Nothing is counted where no transaction of a writer is under way.
fn add(add: impl FnOnce(&mut Tally)) {
    let _ = COUNTED.try_with(|tallies| tallies.lock().last_mut().map(add));
}

/// A statement of so many bytes is sent.
pub(super) fn sent(bytes: usize) {
    add(|tally| {
        tally.statements += 1;
        tally.sent += bytes;
    });
}

/// Rows were read.
pub(super) fn read<'r>(rows: impl IntoIterator<Item = &'r AnyRow>) {
    for row in rows {
        let texts = (0..row.len()).filter_map(|column| row.try_get::<Option<String>, _>(column).ok());
        let bytes: usize = texts.flatten().map(|text| text.len()).sum();
        add(|tally| {
            tally.rows += 1;
            tally.read += bytes;
        });
    }
}

/// Gives how many rows a statement changed, and has counted what it came to.
pub(super) async fn execute(statement: Statement, connection: &mut AnyConnection) -> sqlx::Result<u64> {
    let long = LONG.iter().find(|(delete, _)| statement.begins(delete)).map(|(_, text)| text);
    let (Some(text), Ok(())) = (long, COUNTED.try_with(|_| ())) else {
        let is_of_readers = statement.begins(READERS);
        let rows = statement.execute_uncounted(connection).await?;
        let number = usize::try_from(rows).unwrap();
        add(|tally| if is_of_readers { tally.readers += number } else { tally.rows += number });
        return Ok(rows);
    };
    let length = format!(" RETURNING CAST(coalesce(octet_length({text}), 0) AS BIGINT)");
    let removed = statement.push(&length).fetch(connection).await?;
    let bytes: i64 = removed.iter().map(|row| row.get::<i64, _>(0)).sum();
    add(|tally| tally.removed += usize::try_from(bytes).unwrap());
    Ok(removed.len() as u64)
}
