//! A write on its way through the journal.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::value::RawValue;
use tokio::runtime::Handle;

use super::answer::Answer;
use super::changes::{self, Meaning};
use super::lookup;
use super::order::{Order, Turn};
use super::question::{LATER, LookupError, Question};
use super::write::{Target, Write, not_kept};
use super::{Writes, default_bucket, lives, sent, versions};
use crate::access::Credentials;
use crate::aside;
use crate::backoff::Backoff;
use crate::error::Error;
use crate::journal::{Among, Change, Intent, IntentGroup, Journal, JournalError, Life, Object, Outcome};
use crate::kinto::Timestamp;

/// How long the upstream is left alone after it could not say what became of a write.
const PAUSES: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
/// After so many tries it is left alone for longer, where it says everything else.
const TRIES: usize = 20;

/// Writes whose intents are in the journal.
#[derive(Debug)]
pub(super) struct Recording {
    room: Arc<Writes>,
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
    /// Whether the client has its answer also where the journal has nothing of it.
    forgives: bool,
}

impl Recording {
    /// Writes down the intents of `writes`, if there are any. `forgives` says whether clients have their answers also where
    /// the journal fails.
    pub(super) async fn begin(
        room: &Arc<Writes>,
        journal: &Journal,
        writes: &Arc<[Write]>,
        forgives: bool,
    ) -> Result<Option<Self>, Error> {
        let (mut intents, mut implicit) = (Vec::with_capacity(writes.len()), Vec::new());
        for write in &**writes {
            let mut intent = None;
            let creates = default_bucket::may_create(journal, write).await?;
            if write.has_history() || creates {
                let user_id = room.requester(&write.credentials).author().await?;
                if !forgives && user_id.as_deref().is_some_and(|user_id| !journal.keeps_author(user_id)) {
                    return Err(not_kept(
                        "header",
                        "Invalid user id: the history cannot keep one that is so long",
                    ));
                }
                if write.has_history() {
                    let known = newest(room, journal, write).await;
                    intent = Some(write.intent(user_id.clone(), known));
                }
                if creates {
                    let made = write.intent(user_id, Timestamp::ZERO);
                    let made =
                        Intent { method: default_bucket::METHOD.to_owned(), sent: None, note: None, ..made };
                    implicit.push((made, write.credentials.clone()));
                }
            }
            intents.push(intent);
        }
        let made = implicit.iter().map(|(intent, _)| intent);
        let all: Vec<Intent> = made.chain(intents.iter().flatten()).cloned().collect();
        if all.is_empty() {
            return Ok(None);
        }
        let lives = match lives::of_writes(journal, writes).await {
            Err(_) if room.forwards() => Vec::new(),
            lives => lives?,
        };
        let group = match journal.intend(all).await {
            Ok(group) => Some(group),
            // The process that has the journal now would take the write for one that passed elsewhere.
            Err(error) if room.forwards() && !matches!(error, JournalError::Left) => {
                tracing::error!(%error, "a write goes on without the journal");
                None
            }
            Err(error) => return Err(error.into()),
        };
        if let Some(group) = group {
            let coming = writes.iter().filter(|write| write.is_coming());
            coming
                .filter_map(|write| write.arrival.as_ref())
                .for_each(|arrival| room.coming.add(group.0, arrival));
        }
        let turns = writes.iter().filter_map(|write| room.turns.send(write)).collect();
        let (room, journal, writes) = (Arc::clone(room), journal.clone(), Arc::clone(writes));
        Ok(Some(Self { room, journal, group, writes, intents, implicit, turns, lives, forgives }))
    }

    /// The upstream answered each of the writes, in their order. When this returns, the journal has what was written.
    pub(super) async fn answered(self, answers: &Arc<[Answer]>) -> Result<(), Error> {
        let forgives = self.forgives;
        let recorded = self.record(answers).await;
        if forgives { Ok(()) } else { recorded }
    }

    /// The answers cannot be believed. What was really written is read before the client has its answer; if that cannot be,
    /// later.
    pub(super) async fn doubtful(mut self) -> Result<(), Error> {
        match self.examine().await {
            Ok(outcome) => match self.journal.settle_at_last(outcome).await {
                Err(error) if !self.forgives => return Err(error.into()),
                _ => {}
            },
            Err(error) => {
                tracing::warn!(%error, "could not look up what became of a batch");
                tokio::spawn(self.resolve());
            }
        }
        Ok(())
    }

