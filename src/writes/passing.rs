//! A write on its way through the journal.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tokio::runtime::Handle;

use super::answer::{self, Said};
use super::effects::batch::SubAnswer;
use super::lookup::{self, Question};
use super::order::{Order, Turn};
use super::write::{Target, Write};
use super::{Writes, default_bucket, lives, versions};
use crate::access::Credentials;
use crate::aside;
use crate::error::Error;
use crate::journal::{Action, Change, Intent, IntentGroup, Journal, Life, Object, Outcome};
use crate::kinto::{CollectionKey, Timestamp};
use crate::settings::JournalFailure;
use crate::upstream::kinto::Source;

/// How long the upstream is left alone after it could not say what became of a write: at first, and at most.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Writes whose intents are in the journal. Dropping it says that their outcome is not known.
#[derive(Debug)]
pub struct Recording(Option<Kept>);

#[derive(Debug)]
struct Kept {
    history: Arc<Writes>,
    journal: Journal,
    /// `None` where the journal could not take them, and the operator wants writes to go on.
    group: Option<IntentGroup>,
    /// One for each request, also for those that write nothing.
    writes: Arc<[Write]>,
    intents: Vec<Option<Intent>>,
    /// Of what the default bucket may make by itself, beside what is asked for.
    implicit: Vec<(Intent, Credentials)>,
    turns: Vec<Turn>,
    /// Of the buckets that the writes may make, those that were known to be there before.
    lives: Vec<Life>,
}

// === impl Recording ===

impl Recording {
    /// For what is not recorded.
    pub fn nothing() -> Self {
        Self(None)
    }

    /// Writes down the intents of `writes`.
    pub(super) async fn begin(
        history: Arc<Writes>,
        journal: Journal,
        writes: Vec<Write>,
    ) -> Result<Self, Error> {
        let (mut intents, mut implicit) = (Vec::with_capacity(writes.len()), Vec::new());
        for write in &writes {
            let mut intent = None;
            let creates = default_bucket::may_create(&journal, write).await?;
            if write.target.is_some() || creates {
                let user_id = user_id(&history, &write.credentials).await?;
                if let Some(target) = &write.target {
                    let known = newest(&history, &journal, target).await;
                    intent = Some(write.intent(user_id.clone(), known));
                }
                if creates {
                    let made = write.intent(user_id, Timestamp::ZERO);
                    let made = Intent { method: default_bucket::METHOD.to_owned(), sent: None, ..made };
                    implicit.push((made, write.credentials.clone()));
                }
            }
            intents.push(intent);
        }
        let made = implicit.iter().map(|(intent, _)| intent);
        let all: Vec<Intent> = made.chain(intents.iter().flatten()).cloned().collect();
        if all.is_empty() {
            return Ok(Self::nothing());
        }
        let lives = match lives::of_writes(&journal, &writes).await {
            Err(_) if history.on_failure == JournalFailure::Forward => Vec::new(),
            lives => lives?,
        };
        let group = match journal.intend(all).await {
            Ok(group) => Some(group),
            Err(error) if history.on_failure == JournalFailure::Forward => {
                tracing::error!(%error, "a write goes on without the journal");
                None
            }
            Err(error) => return Err(error.into()),
        };
        let turns = writes.iter().filter_map(|write| history.turns.send(write)).collect();
        let writes = writes.into();
        Ok(Self(Some(Kept { history, journal, group, writes, intents, implicit, turns, lives })))
    }

    /// The upstream answered each of the writes, in their order. When this returns, the journal has what was written.
    pub async fn answered(mut self, answers: &Arc<[SubAnswer]>) -> Result<(), Error> {
        let Some(kept) = self.0.take() else { return Ok(()) };
        let are_reads = kept.writes.iter().all(|write| write.target.is_none());
        let forwards = are_reads || kept.history.on_failure == JournalFailure::Forward;
        match kept.answered(answers).await {
            Err(_) if forwards => Ok(()),
            recorded => recorded,
        }
    }

    /// The upstream refused all of it.
    pub async fn refused(mut self) -> Result<(), Error> {
        let Some(kept) = self.0.take() else { return Ok(()) };
        kept.close(Vec::new()).await
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        if let (Some(kept), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            runtime.spawn(kept.resolve(Vec::new()));
        }
    }
}

