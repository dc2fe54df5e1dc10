//! How far behind the sidecar is with what passes elsewhere, by the time that this upstream takes to answer.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use super::report::{Finding, Report};
use crate::complaint::Complaint;
use crate::kinto::{CollectionKey, segment};
use crate::settings::{InForce, Settings};
use crate::timeline::budget::rest;
use crate::timeline::resources::Resources;
use crate::upstream::Upstream;
use crate::upstream::kinto::heads::Heads;
use crate::upstream::kinto::{KintoError, Source};

/// What was measured.
#[derive(Debug)]
pub(super) struct Pace<'a> {
    settings: &'a Settings,
    upstream: &'a Upstream,
    /// How long a round of all questions takes within the budget.
    round: Duration,
    /// How much of that are lists of collections, and how many.
    lists: (Duration, u32),
}

impl<'a> Pace<'a> {
    /// Nothing was asked yet.
    pub(super) fn new(settings: &'a Settings, upstream: &'a Upstream) -> Self {
        Self { settings, upstream, round: Duration::ZERO, lists: (Duration::ZERO, 0) }
    }

    /// The collections of a bucket.
    pub(super) async fn collections(&mut self, bucket: &str) -> Result<Vec<CollectionKey>, KintoError> {
        let began = Instant::now();
        let source = self.source();
        let ids = source.ids(&format!("/buckets/{}/collections", segment(bucket))).await?;
        if ids.is_empty() && source.lacks_bucket(bucket).await? {
            return Err(KintoError::Absent);
        }
        let paced = self.paced(began.elapsed());
        self.round += paced;
        self.lists = (self.lists.0 + paced, self.lists.1 + 1);
        Ok(ids.iter().map(|id| CollectionKey::new(bucket, id)).collect())
    }

    /// The collections that are followed for the history.
    pub(super) async fn journalled(&mut self) -> Result<BTreeSet<CollectionKey>, KintoError> {
        let named = &self.settings.history.resources;
        let resources = Resources::new(named, &[]);
        let mut keys: BTreeSet<CollectionKey> = resources.collections().cloned().collect();
        let mut buckets: Vec<String> = resources.buckets().map(str::to_owned).collect();
        if named.is_empty() {
            buckets.extend(shown(self.source().ids("/buckets").await)?.iter().map(ToString::to_string));
        }
        for bucket in buckets {
            keys.extend(shown(self.collections(&bucket).await)?);
        }
        Ok(keys)
    }

    /// Asks for the timestamps of all collections, and says which of the monitored ones cannot be read.
    pub(super) async fn timestamps(
        &mut self,
        report: &mut Report,
        keys: &[CollectionKey],
        is_monitored: impl Fn(&CollectionKey) -> bool,
        is_named: impl Fn(&CollectionKey) -> bool,
    ) {
        let heads = Heads::new(self.source(), InForce::from(self.settings.clone()));
        let description = self.upstream.described().await.ok();
        for keys in keys.chunks(heads.at_once(description.as_deref())) {
            let answers = match heads.ask(keys).await {
                Ok(answers) => answers,
                Err(error) => {
                    report.add(Finding::problem(
                        format!("the timestamps cannot be asked for: {error}"),
                        "see what Kinto's log says of it",
                    ));
                    return;
                }
            };
            self.round += self.paced(answers.busy);
            for (key, head) in keys.iter().zip(answers.heads).filter(|(key, _)| is_monitored(key)) {
                match head {
                    Err(KintoError::Absent) if is_named(key) => {
                        report.add(Finding::warning(Complaint::no_collection(key)));
                    }
                    Ok(_) | Err(KintoError::Absent) => {}
                    Err(KintoError::Refused(status)) => {
                        report.add(Complaint::cannot_read(key, status).into());
                    }
                    Err(error) => {
                        let Complaint { what, mend } = Complaint::set_aside(&[key.uri()]);
                        report.add(Finding::problem(format!("{what} ({error})"), mend));
                    }
                }
            }
        }
        if let Some(why) = self.upstream.batches().refusal() {
            report.say(
                "batches",
                format!(
                    "none here ({why}): each collection is asked for by itself, which takes longer where Kinto is far"
                ),
            );
        }
    }

    /// How far behind the sidecar is at worst. `is_journalled` where it looks for what is new in buckets and groups, too.
    pub(super) fn behind(&self, is_journalled: bool) -> Duration {
        if self.settings.exclusive {
            return Duration::ZERO;
        }
        let ttl = self.settings.timestamps_ttl.max(Duration::from_millis(50));
        let mut round = self.round;
        if is_journalled && self.lists.1 > 0 {
            // One look at the buckets, and two at each, take turns with the questions for timestamps.
            let looks = self.lists.0 / self.lists.1 * (1 + 2 * self.lists.1);
            round = round.mul_f64((ttl + looks).as_secs_f64() / ttl.as_secs_f64());
        }
        round.max(self.settings.timestamps_ttl)
    }

    /// How long a question that keeps the upstream busy for so long takes within the budget.
    fn paced(&self, busy: Duration) -> Duration {
        busy + rest(busy, self.settings.poll_budget)
    }

    fn source(&self) -> Source {
        Source::new(self.upstream.clone())
    }
}

/// What the service account is shown of a list, where that may be nothing.
fn shown<T>(list: Result<Vec<T>, KintoError>) -> Result<Vec<T>, KintoError> {
    match list {
        Err(KintoError::Absent | KintoError::Refused(_) | KintoError::Status(_)) => Ok(Vec::new()),
        list => list,
    }
}