    /// Nobody knows what became of the writes.
    pub(super) fn dropped(self) {
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(self.resolve());
        }
    }

    /// Nobody sent what was to be written.
    pub(super) fn given_up(self) {
        let Ok(runtime) = Handle::try_current() else { return };
        runtime.spawn(async move {
            if let Err(error) = self.refused().await {
                tracing::debug!(%error, "a write that did not come is not closed yet");
            }
        });
    }

    /// The upstream refused all of it.
    pub(super) async fn refused(self) -> Result<(), Error> {
        self.close(None, Vec::new()).await
    }

    async fn record(mut self, answers: &Arc<[Answer]>) -> Result<(), Error> {
        self.correct_authors(answers).await;
        let Ok(meanings) = self.meanings(answers).await else {
            tokio::spawn(self.resolve());
            return Ok(());
        };
        let mut changes = Vec::new();
        let (mut is_unknown, mut is_unseen) = (false, false);
        for (index, ((write, answer), meaning)) in
            self.writes.iter().zip(&**answers).zip(meanings).enumerate()
        {
            // What was not there, or was not to be written, may yet have had its collection made.
            if !answer.status.is_server_error() && answer.status != StatusCode::UNAUTHORIZED {
                let created = default_bucket::created(&self.room, &self.journal, write).await;
                // What it made and could not be looked at is found as what passes elsewhere.
                changes.extend(created.unwrap_or_default());
            }
            match meaning {
                Meaning::Nothing => {}
                Meaning::Changes(more) => {
                    // Kinto: a deletion of a list takes away the permissions of all below it, there and then.
                    if let Some(list) = write.emptied_list() {
                        changes::take_permissions_below(&list, &mut changes);
                    }
                    let note = &write.note;
                    changes.extend(more.into_iter().map(|change| Change { note: note.clone(), ..change }));
                }
                Meaning::Look(object) => match self.look(write, object, self.author(index), answer).await {
                    Ok(Some(change)) => changes.push(change),
                    Ok(None) => is_unknown = true,
                    Err(error) => {
                        tracing::warn!(%error, "could not look at what was written");
                        is_unseen = true;
                    }
                },
                Meaning::Gone => changes.extend(self.all_gone().await?),
                Meaning::Unknown => is_unknown = true,
            }
        }
        if self.writes.iter().any(|write| write.makes_a_bucket() && write.made_bucket().is_none()) {
            self.lives.extend(lives::of_answers(&self.journal, &changes).await?);
        }
        self.room.recorded(&changes);
        let changes = changes::in_kintos_order(changes);
        let (among, changes) = self.in_turn(changes).await?;
        if is_unknown || is_unseen {
            tokio::spawn(async move {
                if !changes.is_empty()
                    && let Err(error) = self.settle(among, self.outcome(None, changes)).await
                {
                    tracing::error!(%error, "a write is not in the journal yet");
                }
                self.resolve().await;
            });
            // By the time that it can be looked at, somebody may have written over it: nobody is told that it is kept.
            return if is_unseen { Err(Error::Unavailable { retry_after: None }) } else { Ok(()) };
        }
        self.close(among, changes).await
    }

    /// What each answer says was written.
    async fn meanings(&self, answers: &Arc<[Answer]>) -> Result<Vec<Meaning>, Error> {
        let length = answers.iter().map(Answer::length).sum();
        let authors: Vec<Option<String>> = (0..answers.len()).map(|index| self.author(index)).collect();
        let (writes, answers) = (Arc::clone(&self.writes), Arc::clone(answers));
        let read = move || {
            let asked = writes.iter().zip(&authors).zip(&*answers);
            asked.map(|((write, author), answer)| Meaning::of(write, author.as_deref(), answer)).collect()
        };
        aside::for_write(length, read).await
    }

    fn author(&self, index: usize) -> Option<String> {
        self.intents.get(index)?.as_ref()?.user_id.clone()
    }

    /// Asks again who wrote what somebody else must have written than who was thought to.
    async fn correct_authors(&mut self, answers: &[Answer]) {
        let mut asked: HashMap<&Credentials, Option<String>> = HashMap::new();
        for ((write, intent), answer) in self.writes.iter().zip(&mut self.intents).zip(answers) {
            let Some(intent) = intent else { continue };
            let is_somebody_else = match &intent.user_id {
                None => answer.status.is_success() && !write.credentials.is_anonymous(),
                Some(user_id) => answer.is_made_by_another(user_id),
            };
            if !is_somebody_else {
                continue;
            }
            if let Some(user_id) = asked.get(&write.credentials) {
                intent.user_id.clone_from(user_id);
                continue;
            }
            match self.room.requester(&write.credentials).author_by_now().await {
                Ok(user_id) => {
                    intent.user_id.clone_from(&user_id);
                    asked.insert(&write.credentials, user_id);
                }
                Err(error) => tracing::debug!(%error, "could not ask again who wrote something"),
            }
        }
    }

    /// Waits until it is these changes' turn. Those that come before somebody else's are recorded; gives the others, and
    /// their place among those of other processes, which hear of these versions before anybody waits: two that wait for each
    /// other go on.
    async fn in_turn(&self, mut changes: Vec<Change>) -> Result<(Option<Among>, Vec<Change>), Error> {
        let order = Order::of(&self.turns, &changes);
        let mut among = self.group.map(Among::of);
        if order.waits()
            && let Some(among) = &mut among
            && let Err(error) = self.journal.tell(among, &changes).await
        {
            tracing::debug!(%error, "could not tell other processes");
        }
        loop {
            let first = order.next(&mut changes).await;
            if changes.is_empty() {
                return Ok((among, first));
            }
            self.settle(among.clone(), changes::outcome(None, first)).await?;
        }
    }

    async fn close(self, among: Option<Among>, changes: Vec<Change>) -> Result<(), Error> {
        if self.group.is_none() && changes.is_empty() {
            return Ok(());
        }
        Ok(self.settle(among, self.outcome(self.group, changes)).await?)
    }

    async fn settle(&self, among: Option<Among>, outcome: Outcome) -> Result<(), JournalError> {
        match among {
            Some(among) => self.journal.settle_among(among, outcome).await,
            None => self.journal.settle_at_last(outcome).await.map(drop),
        }
    }

    fn outcome(&self, closes: Option<IntentGroup>, changes: Vec<Change>) -> Outcome {
        Outcome { ended: self.lives.clone(), ..changes::outcome(closes, changes) }
    }

    async fn examine(&mut self) -> Result<Outcome, LookupError> {
        self.turns.clear();
        let _mark = self.group.map(|group| self.room.examining(group));
        let examined = lookup::examine(&self.room, &self.journal, &self.questions()).await?;
        match examined.failure {
            None => self.room.outcome_of_found(&self.journal, self.group, examined.changes).await,
            Some(error) => Err(error),
        }
    }

    fn questions(&self) -> Vec<Question> {
        let question = |intent: &Intent, credentials: &Credentials| {
            let requester = self.room.requester(credentials);
            Question { intent: intent.clone(), source: requester.source(), requester: Some(requester) }
        };
        let asked = self.writes.iter().zip(&self.intents).filter_map(|(write, intent)| {
            let mut question = question(intent.as_ref()?, &write.credentials);
            // What was not asked for to its end shows nobody.
            question.intent.user_id = question.intent.user_id.filter(|_| !write.is_coming());
            Some(question)
        });
        let implicit = self.implicit.iter().map(|(intent, credentials)| question(intent, credentials));
        implicit.chain(asked).collect()
    }

    /// Asks the upstream what became of the writes until it says it.
    async fn resolve(mut self) {
        self.turns.clear();
        let Some(group) = self.group else { return };
        let _mark = self.room.examining(group);
        let (mut backoff, mut tries) = (PAUSES, 0);
        while let Err(error) = self.room.look_up(&self.journal, group, self.questions()).await {
            tracing::debug!(%error, "could not look up what became of a write");
            // SECURITY: of what anybody wrote Kinto may never say what became of it. Nobody waits for that any more.
            self.room.lingering.add(group, &self.questions());
            tries += usize::from(error.is_of_object());
            if tries == TRIES {
                backoff = LATER;
            }
            backoff.wait().await;
        }
    }

    /// The whole of an object of which the answer showed a part, or nothing; `None` where it cannot be told which it is.
    async fn look(
        &self,
        write: &Write,
        object: Object,
        user_id: Option<String>,
        answer: &Answer,
    ) -> Result<Option<Change>, LookupError> {
        let source = self.room.requester(&write.credentials).source();
        let mut version = versions::look(&source, &object).await?;
        // Without its timestamp, nobody can tell whose version it is.
        let modified = answer.modified();
        // Kinto in memory may give two who write at once one timestamp.
        let is_sent = |data: &RawValue| {
            sent::is_in(write.sent.as_deref(), write.method.as_str(), data, &["id", "last_modified"])
        };
        let is_own = |modified: &Timestamp| {
            version.as_ref().is_some_and(|version| *modified == version.modified && is_sent(&version.data))
        };
        if let Some(modified) = modified.filter(|modified| !is_own(modified)) {
            // Somebody was faster; theirs is recorded with their own write.
            let is_patch = write.method == Method::PATCH;
            let before = if is_patch { self.journal.newest_data(&object).await? } else { None };
            version = changes::patched(&object, modified, before.as_deref(), write.sent.as_deref(), answer);
        }
        let Some(version) = version else { return Ok(None) };
        let is_part = matches!(write.target, Some(Target::Part(_)));
        let action = changes::action(&write.method, answer.status).filter(|_| !is_part);
        let change = changes::changed(version, object, user_id);
        let (action, note) = (change.action.or(action), write.note.clone());
        Ok(Some(Change { action, note, is_found: modified.is_none(), ..change }))
    }

    /// The end of all buckets.
    async fn all_gone(&self) -> Result<Vec<Change>, Error> {
        let buckets = self.journal.alive("/buckets").await?;
        Ok(buckets.into_iter().map(|(object, modified)| changes::vanished(object, modified, false)).collect())
    }
}

/// The newest timestamp that is known of the list that a write is about.
async fn newest(room: &Writes, journal: &Journal, write: &Write) -> Timestamp {
    let target = write.target.as_ref();
    let clock = target.and_then(Target::collection).and_then(|key| room.effects.timeline.known_clock(&key));
    if let Some(timestamp) = clock.map(|clock| clock.timestamp()).filter(|known| *known > Timestamp::ZERO) {
        return timestamp;
    }
    let Some(list) = target.and_then(Target::list) else { return Timestamp::ZERO };
    journal.watermark(&list).await.ok().flatten().unwrap_or_default()
}
