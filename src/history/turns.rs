//! Entries about one object are made in the order of its versions, though answers to writes that were under way together
//! come in any order.
//!
//! Who has an answer waits for the answers to the writes of the same objects that were sent before it came, and then for
//! those of them that made older versions to be recorded. Nobody waits for a newer one, so nobody waits for themself. What
//! cannot be recorded at once goes before what comes later, which the journal sees to.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use http::Method;
use tokio::sync::watch;
use tokio::time::Instant;

use super::write::{Target, Write, list_of};
use crate::journal::{Change, Object};
use crate::kinto::Timestamp;

/// How long somebody waits for others: an upstream that hangs delays no other writes of the object for longer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The writes that are under way, by the list that they are about.
type Lists = Arc<Mutex<HashMap<String, Vec<Weak<Sent>>>>>;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Turns(Lists);

/// A write that is under way.
#[derive(Debug)]
pub(super) struct Turn {
    lists: Lists,
    list: String,
    sent: Arc<Sent>,
}

#[derive(Debug)]
struct Sent {
    /// The one object that it is about; any of the list where that is not known.
    object: Option<Object>,
    stage: watch::Sender<Stage>,
}

#[derive(Debug, Clone)]
enum Stage {
    /// No answer yet.
    Away,
    /// It made these versions, which are not recorded yet.
    Made(Made),
    /// Nobody has to wait for it.
    Over,
}

/// The newest version of each object.
type Made = Arc<HashMap<Object, Timestamp>>;

impl Turns {
    /// A write is about to be sent; `None` where nobody can have to wait for it.
    pub(super) fn send(&self, write: &Write) -> Option<Turn> {
        let (list, object) = match write.target.as_ref()? {
            Target::Object(object) | Target::Part(object) => (list_of(object), Some(object.clone())),
            // What is made with an id of the upstream's own is nobody else's.
            Target::List(_) if write.method == Method::POST && !write.may_name_its_object() => return None,
            Target::List(list) => (list.clone(), None),
            Target::Everything => return None,
        };
        let sent = Arc::new(Sent { object, stage: watch::Sender::new(Stage::Away) });
        lock(&self.0).entry(list.clone()).or_default().push(Arc::downgrade(&sent));
        Some(Turn { lists: Arc::clone(&self.0), list, sent })
    }
}

impl Turn {
    /// Waits until what these writes changed may be recorded.
    pub(super) async fn wait(turns: &[Self], changes: &[Change]) {
        let until = Instant::now() + PATIENCE;
        let made: Vec<Made> = turns.iter().map(|turn| turn.made(changes)).collect();
        for (turn, made) in turns.iter().zip(&made) {
            let is_over = made.is_empty();
            turn.sent.stage.send_replace(if is_over { Stage::Over } else { Stage::Made(made.clone()) });
        }
        for (turn, made) in turns.iter().zip(&made) {
            for other in turn.others(made) {
                let mut stage = other.stage.subscribe();
                let is_older = |(object, theirs): (&Object, &Timestamp)| {
                    made.get(object).is_some_and(|version| theirs < version)
                };
                let is_past = |stage: &Stage| match stage {
                    Stage::Away => false,
                    Stage::Made(theirs) => !theirs.iter().any(is_older),
                    Stage::Over => true,
                };
                _ = tokio::time::timeout_at(until, stage.wait_for(is_past)).await;
            }
        }
    }

    /// The newest versions that it made.
    fn made(&self, changes: &[Change]) -> Made {
        let mut made: HashMap<Object, Timestamp> = HashMap::new();
        for change in changes.iter().filter(|change| self.is_about(&change.object)) {
            let newest = made.entry(change.object.clone()).or_default();
            *newest = change.modified.max(*newest);
        }
        Arc::new(made)
    }

    fn is_about(&self, object: &Object) -> bool {
        match &self.sent.object {
            Some(own) => own == object,
            None => list_of(object) == self.list,
        }
    }

    /// Those that may be about the same objects.
    fn others(&self, made: &Made) -> Vec<Arc<Sent>> {
        let lists = lock(&self.lists);
        let others = lists.get(&self.list).into_iter().flatten().filter_map(Weak::upgrade);
        let is_other = |other: &Arc<Sent>| {
            let is_about = other.object.as_ref().is_none_or(|object| made.contains_key(object));
            is_about && !made.is_empty() && !Arc::ptr_eq(other, &self.sent)
        };
        others.filter(is_other).collect()
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.sent.stage.send_replace(Stage::Over);
        let mut lists = lock(&self.lists);
        if let Some(others) = lists.get_mut(&self.list) {
            others.retain(|other| other.as_ptr() != Arc::as_ptr(&self.sent));
            if others.is_empty() {
                lists.remove(&self.list);
            }
        }
    }
}

fn lock(lists: &Mutex<HashMap<String, Vec<Weak<Sent>>>>) -> MutexGuard<'_, HashMap<String, Vec<Weak<Sent>>>> {
    lists.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use http::HeaderMap;

    use super::*;
    use crate::access::Credentials;

    const GROUP: &str = "/buckets/a/groups/g";

    fn change(uri: &str, modified: u64) -> Change {
        Change {
            object: Object::of_uri(uri).unwrap(),
            action: None,
            modified: Timestamp(modified),
            data: None,
            permissions: None,
            user_id: None,
            date: None,
            is_found: false,
        }
    }

    fn write(method: &Method, path: &str) -> Write {
        let headers = HeaderMap::new();
        let path = crate::kinto::RequestPath::of_uri(path);
        Write::new(method, &path, &headers, Credentials::of(&headers), None)
    }

    #[tokio::test]
    async fn an_older_version_that_is_answered_later_is_recorded_first() {
        for (older, newer) in [(Method::PUT, GROUP), (Method::DELETE, "/buckets/a/groups")]
            .into_iter()
            .flat_map(|(method, path)| {
                let single = || write(&Method::PUT, GROUP);
                [(write(&method, path), single()), (single(), write(&method, path))]
            })
        {
            let turns = Turns::default();
            let (older, newer) = ([turns.send(&older).unwrap()], [turns.send(&newer).unwrap()]);
            let _other = [turns.send(&write(&Method::PUT, "/buckets/a/groups/h")).unwrap()];
            let newer_changes = [change(GROUP, 2)];
            let mut waiting = std::pin::pin!(Turn::wait(&newer, &newer_changes));
            assert!((&mut waiting).now_or_never().is_none());
            Turn::wait(&older, &[change(GROUP, 1)]).await;
            assert!((&mut waiting).now_or_never().is_none(), "answered is not recorded");
            drop(older);
            waiting.await;
        }
    }

    #[tokio::test]
    async fn what_has_an_id_of_its_own_waits_for_nobody() {
        let turns = Turns::default();
        let post = |body: &[u8]| write(&Method::POST, "/buckets/a/groups").with_body(body);
        assert!(turns.send(&post(br#"{"data": {"members": []}}"#)).is_none());
        assert!(turns.send(&post(br#"{"data": {"id": "g"}}"#)).is_some());
        assert!(turns.send(&post(br#"{"permissions": {}}"#)).is_none());
    }
}
