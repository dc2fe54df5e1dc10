//! The chains of objects.

use std::collections::HashMap;

use super::*;
use crate::journal::engine::Writing;

const RECORD: &str = "/buckets/a/collections/c/records/r";
const DELETE: Option<Action> = Some(Action::Delete);
const CREATE: Option<Action> = Some(Action::Create);

fn version(action: Option<Action>, modified: u64) -> Change {
    let deleted = action == DELETE;
    change(RECORD, action, modified, &json!({"id": "r", "last_modified": modified, "deleted": deleted}))
}

async fn chain(journal: &Journal, uri: &str) -> Vec<Link> {
    let mut chain = journal.chains(&[uri.to_owned()]).await.unwrap().remove(uri).unwrap_or_default();
    chain.reverse();
    chain
}

/// The versions of a chain, oldest first: positive where they are alive.
async fn versions(journal: &Journal, uri: &str) -> Vec<i64> {
    let sign = |link: &Link| if link.deleted { -1 } else { 1 };
    let modified = |link: &Link| i64::try_from(link.modified.0).unwrap() * sign(link);
    chain(journal, uri).await.iter().map(modified).collect()
}

fn seen(modified: u64, deleted: bool) -> Seen {
    Seen { uri: RECORD.to_owned(), modified: Timestamp(modified), deleted }
}

async fn writing(place: &Place) -> Writing {
    Engine::at(&place.url).await.unwrap().writing().await.unwrap()
}

/// Makes of a journal one of before there were chains.
async fn without_chains(place: &Place) {
    let mut writing = writing(place).await;
    for text in [
        "DROP INDEX IF EXISTS sidecar_intents_uri",
        "DROP TABLE sidecar_checkpoints",
        "DROP TABLE sidecar_versions",
        "ALTER TABLE sidecar_intents DROP COLUMN note",
        "DELETE FROM sidecar_meta WHERE name = 'chains'",
        "UPDATE sidecar_meta SET value = '1' WHERE name = 'schema'",
    ] {
        writing.connection().execute(text).await.unwrap();
    }
}

#[tokio::test]
async fn an_object_goes_on_through_all_its_lives() {
    for place in places().await {
        let journal = place.open().await;
        settle(&journal, vec![version(CREATE, 5), version(None, 6)]).await;
        settle(&journal, vec![version(DELETE, 7)]).await;
        let gone = |uri, modified| change(uri, DELETE, modified, &json!({"deleted": true}));
        settle(&journal, vec![gone("/buckets/a/collections/c", 8)]).await;
        settle(&journal, vec![version(CREATE, 4)]).await;
        settle(&journal, vec![gone("/buckets/a", 9)]).await;
        settle(&journal, vec![version(CREATE, 10)]).await;
        assert_eq!(versions(&journal, RECORD).await, [5, 6, -7, 4, 10]);
        journal.delete("a", &query("")).await.unwrap();
        let chain = chain(&journal, RECORD).await;
        let generations: Vec<u64> = chain.iter().map(|link| link.revision.generation).collect();
        assert_eq!(generations, [1, 2, 3, 4, 5]);
        assert!(chain.iter().all(|link| link.follows));
    }
}

#[tokio::test]
async fn what_is_found_when_it_is_over_is_not_in_the_chain() {
    for place in places().await {
        let journal = place.open().await;
        settle(&journal, vec![version(None, 5), version(None, 9)]).await;
        let found = Change { is_found: true, ..version(None, 7) };
        settle(&journal, vec![found, version(None, 8)]).await;
        assert_eq!(versions(&journal, RECORD).await, [5, 9]);
        assert!(!chain(&journal, RECORD).await[0].follows, "it may have been there before");
        let named = journal.revisions(vec![seen(8, false), seen(5, false)]).await.unwrap();
        let chain = chain(&journal, RECORD).await;
        assert_eq!(
            named,
            [Named::Older(chain[1].revision), Named::Passed(chain[0].revision, chain[1].revision)]
        );
    }
}

#[tokio::test]
async fn what_was_just_entered_has_its_name_also_once_the_object_was_made_anew_and_dated_before_it() {
    for place in places().await {
        let journal = place.open().await;
        let entered = journal.revisions(vec![seen(9, true)]).await.unwrap();
        settle(&journal, vec![version(CREATE, 5)]).await;
        assert_eq!(versions(&journal, RECORD).await, [-9, 5]);
        let named = journal.named(&[seen(9, true)], true).await.unwrap();
        let Named::Known(entered) = entered[0] else { panic!("{entered:?}") };
        let end = chain(&journal, RECORD).await[1].revision;
        assert_eq!(named, [Some(Named::Passed(entered, end))]);
    }
}

#[tokio::test]
async fn what_is_told_is_in_the_chain() {
    for place in places().await {
        let journal = place.open().await;
        let other = |n: u64| Seen { uri: format!("{RECORD}{n}"), modified: Timestamp(n), deleted: false };
        let many: Vec<Seen> = (1..1200).map(other).collect();
        let named = journal.revisions(many.clone()).await.unwrap();
        assert_eq!(journal.revisions(many).await.unwrap(), named);
        let Named::Known(first) = named[4] else { panic!("{named:?}") };
        assert_eq!(first.generation, 1);
        let own = change(&format!("{RECORD}5"), None, 5, &json!({"last_modified": 5}));
        settle(&journal, vec![own]).await;
        assert_eq!(versions(&journal, &format!("{RECORD}5")).await, [5]);
        let named = journal.revisions(vec![seen(6, true)]).await.unwrap();
        assert_eq!(journal.revisions(vec![seen(9, true)]).await.unwrap(), named, "it is gone");
        let Named::Known(end) = named[0] else { panic!("{named:?}") };
        let older = seen(3, false);
        assert_eq!(journal.revisions(vec![older.clone()]).await.unwrap(), [Named::Older(end)]);
        let again = journal.enter_after(older.clone(), end).await.unwrap();
        assert!(matches!(again, Named::Known(Revision { generation: 2, .. })), "{again:?}");
        let late = journal.enter_after(seen(2, false), end).await.unwrap();
        assert!(matches!(late, Named::Older(_)), "{late:?}");
        assert_eq!(versions(&journal, RECORD).await, [-6, 3]);
    }
}

