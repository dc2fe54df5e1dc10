//! Entries about one object are made in the order of its versions, though answers to writes that were under way together
//! come in any order.
//!
//! A write that was answered waits twice. First, for the answers to all writes of the same objects that were sent before its
//! own answer came. Then, until the older versions that these made are recorded. A batch may make several versions of one
//! object, and another write's version may lie between them: then the batch is recorded in pieces. No write waits for a
//! newer version, so the write with the oldest one can always go on. The journal keeps this order also for what it cannot
//! record at once, and for other processes that share it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use http::Method;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use super::write::{Target, Write};
use crate::journal::{Change, Object};
use crate::kinto::Timestamp;
use crate::wire::arrival::Arrival;

/// How long somebody waits for others: an upstream that hangs delays no other writes of the object for longer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The writes that are under way, by the list that they are about.
type Lists = Arc<Mutex<HashMap<String, Vec<Weak<Request>>>>>;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Turns(Lists);

/// A write that is under way.
#[derive(Debug)]
pub(super) struct Turn {
    lists: Lists,
    list: String,
    sent: Arc<Request>,
}

#[derive(Debug)]
struct Request {
    /// The one object that it is about; any of the list where that is not known.
    object: Option<Object>,
    /// Whether all of it has come: what has not was not sent, and nobody waits for it.
    arrival: Option<Arrival>,
    stage: watch::Sender<Stage>,
}

#[derive(Debug, Clone)]
enum Stage {
    /// No answer yet.
    Away,
    /// It made these versions, which are not recorded yet.
    Made(Versions),
    /// Nobody has to wait for it.
    Over,
}

/// Versions of each object.
type Versions = Arc<HashMap<Object, BTreeSet<Timestamp>>>;

/// In which order the changes that some writes made are recorded among those of others.
#[derive(Debug)]
pub(super) struct Order<'t> {
    turns: &'t [Turn],
    others: Vec<Arc<Request>>,
    until: Instant,
}

impl Turns {
    /// A write is about to be sent; `None` where nobody can have to wait for it.
    pub(super) fn send(&self, write: &Write) -> Option<Turn> {
        let (list, object) = match write.target.as_ref()? {
            Target::Object(object) | Target::Part(object) => (object.list(), Some(object.clone())),
            // What is made with an id of the upstream's own is nobody else's.
            Target::List(_) if write.method == Method::POST && !write.may_name_its_object() => return None,
            Target::List(list) => (list.to_string(), None),
            Target::Accounts | Target::Everything => return None,
        };
        let arrival = write.arrival.clone();
        let sent = Arc::new(Request { object, arrival, stage: watch::Sender::new(Stage::Away) });
        self.0.lock().entry(list.clone()).or_default().push(Arc::downgrade(&sent));
        Some(Turn { lists: Arc::clone(&self.0), list, sent })
    }
}

impl Turn {
    /// The versions among these that it made.
    fn made(&self, changes: &[Change]) -> Versions {
        let mut made: HashMap<Object, BTreeSet<Timestamp>> = HashMap::new();
        for change in changes.iter().filter(|change| self.is_about(&change.object)) {
            made.entry(change.object.clone()).or_default().insert(change.modified);
        }
        Arc::new(made)
    }

    fn is_about(&self, object: &Object) -> bool {
        match &self.sent.object {
            Some(own) => own == object,
            None => object.list() == self.list,
        }
    }
}

impl<'t> Order<'t> {
    /// These writes were answered, and made `changes`.
    pub(super) fn of(turns: &'t [Turn], changes: &[Change]) -> Self {
        let until = Instant::now() + PATIENCE;
        let mut others: Vec<Arc<Request>> = Vec::new();
        let own: HashSet<*const Request> = turns.iter().map(|turn| Arc::as_ptr(&turn.sent)).collect();
        for turn in turns {
            let made = turn.made(changes);
            let lists = turn.lists.lock();
            let sent = lists.get(&turn.list).into_iter().flatten().filter_map(Weak::upgrade);
            others.extend(sent.filter(|other| {
                let is_about = other.object.as_ref().is_none_or(|object| made.contains_key(object));
                is_about && !made.is_empty() && !own.contains(&Arc::as_ptr(other))
            }));
        }
        Self { turns, others, until }
    }

    /// Whether there is anybody to wait for.
    pub(super) fn waits(&self) -> bool {
        !self.others.is_empty()
    }

