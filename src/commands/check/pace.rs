//! How far behind the sidecar is with what passes elsewhere, by the time that this upstream takes to answer.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use serde_json::Value;
use tokio::time::Instant;

use super::report::{Finding, Report};
use crate::complaint::Complaint;
use crate::kinto::{CollectionKey, is_segment, segment};
use crate::settings::Settings;
use crate::timeline::budget::rest;
use crate::timeline::poll::heads::Heads;
use crate::timeline::resources::Resources;
use crate::upstream::kinto::ReadError;
use crate::upstream::pages::Pages;
use crate::upstream::{Upstream, UpstreamError};

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
    pub(super) async fn collections(
        &mut self,
        bucket: &str,
    ) -> Result<Result<Vec<CollectionKey>, StatusCode>, UpstreamError> {
        let began = Instant::now();
        let ids = self.ids(&format!("/buckets/{}/collections?_fields=id", segment(bucket))).await?;
        if matches!(&ids, Ok(ids) if ids.is_empty()) {
            // Kinto has an empty list of what is in no bucket.
            let path = format!("/buckets/{}", segment(bucket));
            let answer = self.upstream.ask(Method::HEAD, &path, HeaderMap::new(), Bytes::new()).await?;
            if answer.status() == StatusCode::NOT_FOUND {
                return Ok(Err(StatusCode::NOT_FOUND));
            }
        }
        let paced = self.paced(began.elapsed());
        self.round += paced;
        self.lists = (self.lists.0 + paced, self.lists.1 + 1);
        Ok(ids.map(|ids| ids.iter().map(|id| CollectionKey::new(bucket, id)).collect()))
    }

    /// The collections that are followed for the history.
    pub(super) async fn journalled(&mut self) -> Result<BTreeSet<CollectionKey>, UpstreamError> {
        let named = &self.settings.history.resources;
        let resources = Resources::new(named, &[]);
        let mut keys: BTreeSet<CollectionKey> = resources.collections().cloned().collect();
        let mut buckets: Vec<String> = resources.buckets().map(str::to_owned).collect();
        if named.is_empty() {
            buckets.extend(self.ids("/buckets?_fields=id").await?.unwrap_or_default());
        }
        for bucket in buckets {
            keys.extend(self.collections(&bucket).await?.unwrap_or_default());
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
        let heads = Heads::new(self.upstream.clone(), self.settings.kinto.batch_max_requests);
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
                    Err(ReadError::Gone) if is_named(key) => {
                        report.add(Finding::warning(Complaint::no_collection(key)));
                    }
                    Ok(_) | Err(ReadError::Gone) => {}
                    Err(ReadError::Refused(status)) => {
                        report.add(Complaint::cannot_read(key, status).into());
                    }
                    Err(error) => report.add(Finding::problem(
                        format!("the timestamp of {} cannot be learned: {error}", key.uri()),
                        "see what Kinto's log says of it",
                    )),
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

    async fn ids(&self, path: &str) -> Result<Result<Vec<String>, StatusCode>, UpstreamError> {
        let mut ids = Vec::new();
        let mut next = Some(path.to_owned());
        let mut pages = Pages::default();
        while let Some(path) = next {
            let answer = self.upstream.ask(Method::GET, &path, HeaderMap::new(), Bytes::new()).await?;
            if answer.status() != StatusCode::OK {
                return Ok(Err(answer.status()));
            }
            next = answer
                .headers()
                .get("next-page")
                .and_then(|next| self.upstream.relative(next.to_str().ok()?));
            let list: Value = serde_json::from_slice(answer.body()).unwrap_or_default();
            let first = list.pointer("/data/0/id").and_then(Value::as_str);
            if next.is_some() {
                let led = pages.lead_on_names(first, answer.body().len());
                led.map_err(|error| UpstreamError::Unexpected(error.to_string().into()))?;
            }
            let objects = list.get("data").and_then(Value::as_array).into_iter().flatten();
            let found = objects.filter_map(|object| object.get("id")?.as_str()).filter(|id| is_segment(id));
            ids.extend(found.map(str::to_owned));
        }
        Ok(Ok(ids))
    }
}
