//! What happens while PostgreSQL is away, and what processes that share a journal tell each other.

use std::sync::Mutex;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::*;
use crate::journal::engine::Kind;
use crate::journal::statement::Statement;

/// Stands between a journal and its PostgreSQL.
struct Line {
    connections: Arc<Mutex<JoinSet<()>>>,
    is_open: tokio::sync::watch::Sender<bool>,
    address: String,
}

impl Line {
    async fn to(address: &str) -> Self {
        let (before, host, path) = parts(address);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::new(Mutex::new(JoinSet::new()));
        let (is_open, watch) = tokio::sync::watch::channel(true);
        let kept = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(&host).await else { continue };
                let ((from_client, to_client), (from_server, to_server)) =
                    (client.into_split(), server.into_split());
                let mut connections = kept.lock().unwrap();
                connections.spawn(pass(from_client, to_server, watch.clone()));
                connections.spawn(pass(from_server, to_client, watch.clone()));
            }
        });
        Self { connections, is_open, address: format!("{before}127.0.0.1:{port}{path}") }
    }

    /// Ends all connections; new ones are taken.
    fn cut(&self) {
        self.connections.lock().unwrap().abort_all();
    }

    /// Passes nothing on until it is told otherwise.
    fn stall(&self, is_stalled: bool) {
        self.is_open.send_replace(!is_stalled);
    }
}

/// What is before the host of an address, its host, and what is after it.
fn parts(address: &str) -> (String, String, String) {
    let at = address.rfind('@').unwrap() + 1;
    let (before, rest) = address.split_at(at);
    let (host, path) = rest.split_at(rest.find('/').unwrap());
    let host = if host.contains(':') { host.to_owned() } else { format!("{host}:5432") };
    (before.to_owned(), host, path.to_owned())
}

