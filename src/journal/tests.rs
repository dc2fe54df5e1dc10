//! What journals keep and give, on SQLite, and on PostgreSQL where `KINTO_SIDECAR_TEST_POSTGRES` names one.

use serde_json::value::to_raw_value;
use serde_json::{Value, json};
use sqlx::Executor;
use tempfile::TempDir;

use super::*;
use crate::query::{Query, Rules};
use crate::settings::{HistorySettings, JournalUrl, Settings};

mod chains;
mod checkpoints;
mod deleting;
mod fitting;
mod hiding;
mod leaving;
mod opening;
mod outage;
mod placed;
mod random;
mod recording;
mod selecting;
mod statements;
mod sweeping;
mod transferring;
mod trimming;
mod verifying;
mod waiting;

/// The fields of entries.
const FIELDS: [&str; 13] = [
    "id", "last_modified", "deleted", "date", "action", "resource_name", "uri", "user_id", "bucket_id",
    "group_id", "collection_id", "record_id", "target",
];

/// Somewhere to keep a journal.
struct Place {
    url: JournalUrl,
    settings: HistorySettings,
    explicit_permissions: bool,
    _directory: TempDir,
}

impl Place {
    async fn open(&self) -> Journal {
        self.try_open().await.unwrap()
    }

    async fn try_open(&self) -> Result<Journal, JournalError> {
        Journal::open(&self.url, &self.settings, self.explicit_permissions).await
    }
}

/// An empty place on each engine that there is.
async fn places() -> Vec<Place> {
    let directory = tempfile::tempdir().unwrap();
    let mut urls = vec![(JournalUrl::Sqlite(directory.path().join("journal ?#.db")), directory)];
    if let Ok(address) = std::env::var("KINTO_SIDECAR_TEST_POSTGRES") {
        sqlx::any::install_default_drivers();
        let schema = format!("test_{}", uuid::Uuid::new_v4().simple());
        let pool = sqlx::AnyPool::connect(&address).await.unwrap();
        pool.execute(sqlx::AssertSqlSafe(format!("CREATE SCHEMA {schema}"))).await.unwrap();
        let mark = if address.contains('?') { '&' } else { '?' };
        let address = format!("{address}{mark}options=-c%20search_path%3D{schema}");
        urls.push((JournalUrl::Postgres(address), tempfile::tempdir().unwrap()));
    }
    let place = |(url, directory)| Place {
        url,
        settings: Settings::default().history,
        explicit_permissions: true,
        _directory: directory,
    };
    urls.into_iter().map(place).collect()
}

fn rules() -> Rules<'static> {
    Rules {
        known_fields: &FIELDS,
        text_fields: &["record_id", "collection_id", "bucket_id", "group_id"],
        in_like: true,
        paginate_by: None,
        max_fetch_size: Some(10_000),
        now: Timestamp::now(),
    }
}

/// A query as a request has it.
fn query(text: &str) -> Query {
    Query::parse(Some(text), &rules()).map_err(|invalid| invalid.message()).unwrap()
}

async fn entries(journal: &Journal, bucket: &str, text: &str) -> Vec<Value> {
    let page = journal.page(bucket, &query(text), &Sees::Everything, None).await.unwrap();
    page.rows.iter().map(|row| serde_json::from_str(row.get()).unwrap()).collect()
}

fn permissions(value: &Value) -> Permissions {
    serde_json::from_value(value.clone()).unwrap()
}

/// A write that is about to be sent.
fn intent() -> Intent {
    Intent {
        bucket: "a".to_owned(),
        user_id: None,
        method: "PUT".to_owned(),
        uri: "/buckets/a".to_owned(),
        sent: None,
        note: None,
        known: Timestamp::ZERO,
        length: 0,
    }
}

/// A change by somebody, with permissions.
fn change(uri: &str, action: Option<Action>, modified: u64, data: &Value) -> Change {
    Change {
        data: Some(to_raw_value(data).unwrap()),
        permissions: (action != Some(Action::Delete)).then(|| permissions(&json!({"write": ["me"]}))),
        user_id: Some("me".to_owned()),
        ..Change::bare(Object::of_uri(uri).unwrap(), action, Timestamp(modified))
    }
}

/// How many entries these changes make.
async fn settle(journal: &Journal, changes: Vec<Change>) -> usize {
    journal.settle(Outcome { changes, ..Outcome::default() }).await.unwrap()
}

/// The newest entry of the bucket that most tests write in.
async fn newest(journal: &Journal) -> Value {
    entries(journal, "a", "_limit=1").await.remove(0)
}
