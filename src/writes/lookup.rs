//! Finds out what became of writes where no answer says it: the upstream is asked for the objects that they were about.
//!
//! A version that nobody has recorded and that is newer than what was known when the write was begun is the write's.
//! Before that is believed, every other write in the same bucket has the time to record its own.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use super::answer::Version;
use super::authors::Authors;
use super::changes::{changed, vanished};
use super::question::{LookupError, Question};
use super::sent;
use super::write::{Target, object_in};
use super::{Writes, authors, default_bucket, versions};
use crate::journal::{Action, Change, Intent, IntentGroup, Journal, JournalError, Object};
use crate::kinto::Resource;
use crate::upstream::UpstreamError;
use crate::upstream::kinto::{KintoError, Source};

/// How long the upstream may go on with a write whose client is gone.
const LINGERING: Duration = Duration::from_secs(30);
/// How long other writes have for recording their own, before what is being looked up is taken for somebody else's.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// For how long nobody waits again for what was waited for in vain: a process that hangs keeps the others waiting but once.
const PASSED_BY: Duration = Duration::from_secs(600);
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);
/// How often objects are looked at again that the upstream tells of in an odd way, and the pause before it.
const LOOKS: u32 = 3;
const BETWEEN_ODD_ANSWERS: Duration = Duration::from_millis(700);

/// Writes that nobody waits for any more, and that the upstream may still be working on: whatever of theirs turns up is
/// theirs.
#[derive(Debug, Default)]
pub(super) struct Lingering {
    questions: Mutex<Vec<(Instant, IntentGroup, Question)>>,
    /// Those of other processes that were waited for in vain.
    overdue: Mutex<Vec<(Instant, i64)>>,
}

impl Lingering {
    /// Nobody waits for these any more; what was said of their group before is replaced.
    pub(super) fn add(&self, group: IntentGroup, questions: &[Question]) {
        let until = Instant::now() + LINGERING;
        let mut kept = self.kept();
        kept.retain(|(_, known, _)| *known != group);
        kept.extend(questions.iter().map(|question| (until, group, question.clone())));
    }

    /// These were waited for in vain.
    fn pass_by(&self, groups: &BTreeSet<i64>) {
        let until = Instant::now() + PASSED_BY;
        self.overdue.lock().extend(groups.iter().map(|group| (until, *group)));
    }

    /// Nobody waits for these.
    fn leave_out(&self, groups: &mut BTreeSet<i64>) {
        for (_, group, _) in self.kept().iter() {
            groups.remove(&group.0);
        }
        let mut overdue = self.overdue.lock();
        overdue.retain(|(until, _)| *until > Instant::now());
        for (_, group) in overdue.iter() {
            groups.remove(group);
        }
    }

    /// The write that made a change of which nothing else is known.
    pub(super) async fn maker_of(
        &self,
        change: &Change,
        authors: &mut Authors,
    ) -> Result<Option<Intent>, LookupError> {
        let may_be = |question: &&Question| {
            authors::shown(&question.intent).is_some() && authors::may_be_of(&question.intent, change)
        };
        let questions: Vec<Question> =
            self.kept().iter().map(|(.., question)| question).filter(may_be).cloned().collect();
        let is_deleted = change.action == Some(Action::Delete);
        for question in questions {
            if authors.can_be(&question, &change.object, is_deleted).await? {
                return Ok(Some(question.intent));
            }
        }
        Ok(None)
    }

    fn kept(&self) -> MutexGuard<'_, Vec<(Instant, IntentGroup, Question)>> {
        let mut kept = self.questions.lock();
        kept.retain(|(until, ..)| *until > Instant::now());
        kept
    }
}

/// What was found out about writes.
#[derive(Debug, Default)]
pub(super) struct Examined {
    /// The changes that they made, as far as they are not recorded.
    pub(super) changes: Vec<Change>,
    /// Why it could not be found out of one of them.
    pub(super) failure: Option<LookupError>,
}

