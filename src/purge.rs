//! Tells the cache in front of the sidecar what it should drop: one request to `sidecar.purge_url` for each collection
//! that changed.
//!
//! Telling never holds anybody up: changes wait in a set, so that a collection that changes many times while it waits is
//! told once. What cannot be told within a few tries is given up: the cache's copy ends by its age then.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use http::header::{HOST, HeaderName, HeaderValue, USER_AGENT};
use http::{Method, Request, StatusCode, Uri};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::Notify;

use crate::kinto::{CollectionKey, segment};
use crate::settings::{InForce, Settings};
use crate::upstream::{Upstream, read_whole};
use crate::wire::body::Body;
use crate::wire::cache_control::{SURROGATE_KEY, tag_of};

/// What the xkey module of Varnish purges by.
const XKEY: HeaderName = HeaderName::from_static("xkey");

/// How many collections are told of at a time.
const AT_ONCE: usize = 8;

/// How long the cache may take to connect and to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The pauses between the tries; long enough together for a cache to start anew.
const PAUSES: [Duration; 4] =
    [Duration::from_millis(250), Duration::from_secs(1), Duration::from_secs(4), Duration::from_secs(16)];

/// The most of an answer that is read, in bytes.
const LARGEST_ANSWER: usize = 64 << 10;

/// Tells a cache of changes. Clones tell the same one.
#[derive(Debug, Clone)]
pub struct Purger {
    waiting: Arc<Waiting>,
    settings: InForce,
    /// The list of changes, whose answers change with every other collection.
    list: CollectionKey,
}

/// The collections that were not told of yet.
#[derive(Debug, Default)]
struct Waiting {
    keys: Mutex<BTreeSet<CollectionKey>>,
    more: Notify,
}

/// The cache that the settings name, made anew where they name another.
struct Named {
    settings: InForce,
    made: Mutex<Option<Made>>,
}

/// What was made of `sidecar.purge_url` and `sidecar.purge_method`; `None` where nothing could be.
struct Made {
    url: Uri,
    method: Method,
    cache: Option<Arc<Cache>>,
}

/// Where and how the cache is told.
#[derive(Debug)]
struct Cache {
    client: Upstream,
    url: Uri,
    method: Method,
    host: HeaderValue,
}

impl Purger {
    /// Starts telling `sidecar.purge_url`, where that is set, on the runtime given.
    pub fn start(settings: InForce, background: &Handle) -> Self {
        let changes = &settings.all().changes;
        let list = CollectionKey::new(&changes.bucket, &changes.collection);
        let purger = Self { waiting: Arc::default(), settings: settings.clone(), list };
        let waiting = purger.waiting.clone();
        let named = Named { settings, made: Mutex::default() };
        background.spawn(async move {
            let keys = stream::unfold(waiting, async |waiting| Some((waiting.next().await, waiting)));
            let tell = async |key| {
                if let Some(cache) = named.cache() {
                    cache.tell(key).await;
                }
            };
            keys.for_each_concurrent(AT_ONCE, tell).await;
        });
        purger
    }

    /// Has the cache drop what it keeps of a collection, and of the list of changes. Never waits.
    pub fn changed(&self, key: &CollectionKey) {
        if self.settings.now().purge_url.is_none() {
            return;
        }
        let mut keys = self.waiting.keys.lock();
        for key in [key, &self.list] {
            if !keys.contains(key) {
                keys.insert(key.clone());
            }
        }
        drop(keys);
        self.waiting.more.notify_one();
    }
}

impl Named {
    fn cache(&self) -> Option<Arc<Cache>> {
        let settings = self.settings.now();
        let (url, method) = (settings.purge_url.as_ref()?, &settings.purge_method);
        let mut made = self.made.lock();
        if let Some(made) = made.as_ref().filter(|made| made.url == *url && made.method == *method) {
            return made.cache.clone();
        }
        let cache = Cache::new(&settings, url.clone())
            .inspect_err(
                |error| tracing::error!(%error, "sidecar.purge_url cannot be used; nothing is purged"),
            )
            .ok()
            .map(Arc::new);
        *made = Some(Made { url: url.clone(), method: method.clone(), cache: cache.clone() });
        cache
    }
}

impl Waiting {
    async fn next(&self) -> CollectionKey {
        loop {
            if let Some(key) = self.keys.lock().pop_first() {
                return key;
            }
            self.more.notified().await;
        }
    }
}

impl Cache {
    fn new(settings: &Settings, url: Uri) -> Result<Self, Box<dyn std::error::Error>> {
        let client = Upstream::elsewhere(settings, &url, PATIENCE, false)?;
        let host = HeaderValue::try_from(url.authority().ok_or("it names no host")?.as_str())?;
        Ok(Self { client, url, method: settings.purge_method.clone(), host })
    }

