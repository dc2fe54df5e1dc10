//! The request that a task is about, for those who log or wait on its behalf and know nothing of it.
//!
//! It is handed down with the task, as Kinto hands its request id down: whatever is logged in the life of a request names
//! it, and whoever waits for the upstream adds to one time.

use std::future::Future;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use futures_util::future::Either;
use http::{HeaderValue, Method, Uri};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

mod turn;

use turn::Turn;

tokio::task_local! {
    static CURRENT: Arc<Current>;
}

/// A request on its way.
#[derive(Debug)]
pub struct Current {
    /// Its target.
    pub uri: Uri,
    /// Its id in logs, here and upstream.
    pub request_id: HeaderValue,
    /// Who asks, where that is known.
    pub client: Option<IpAddr>,
    /// Whether it will be told of, which wants to know the rest.
    is_told: bool,
    upstream: Mutex<Waited>,
    turn: Turn,
    /// Told when it gets that.
    turn_taken: Notify,
    parts: OnceLock<Vec<Part>>,
}

/// One request of a batch.
#[derive(Debug, Clone)]
pub struct Part {
    /// Its method.
    pub method: Method,
    /// Its target, with the API version.
    pub target: String,
}

/// For how long the upstream was waited for. What several wait for at once counts once.
#[derive(Debug, Default)]
struct Waited {
    waiting: usize,
    since: Option<Instant>,
    total: Duration,
}

/// Ends a wait when it is dropped.
#[derive(Debug)]
pub struct Wait(Option<Arc<Current>>);

/// Has a future be about a request.
pub fn about<F: Future>(current: Arc<Current>, future: F) -> impl Future<Output = F::Output> {
    CURRENT.scope(current, future)
}

/// Spawns a task that is about the same request as this one.
pub fn spawn<F>(future: F) -> tokio::task::JoinHandle<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    tokio::spawn(carried(future))
}

/// Has a future that another task will run be about the same request as this one.
pub fn carried<F: Future>(future: F) -> impl Future<Output = F::Output> {
    match this() {
        Some(current) => Either::Left(CURRENT.scope(current, future)),
        None => Either::Right(future),
    }
}

/// The request that this task is about, if it is about one.
pub fn this() -> Option<Arc<Current>> {
    CURRENT.try_with(Arc::clone).ok()
}

/// Does something that is about a request.
pub fn within<T>(current: &Arc<Current>, work: impl FnOnce() -> T) -> T {
    CURRENT.sync_scope(Arc::clone(current), work)
}

/// Looks at the request that this task is about, if it is about one.
pub fn with<T>(look: impl FnOnce(&Current) -> T) -> Option<T> {
    CURRENT.try_with(|current| look(current)).ok()
}

/// The upstream is waited for until what this gives is dropped. Where nobody will be told, no clock is read.
pub fn wait() -> Wait {
    let current = CURRENT.try_with(|current| current.is_told.then(|| Arc::clone(current))).ok().flatten();
    if let Some(current) = &current {
        let mut waited = current.upstream.lock();
        waited.waiting += 1;
        waited.since.get_or_insert_with(Instant::now);
    }
    Wait(current)
}

impl Current {
    /// A request that has just come.
    pub fn new(uri: Uri, request_id: HeaderValue, client: Option<IpAddr>, is_told: bool) -> Self {
        Self {
            uri,
            request_id,
            client,
            is_told,
            upstream: Mutex::default(),
            turn: Turn::default(),
            turn_taken: Notify::new(),
            parts: OnceLock::new(),
        }
    }

    /// The id, as far as it is text.
    pub fn id(&self) -> &str {
        self.request_id.to_str().unwrap_or_default()
    }

    /// Uses its place among those who ask the upstream once more; whether it has one.
    pub fn shares_turn(&self) -> bool {
        self.turn.share()
    }

    /// Takes a place for it, unless it has got another one meanwhile.
    pub fn take_turn(&self, is_counted: bool) -> bool {
        let is_taken = self.turn.take(is_counted);
        if is_taken {
            self.turn_taken.notify_waiters();
        }
        is_taken
    }

    /// Ends when it gets a place.
    pub fn has_turn(&self) -> Notified<'_> {
        self.turn_taken.notified()
    }

    /// Uses its place once less; where that was the last use, whether the place is counted.
    pub fn leave_turn(&self) -> Option<bool> {
        self.turn.leave()
    }

    /// The bucket and the collection that the path leads to, as they stand in it.
    pub fn collection(&self) -> Option<(&str, &str)> {
        let mut segments = self.uri.path().split('/').skip(2);
        let bucket = (segments.next()? == "buckets").then(|| segments.next())??;
        let collection = (segments.next()? == "collections").then(|| segments.next())??;
        Some((bucket, collection))
    }

    /// For how long the upstream was waited for; `None` where it was not.
    pub fn waited(&self) -> Option<Duration> {
        let waited = self.upstream.lock();
        let now = waited.since.map(|since| since.elapsed());
        (waited.total > Duration::ZERO || now.is_some()).then(|| waited.total + now.unwrap_or_default())
    }

    /// Notes what a batch is made of.
    pub fn note_parts(&self, parts: impl IntoIterator<Item = Part>) {
        if self.is_told {
            // A batch is read once.
            let _ = self.parts.set(parts.into_iter().collect());
        }
    }

    /// What it is made of, where it is a batch that could be read.
    pub fn parts(&self) -> Option<&[Part]> {
        self.parts.get().map(Vec::as_slice)
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        let Some(current) = &self.0 else { return };
        let mut waited = current.upstream.lock();
        waited.waiting -= 1;
        if waited.waiting == 0
            && let Some(since) = waited.since.take()
        {
            waited.total += since.elapsed();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn current(target: &'static str) -> Arc<Current> {
        Arc::new(Current::new(Uri::from_static(target), HeaderValue::from_static("an-id"), None, true))
    }

    #[tokio::test]
    async fn what_is_waited_for_at_once_counts_once() {
        let request = current("/v1/");
        assert_eq!(request.waited(), None);
        about(Arc::clone(&request), async {
            let (one, two) = (wait(), wait());
            drop(one);
            assert_eq!(request.upstream.lock().total, Duration::ZERO);
            // What is spawned waits for the same request.
            spawn(async { drop(wait()) }).await.unwrap();
            assert_eq!(request.upstream.lock().total, Duration::ZERO);
            drop(two);
        })
        .await;
        assert!(request.waited().is_some() && request.upstream.lock().waiting == 0);
        assert!(with(Current::waited).is_none());
    }

    #[test]
    fn a_path_names_a_collection_or_none() {
        let of = |target| current(target).collection().map(|(bucket, id)| format!("{bucket} {id}"));
        assert_eq!(of("/v1/buckets/a/collections/b%20c/changeset?_expected=0"), Some("a b%20c".to_owned()));
        assert_eq!(of("/v1/buckets/a/groups/b"), None);
        assert_eq!(of("/v1/"), None);
    }
}
