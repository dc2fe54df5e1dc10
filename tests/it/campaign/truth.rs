//! Every version of every object that Kinto's PostgreSQL committed, noted by a trigger there.

use std::collections::BTreeMap;

use serde_json::Value;
use sqlx::postgres::PgConnection;
use sqlx::{Connection, Executor, Row};

use super::world::World;

/// A version: whether it is a deletion, what it holds, and when it was committed.
#[derive(Debug, Clone)]
pub struct Version {
    pub deleted: bool,
    pub data: Value,
    /// In microseconds since 1970, by PostgreSQL.
    pub committed: i64,
}

/// By record and timestamp. Kinto may give two versions of a record one timestamp.
pub type Versions = BTreeMap<(String, u64), Vec<Version>>;

pub struct Truth {
    storage: String,
}

impl Truth {
    /// Notes what is committed from now on, and what is there.
    pub async fn watch(storage: &str) -> Self {
        let mut connection = PgConnection::connect(storage).await.unwrap();
        let note = "
            CREATE TABLE versions (id TEXT, parent TEXT, resource TEXT, modified BIGINT, deleted BOOLEAN, data JSONB);
            INSERT INTO versions
                SELECT id, parent_id, resource_name, as_epoch(last_modified), deleted, data FROM objects;
            CREATE FUNCTION note_version() RETURNS trigger AS $$ BEGIN
                INSERT INTO versions VALUES
                    (NEW.id, NEW.parent_id, NEW.resource_name, as_epoch(NEW.last_modified), NEW.deleted, NEW.data);
                RETURN NULL;
            END $$ LANGUAGE plpgsql;
            CREATE TRIGGER note_version AFTER INSERT OR UPDATE ON objects
                FOR EACH ROW EXECUTE PROCEDURE note_version();";
        connection.execute(note).await.unwrap();
        Self { storage: storage.to_owned() }
    }

    /// All versions of the records that were written.
    pub async fn all(&self, world: &World) -> Versions {
        let mut connection = PgConnection::connect(&self.storage).await.unwrap();
        let rows = sqlx::query(
            "SELECT id, modified, deleted, data::text,
                    (extract(epoch FROM pg_xact_commit_timestamp(xmin)) * 1000000)::bigint
             FROM versions WHERE resource = 'record' AND parent = $1",
        );
        let mut versions = Versions::new();
        for row in rows.bind(&world.collection).fetch_all(&mut connection).await.unwrap() {
            let modified: i64 = row.get(1);
            let data: String = row.get(3);
            let version = Version {
                deleted: row.get(2),
                data: serde_json::from_str(&data).unwrap(),
                committed: row.get(4),
            };
            versions.entry((row.get(0), modified.try_into().unwrap())).or_default().push(version);
        }
        versions
    }
}

/// The version of each record that was committed last. Kinto takes the number of a version before it waits for others of the
/// same record, so that a lower one may come over a higher one.
pub fn last(versions: &Versions) -> BTreeMap<String, u64> {
    let mut last: BTreeMap<&str, (i64, u64)> = BTreeMap::new();
    for ((id, modified), versions) in versions {
        let committed = versions.iter().map(|version| version.committed).max().unwrap();
        let known = last.entry(id).or_default();
        *known = (*known).max((committed, *modified));
    }
    last.into_iter().map(|(id, (_, modified))| (id.to_owned(), modified)).collect()
}

/// Fails unless Kinto once had this record, or its tombstone, just so.
#[track_caller]
pub fn check(row: &Value, versions: &Versions) {
    let (id, modified) = (row["id"].as_str().unwrap(), row["last_modified"].as_u64().unwrap());
    let known = versions.get(&(id.to_owned(), modified)).unwrap_or_else(|| panic!("Kinto never had {row}"));
    let members = |value: &Value| {
        let mut members = value.as_object().unwrap().clone();
        members.retain(|name, _| !matches!(name.as_str(), "id" | "last_modified" | "deleted"));
        members.retain(|name, _| !name.starts_with('_'));
        members
    };
    let is_it = |version: &Version| {
        version.deleted == (row["deleted"] == true)
            && (version.deleted || members(&version.data) == members(row))
    };
    assert!(known.iter().any(is_it), "Kinto had {known:?}, and not {row}");
}

/// Fails where the history has what Kinto never had.
pub fn compare(entries: &[Value], versions: &Versions) {
    for entry in entries.iter().filter(|entry| entry["resource_name"] == "record") {
        check(&entry["target"]["data"], versions);
    }
}
