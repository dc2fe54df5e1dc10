//! Lines of `history import`: the first line is a query, the others are imported.
//!
//! A journal written out and read into another one is the same; read again it adds nothing; and the query selects of
//! its entries what the list language selects of their JSON.

#![no_main]

use std::sync::OnceLock;

use kinto_sidecar::journal::{Imported, Journal, Line, Sees};
use kinto_sidecar::kinto::Timestamp;
use kinto_sidecar::query::{Query, Rules};
use kinto_sidecar::settings::{JournalUrl, Settings};
use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value};
use tokio::runtime::Runtime;

const MOST_LINES: usize = 12;

const RULES: Rules<'_> = Rules {
    known_fields: &[
        "user_id",
        "uri",
        "action",
        "date",
        "resource_name",
        "bucket_id",
        "collection_id",
        "group_id",
        "record_id",
        "target",
        "id",
        "last_modified",
        "deleted",
    ],
    text_fields: &["bucket_id", "collection_id", "group_id", "record_id"],
    in_like: true,
    paginate_by: None,
    max_fetch_size: None,
    now: Timestamp(1_795_245_800_000),
};

fuzz_target!(|input: &[u8]| {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let Some(mut lines) = support::lines(input) else { return };
    let query = lines.next().unwrap_or_default();
    let lines: Vec<&str> = lines.take(MOST_LINES).take_while(|line| !line.is_empty()).collect();
    let parsed: Vec<Line> = lines.iter().filter_map(|line| Line::parse(line).ok()).collect();
    if parsed.is_empty() {
        return;
    }
    let runtime = RUNTIME.get_or_init(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        runtime.expect("a thread can be started")
    });
    runtime.block_on(carry(parsed, query));
});

async fn carry(lines: Vec<Line>, query: &str) {
    let (first, second) = (open().await, open().await);
    first.import(lines).await.expect("the journal takes what is a line");
    let exported = export(&first).await;
    let Imported { added, known } = import(&second, &exported).await;
    assert_eq!(known, 0, "{exported:#?}");
    assert_eq!(export(&second).await, exported);
    assert_eq!(import(&second, &exported).await, Imported { added: 0, known: added });
    assert_eq!(export(&second).await, exported);

    let Ok(query) = Query::parse(Some(query), &RULES) else { return };
    if query.includes_deleted() || query.limit.is_some() || query.fields.is_some() {
        return;
    }
    let entries = exported.iter().filter_map(|line| {
        let mut line: Map<String, Value> = serde_json::from_str(line).ok()?;
        let Value::Object(entry) = line.remove("entry")? else { return None };
        entry["uri"].as_str()?.starts_with("/buckets/a").then_some(entry)
    });
    let entries = entries.filter(|entry| bucket(entry) == Some("a")).collect::<Vec<_>>();
    let expected = query.select(&entries);
    let page = second.page("a", &query, &Sees::Everything).await.expect("the journal can be read");
    let ids = page
        .rows
        .iter()
        .map(|row| serde_json::from_str::<Map<String, Value>>(row.get()).expect("it is JSON"));
    let ids: Vec<Value> = ids.map(|entry| entry["id"].clone()).collect();
    assert_eq!(ids, expected.rows.iter().map(|entry| entry["id"].clone()).collect::<Vec<_>>());
    let count = second.count("a", &query, &Sees::Everything).await.expect("the journal can be read");
    assert_eq!(count.total, expected.total);
}

fn bucket(entry: &Map<String, Value>) -> Option<&str> {
    entry["uri"].as_str()?.strip_prefix("/buckets/")?.split('/').next()
}

async fn open() -> Journal {
    let settings = Settings::default().history;
    Journal::open(&JournalUrl::SqliteInMemory, &settings, true).await.expect("memory takes it")
}

async fn export(journal: &Journal) -> Vec<String> {
    let mut export = journal.export(None);
    let mut lines = Vec::new();
    while let Some(more) = export.next().await.expect("the journal can be read") {
        lines.extend(more);
    }
    lines
}

async fn import(journal: &Journal, lines: &[String]) -> Imported {
    let parse = |line: &String| Line::parse(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    journal.import(lines.iter().map(parse).collect()).await.expect("it was exported")
}