/// Finds out what these writes made. What cannot be said of one of them keeps nothing back of the others.
pub(super) async fn examine(
    room: &Writes,
    journal: &Journal,
    questions: &[Question],
) -> Result<Examined, LookupError> {
    let mut changes: Vec<Change> = Vec::new();
    let mut failure = None;
    let (mut looks, mut authors) = (LOOKS, Authors::default());
    for question in questions {
        let found = match found(journal, question, &mut looks, &mut authors).await {
            Ok(found) => found,
            Err(error) if error.is_of_object() => {
                failure = Some(error);
                continue;
            }
            Err(error) => return Err(error),
        };
        for change in found {
            let is_new = changes
                .iter()
                .all(|known| (&known.object, known.modified) != (&change.object, change.modified));
            if is_new {
                changes.push(change);
            }
        }
    }
    if changes.is_empty() {
        return Ok(Examined { changes, failure });
    }
    let buckets: BTreeSet<&str> = questions.iter().map(|question| question.intent.bucket.as_str()).collect();
    for bucket in buckets {
        let bucket = Some(bucket).filter(|bucket| !bucket.is_empty());
        others_settled(room, journal, bucket, true).await?;
    }
    let versions = changes.iter().map(|change| (change.object.clone(), change.modified)).collect();
    let missing: BTreeSet<_> = journal.missing(versions).await?.into_iter().collect();
    changes.retain(|change| missing.contains(&(change.object.clone(), change.modified)));
    changes.sort_by_key(|change| change.modified);
    Ok(Examined { changes, failure })
}