async fn pass(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut is_open: tokio::sync::watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length) = from.read(&mut buffer).await {
        let opened = is_open.wait_for(|is_open| *is_open).await.is_ok();
        if length == 0 || !opened || to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

/// Journals of two processes on one PostgreSQL; the first one's goes through a line.
async fn two() -> Option<(Journal, Line, Journal)> {
    let place = places().await.into_iter().find(|place| matches!(place.url, JournalUrl::Postgres(_)))?;
    let JournalUrl::Postgres(address) = &place.url else { return None };
    let line = Line::to(address).await;
    let url = JournalUrl::Postgres(line.address.clone());
    let first = Journal::open(&url, &place.settings, true).await.unwrap();
    Some((first, line, place.open().await))
}

fn record(index: u64) -> Change {
    change(&format!("/buckets/a/collections/c/records/r{index}"), None, index + 1, &json!({}))
}

async fn try_to_settle(journal: &Journal, change: &Change) -> Result<usize, JournalError> {
    journal.settle(Outcome { changes: vec![change.clone()], ..Outcome::default() }).await
}

#[tokio::test]
async fn a_journal_that_was_cut_off_is_used_again() {
    let Some((journal, line, _)) = two().await else { return };
    for index in 0..5 {
        line.cut();
        sleep(Duration::from_millis(50)).await;
        try_to_settle(&journal, &record(index)).await.unwrap();
    }
    assert_eq!(entries(&journal, "a", "").await.len(), 5);
}

#[tokio::test]
async fn a_journal_that_hangs_is_told_to_be_away_in_time_and_records_nothing_twice() {
    let Some((journal, line, other)) = two().await else { return };
    try_to_settle(&journal, &record(0)).await.unwrap();
    line.stall(true);
    let start = Instant::now();
    let waiting = (1..20).map(|index| {
        let journal = journal.clone();
        tokio::spawn(async move { try_to_settle(&journal, &record(index)).await })
    });
    for waiting in waiting.collect::<Vec<_>>() {
        assert!(matches!(waiting.await.unwrap(), Err(JournalError::Unavailable(_))));
    }
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    // Whatever had been sent arrives now, perhaps beside what is tried again.
    line.stall(false);
    for index in 0..20 {
        while try_to_settle(&journal, &record(index)).await.is_err() {
            sleep(Duration::from_millis(50)).await;
        }
        try_to_settle(&other, &record(index)).await.unwrap();
    }
    assert_eq!(entries(&other, "a", "").await.len(), 20);
}

#[tokio::test]
async fn two_processes_record_each_version_once_and_tell_each_other() {
    let Some((first, line, second)) = two().await else { return };
    let mut news = first.subscribe();
    hear(&mut news, &second, 1000).await;
    let writers = (0..40_u64).map(|index| {
        let journal = if index % 2 == 0 { first.clone() } else { second.clone() };
        tokio::spawn(async move { try_to_settle(&journal, &record(index / 4)).await.unwrap() })
    });
    let mut made = 0;
    for writer in writers.collect::<Vec<_>>() {
        made += writer.await.unwrap();
    }
    assert_eq!(made, 10);
    let mut told = BTreeSet::new();
    while told.len() < 10 {
        let news = timeout(Duration::from_secs(5), news.recv()).await.unwrap().unwrap();
        for (object, modified) in news.objects {
            assert!(told.insert((object, modified)), "it is told once");
        }
    }
    line.cut();
    let mut is_unsure = false;
    while !is_unsure {
        let news = timeout(Duration::from_secs(5), news.recv()).await.unwrap().unwrap();
        is_unsure = news.is_foreign && news.objects.is_empty();
    }
    hear(&mut news, &second, 2000).await;
}

/// Records until that is heard.
async fn hear(news: &mut broadcast::Receiver<News>, other: &Journal, from: u64) {
    for index in from..from + 100 {
        try_to_settle(other, &record(index)).await.unwrap();
        let expected = [(record(index).object, Timestamp(index + 1))];
        let heard = timeout(Duration::from_millis(100), async {
            while news.recv().await.unwrap().objects != expected {}
        });
        if heard.await.is_ok() {
            return;
        }
    }
    panic!("nothing is heard");
}

#[tokio::test]
async fn intents_are_left_to_those_who_live() {
    let Some((first, line, second)) = two().await else { return };
    let group = first.intend(vec![intent()]).await.unwrap();
    assert!(second.abandoned().await.unwrap().is_empty());
    assert_eq!(second.open_groups(Some("a")).await.unwrap(), [group]);
    line.stall(true);
    line.cut();
    drop(first);
    let mut abandoned = Vec::new();
    for _ in 0..50 {
        abandoned = second.abandoned().await.unwrap();
        if !abandoned.is_empty() {
            break;
        }
        sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(abandoned.len(), 1);
    assert_eq!(abandoned[0].0, group);
    assert!(second.abandoned().await.unwrap().is_empty());
    second.settle(Outcome { closes: Some(group), ..Outcome::default() }).await.unwrap();
    assert!(second.open_groups(Some("a")).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_journal_that_lacks_a_table_is_not_written_until_that_is_there() {
    for place in places().await {
        let journal = place.open().await;
        settle(&journal, vec![change("/buckets/a", None, 1, &json!({}))]).await;
        let rename = async |from: &str, to: &str| {
            let mut writing = journal.engine.writing().await.unwrap();
            let rename = format!("ALTER TABLE {from} RENAME TO {to}");
            Statement::new(&rename).execute(writing.connection()).await.unwrap();
        };
        assert!(journal.can_write().await.is_ok());
        for table in schema::TABLES.map(|table| format!("sidecar_{table}")) {
            rename(&table, "elsewhere").await;
            assert!(journal.can_write().await.is_err(), "{table}");
            // What does not need it is not written either.
            let error = journal.intend(vec![intent()]).await.unwrap_err().to_string();
            assert!(error.contains(&table) && error.contains("history verify"), "{error}");
            rename("elsewhere", &table).await;
            assert!(journal.intend(vec![intent()]).await.is_ok(), "{table}");
            assert!(journal.can_write().await.is_ok(), "{table}");
        }
        let tables = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name LIKE 'sidecar_%'";
        if journal.engine.kind == Kind::Sqlite {
            let mut writing = journal.engine.writing().await.unwrap();
            let number = Statement::new(tables).number(writing.connection()).await.unwrap();
            assert_eq!(usize::try_from(number).unwrap(), schema::TABLES.len());
        }
        assert_eq!(entries(&journal, "a", "").await.len(), 1, "nothing is left of what was tried");
    }
}
