//! What to ask next: what was not asked for longest, lists and collections in turn.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Asker, Question};
use crate::timeline::clock::Clock;
use crate::timeline::poll::order::{self, Due};

/// How much less often than its collections a list of collections is asked for: it changes less often.
const LISTS: u32 = 5;

/// The longest pause between questions of which nothing is heard, and what doubles until then.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
const LEAST: Duration = Duration::from_secs(10);

/// How often it is looked for buckets whose histories can be followed.
const HISTORIES: Duration = Duration::from_secs(300);

/// How long what is asked for each `interval` is left alone after so many questions in a row of which nothing was heard.
fn later_each_time(interval: Duration, silences: u32) -> Duration {
    let patient = interval.max(LEAST).saturating_mul(1 << silences.min(16)).min(LONGEST_PAUSE);
    if silences == 0 { interval } else { patient.max(interval) }
}

impl Asker {
    /// Whether a collection has to be asked for by itself.
    pub(in crate::timeline::poll) fn is_asked_for(&self, clock: &Clock) -> bool {
        let followed = self.histories.get(&*clock.key().bucket);
        let is_followed = followed.is_some_and(|followed| clock.last_answer() >= Some(followed.begun));
        !is_followed && !self.listed.contains(clock.key())
    }

    /// What to ask next, of what is older than `ttl`; else when to ask. What was never asked for is left to a sweep
    /// that is under way.
    pub(in crate::timeline::poll) fn next(
        &mut self,
        ttl: Duration,
        is_swept: bool,
    ) -> (Option<Question>, Option<Instant>) {
        let now = Instant::now();
        self.look_at_resources();
        let buckets = self.listed_buckets();
        let watched = self.timeline.watched_buckets();
        let mut clocks = self.timeline.kept_clocks();
        clocks.retain(|clock| {
            let key = clock.key();
            let is_watched = watched.contains(&key.bucket) || self.timeline.resources().include(key);
            (is_watched && !(is_swept && clock.last_asked().is_none()) || !is_watched && clock.is_wanted())
                && self.is_asked_for(clock)
                && !clock.is_in_trouble()
        });
        if self.description.is_none() {
            let is_needed = !clocks.is_empty() || !buckets.is_empty();
            return (is_needed.then_some(Question::Describe), None);
        }
        let mut next: Option<Instant> = None;
        let mut is_due = |asked: Option<Instant>, ttl: Duration| {
            let at = asked.map_or(now, |asked| asked + ttl);
            if at > now {
                next = Some(next.map_or(at, |next| next.min(at)));
            }
            at <= now
        };
        if self.has_changes() && is_due(self.listed_at, ttl) {
            return (Some(Question::Monitor), None);
        }
        let has_histories = self.description.as_ref().is_some_and(|description| description.has("history"));
        if has_histories && !is_swept && is_due(self.histories_at, HISTORIES) {
            return (Some(Question::Histories), None);
        }
        self.buckets.retain(|bucket, _| buckets.contains(bucket));
        // The longest unasked first, so that none of many is forgotten.
        let histories = self.histories.iter().map(|(id, followed)| {
            (Some(followed.asked), id.clone(), true, later_each_time(ttl, followed.silences))
        });
        let lists = buckets.into_iter().map(|id| {
            let list = self.buckets.get(&id);
            let silences = list.map_or(0, |list| list.silences);
            (list.and_then(|list| list.asked), id, false, later_each_time(ttl * LISTS, silences))
        });
        let due = histories
            .chain(lists)
            .filter(|(asked, _, _, interval)| is_due(*asked, *interval) && (asked.is_some() || !is_swept));
        let list =
            due.min().map(
                |(_, bucket, is_history, _)| {
                    if is_history { Question::History(bucket) } else { Question::Bucket(bucket) }
                },
            );

        let Due { clocks, next: later } = order::choose(clocks.into_iter(), ttl, self.at_once(), now);
        let clocks = Some(clocks).filter(|clocks| !clocks.is_empty()).map(Question::Collections);
        let question = if self.was_list { clocks.or(list) } else { list.or(clocks) };
        (question, next.into_iter().chain(later).min())
    }

    /// What to ask next of the collections that are asked for apart, since the upstream failed on them; else when to ask.
    pub(in crate::timeline::poll) fn next_apart(
        &self,
        ttl: Duration,
    ) -> (Option<Arc<Clock>>, Option<Instant>) {
        let mut clocks = order::followed(&self.timeline);
        clocks.retain(|clock| clock.is_in_trouble() && self.is_asked_for(clock));
        order::next_apart(clocks.into_iter(), ttl, Instant::now())
    }

    /// The buckets of which it matters which collections they have.
    fn listed_buckets(&self) -> BTreeSet<String> {
        let resources = self.timeline.resources();
        let mut buckets: BTreeSet<String> = resources.buckets().map(str::to_owned).collect();
        buckets.extend(resources.collections().map(|key| key.bucket.to_string()));
        buckets.extend(self.timeline.watched_buckets().iter().map(ToString::to_string));
        buckets
    }
}
