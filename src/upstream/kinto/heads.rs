//! The timestamps of some collections: the one place that asks for many at once.
//!
//! They are asked for together, in a batch, where the upstream takes [`batches`](crate::upstream::Batches), else each by
//! itself, a few at a time. A batch that fails as a whole, or of which nothing is heard for much longer than is usual, is asked
//! again one by one, so that a collection on which the upstream chokes or hangs costs nobody else anything.

use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use http::Method;
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};

use super::{Census, KintoError, Source, answers_of_batch};
use crate::kinto::{CollectionKey, Timestamp};
use crate::settings::InForce;
use crate::upstream::{BatchSender, Description, UpstreamError};

/// How many collections are asked for in a batch where nobody says how many it may hold.
const MOST: usize = 25;

/// How many are asked for at a time where there are no batches.
const AT_A_TIME: usize = 4;

/// So many questions that fail, with none that is answered, may be the upstream's trouble and not the collections'.
const GIVE_UP: usize = 3;

/// How long an answer is waited for where nobody knows how long it takes.
const PATIENCE: Duration = Duration::from_secs(10);

/// The same where that is known: so many times as long, and never for less than this.
const SLOWER: u32 = 10;
const LEAST_PATIENCE: Duration = Duration::from_secs(1);

/// Asks as the service account, or as a requester.
#[derive(Debug)]
pub struct Heads {
    source: Source,
    settings: InForce,
    /// How long a question for several takes, for lately.
    usual: Mutex<Option<Duration>>,
}

/// A collection's timestamp, and the number of its live records.
pub type Head = (Timestamp, Option<u64>);

/// What was answered.
#[derive(Debug, Default)]
pub struct Answers {
    /// What the upstream says of each collection, in their order.
    pub heads: Vec<Result<Head, KintoError>>,
    /// For how long the upstream was kept busy with what it answered.
    pub busy: Duration,
}

impl Heads {
    /// Asks of at most `batch_max_requests` collections in a batch, where the upstream does not say how many.
    pub fn new(source: Source, settings: InForce) -> Self {
        Self { source, settings, usual: Mutex::default() }
    }

    /// How many collections one question can name.
    pub fn at_once(&self, description: Option<&Description>) -> usize {
        let most = self.settings.now().kinto.batch_max_requests;
        let own = if most == 0 { MOST } else { most };
        let theirs = description.and_then(Description::batch_max_requests);
        theirs.map_or(own, |theirs| theirs.min(own))
    }

    /// What the upstream says of each collection; an error where it says nothing at all.
    pub async fn ask(&self, keys: &[CollectionKey]) -> Result<Answers, UpstreamError> {
        let (batches, sender) = (self.source.upstream.batches(), self.source.sender());
        if keys.len() < 2 || batches.refusal().is_some() {
            return self.ask_singly(keys).await;
        }
        let began = Instant::now();
        let together = timeout(self.patience(), self.ask_together(keys)).await;
        let error = match together.unwrap_or_else(|_elapsed| Err(UpstreamError::HeadTimeout.into())) {
            Ok(heads) => {
                self.took(began.elapsed());
                if sender == BatchSender::Own {
                    batches.worked();
                }
                return Ok(Answers { heads, busy: began.elapsed() });
            }
            Err(KintoError::Upstream(error)) if error.is_absent() => return Err(error),
            Err(error) => error,
        };
        let is_no_batch = error.status().is_some_and(|status| batches.answered(status, sender));
        tracing::debug!(%error, "a batch failed: its collections are asked for one by one");
        let was_heard = !is_silence(&error);
        let mut answers = self.ask_singly(keys).await?;
        if was_heard {
            answers.busy = began.elapsed().max(answers.busy);
        }
        let is_nobodys_fault =
            answers.heads.iter().all(|answer| answer.as_ref().map_or_else(is_answer, |_| true));
        if !is_no_batch && is_nobodys_fault {
            batches.failed_alone(&error.to_string());
        }
        Ok(answers)
    }

    async fn ask_together(
        &self,
        keys: &[CollectionKey],
    ) -> Result<Vec<Result<Head, KintoError>>, KintoError> {
        let paths: Vec<String> = keys.iter().map(CollectionKey::records_uri).collect();
        let answer = self.source.batch(&Method::HEAD, &paths).await?;
        KintoError::check(answer.status())?;
        let head = |answer| Census::of(answer).map(|census| (census.timestamp, census.total));
        Ok(answers_of_batch(answer.body(), keys.len())?.iter().map(head).collect())
    }

