//! Who waits for whom where the journal is read.

use std::future::pending;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::{BoxFuture, Either, join_all, select};
use tokio::sync::mpsc;

use super::selecting::filled;
use super::*;
use crate::journal::large;
use crate::settings::InForce;
use crate::wire::buffers::Buffers;

/// More than connections read at once.
const MANY: usize = 20;

#[tokio::test]
async fn nobody_waits_for_what_the_upstream_says_of_others() {
    for place in places().await {
        let journal = filled(&place).await;
        let (asked, mut are_asked) = mpsc::unbounded_channel();
        let waiting = (0..MANY).map(|_| {
            let (journal, asked) = (journal.clone(), asked.clone());
            tokio::spawn(async move {
                let verdict = |_: Object| -> BoxFuture<'_, bool> {
                    asked.send(()).unwrap();
                    Box::pin(pending())
                };
                let sees = Sees::Some { principals: &["nobody".to_owned()], verdict: &verdict };
                journal.page("a", &query(""), &sees, None).await.map(drop)
            })
        });
        let waiting: Vec<_> = waiting.collect();
        for _ in 0..MANY {
            are_asked.recv().await.unwrap();
        }
        assert!(!entries(&journal, "a", "").await.is_empty());
        for waiting in waiting {
            waiting.abort();
        }
    }
}

#[tokio::test]
async fn what_writes_ask_does_not_wait_for_what_takes_long() {
    for place in places().await {
        let journal = filled(&place).await;
        let long = (0..MANY).map(|_| {
            let engine = Arc::clone(&journal.engine);
            tokio::spawn(
                async move { engine.ask(PATIENCE, async |_| pending::<sqlx::Result<()>>().await).await },
            )
        });
        let long: Vec<_> = long.collect();
        // Whoever found no turn was told so, and all turns are taken.
        let is_over =
            |long: &Vec<tokio::task::JoinHandle<_>>| long.iter().filter(|task| task.is_finished()).count();
        while is_over(&long) == 0 {
            tokio::task::yield_now().await;
        }
        assert!(journal.life("a").await.is_ok());
        for task in long {
            task.abort();
        }
    }
}

#[tokio::test]
async fn whoever_waits_for_room_for_large_entries_has_no_connection() {
    for place in places().await {
        let journal = filled(&place).await;
        let text = json!({"text": "x".repeat(100_000)});
        settle(&journal, vec![change("/buckets/large/collections/c/records/r", None, 5, &text)]).await;
        let entry = [Timestamp(entries(&journal, "large", "").await[0]["last_modified"].as_u64().unwrap())];
        let room = large::room(i64::MAX).await;
        let filters = query("like_target.data.text=x");
        let pages = join_all((0..MANY).map(|_| journal.page("large", &filters, &Sees::Everything, None)));
        let data = join_all((0..MANY).map(|_| journal.data_at("large", &entry)));
        let waiting = pin!(async { tokio::join!(pages, data) });
        let others = pin!(async {
            for _ in 0..50 {
                assert!(!entries(&journal, "a", "").await.is_empty());
            }
        });
        let Either::Right(((), waiting)) = select(waiting, others).await else {
            panic!("large entries are read without room");
        };
        drop(room);
        let (pages, data) = waiting.await;
        assert!(pages.into_iter().all(|page| page.unwrap().rows.len() == 1));
        assert!(data.into_iter().all(|data| data.unwrap()[&entry[0]].len() > 100_000));
    }
}

#[tokio::test]
async fn room_is_taken_as_entries_are_read_and_none_while_the_upstream_is_asked_about_them() {
    for place in places().await {
        let journal = filled(&place).await;
        let budget = |bytes| Buffers::new(InForce::with(|settings| settings.limits.buffered_bytes = bytes));
        let (buffers, full) = (budget(64 << 20), budget(100));
        let asked = AtomicUsize::new(0);
        let verdict = |_: Object| -> BoxFuture<'_, bool> {
            assert_eq!(buffers.held(), 0);
            asked.fetch_add(1, Ordering::SeqCst);
            Box::pin(async { true })
        };
        let sees = Sees::Some { principals: &["nobody".to_owned()], verdict: &verdict };
        let page = journal.page("a", &query(""), &sees, Some(&buffers.hold(None))).await.unwrap();
        let length: usize = page.rows.iter().map(|row| row.get().len()).sum();
        assert!(asked.load(Ordering::SeqCst) > 1 && length > 0);
        assert!(buffers.held() >= 2 * length && buffers.held() < 4 * length + (64 << 10));
        drop(page);
        let (all, hold) = (query(""), buffers.hold(None));
        let touches = journal.touched("a", &all, None, &sees, usize::MAX, Some(&hold)).await.unwrap();
        assert!(buffers.held() >= touches.objects.len());
        drop(touches);
        let none = journal.page("a", &query(""), &Sees::Everything, Some(&full.hold(None))).await;
        assert!(matches!(none, Err(JournalError::NoRoom(_))));
        let hold = full.hold(None);
        let none = journal.touched("a", &all, None, &Sees::Everything, 1000, Some(&hold)).await;
        assert!(matches!(none, Err(JournalError::NoRoom(_))));
        assert_eq!(buffers.held() + full.held(), 0);
    }
}

