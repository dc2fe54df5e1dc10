//! Which collections are asked for next.
//!
//! Whatever is older than `sidecar.timestamps_ttl` is due, the longest unasked first. Where the budget does not do for
//! all, three of four places are for those that somebody reads or that have just moved; the fourth is for whatever was
//! left waiting longest, so that nothing waits for more than four times as long as if all were alike.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::timeline::Timeline;
use crate::timeline::clock::Clock;

/// What is due.
#[derive(Debug, Default)]
pub(super) struct Due {
    /// To be asked for in one question.
    pub(super) clocks: Vec<Arc<Clock>>,
    /// When the first of the others is due, where nothing is.
    pub(super) next: Option<Instant>,
}

/// Chooses at most `most` of `clocks`.
pub(super) fn choose(
    clocks: impl Iterator<Item = Arc<Clock>>,
    ttl: Duration,
    most: usize,
    now: Instant,
) -> Due {
    let mut due = Due::default();
    let mut waiting: Vec<(Option<Instant>, Arc<Clock>)> = Vec::new();
    for clock in clocks {
        let asked = clock.last_asked();
        let at = asked.map_or(now, |asked| asked + clock.interval(ttl));
        if at <= now {
            waiting.push((asked, clock));
        } else {
            due.next = Some(due.next.map_or(at, |next| next.min(at)));
        }
    }
    waiting.sort_by_key(|(asked, _)| *asked);
    let waiting = waiting.into_iter().map(|(_, clock)| clock);
    let (lively, quiet): (Vec<_>, Vec<_>) = waiting.partition(|clock| clock.is_lively());
    let reserved = if most < 4 {
        let age =
            |clocks: &[Arc<Clock>]| clocks.first().and_then(|clock| clock.last_asked()).map(|at| now - at);
        usize::from(age(&quiet) > age(&lively).map(|age| 4 * age))
    } else {
        most.div_ceil(4)
    };
    let reserved = reserved.min(quiet.len());
    let (mut lively, mut quiet) = (lively.into_iter(), quiet.into_iter());
    due.clocks.extend(lively.by_ref().take(most.saturating_sub(reserved)));
    due.clocks.extend(quiet.by_ref().take(most.saturating_sub(due.clocks.len())));
    due.clocks.extend(lively.take(most.saturating_sub(due.clocks.len())));
    due
}

/// Of collections on which the upstream failed, the one that is due for longest; else when the first one is. Each is asked
/// for alone, and after each failure later than before.
pub(super) fn next_apart(
    clocks: impl Iterator<Item = Arc<Clock>>,
    ttl: Duration,
    now: Instant,
) -> (Option<Arc<Clock>>, Option<Instant>) {
    let due_at =
        |clock: Arc<Clock>| (clock.last_asked().map_or(now, |asked| asked + clock.interval(ttl)), clock);
    match clocks.map(due_at).min_by_key(|(at, _)| *at) {
        Some((at, clock)) if at <= now => (Some(clock), None),
        later => (None, later.map(|(at, _)| at)),
    }
}

/// The clocks of the collections that are monitored, watched or wanted by somebody: what is asked for again and again.
pub(super) fn followed(timeline: &Timeline) -> Vec<Arc<Clock>> {
    let watched = timeline.watched_buckets();
    let mut clocks = timeline.kept_clocks();
    clocks.retain(|clock| {
        let key = clock.key();
        watched.contains(&key.bucket) || timeline.resources().include(key) || clock.is_wanted()
    });
    clocks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinto::CollectionKey;

    const TTL: Duration = Duration::from_secs(1);

    fn clocks(count: usize) -> Vec<Arc<Clock>> {
        (0..count)
            .map(|n| Arc::new(Clock::new(CollectionKey::new("a", &format!("c{n}")), Arc::default())))
            .collect()
    }

    /// How long each clock waits at most, where a question for `most` is asked each `pause`.
    fn longest_waits(clocks: &[Arc<Clock>], most: usize, pause: Duration) -> Vec<Duration> {
        let mut longest = vec![Duration::ZERO; clocks.len()];
        let mut now = Instant::now();
        for round in 0..2000 {
            for clock in choose(clocks.iter().cloned(), TTL, most, now).clocks {
                let n: usize = clock.key().collection.trim_start_matches('c').parse().unwrap();
                if round > 1000 {
                    longest[n] = longest[n].max(now - clock.last_asked().unwrap());
                }
                clock.asking(now);
            }
            now += pause;
        }
        longest
    }

    #[test]
    fn everything_is_asked_each_ttl_while_the_budget_does() {
        let clocks = clocks(20);
        let longest = longest_waits(&clocks, 25, Duration::from_millis(100));
        assert!(longest.iter().all(|wait| *wait == TTL), "{longest:?}");
    }

    #[test]
    fn beyond_the_budget_those_with_readers_come_first_and_nobody_starves() {
        let clocks = clocks(400);
        for clock in &clocks[..10] {
            // A listener does not go away.
            std::mem::forget(clock.listen());
        }
        let longest = longest_waits(&clocks, 8, Duration::from_millis(500));
        let (read, quiet) = longest.split_at(10);
        assert!(read.iter().all(|wait| *wait <= Duration::from_millis(1500)), "{read:?}");
        // 390 of them, at least two places in each half second, and what the readers leave over.
        assert!(quiet.iter().all(|wait| *wait <= Duration::from_secs(98)), "{quiet:?}");
    }

    #[test]
    fn however_many_have_readers_the_others_have_every_fourth_place() {
        let clocks = clocks(160);
        for clock in &clocks[..100] {
            std::mem::forget(clock.listen());
        }
        let longest = longest_waits(&clocks, 8, Duration::from_millis(500));
        let (read, quiet) = longest.split_at(100);
        // 100 in six places, and 60 in two, each half second.
        assert!(read.iter().all(|wait| *wait <= Duration::from_millis(8_500)), "{read:?}");
        assert!(quiet.iter().all(|wait| *wait <= Duration::from_secs(15)), "{quiet:?}");
    }

    #[test]
    fn what_the_upstream_fails_on_is_asked_apart_and_ever_more_seldom() {
        let clocks = clocks(10);
        let mut tries = Vec::new();
        let began = Instant::now();
        let mut now = began;
        for clock in &clocks[..2] {
            clock.asking(now);
            clock.failed();
        }
        for _ in 0..2000 {
            if let (Some(clock), _) = next_apart(clocks[..2].iter().cloned(), TTL, now) {
                clock.asking(now);
                clock.failed();
                tries.push((now - began).as_secs());
            }
            now += Duration::from_millis(50);
        }
        assert_eq!(tries, [2, 2, 6, 6, 14, 14, 30, 30, 62, 62]);
    }
}
