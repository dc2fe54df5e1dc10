//! Who waits for whom where the journal is read.

use std::future::pending;

use futures_util::future::BoxFuture;
use tokio::sync::mpsc;

use super::selecting::filled;
use super::*;

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
                journal.page("a", &query(""), &sees).await.map(drop)
            })
        });
        let waiting: Vec<_> = waiting.collect();
        for _ in 0..MANY {
            are_asked.recv().await.unwrap();
        }
        assert!(!entries(&journal, "a", "").await.is_empty());
        waiting.iter().for_each(|waiting| waiting.abort());
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
        long.iter().for_each(|task| task.abort());
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
        let all = journal.page("a", &query(""), &sees).await.unwrap();
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