// === impl Kept ===

impl Kept {
    async fn answered(mut self, answers: &Arc<[SubAnswer]>) -> Result<(), Error> {
        // After a conflict nothing that a batch says is to be believed.
        let is_doubtful = answers.len() != self.writes.len()
            || (answers.len() > 1 && answers.iter().any(|answer| answer.status == StatusCode::CONFLICT));
        if is_doubtful {
            return self.examined().await;
        }
        let Ok(said) = self.said(answers).await else {
            tokio::spawn(self.resolve(Vec::new()));
            return Ok(());
        };
        let mut changes = Vec::new();
        let mut is_unknown = false;
        for (index, ((write, answer), said)) in self.writes.iter().zip(&**answers).zip(said).enumerate() {
            // What was not there, or was not to be written, may yet have had its collection made.
            if !answer.status.is_server_error() && answer.status != StatusCode::UNAUTHORIZED {
                let created = default_bucket::created(&self.history, &self.journal, write).await;
                // What it made and could not be looked at is found as what passes elsewhere.
                changes.extend(created.unwrap_or_default());
            }
            match said {
                Said::Nothing => {}
                Said::Changes(more) => {
                    // Kinto: a deletion of a list takes away the permissions of all below it, there and then.
                    if let Some(list) = write.emptied_list() {
                        answer::take_permissions_below(list, &mut changes);
                    }
                    changes.extend(more);
                }
                Said::Look(object) => match self.look(write, object, self.author(index), answer).await {
                    Some(change) => changes.push(change),
                    None => is_unknown = true,
                },
                Said::Gone => changes.extend(self.all_gone().await?),
                Said::Unknown => is_unknown = true,
            }
        }
        if self.writes.iter().any(|write| write.makes_a_bucket() && write.made_bucket().is_none()) {
            self.lives.extend(lives::of_answers(&self.journal, &changes).await?);
        }
        self.history.recorded(&changes);
        let changes = self.in_turn(answer::in_kintos_order(changes)).await?;
        if is_unknown {
            tokio::spawn(self.resolve(changes));
            return Ok(());
        }
        self.close(changes).await
    }

    /// What each answer says was written.
    async fn said(&self, answers: &Arc<[SubAnswer]>) -> Result<Vec<Said>, Error> {
        let length = answers.iter().map(|answer| answer.body.len()).sum();
        let authors: Vec<Option<String>> = (0..answers.len()).map(|index| self.author(index)).collect();
        let (writes, answers) = (Arc::clone(&self.writes), Arc::clone(answers));
        let read = move || {
            let asked = writes.iter().zip(authors).zip(&*answers);
            asked.map(|((write, author), answer)| answer::read(write, author, answer)).collect()
        };
        aside::run(length, read).await
    }

    fn author(&self, index: usize) -> Option<String> {
        self.intents.get(index)?.as_ref()?.user_id.clone()
    }

    /// Waits until it is these changes' turn. Those that come before somebody else's are recorded; gives the others.
    async fn in_turn(&self, mut changes: Vec<Change>) -> Result<Vec<Change>, Error> {
        let order = Order::of(&self.turns, &changes);
        loop {
            let first = order.next(&mut changes).await;
            if changes.is_empty() {
                return Ok(first);
            }
            self.journal.settle_at_last(answer::outcome(None, first)).await?;
        }
    }

    async fn close(self, changes: Vec<Change>) -> Result<(), Error> {
        if self.group.is_none() && changes.is_empty() {
            return Ok(());
        }
        let outcome = self.outcome(self.group, changes);
        self.journal.settle_at_last(outcome).await?;
        Ok(())
    }

    fn outcome(&self, closes: Option<IntentGroup>, changes: Vec<Change>) -> Outcome {
        Outcome { ended: self.lives.clone(), ..answer::outcome(closes, changes) }
    }

    /// What was really written is read before the client has its answer; if that cannot be, later.
    async fn examined(mut self) -> Result<(), Error> {
        match self.examine().await {
            Ok(outcome) => {
                self.journal.settle_at_last(outcome).await?;
                Ok(())
            }
            Err(error) => {
                tracing::warn!(%error, "could not look up what became of a batch");
                tokio::spawn(self.resolve(Vec::new()));
                Ok(())
            }
        }
    }

