//! Who made a change of which no answer tells.
//!
//! SECURITY: anybody can begin a write, and see to it that no answer to it comes. So somebody is named only whose request shows
//! what was found, and who may write it: the upstream is asked that as them.

use std::collections::HashMap;

use serde_json::value::RawValue;

use super::question::{LookupError, Question};
use super::{default_bucket, sent};
use crate::access::{Credentials, Requester, Verdict};
use crate::journal::{Action, Change, Intent, Object};

/// SECURITY: how many questions are put to the upstream for what is looked up together. Of what is beyond, nobody is named.
const QUESTIONS: usize = 100;

/// What the upstream said of who may write.
#[derive(Debug, Default)]
pub(super) struct Authors(HashMap<(Credentials, String), bool>);

impl Authors {
    /// Whether the requester of a write can be named as the author of what it may have led to. The intents of a process that is
    /// no more are believed: nobody can be asked.
    pub(super) async fn can_be(
        &mut self,
        question: &Question,
        object: &Object,
        is_deleted: bool,
    ) -> Result<bool, LookupError> {
        let Some(requester) = &question.requester else { return Ok(true) };
        // Of what is gone, what it was in says who could delete it: that is one question for all.
        let asked = if is_deleted { object.list() } else { object.to_string() };
        let asked = (requester.credentials.clone(), asked);
        if let Some(may) = self.0.get(&asked) {
            return Ok(*may);
        }
        if self.0.len() >= QUESTIONS {
            return Ok(false);
        }
        let may = if is_deleted {
            may_write_what_it_was_in(requester, object).await?
        } else {
            matches!(requester.may_write(object).await?, Verdict::Granted(_))
        };
        self.0.insert(asked, may);
        Ok(may)
    }
}

/// Kinto tells whoever may read a collection that a record of it is not there, whether they may write it or not.
async fn may_write_what_it_was_in(requester: &Requester, object: &Object) -> Result<bool, LookupError> {
    let parents: Vec<Object> = object.parents().collect();
    for parent in parents.iter().rev() {
        match requester.may_write(parent).await? {
            Verdict::Granted(_) => return Ok(true),
            Verdict::Refused(refusal) if refusal.is_absence() => {}
            Verdict::Refused(_) => return Ok(false),
        }
    }
    Ok(false)
}

/// Who is told to have made what a write may have led to, where nobody was told of it and where they may write it: who shows
/// that they sent it, or in whose own bucket it was made.
pub(super) fn shown(intent: &Intent) -> Option<&String> {
    let shows_it =
        intent.sent.is_some() || intent.method == "DELETE" || intent.method == default_bucket::METHOD;
    intent.user_id.as_ref().filter(|_| shows_it)
}

/// Who of those who write through other processes made a change of which nothing else is known: who sent all of it. Nobody
/// can be asked whether they may.
pub(super) fn among_others(intents: &[Intent], change: &Change) -> Option<String> {
    let sent_all = |intent: &&Intent| {
        let is_all = |sent: &RawValue| change.data.as_deref().is_some_and(|data| sent::is_all_of(sent, data));
        may_be_of(intent, change) && intent.sent.as_deref().is_some_and(is_all)
    };
    intents.iter().find(sent_all)?.user_id.clone()
}

/// Whether a change of which nothing else is known can be what a write led to.
pub(super) fn may_be_of(intent: &Intent, change: &Change) -> bool {
    let uri = change.object.to_string();
    let is_about = intent.uri == change.object.list() || intent.uri == uri;
    let is_attached = intent.uri.starts_with(&format!("{uri}/attachment"));
    let is_deletion = change.action == Some(Action::Delete);
    let is_theirs = |data: &RawValue| may_have_made(intent, is_deletion, data);
    is_attached || is_about && change.data.as_deref().is_some_and(is_theirs)
}

/// Whether a version is one that a write can have led to: of writes of one object that are under way together, each has its
/// own.
pub(super) fn may_have_made(intent: &Intent, deleted: bool, data: &RawValue) -> bool {
    let sent = intent.sent.as_deref();
    if intent.method == "DELETE" { deleted } else { !deleted && sent::is_in(sent, &intent.method, data, &[]) }
}
