//! Entries about one object are made in the order of its versions, though answers to writes that were under way together
//! come in any order.
//!
//! Who has an answer waits for the answers to the writes of the same object that were sent before it came, and then for
//! those of them that made older versions to be recorded. Nobody waits for a newer one, so nobody waits for themself.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::journal::{Change, Object};
use crate::kinto::Timestamp;

/// How long somebody waits for others: an upstream that hangs delays no other writes of the object for longer.
const PATIENCE: Duration = Duration::from_secs(2);

/// The writes of single objects that are under way.
#[derive(Debug, Default)]
pub(super) struct Turns(Arc<Mutex<HashMap<String, Vec<Weak<Sent>>>>>);

/// A write of an object.
#[derive(Debug)]
pub(super) struct Turn {
    turns: Arc<Mutex<HashMap<String, Vec<Weak<Sent>>>>>,
    uri: String,
    sent: Arc<Sent>,
}

type Sent = watch::Sender<Stage>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// No answer yet.
    Away,
    /// It made this version, which is not recorded yet.
    Made(Timestamp),
    /// Nobody has to wait for it.
    Over,
}

impl Turns {
    /// A write of this object is about to be sent.
    pub(super) fn send(&self, object: &Object) -> Turn {
        let (uri, sent) = (object.to_string(), Arc::new(Sent::new(Stage::Away)));
        lock(&self.0).entry(uri.clone()).or_default().push(Arc::downgrade(&sent));
        Turn { turns: Arc::clone(&self.0), uri, sent }
    }
}

impl Turn {
    /// Waits until what these writes changed may be recorded.
    pub(super) async fn wait(turns: &[Self], changes: &[Change]) {
        let until = Instant::now() + PATIENCE;
        let made = |turn: &Self| {
            let about = changes.iter().filter(|change| change.object.to_string() == turn.uri);
            about.map(|change| change.modified).max()
        };
        for turn in turns {
            turn.sent.send_replace(made(turn).map_or(Stage::Over, Stage::Made));
        }
        for turn in turns {
            let Some(made) = made(turn) else { continue };
            for other in turn.others() {
                let mut stage = other.subscribe();
                let is_past = |stage: &Stage| match stage {
                    Stage::Away => false,
                    Stage::Made(version) => *version >= made,
                    Stage::Over => true,
                };
                _ = tokio::time::timeout_at(until, stage.wait_for(is_past)).await;
            }
        }
    }

    fn others(&self) -> Vec<Arc<Sent>> {
        let turns = lock(&self.turns);
        let others = turns.get(&self.uri).into_iter().flatten().filter_map(Weak::upgrade);
        others.filter(|other| !Arc::ptr_eq(other, &self.sent)).collect()
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.sent.send_replace(Stage::Over);
        let mut turns = lock(&self.turns);
        if let Some(others) = turns.get_mut(&self.uri) {
            others.retain(|other| other.as_ptr() != Arc::as_ptr(&self.sent));
            if others.is_empty() {
                turns.remove(&self.uri);
            }
        }
    }
}

fn lock(turns: &Mutex<HashMap<String, Vec<Weak<Sent>>>>) -> MutexGuard<'_, HashMap<String, Vec<Weak<Sent>>>> {
    turns.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn change(object: &Object, modified: u64) -> Change {
        Change {
            object: object.clone(),
            action: None,
            modified: Timestamp(modified),
            data: None,
            permissions: None,
            user_id: None,
            date: None,
            is_found: false,
        }
    }

    #[tokio::test]
    async fn an_older_version_that_is_answered_later_is_recorded_first() {
        let (turns, object) = (Turns::default(), Object::of_uri("/buckets/a/groups/g").unwrap());
        let (older, newer) = ([turns.send(&object)], [turns.send(&object)]);
        let _other = [turns.send(&Object::of_uri("/buckets/a/groups/h").unwrap())];
        let newer_changes = [change(&object, 2)];
        let mut waiting = std::pin::pin!(Turn::wait(&newer, &newer_changes));
        assert!((&mut waiting).now_or_never().is_none());
        Turn::wait(&older, &[change(&object, 1)]).await;
        assert!((&mut waiting).now_or_never().is_none(), "answered is not recorded");
        drop(older);
        waiting.await;
    }
}