/// Waits until the writes that are under way now, in a bucket or anywhere, have recorded what they wrote. Who looks up writes
/// does not wait for others that are looked up: the two would wait for each other.
pub(super) async fn others_settled(
    room: &Writes,
    journal: &Journal,
    bucket: Option<&str>,
    is_looking_up: bool,
) -> Result<(), JournalError> {
    let until = Instant::now() + if is_looking_up { LONGEST_WAIT } else { LINGERING };
    let mut waited_for: Option<BTreeSet<i64>> = None;
    loop {
        let mut open: BTreeSet<i64> =
            journal.open_groups(bucket).await?.into_iter().map(|group| group.0).collect();
        room.lingering.leave_out(&mut open);
        room.coming.leave_out(&mut open);
        if is_looking_up {
            open.retain(|group| !room.examined.lock().contains_key(group));
        }
        if let Some(waited_for) = &waited_for {
            open.retain(|group| waited_for.contains(group));
        }
        if open.is_empty() {
            return Ok(());
        }
        if Instant::now() > until {
            room.lingering.pass_by(&open);
            return Ok(());
        }
        waited_for = Some(open);
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
}

/// What one write made. Of all that are looked up together, odd answers are asked for again `looks` times.
async fn found(
    journal: &Journal,
    question: &Question,
    looks: &mut u32,
    authors: &mut Authors,
) -> Result<Vec<Change>, LookupError> {
    loop {
        match look_at(journal, question, authors).await {
            // Nobody can be asked who may see it.
            Err(LookupError::Read(KintoError::Absent | KintoError::Refused(_))) => break,
            // What is odd once may have been garbled on its way.
            Err(LookupError::Read(KintoError::Unreadable(_))) if *looks > 0 => {
                *looks -= 1;
                tokio::time::sleep(BETWEEN_ODD_ANSWERS).await;
            }
            // Asking again would not make it better, and nothing can be written meanwhile.
            Err(LookupError::Read(error @ KintoError::Unreadable(_))) => {
                tracing::warn!(uri = question.intent.uri, %error, "what became of a write cannot be read");
                break;
            }
            looked => return looked,
        }
    }
    Ok(Vec::new())
}

async fn look_at(
    journal: &Journal,
    question: &Question,
    authors: &mut Authors,
) -> Result<Vec<Change>, LookupError> {
    let Question { intent, source, .. } = question;
    let Ok(method) = Method::from_bytes(intent.method.as_bytes()) else { return Ok(Vec::new()) };
    let looked = match Target::of(&method, || Cow::Owned(Resource::of(&intent.uri))) {
        None if intent.method == default_bucket::METHOD => made(journal, source, intent).await,
        None | Some(Target::Accounts) => return Ok(Vec::new()),
        Some(Target::Everything) => return ended(journal, source).await,
        Some(Target::Object(object) | Target::Part(object)) => one(source, intent, object).await,
        Some(Target::List(list)) => {
            match intent.sent.as_deref().and_then(sent::id).and_then(|id| object_in(&list, &id)) {
                Some(object) if method == Method::POST => one(source, intent, object).await,
                _ => several(journal, source, intent, &method, &list.to_string()).await,
            }
        }
    };
    let mut changes = Vec::new();
    for (object, version) in looked? {
        let (author, note) = (authors::shown(intent), &intent.note);
        let tells = author.is_some() || note.is_some();
        let is_theirs = tells && authors.can_be(question, &object, version.deleted).await?;
        let change = changed(version, object, author.filter(|_| is_theirs).cloned());
        let note = note.clone().filter(|_| is_theirs);
        changes.push(Change { is_found: true, note, ..change });
    }
    Ok(changes)
}

/// What the default bucket made by itself.
async fn made(
    journal: &Journal,
    source: &Source,
    intent: &Intent,
) -> Result<Vec<(Object, Version)>, LookupError> {
    let mut versions = Vec::new();
    for object in default_bucket::objects(&intent.uri) {
        match one(source, intent, object).await {
            Ok(version) => versions.extend(version),
            Err(LookupError::Read(KintoError::Absent | KintoError::Refused(_))) => {}
            Err(error) => return Err(error),
        }
    }
    let objects: Vec<Object> = versions.iter().map(|(object, _)| object.clone()).collect();
    let known = journal.known(&objects).await?;
    versions.retain(|(object, _)| known.get(object).is_none_or(|known| known.deleted));
    Ok(versions)
}

async fn one(
    source: &Source,
    intent: &Intent,
    object: Object,
) -> Result<Vec<(Object, Version)>, LookupError> {
    let version = versions::look(source, &object).await?;
    let is_theirs = |version: &Version| {
        let may_be_new =
            version.modified > intent.known || intent.sent.as_deref().is_some_and(sent::says_anything);
        may_be_new && authors::may_have_made(intent, version.deleted, &version.data)
    };
    Ok(version.filter(is_theirs).map(|version| (object, version)).into_iter().collect())
}

/// What a write of a list made: the object that was sent, or the tombstones.
async fn several(
    journal: &Journal,
    source: &Source,
    intent: &Intent,
    method: &Method,
    uri: &str,
) -> Result<Vec<(Object, Version)>, LookupError> {
    let listed = versions::newer(source, uri, intent.known, "").await?;
    let missing = versions::missing(journal, &listed.versions).await?;
    let mut versions: Vec<_> = listed
        .versions
        .into_iter()
        .filter(|(object, version)| missing.contains(&(object.clone(), version.modified)))
        .filter(|(_, version)| authors::may_have_made(intent, version.deleted, &version.data))
        .collect();
    if *method != Method::DELETE {
        versions.truncate(1);
    }
    Ok(versions)
}

/// The buckets that the journal knows and that are no more.
async fn ended(journal: &Journal, source: &Source) -> Result<Vec<Change>, LookupError> {
    let mut changes = Vec::new();
    for (object, modified) in journal.alive("/buckets").await? {
        match versions::look(source, &object).await {
            Ok(Some(version)) if !version.deleted => {}
            Ok(_) => changes.push(vanished(object, modified, true)),
            // It is there.
            Err(KintoError::Upstream(UpstreamError::TooLarge)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(changes)
}

/// A group that is looked up. Others that are looked up do not wait for it meanwhile.
#[derive(Debug)]
pub(super) struct Examining<'r> {
    room: &'r Writes,
    group: IntentGroup,
}

impl Drop for Examining<'_> {
    fn drop(&mut self) {
        let mut examined = self.room.examined.lock();
        if let Some(times) = examined.get_mut(&self.group.0) {
            *times -= 1;
            if *times == 0 {
                examined.remove(&self.group.0);
            }
        }
    }
}

// === impl Writes ===

impl Writes {
    pub(super) fn examining(&self, group: IntentGroup) -> Examining<'_> {
        *self.examined.lock().entry(group.0).or_default() += 1;
        Examining { room: self, group }
    }

    /// Records what became of a group of intents, and closes it: now, if something was found, else when the upstream has
    /// surely done with it. Gives the number of changes found.
    pub(super) async fn look_up(
        self: &Arc<Self>,
        journal: &Journal,
        group: IntentGroup,
        questions: Vec<Question>,
    ) -> Result<usize, LookupError> {
        let found = self.look_once(journal, group, &questions, false).await?;
        if found >= questions.len() {
            return Ok(found);
        }
        self.lingering.add(group, &questions);
        let (room, journal) = (Arc::clone(self), journal.clone());
        tokio::spawn(async move {
            tokio::time::sleep(LINGERING).await;
            let _mark = room.examining(group);
            while room.look_once(&journal, group, &questions, true).await.is_err() {
                tokio::time::sleep(LONGEST_WAIT).await;
            }
        });
        Ok(found)
    }

    /// Records what can be found out about a group of intents, and closes it where that is `last`, or something was found of
    /// each. Fails where it could not be found out of one.
    async fn look_once(
        &self,
        journal: &Journal,
        group: IntentGroup,
        questions: &[Question],
        is_last: bool,
    ) -> Result<usize, LookupError> {
        let Examined { changes, failure } = examine(self, journal, questions).await?;
        let found = changes.len();
        let closes = failure.is_none() && (is_last || found >= questions.len());
        journal.settle(self.outcome_of_found(journal, closes.then_some(group), changes).await?).await?;
        match failure {
            None => Ok(found),
            Some(error) => Err(error),
        }
    }
}