    async fn ask_singly(&self, keys: &[CollectionKey]) -> Result<Answers, UpstreamError> {
        // One that hangs holds up no other, and one that is asked for alone may take its time.
        let patience = if keys.len() < 2 { PATIENCE } else { self.patience() };
        let ask = |(place, key): (usize, &CollectionKey)| {
            let (source, key) = (self.source.clone(), key.clone());
            async move { (place, ask_one(source, key, patience).await) }
        };
        let questions: Vec<_> = keys.iter().enumerate().map(ask).collect();
        let mut asked = stream::iter(questions).buffer_unordered(AT_A_TIME);
        let mut busy = Duration::ZERO;
        let (mut heads, mut places) = (Vec::with_capacity(keys.len()), Vec::with_capacity(keys.len()));
        while let Some((place, (head, took))) = asked.next().await {
            if !head.as_ref().is_err_and(is_silence) {
                busy += took;
            }
            places.push(place);
            heads.push(head);
            if let Some(error) = trouble(&heads, keys.len())
                && !(matches!(error, UpstreamError::HeadTimeout) && self.is_there(patience).await)
            {
                return Err(error);
            }
        }
        // What one that is asked for alone fails on may be the upstream's trouble, which is no reason to ask for it later.
        if let [Err(error)] = &heads[..]
            && !is_answer(error)
            && !self.is_there(self.patience()).await
        {
            return Err(error.clone().into_failure());
        }
        // Where none of many says anything, it is not the collections.
        let is_answered = |head: &Result<Head, KintoError>| head.as_ref().map_or_else(is_answer, |_| true);
        if heads.len() >= GIVE_UP
            && !heads.iter().any(is_answered)
            && let Some(Err(error)) = heads.last()
        {
            return Err(error.clone().into_failure());
        }
        let mut answers: Vec<_> = places.into_iter().zip(heads).collect();
        answers.sort_by_key(|(place, _)| *place);
        Ok(Answers { heads: answers.into_iter().map(|(_, head)| head).collect(), busy })
    }

    /// Whether the upstream says anything at all, where some collections say nothing.
    async fn is_there(&self, patience: Duration) -> bool {
        let root = timeout(patience, self.source.get("/")).await;
        root.is_ok_and(|answer| answer.is_ok_and(|answer| !answer.status().is_server_error()))
    }

    /// How long the answer to a question for several is waited for.
    fn patience(&self) -> Duration {
        let usual = *self.usual.lock();
        usual.map_or(PATIENCE, |usual| (usual * SLOWER).clamp(LEAST_PATIENCE, PATIENCE))
    }

    /// A question for several took this long. What was slower is forgotten bit by bit.
    fn took(&self, time: Duration) {
        let mut usual = self.usual.lock();
        *usual = Some(usual.map_or(time, |usual| time.max(usual.mul_f64(0.7))));
    }
}

/// Gives how long it took, too.
async fn ask_one(
    source: Source,
    key: CollectionKey,
    patience: Duration,
) -> (Result<Head, KintoError>, Duration) {
    let began = Instant::now();
    let asked = timeout(patience, source.head(&key)).await;
    (asked.unwrap_or_else(|_elapsed| Err(UpstreamError::HeadTimeout.into())), began.elapsed())
}

/// Whether nothing was heard for so long that nobody waits any more. Whether the upstream does anything then nobody knows.
pub fn is_silence(error: &KintoError) -> bool {
    matches!(error, KintoError::Upstream(UpstreamError::HeadTimeout))
}

/// What is the matter with the upstream, if the questions asked so far show that it is not the collections.
fn trouble(heads: &[Result<Head, KintoError>], of: usize) -> Option<UpstreamError> {
    let last = heads.last()?.as_ref().err()?;
    let is_given_up = of > 1
        && heads.len() == of.min(GIVE_UP)
        && heads.iter().all(|head| head.as_ref().is_err_and(|error| !is_answer(error)));
    (last.is_unsent() || is_given_up).then(|| last.clone().into_failure())
}

/// Whether the upstream answered, be it that there is no such collection, or that the account may not read it.
fn is_answer(error: &KintoError) -> bool {
    matches!(error, KintoError::Absent | KintoError::Refused(_))
}
