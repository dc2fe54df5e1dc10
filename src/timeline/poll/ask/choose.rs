//! What to ask next: what was not asked for longest, lists and collections in turn.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use super::{Asker, Question};
use crate::timeline::clock::Clock;
use crate::timeline::poll::order::{self, Due};

/// How much less often than its collections a list of collections is asked for: it changes less often.
const LISTS: u32 = 5;

/// How often it is looked for buckets whose histories can be followed.
const HISTORIES: Duration = Duration::from_secs(300);

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
        let histories = self.histories.iter().map(|(id, followed)| (Some(followed.asked), id.clone(), true));
        let lists =
            buckets.into_iter().map(|id| (self.buckets.get(&id).and_then(|list| list.asked), id, false));
        let due = histories.chain(lists).filter(|(asked, _, is_history)| {
            is_due(*asked, if *is_history { ttl } else { ttl * LISTS }) && (asked.is_some() || !is_swept)
        });
        let list =
            due.min().map(
                |(_, bucket, is_history)| {
                    if is_history { Question::History(bucket) } else { Question::Bucket(bucket) }
                },
            );

        let Due { clocks, next: later } = order::choose(clocks.into_iter(), ttl, self.at_once(), now);
        let clocks = Some(clocks).filter(|clocks| !clocks.is_empty()).map(Question::Collections);
        let question = if self.was_list { clocks.or(list) } else { list.or(clocks) };
        (question, next.into_iter().chain(later).min())
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