#[tokio::test]
async fn of_long_chains_the_last_thousand_versions_are_kept() {
    for place in places().await {
        let journal = place.open().await;
        for first in (1..2300).step_by(100) {
            settle(&journal, (first..first + 100).map(|modified| version(None, modified)).collect()).await;
        }
        let chain = chain(&journal, RECORD).await;
        assert!((1000..1100).contains(&chain.len()), "{}", chain.len());
        assert_eq!(chain.last().unwrap().revision.generation, 2300);
        assert_eq!(chain.first().unwrap().revision.generation, 2301 - chain.len() as u64);
    }
}

#[tokio::test]
async fn an_older_journal_gets_its_chains_from_its_entries() {
    for place in places().await {
        let journal = place.open().await;
        let many = (10..3000_u64).map(|index| {
            let uri =
                format!("/buckets/a/collections/c/records/r{}", if index % 2 == 0 { 0 } else { index % 77 });
            change(&uri, None, index, &json!({"last_modified": index}))
        });
        settle(&journal, many.collect()).await;
        settle(&journal, vec![version(CREATE, 3000), version(DELETE, 3001), version(CREATE, 4)]).await;
        let uris: Vec<String> = (0..77)
            .map(|n| format!("/buckets/a/collections/c/records/r{n}"))
            .chain([RECORD.to_owned()])
            .collect();
        let before = journal.chains(&uris).await.unwrap();
        let began = journal.chains_began().await.unwrap();
        journal.leave(Duration::from_secs(60)).await;
        drop(journal);
        without_chains(&place).await;
        let journal = place.open().await;
        let after = journal.chains(&uris).await.unwrap();
        for uri in &uris {
            let newest = |chains: &HashMap<String, Vec<Link>>| {
                chains.get(uri).map(|chain| {
                    chain.iter().take(1000).map(|link| (link.revision, link.modified)).collect::<Vec<_>>()
                })
            };
            assert_eq!(newest(&after), newest(&before), "{uri}");
        }
        assert_ne!(journal.chains_began().await.unwrap(), began);
        settle(&journal, vec![version(None, 3002)]).await;
        assert_eq!(versions(&journal, RECORD).await, [3000, -3001, 4, 3002]);
    }
}

#[tokio::test]
async fn two_processes_never_give_one_number_twice() {
    for place in places().await {
        let journal = place.open().await;
        let other =
            if journal.engine.kind == engine::Kind::Postgres { place.open().await } else { journal.clone() };
        let write = async |journal: &Journal, first: u64| {
            for modified in (first..first + 100).step_by(2) {
                settle(journal, vec![version(None, modified)]).await;
                journal.revisions(vec![seen(modified, false)]).await.unwrap();
            }
        };
        tokio::join!(write(&journal, 10), write(&other, 11));
        let chain = chain(&journal, RECORD).await;
        let expected: Vec<u64> = (1..=chain.len() as u64).collect();
        assert_eq!(chain.iter().map(|link| link.revision.generation).collect::<Vec<_>>(), expected);
        assert!(chain.is_sorted_by_key(|link| link.modified));
        let view = JournalView::open(&place.url).await.unwrap().unwrap();
        let problems = view.verify().await.unwrap().problems;
        assert!(problems.is_empty(), "{problems:?}");
    }
}

#[tokio::test]
async fn chains_move_with_a_journal() {
    for place in places().await {
        let journal = place.open().await;
        settle(&journal, vec![version(CREATE, 5), version(DELETE, 6), version(CREATE, 4)]).await;
        let other = Seen { uri: format!("{RECORD}2"), ..seen(9, false) };
        journal.revisions(vec![other]).await.unwrap();
        let lines = transferring::exported(&journal, None).await;
        for place in places().await {
            let second = place.open().await;
            transferring::import(&second, &lines).await;
            second.fill_chains().await.unwrap();
            for uri in [RECORD, &format!("{RECORD}2")] {
                assert_eq!(chain(&second, uri).await, chain(&journal, uri).await);
            }
            assert_eq!(second.chains_began().await.unwrap(), journal.chains_began().await.unwrap());
            settle(&second, vec![version(None, 7)]).await;
            transferring::import(&second, &lines).await;
            assert_eq!(versions(&second, RECORD).await, [5, -6, 4, 7]);
            assert_eq!(transferring::exported(&second, None).await.len(), lines.len() + 1);
        }
        // What is exported without chains has them made of its entries.
        let strip = |line: &String| {
            let mut line: Value = serde_json::from_str(line).unwrap();
            line.as_object_mut().unwrap().remove("chain");
            line.to_string()
        };
        let lines: Vec<String> =
            lines.iter().filter(|line| !line.contains("only_chain")).map(strip).collect();
        for place in places().await {
            let second = place.open().await;
            transferring::import(&second, &lines).await;
            second.fill_chains().await.unwrap();
            assert_eq!(versions(&second, RECORD).await, [5, -6, 4]);
        }
    }
}