    async fn examine(&mut self) -> Result<Outcome, lookup::ExamineError> {
        self.turns.clear();
        let _mark = self.group.map(|group| self.history.examining(group));
        let changes = lookup::examine(&self.history, &self.journal, &self.questions()).await?;
        self.history.outcome_of_found(&self.journal, self.group, changes).await
    }

    fn questions(&self) -> Vec<Question> {
        let question = |intent: &Intent, credentials: &Credentials| Question {
            intent: intent.clone(),
            source: Source::on_behalf(self.history.upstream.clone(), credentials.headers()),
        };
        let asked = self.writes.iter().zip(&self.intents);
        let asked = asked.filter_map(|(write, intent)| Some(question(intent.as_ref()?, &write.credentials)));
        let implicit = self.implicit.iter().map(|(intent, credentials)| question(intent, credentials));
        implicit.chain(asked).collect()
    }

    /// Asks the upstream what became of the writes until it says it; `changes` are known already.
    async fn resolve(mut self, changes: Vec<Change>) {
        if !changes.is_empty() {
            let known = self.outcome(None, changes);
            if let Err(error) = self.journal.settle_at_last(known).await {
                tracing::error!(%error, "a write is not in the journal yet");
            }
        }
        self.turns.clear();
        let Some(group) = self.group else { return };
        let _mark = self.history.examining(group);
        let mut pause = SHORTEST_PAUSE;
        while let Err(error) = self.history.look_up(&self.journal, group, self.questions()).await {
            tracing::debug!(%error, "could not look up what became of a write");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// The whole of an object of which the answer showed a part, or nothing.
    async fn look(
        &self,
        write: &Write,
        object: Object,
        user_id: Option<String>,
        answer: &SubAnswer,
    ) -> Option<Change> {
        let source = Source::on_behalf(self.history.upstream.clone(), write.credentials.headers());
        let mut version = versions::look(&source, &object).await.ok()??;
        // Without its timestamp, nobody can tell whose version it is.
        let said =
            answer.modified.or_else(|| Some(answer::Version::of_answer(&answer.body, false)?.modified));
        let is_theirs = said == Some(version.modified);
        if let Some(modified) = said.filter(|_| !is_theirs) {
            // Somebody was faster; theirs is recorded with their own write.
            let before = self.journal.newest_data(&object).await.ok()?;
            version = answer::patched(&object, modified, before.as_deref(), write, &answer.body)?;
        }
        let action = write.is_partial.then_some(Action::Update);
        let change = super::changed(version, object, user_id);
        Some(Change { action: change.action.or(action), is_found: said.is_none(), ..change })
    }

    /// The end of all buckets.
    async fn all_gone(&self) -> Result<Vec<Change>, Error> {
        let buckets = self.journal.alive("/buckets").await?;
        let gone = buckets.into_iter().map(|(object, modified)| Change {
            object,
            action: Some(Action::Delete),
            modified,
            data: None,
            permissions: None,
            user_id: None,
            date: None,
            is_found: false,
        });
        Ok(gone.collect())
    }
}

async fn user_id(history: &Writes, credentials: &Credentials) -> Result<Option<String>, Error> {
    if credentials.is_anonymous() {
        return Ok(None);
    }
    Ok(history.access.identity(&history.upstream, credentials).await?.user_id)
}

/// The newest timestamp that is known of the list that a write is about.
async fn newest(history: &Writes, journal: &Journal, target: &Target) -> Timestamp {
    let Some(list) = target.list() else { return Timestamp::ZERO };
    if let crate::kinto::Resource::Records(bucket, collection) = crate::kinto::Resource::of(&list) {
        let clock = history.timeline.known_clock(&CollectionKey::new(&bucket, &collection));
        if let Some(timestamp) = clock.map(|clock| clock.timestamp()).filter(|known| *known > Timestamp::ZERO)
        {
            return timestamp;
        }
    }
    journal.watermark(&list).await.ok().flatten().unwrap_or_default()
}
