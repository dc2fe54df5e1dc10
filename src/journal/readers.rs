//! Sets of principals: each is written once, and entries name it by number.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write;

use sha2::{Digest, Sha256};
use sqlx::{AnyConnection, Database, Postgres, Row};
use uuid::Uuid;

use super::Permissions;
use super::statement::Statement;

/// Sets remembered; many more than are in use at once.
const REMEMBERED: usize = 10_000;
/// Longer principals are nobody's, and longer than what an index of PostgreSQL takes. It takes no NUL, either.
const LONGEST: usize = 1000;

/// SECURITY: who reads an object is not written down where they are more, or are written in more bytes: Kinto is asked, as for
/// objects of which nobody knows.
const MOST_READERS: usize = 2000;
const MOST_BYTES: usize = 256 << 10;
/// SECURITY: nor are more than so many written down in one transaction; each counts for its bytes, and for that many at least.
const ROOM: usize = 4 << 20;
const LEAST: usize = 200;

/// The entry of `sidecar_meta` that is another one whenever sets were removed.
const MARK: &str = "removed_reader_sets";

/// The numbers of sets that are known to be written, and of those that are if the present transaction is.
#[derive(Debug, Default)]
pub(super) struct ReaderSets {
    written: HashMap<String, i64>,
    fresh: HashMap<String, i64>,
    /// PostgreSQL: the mark as it was when the first of them was written.
    mark: Option<String>,
    /// Whether the present transaction has looked at it.
    is_looked_at: bool,
    /// What the present transaction wrote down.
    weight: usize,
}

/// Who may read an object: those who may read it or write it.
pub(super) fn of_permissions(permissions: &Permissions) -> impl Iterator<Item = &String> {
    let names = ["read", "write"].into_iter();
    names.filter_map(|name| permissions.get(name)).flatten().filter(|principal| is_somebodys(principal))
}

/// How many principals permissions name, and in how many bytes.
pub(super) fn weight(permissions: &Permissions) -> (usize, usize) {
    let principals = permissions.values().flatten();
    principals.fold((0, 0), |(number, bytes), principal| (number + 1, bytes + principal.len() + 3))
}

/// Whether an object's permissions are kept.
pub(super) fn are_few(permissions: &Permissions) -> bool {
    let (number, bytes) = weight(permissions);
    number <= MOST_READERS && bytes <= MOST_BYTES
}

fn is_somebodys(principal: &str) -> bool {
    principal.len() <= LONGEST && !principal.contains('\0')
}

impl ReaderSets {
    /// The number of a set of readers; `None` where they are too many to be written down.
    pub(super) async fn number_of_few(
        &mut self,
        connection: &mut AnyConnection,
        principals: &BTreeSet<&String>,
    ) -> sqlx::Result<Option<i64>> {
        let bytes: usize = principals.iter().map(|principal| principal.len()).sum();
        if principals.len() > MOST_READERS || bytes > MOST_BYTES || self.weight > ROOM {
            return Ok(None);
        }
        self.number(connection, principals).await.map(Some)
    }

    /// The number of a set.
    pub(super) async fn number(
        &mut self,
        connection: &mut AnyConnection,
        principals: &BTreeSet<&String>,
    ) -> sqlx::Result<i64> {
        let json = serde_json::to_string(principals).unwrap_or_default();
        let digest = Sha256::digest(&json).iter().fold(String::new(), |mut digest, byte| {
            // Writing to a String cannot fail.
            let _ = write!(digest, "{byte:02x}");
            digest
        });
        self.look(connection).await?;
        if let Some(number) = self.fresh.get(&digest).or_else(|| self.written.get(&digest)) {
            return Ok(*number);
        }
        let found =
            Statement::new("SELECT id FROM sidecar_reader_sets WHERE digest = ").bind(digest.as_str());
        let number = if let Some(row) = found.first(connection).await? {
            row.try_get(0)?
        } else {
            self.weight += json.len().max(LEAST * principals.len());
            write(connection, &digest, &json, principals).await?
        };
        self.fresh.insert(digest, number);
        Ok(number)
    }

    /// Forgets the numbers where another process removed sets.
    async fn look(&mut self, connection: &mut AnyConnection) -> sqlx::Result<()> {
        if self.is_looked_at || connection.backend_name() != Postgres::NAME {
            return Ok(());
        }
        let select = Statement::new("SELECT value FROM sidecar_meta WHERE name = ").bind(MARK);
        let mark: Option<String> = select.first(connection).await?.map(|row| row.try_get(0)).transpose()?;
        if mark != self.mark {
            self.written.clear();
            self.mark = mark;
        }
        self.is_looked_at = true;
        Ok(())
    }

    /// Sets are removed in the present transaction: the numbers are forgotten, by other processes as well.
    pub(super) async fn forget(&mut self, connection: &mut AnyConnection) -> sqlx::Result<()> {
        self.written.clear();
        self.fresh.clear();
        if connection.backend_name() != Postgres::NAME {
            return Ok(());
        }
        let mark = Statement::new("INSERT INTO sidecar_meta (name, value) VALUES (").bind(MARK).push(", ");
        let mark = mark.bind(Uuid::new_v4().to_string());
        let mark = mark.push(") ON CONFLICT (name) DO UPDATE SET value = excluded.value");
        mark.execute(connection).await.map(drop)
    }

    /// The transaction is committed, or not.
    pub(super) fn end(&mut self, is_committed: bool) {
        self.is_looked_at = false;
        self.weight = 0;
        let fresh = std::mem::take(&mut self.fresh);
        if self.written.len() > REMEMBERED {
            self.written.clear();
        }
        if is_committed {
            self.written.extend(fresh);
        }
    }
}

async fn write(
    connection: &mut AnyConnection,
    digest: &str,
    json: &str,
    principals: &BTreeSet<&String>,
) -> sqlx::Result<i64> {
    let insert = Statement::new("INSERT INTO sidecar_reader_sets (digest, principals) VALUES (")
        .bind(digest)
        .push(", ")
        .bind(json)
        .push(") RETURNING id");
    let number: i64 = insert.first(connection).await?.ok_or(sqlx::Error::RowNotFound)?.try_get(0)?;
    let principals: Vec<&String> = principals.iter().copied().collect();
    for principals in principals.chunks(super::rows::CHUNK) {
        let rows = principals
            .iter()
            .map(|principal| [principal.as_str().into(), super::statement::Bound::from(number)]);
        let insert = Statement::new("INSERT INTO sidecar_readers (principal, reader_set) VALUES ").rows(rows);
        insert.execute(connection).await?;
    }
    Ok(number)
}