    async fn tell(&self, key: CollectionKey) {
        for pause in PAUSES.map(Some).into_iter().chain([None]) {
            let problem = match self.try_to_tell(&key).await {
                Ok(()) => {
                    metrics::counter!("kinto_sidecar_purges_total", "outcome" => "ok").increment(1);
                    return;
                }
                Err(problem) => problem,
            };
            if let Some(pause) = pause {
                tracing::debug!(collection = %key, %problem, "the cache was not told; trying again");
                tokio::time::sleep(pause).await;
            } else {
                metrics::counter!("kinto_sidecar_purges_total", "outcome" => "failed").increment(1);
                tracing::warn!(collection = %key, %problem, "the cache could not be told of a change");
            }
        }
    }

    async fn try_to_tell(&self, key: &CollectionKey) -> Result<(), String> {
        let request = self.request(key).map_err(|error| error.to_string())?;
        let answer = self.client.send(request).await.map_err(|error| error.to_string())?;
        let status = answer.status();
        // So that the connection can be used again; what the answer says does not matter.
        drop(read_whole(answer, LARGEST_ANSWER).await);
        // Some caches say so when they had nothing to drop.
        if status.is_success() || status == StatusCode::NOT_FOUND {
            Ok(())
        } else {
            Err(format!("it answered {status}"))
        }
    }

    fn request(&self, key: &CollectionKey) -> Result<Request<Body>, http::Error> {
        const NAME: HeaderValue =
            HeaderValue::from_static(concat!("kinto-sidecar/", env!("CARGO_PKG_VERSION")));
        let target = self.url.path_and_query().map_or("/", |target| target.as_str());
        let target = target.replace("{bucket}", &segment(&key.bucket).to_string());
        let target = target.replace("{collection}", &segment(&key.collection).to_string());
        let name = HeaderValue::try_from(format!("{}/{}", tag_of(&key.bucket), tag_of(&key.collection)))?;
        let mut request = Request::new(Body::empty());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = Uri::try_from(target)?;
        request.headers_mut().extend([
            (HOST, self.host.clone()),
            (USER_AGENT, NAME),
            (SURROGATE_KEY, name.clone()),
            (XKEY, name),
        ]);
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;

    use super::*;

    /// Answers each request with the next of these statuses, on a connection of its own; gives their heads.
    fn cache(statuses: &'static [&'static str]) -> (Settings, std::thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/purge/{{bucket}}?c={{collection}}", listener.local_addr().unwrap());
        let heads = std::thread::spawn(move || {
            let answer = |status: &&str| {
                let (mut stream, _) = listener.accept().unwrap();
                let lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let head: Vec<_> = lines.map(Result::unwrap).take_while(|line| !line.is_empty()).collect();
                write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                    .unwrap();
                head.join("\n").to_lowercase()
            };
            statuses.iter().map(answer).collect()
        });
        (Settings { purge_url: Some(url.parse().unwrap()), ..Settings::default() }, heads)
    }

    #[test]
    fn a_change_is_told_until_the_cache_has_understood() {
        let (settings, heads) = cache(&["503 No", "200 OK", "404 Not Found"]);
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let purger = Purger::start(settings.into(), runtime.handle());
        purger.changed(&CollectionKey::new("blog", "articles"));
        let heads = heads.join().unwrap();
        assert!(
            heads.iter().any(|head| head.starts_with("purge /purge/blog?c=articles http/1.1")),
            "{heads:?}"
        );
        assert!(heads.iter().any(|head| head.contains("surrogate-key: monitor/changes")), "{heads:?}");
        assert!(heads.iter().all(|head| !head.contains("authorization")), "{heads:?}");
    }

    #[tokio::test]
    async fn a_collection_that_changes_often_is_told_of_once() {
        let key = CollectionKey::new("b", "c");
        let settings = InForce::with(|settings| settings.purge_url = Some(Uri::from_static("http://h/")));
        let list = CollectionKey::new("monitor", "changes");
        let purger = Purger { waiting: Arc::default(), settings, list };
        (0..100).for_each(|_| purger.changed(&key));
        assert_eq!(purger.waiting.next().await, key);
        assert_eq!(purger.waiting.next().await, purger.list);
        assert!(purger.waiting.keys.lock().is_empty());
    }

    #[tokio::test]
    async fn nothing_is_told_where_no_cache_is_named() {
        let purger = Purger::start(Settings::default().into(), &Handle::current());
        purger.changed(&CollectionKey::new("b", "c"));
        assert!(purger.waiting.keys.lock().is_empty());
    }
}