#[tokio::test]
async fn the_upstream_is_asked_once_about_each_object_and_about_few_at_first() {
    for place in places().await {
        let journal = filled(&place).await;
        let (asked, mut are_asked) = mpsc::unbounded_channel();
        let verdict = |object: Object| -> BoxFuture<'_, bool> {
            let sees = object.to_string().ends_with("groups/g");
            asked.send(object).unwrap();
            Box::pin(async move { sees })
        };
        let sees = Sees::Some { principals: &["nobody".to_owned()], verdict: &verdict };
        let all = journal.page("a", &query(""), &sees, None).await.unwrap();
        let mut objects: Vec<String> = Vec::new();
        while let Ok(object) = are_asked.try_recv() {
            objects.push(object.to_string());
        }
        let number = objects.len();
        objects.sort();
        objects.dedup();
        assert_eq!(number, objects.len());
        assert!(!all.rows.is_empty());
        let counted = journal.count("a", &query(""), &sees).await.unwrap();
        assert_eq!(counted.total, all.rows.len());
    }
}

fn records(versions: impl Iterator<Item = u64>) -> Vec<Change> {
    let record = |version| {
        let uri = format!("/buckets/a/collections/c/records/r{version}");
        change(&uri, None, version, &json!({"version": version}))
    };
    versions.map(record).collect()
}

#[tokio::test]
async fn what_others_write_is_recorded_between_the_portions_of_what_is_large() {
    for place in places().await {
        let journal = place.open().await;
        let group = journal.intend(vec![intent()]).await.unwrap();
        let large = Outcome { closes: Some(group), changes: records(1..4001), ..Outcome::default() };
        let newer = change("/buckets/a/collections/c/records/r4000", None, 9000, &json!({"version": 9000}));
        let (order, mut orders) = mpsc::unbounded_channel();
        let told = async |name: &str, outcome: Outcome| {
            let entries = journal.settle_at_last(outcome).await.unwrap();
            order.send((name.to_owned(), entries)).unwrap();
        };
        let of = |changes: Vec<Change>| Outcome { changes, ..Outcome::default() };
        let other = change("/buckets/b", None, 5, &json!({}));
        tokio::join!(told("large", large), told("newer", of(vec![newer])), told("other", of(vec![other])));
        assert_eq!(orders.recv().await.unwrap(), ("other".to_owned(), 1));
        assert_eq!(orders.recv().await.unwrap(), ("large".to_owned(), 4000));
        assert_eq!(orders.recv().await.unwrap(), ("newer".to_owned(), 1));
        let versions = entries(&journal, "a", "record_id=r4000&_sort=last_modified").await;
        let versions: Vec<_> = versions.iter().map(|entry| &entry["target"]["data"]["version"]).collect();
        assert_eq!(versions, [4000, 9000]);
        assert!(journal.open_groups(None).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn of_more_readers_than_are_written_down_the_upstream_is_asked() {
    for place in places().await {
        let journal = place.open().await;
        let readers: Vec<String> = (0..5000).map(|number| format!("reader{number}")).collect();
        let mut shared = change("/buckets/a", None, 1, &json!({}));
        shared.permissions = Some(permissions(&json!({"read": readers})));
        settle(&journal, vec![shared]).await;
        for is_reader in [true, false] {
            let verdict = |_: Object| -> BoxFuture<'_, bool> { Box::pin(async move { is_reader }) };
            let sees = Sees::Some { principals: &["reader1".to_owned()], verdict: &verdict };
            let page = journal.page("a", &query(""), &sees, None).await.unwrap();
            assert_eq!(page.rows.len(), usize::from(is_reader));
        }
    }
}
