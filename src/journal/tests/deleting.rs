//! Entries that are deleted, and pages of them.

use sqlx::ConnectOptions;
use sqlx::sqlite::SqliteConnectOptions;

use super::selecting::filled;
use super::*;

#[tokio::test]
async fn many_entries_and_large_ones_are_deleted_bit_by_bit() {
    for place in places().await {
        let journal = place.open().await;
        let text = "x".repeat(3 << 20);
        for version in 1..=60 {
            let data = if version % 20 == 0 { json!({"text": text}) } else { json!({"n": version}) };
            settle(&journal, vec![change(&format!("/buckets/a/groups/{version}"), None, version, &data)])
                .await;
        }
        let mut query = query("_sort=uri&_limit=55");
        query.most_bytes = Some(2000);
        let (mut ids, mut rest) = (Vec::new(), Some(query));
        let mut rounds = 0;
        while let Some(query) = rest {
            let (page, left) = journal.delete("a", &query).await.unwrap();
            ids.extend(page.rows.iter().map(|row| row.get().to_owned()));
            (rest, rounds) = (left, rounds + 1);
        }
        assert_eq!(ids.len(), 55);
        assert!(rounds > 2, "{rounds}");
        assert_eq!(entries(&journal, "a", "").await.len(), 5);
        let (page, _) =
            journal.delete("a", &super::query("resource_name=group&gt_last_modified=1")).await.unwrap();
        assert_eq!(page.rows.len(), 5);
    }
}

#[tokio::test]
async fn what_a_deletion_looks_through_is_not_looked_through_by_the_writer() {
    let place = places().await.remove(0);
    let journal = filled(&place).await;
    let JournalUrl::Sqlite(path) = &place.url else { unreachable!("the first place") };
    // Nothing can be written while somebody else writes.
    let mut other = SqliteConnectOptions::new().filename(path).connect().await.unwrap();
    other.execute("BEGIN IMMEDIATE").await.unwrap();
    let (page, _) = journal.delete("a", &query("like_uri=nowhere&target.data.x=nothing")).await.unwrap();
    assert!(page.rows.is_empty());
}

#[tokio::test]
async fn deleted_entries_leave_tombstones() {
    for place in places().await {
        let journal = filled(&place).await;
        let before = entries(&journal, "a", "").await;
        let at = journal.timestamp("a").await.unwrap();
        let by = |text: &str| query(&format!("_sort=last_modified&_limit=3{text}")).for_deletion().unwrap();
        let (page, _) = journal.delete("a", &by("")).await.unwrap();
        let tombstones: Vec<Value> =
            page.rows.iter().map(|row| serde_json::from_str(row.get()).unwrap()).collect();
        let ids: Vec<&Value> = tombstones.iter().map(|row| &row["id"]).collect();
        let oldest: Vec<&Value> = before.iter().rev().take(3).map(|row| &row["id"]).collect();
        assert_eq!(ids, oldest);
        assert!(tombstones.iter().all(|row| row["deleted"] == true));
        let modified: Vec<u64> =
            tombstones.iter().map(|row| row["last_modified"].as_u64().unwrap()).collect();
        assert!(modified[0] > at.0 && modified.is_sorted_by(|left, right| left < right));
        assert_eq!(page.timestamp.0, modified[2]);
        let next = by(&format!("&_token={}", page.next.unwrap()));
        assert_eq!(journal.delete("a", &next).await.unwrap().0.rows.len(), 3);
        assert_eq!(journal.count("a", &query(""), &Sees::Everything).await.unwrap().total, before.len() - 6);
        assert_eq!(entries(&journal, "a", &format!("_since={at}")).await.len(), 6);
        journal.delete("a", &query("")).await.unwrap();
        assert!(entries(&journal, "a", "").await.is_empty());
        let collection = Object::of_uri("/buckets/a/collections/c").unwrap();
        let past = journal.versions_at(&collection, &["r"], Timestamp(9999)).await.unwrap();
        assert!(past.versions.is_empty() && past.has_gaps);
    }
}

