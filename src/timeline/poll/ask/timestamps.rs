//! The timestamps of some collections, asked for and told to the timeline.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;

use crate::complaint::Complaint;
use crate::kinto::CollectionKey;
use crate::settings::InForce;
use crate::timeline::Timeline;
use crate::timeline::clock::Clock;
use crate::timeline::poll::error::PollError;
use crate::timeline::poll::unreadable::Unreadable;
use crate::upstream::kinto::heads::Heads;
use crate::upstream::kinto::{KintoError, Source};
use crate::upstream::{Description, Upstream};

/// Asks, and tells.
#[derive(Debug)]
pub(in crate::timeline::poll) struct Timestamps {
    timeline: Arc<Timeline>,
    upstream: Upstream,
    heads: Heads,
    unreadable: Arc<Unreadable>,
}

impl Timestamps {
    pub(super) fn new(
        timeline: &Arc<Timeline>,
        upstream: &Upstream,
        settings: InForce,
        unreadable: &Arc<Unreadable>,
    ) -> Arc<Self> {
        Arc::new(Self {
            timeline: Arc::clone(timeline),
            heads: Heads::new(Source::new(upstream.clone()), settings),
            upstream: upstream.clone(),
            unreadable: Arc::clone(unreadable),
        })
    }

    /// How many collections one question can name.
    pub(super) fn at_once(&self, description: Option<&Description>) -> usize {
        self.heads.at_once(description)
    }

    /// Asks for the timestamps of some collections; for how long that kept the upstream busy.
    pub(in crate::timeline::poll) async fn ask(&self, clocks: &[Arc<Clock>]) -> Result<Duration, PollError> {
        let asked = Instant::now();
        let news: Vec<u64> = clocks.iter().map(|clock| clock.news()).collect();
        let keys: Vec<CollectionKey> = clocks.iter().map(|clock| clock.key().clone()).collect();
        for clock in clocks {
            clock.asking(asked);
        }
        let answers = self.heads.ask(&keys).await.map_err(KintoError::from)?;
        let is_failure = |head: &Result<_, KintoError>| matches!(head, Err(error) if error.is_passing());
        if let Some(Err(error)) = answers.heads.first()
            && answers.heads.iter().all(is_failure)
            && (keys.len() > 1 || self.timeline.kept_clocks().len() <= 1)
        {
            // It answers, and with nothing but errors. One of many collections may be at fault itself.
            self.upstream.outage().failed(error);
        }
        for ((clock, news), head) in clocks.iter().zip(news).zip(answers.heads) {
            match head {
                Ok((timestamp, total)) => {
                    told_again(clock);
                    self.unreadable.is_readable(clock.key());
                    self.timeline.learned(clock, timestamp, total, news, asked);
                }
                Err(KintoError::Absent) => {
                    told_again(clock);
                    if self.timeline.resources().names(clock.key()) {
                        self.unreadable.no_collection(clock.key());
                    } else {
                        self.unreadable.is_readable(clock.key());
                    }
                    if clock.news() == news {
                        self.timeline.removed(clock.key());
                    }
                }
                Err(KintoError::Refused(status)) => {
                    told_again(clock);
                    self.refused(clock.key(), status);
                    metrics::counter!("kinto_sidecar_timestamps_refused_total").increment(1);
                }
                Err(error) => {
                    tracing::debug!(collection = %clock.key(), %error, "could not ask for a timestamp");
                    if clock.failed() {
                        tracing::warn!(%error, "{}", Complaint::set_aside(&[clock.key().uri()]));
                    }
                }
            }
        }
        Ok(answers.busy)
    }

    /// A collection's records were refused.
    fn refused(&self, key: &CollectionKey, status: StatusCode) {
        let watched = self.timeline.watched(&key.bucket);
        if watched.is_some() || self.timeline.resources().include(key) {
            self.unreadable.collection(key, status);
        }
        if let Some(list) = watched {
            list.set_incomplete();
        }
    }
}

/// The upstream says something of a collection.
fn told_again(clock: &Clock) {
    if clock.answered() {
        tracing::info!("the upstream answers again for {}", clock.key().uri());
    }
}
