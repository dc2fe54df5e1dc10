//! What a process that is no more left open is looked up before anybody else may write.
//!
//! What cannot be found out of one object, while the upstream answers everything else, holds nobody up for long: it is looked up
//! for as long as it takes, as what this process left open itself.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use super::Writes;
use super::question::{LATER, Question};
use crate::backoff::Backoff;
use crate::journal::{Intent, IntentGroup, Journal};

/// How many groups are looked up at once: new writes wait for them.
const TOGETHER: usize = 8;
/// How often they wait for what the upstream does not say of one object while it answers others.
const TRIES: usize = 3;
/// The pauses between the tries while others wait, and later.
const PAUSES: Backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(5));
/// How often is looked for what other processes left.
const BETWEEN_LOOKS: Duration = Duration::from_secs(5);

/// A group of intents that nobody settles.
pub(super) type OpenGroup = (IntentGroup, Vec<Intent>);

impl Writes {
    /// Looks up what became of writes that a process which is no more left open, once all of them, and again later those
    /// that the upstream may still be working on, or of which it does not say while it answers everything else.
    pub(super) async fn recover(self: &Arc<Self>, journal: &Journal, mut left: Vec<OpenGroup>) {
        let _marks: Vec<_> = left.iter().map(|(group, _)| self.examining(*group)).collect();
        let mut backoff = PAUSES;
        let mut tries = 0;
        while !left.is_empty() {
            let mut failed = Vec::new();
            while !left.is_empty() {
                let several = left.split_off(left.len().saturating_sub(TOGETHER));
                let looked =
                    several.iter().map(|(group, intents)| self.look_up_left(journal, *group, intents));
                let looked = join_all(looked).await;
                failed.extend(
                    several.into_iter().zip(looked).filter_map(|(one, is_done)| (!is_done).then_some(one)),
                );
            }
            left = failed;
            tries += usize::from(!left.is_empty() && self.answers().await);
            if tries == TRIES {
                for (group, intents) in left {
                    tokio::spawn(Arc::clone(self).recover_later(journal.clone(), group, intents));
                }
                return;
            }
            if !left.is_empty() {
                backoff.wait().await;
            }
        }
    }

    /// As [`Self::recover`], for as long as it takes. Nobody waits for it.
    async fn recover_later(self: Arc<Self>, journal: Journal, group: IntentGroup, intents: Vec<Intent>) {
        let _mark = self.examining(group);
        let mut backoff = LATER;
        while !self.look_up_left(&journal, group, &intents).await {
            backoff.wait().await;
        }
    }

    async fn look_up_left(
        self: &Arc<Self>,
        journal: &Journal,
        group: IntentGroup,
        intents: &[Intent],
    ) -> bool {
        let question = |intent: &Intent| {
            let (intent, source) = (intent.clone(), self.source.clone());
            Question { intent, source, requester: None }
        };
        let looked = self.look_up(journal, group, intents.iter().map(question).collect()).await;
        let uri = intents.first().map(|intent| &*intent.uri).unwrap_or_default();
        match &looked {
            Ok(changes) => tracing::info!(changes, uri, "a write of a former process was looked up"),
            Err(error) => {
                tracing::warn!(%error, uri, "could not look up what became of a write of a former process");
            }
        }
        looked.is_ok()
    }

    /// Whether the upstream answers at all.
    async fn answers(&self) -> bool {
        self.source.get("/__lbheartbeat__").await.is_ok_and(|answer| !answer.status().is_server_error())
    }

    /// Settles what other processes on the same journal leave open when they die.
    pub(super) async fn recover_others(self: Arc<Self>, journal: Journal) {
        loop {
            tokio::time::sleep(BETWEEN_LOOKS).await;
            match journal.abandoned().await {
                Ok(left) => self.recover(&journal, left).await,
                Err(error) => tracing::debug!(%error, "could not ask for the writes of other processes"),
            }
        }
    }
}