    /// Takes from `changes` those that may be recorded now, at least one of them, once there is one. The rest is left in it.
    pub(super) async fn next(&self, changes: &mut Vec<Change>) -> Vec<Change> {
        for turn in self.turns {
            let made = turn.made(changes);
            turn.sent.stage.send_replace(if made.is_empty() { Stage::Over } else { Stage::Made(made) });
        }
        for other in self.others.iter().filter(|other| other.has_come()) {
            self.wait(other, |stage| !matches!(stage, Stage::Away)).await;
        }
        loop {
            let is_first = |change: &Change| self.others.iter().all(|other| !other.has_older_than(change));
            let (first, rest): (Vec<_>, Vec<_>) = std::mem::take(changes).into_iter().partition(is_first);
            if !first.is_empty() || rest.is_empty() {
                *changes = rest;
                return first;
            }
            if Instant::now() >= self.until {
                return rest;
            }
            let blocking = rest.first().and_then(|change| {
                self.others.iter().find(|other| other.has_older_than(change)).map(|other| (other, change))
            });
            if let Some((other, change)) = blocking {
                self.wait(other, |stage| !stage.has_older_than(change)).await;
            }
            *changes = rest;
        }
    }

    async fn wait(&self, other: &Request, is_past: impl FnMut(&Stage) -> bool) {
        _ = tokio::time::timeout_at(self.until, other.stage.subscribe().wait_for(is_past)).await;
    }
}

impl Request {
    fn has_come(&self) -> bool {
        self.arrival.as_ref().is_none_or(Arrival::is_complete)
    }

    fn has_older_than(&self, change: &Change) -> bool {
        self.stage.borrow().has_older_than(change)
    }
}

impl Stage {
    /// Whether it made an older version of the change's object, which is not recorded yet.
    fn has_older_than(&self, change: &Change) -> bool {
        let Self::Made(made) = self else { return false };
        let oldest = made.get(&change.object).and_then(BTreeSet::first);
        oldest.is_some_and(|oldest| *oldest < change.modified)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.sent.stage.send_replace(Stage::Over);
        let mut lists = self.lists.lock();
        if let Some(others) = lists.get_mut(&self.list) {
            others.retain(|other| other.as_ptr() != Arc::as_ptr(&self.sent));
            if others.is_empty() {
                lists.remove(&self.list);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use http::HeaderMap;

    use super::*;
    use crate::access::Credentials;

    const GROUP: &str = "/buckets/a/groups/g";

    fn change(uri: &str, modified: u64) -> Change {
        Change::bare(Object::of_uri(uri).unwrap(), None, Timestamp(modified))
    }

    fn write(method: &Method, path: &str) -> Write {
        let headers = HeaderMap::new();
        let path = crate::kinto::RequestPath::of_uri(path);
        Write::new(method, path, &headers, Credentials::of(&headers), None)
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
            let mut changes = vec![change(GROUP, 2)];
            let order = Order::of(&newer, &changes);
            let mut waiting = std::pin::pin!(order.next(&mut changes));
            assert!((&mut waiting).now_or_never().is_none());
            let mut first = vec![change(GROUP, 1)];
            assert_eq!(Order::of(&older, &first).next(&mut first).await.len(), 1);
            assert!((&mut waiting).now_or_never().is_none(), "answered is not recorded");
            drop(older);
            assert_eq!(waiting.await.len(), 1);
        }
    }

    #[tokio::test]
    async fn a_version_between_two_of_a_batch_is_recorded_between_them() {
        let turns = Turns::default();
        let put = || turns.send(&write(&Method::PUT, GROUP)).unwrap();
        let (batch, single) = ([put(), put()], [put()]);
        let (mut outer, mut between) = (vec![change(GROUP, 1), change(GROUP, 3)], vec![change(GROUP, 2)]);
        let batch_order = Order::of(&batch, &outer);
        let single_order = Order::of(&single, &between);
        let mut waiting = std::pin::pin!(single_order.next(&mut between));
        assert!((&mut waiting).now_or_never().is_none());
        let first = batch_order.next(&mut outer).await;
        assert_eq!(first.iter().map(|change| change.modified.0).collect::<Vec<_>>(), [1]);
        let mut last = std::pin::pin!(batch_order.next(&mut outer));
        assert!((&mut last).now_or_never().is_none());
        assert_eq!(waiting.await.len(), 1);
        assert!((&mut last).now_or_never().is_none(), "taken is not recorded");
        single_order.next(&mut Vec::new()).await;
        assert_eq!(last.await.len(), 1);
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
