//! Holds rows against filters, where that does not keep other connections waiting.

use std::cell::RefCell;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::filter::FeedFilter;
use super::filter::steps::{Steps, UsedUp};
use crate::aside;
use crate::error::Error;
use crate::feeds::snapshot::FeedRow;

/// SECURITY: the most steps that are done for one reader at once on a thread that serves others, and for all of its readers
/// in a while. One change may wake thousands of them.
const AT_ONCE: usize = 64 << 10;
const IN_A_WHILE: usize = 4 * AT_ONCE;
const WHILE: Duration = Duration::from_millis(20);

/// After how many steps aside the clock is looked at.
const SLICE: usize = 16 << 10;

thread_local! {
    static SHARE: RefCell<Share> = RefCell::new(Share::new(Instant::now()));
}

/// Which of some rows a filter selects, for a reader at this client.
pub(super) async fn wanted(
    filter: &Arc<FeedFilter>,
    rows: &[FeedRow],
    client: Option<IpAddr>,
) -> Result<Vec<bool>, Error> {
    let mut wanted = Vec::with_capacity(rows.len());
    if at_once(filter, rows, &mut wanted).is_ok() {
        return Ok(wanted);
    }
    let rest = rows.get(wanted.len()..).unwrap_or_default().to_vec();
    let (filter, asker) = (Arc::clone(filter), Arc::new(()));
    let asked = Arc::clone(&asker);
    let judged = aside::in_turns(client, move |turn| {
        let mut wanted = Vec::with_capacity(rest.len());
        let more = || {
            turn.share();
            // Whoever went away needs no more of it.
            if Arc::strong_count(&asked) > 1 { SLICE } else { 0 }
        };
        judge(&filter, &rest, &mut Steps::with(SLICE, more), &mut wanted).map(|()| wanted)
    });
    let judged = judged.await;
    drop(asker);
    wanted.extend(judged?.map_err(|used_up| Error::Internal(used_up.into()))?);
    Ok(wanted)
}

/// Judges what a thread that serves others may do of it.
fn at_once(filter: &FeedFilter, rows: &[FeedRow], wanted: &mut Vec<bool>) -> Result<(), UsedUp> {
    let share = SHARE.with_borrow_mut(|share| share.at(Instant::now()));
    let mut steps = Steps::at_most(share);
    let whole = judge(filter, rows, &mut steps, wanted);
    SHARE.with_borrow_mut(|known| known.left = known.left.saturating_sub(share - steps.left()));
    whole
}

/// Judges one row after the other.
fn judge(
    filter: &FeedFilter,
    rows: &[FeedRow],
    steps: &mut Steps<'_>,
    wanted: &mut Vec<bool>,
) -> Result<(), UsedUp> {
    for row in rows {
        wanted.push(filter.matches(row, steps)?);
    }
    Ok(())
}

/// What a thread that serves others may still do of it.
#[derive(Debug)]
struct Share {
    since: Instant,
    left: usize,
}

impl Share {
    fn new(since: Instant) -> Self {
        Self { since, left: IN_A_WHILE }
    }

    /// What may be done at once.
    fn at(&mut self, now: Instant) -> usize {
        if now.saturating_duration_since(self.since) >= WHILE {
            *self = Self::new(now);
        }
        self.left.min(AT_ONCE)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use serde_json::{Value, json};

    use super::*;
    use crate::feeds::filter::mango::Selector;
    use crate::kinto::Timestamp;
    use crate::kinto::seq::Seq;

    fn row(record: &Value) -> FeedRow {
        FeedRow::new(Seq::of(Timestamp(20)), "a".into(), Timestamp(10), false, record.to_string().into())
    }

    fn filter(selector: &Value) -> Arc<FeedFilter> {
        Arc::new(FeedFilter::Selector(Selector::read(selector).unwrap()))
    }

    #[tokio::test]
    async fn what_takes_more_than_a_share_is_done_aside() {
        let numbers: Vec<u32> = (0..3_000).collect();
        let names: Value = (0..2_000).map(|number| (format!("n{number}"), json!(0))).collect();
        let rows = [row(&json!({"l": numbers, "o": names})), row(&json!({"l": [], "o": {}}))];
        let never = json!({"$or": vec![json!({"$eq": "x"}); 399]});
        let always = json!({"$and": vec![json!({"$ne": "x"}); 399]});
        for (selector, expected) in [
            (json!({"$or": vec![json!({"l": {"$all": [1, -1]}}); 300]}), [false, false]),
            (json!({"l": {"$allMatch": always}}), [true, false]),
            (json!({"l": {"$not": {"$elemMatch": never}}}), [true, true]),
            (json!({"o": {"$keyMapMatch": never}}), [false, false]),
            (json!({"$or": vec![json!({"l": {"$in": [-1, "x"]}}); 330]}), [false, false]),
        ] {
            let filter = filter(&selector);
            let judged = wanted(&filter, &rows, None);
            tokio::pin!(judged);
            assert!(judged.as_mut().now_or_never().is_none(), "{selector}");
            assert_eq!(judged.await.unwrap(), expected, "{selector}");
        }
    }

    #[tokio::test]
    async fn what_takes_little_is_done_at_once_until_the_thread_has_done_its_share() {
        let (filter, rows) = (filter(&json!({"x": {"$gt": 1}})), [1, 2].map(|x| row(&json!({"x": x}))));
        SHARE.set(Share::new(Instant::now() + 1_000 * WHILE));
        let is_at_once = async || {
            let judged = wanted(&filter, &rows, None);
            tokio::pin!(judged);
            match judged.as_mut().now_or_never() {
                Some(judged) => (true, judged.unwrap()),
                None => (false, judged.await.unwrap()),
            }
        };
        let mut times = 0;
        loop {
            let (is_at_once, judged) = is_at_once().await;
            assert_eq!(judged, [false, true]);
            if !is_at_once {
                break;
            }
            times += 1;
        }
        assert!((100..IN_A_WHILE).contains(&times), "{times}");
        SHARE.set(Share::new(Instant::now()));
        assert!(is_at_once().await.0);
    }

    #[test]
    fn a_thread_has_its_share_again_after_a_while() {
        let begun = Instant::now();
        let mut share = Share::new(begun);
        assert_eq!(share.at(begun), AT_ONCE);
        share.left = 7;
        assert_eq!(share.at(begun + WHILE / 2), 7);
        assert_eq!(share.at(begun + WHILE), AT_ONCE);
    }
}