/// The page of a deletion: how many entries it deleted, and the token of the next one; the words of its refusal.
async fn delete(journal: &Journal, text: &str) -> Result<(usize, Option<String>), String> {
    let query = Query::parse(Some(text), &rules()).and_then(Query::for_deletion);
    let query = query.map_err(|invalid| invalid.message())?;
    let (page, _) = journal.delete("a", &query).await.map_err(|error| error.to_string())?;
    Ok((page.rows.len(), page.next))
}

const USED: &str = "querystring: _token was already used or has expired.";

#[tokio::test]
async fn a_page_is_deleted_once_however_often_it_is_asked_for() {
    for place in places().await {
        let mut journal = filled(&place).await;
        let mut left = entries(&journal, "a", "").await.len();
        let sort = "_sort=user_id&_limit=3";
        let mut next = String::new();
        while left > 0 {
            let (rows, token) = delete(&journal, &format!("{sort}&_token={next}")).await.unwrap();
            assert_eq!(rows, left.min(3));
            left -= rows;
            // Also after a restart.
            if left % 2 == 0 {
                drop(journal);
                journal = place.open().await;
            }
            if !next.is_empty() {
                let again = delete(&journal, &format!("{sort}&_token={next}")).await;
                assert_eq!(again.unwrap_err(), USED);
            }
            assert_eq!(entries(&journal, "a", "").await.len(), left);
            assert_eq!(token.is_some(), left > 0);
            next = token.unwrap_or_default();
        }
    }
}

#[tokio::test]
async fn of_those_who_delete_the_same_page_at_once_one_does() {
    for place in places().await {
        let journal = filled(&place).await;
        let before = entries(&journal, "a", "").await.len();
        let (_, token) = delete(&journal, "_limit=1").await.unwrap();
        let next = format!("_limit=20&_token={}", token.unwrap());
        let all = futures_util::future::join_all((0..5).map(|_| delete(&journal, &next))).await;
        let done: Vec<_> =
            all.iter().filter_map(|answer| answer.as_ref().ok()).map(|(rows, _)| *rows).collect();
        assert_eq!(done, [20]);
        assert!(all.into_iter().filter_map(Result::err).all(|error| error == USED));
        assert_eq!(entries(&journal, "a", "").await.len(), before - 21);
    }
}

#[tokio::test]
async fn a_page_that_was_read_is_not_deleted_by_its_token() {
    for place in places().await {
        let journal = filled(&place).await;
        let page = journal.page("a", &query("_limit=2"), &Sees::Everything, None).await.unwrap();
        let read = format!("_limit=2&_token={}", page.next.unwrap());
        assert_eq!(delete(&journal, &read).await.unwrap_err(), USED);
        // What is left after a deletion can be read.
        let (_, token) = delete(&journal, "_limit=2").await.unwrap();
        let left = entries(&journal, "a", "").await;
        let next = format!("_limit=2&_token={}", token.unwrap());
        assert_eq!(entries(&journal, "a", &next).await, left[..2]);
        // It ends with the entry that it begins with.
        let id = left[0]["id"].as_str().unwrap();
        delete(&journal, &format!("id={id}")).await.unwrap();
        assert_eq!(delete(&journal, &next).await.unwrap_err(), USED);
        assert_eq!(entries(&journal, "a", "").await, left[1..]);
    }
}

#[tokio::test]
async fn pages_that_end_for_their_bytes_have_all_entries_and_all_tombstones() {
    for place in places().await {
        let journal = filled(&place).await;
        let whole = entries(&journal, "a", "_since=0").await;
        assert!(whole.iter().filter(|row| row["deleted"] == true).count() > 2);
        for sort in ["", "_sort=last_modified&", "_sort=uri&"] {
            let (mut seen, mut next) = (Vec::new(), Some(String::new()));
            while let Some(token) = next {
                let mut query = query(&format!("_since=0&{sort}_token={token}"));
                query.most_bytes = Some(4000);
                let page = journal.page("a", &query, &Sees::Everything, None).await.unwrap();
                seen.extend(page.rows.iter().map(|row| serde_json::from_str::<Value>(row.get()).unwrap()));
                next = page.next;
            }
            assert_eq!(seen, entries(&journal, "a", &format!("_since=0&{sort}")).await, "{sort}");
            assert_eq!(seen.len(), whole.len());
        }
    }
}
