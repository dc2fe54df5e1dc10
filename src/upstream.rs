//! The one client that speaks to Kinto.
//!
//! Each thread has an [`Upstream`] of its own, with its own connections, so that nothing is shared on the way of a
//! request but the count of those that are under way ([`queue`]). Three ways to use it: [`Upstream::send`] passes a
//! client's request on, [`Upstream::ask`] asks with the service account's credentials, [`Upstream::ask_as`] with those
//! of somebody else. A request is sent again only if that cannot be noticed: it was never written, or the upstream says that
//! it did not begin it ([`again`]), or it is a `GET`, `HEAD` or `OPTIONS` without a body, and the connection had been used
//! before and died before an answer began.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::Either;
use http::header::HOST;
use http::uri::{Authority, Scheme};
use http::{HeaderValue, Method, Request, Response, Uri};
use http_body::Body as _;
use hyper::client::conn::http2;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::current::{self, Current};
use crate::kinto::Timestamp;
use crate::metrics;
use crate::settings::InForce;
use crate::wire::body::Body;

mod again;
mod age;
mod ask;
mod batches;
mod bound;
mod connect;
mod described;
mod dial;
mod elsewhere;
mod ended;
mod error;
mod exchange;
mod idle;
mod itself;
pub mod kinto;
mod large;
mod outage;
mod pool;
mod queue;
mod refusal;
mod socket;
mod stay;
mod suspense;
mod transfer;
mod words;

pub use ask::read_whole;
pub use batches::{BatchSender, Batches};
pub use described::Description;
pub use ended::Ended;
pub use error::UpstreamError;
pub use itself::leads_to_itself;
pub use outage::Outage;
pub use queue::Turn;
pub use refusal::Refusal;
pub use suspense::Suspense;
pub use words::Advice;

use again::copy_of;
use age::end_of_use;
use connect::{Connector, Sender};
use described::Described;
use exchange::Chosen;
use kinto::PageSizes;
use pool::Pool;
use queue::Queue;
use words::Words;

/// How often a request is sent of which the upstream begins nothing: connections may end one after the other, and each time
/// before this request's turn.
const MOST_GOES: usize = 8;

/// The upstream, as one thread sees it. Clones share their connections.
#[derive(Debug, Clone)]
pub struct Upstream(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    connector: Connector,
    pool: Arc<Pool>,
    /// The HTTP/2 connection, where the upstream speaks that, and until when it takes requests.
    http2: Mutex<Option<(http2::SendRequest<Body>, Instant)>>,
    /// Held while the first connection is made, so that those who want to share it do not each make one.
    connecting: tokio::sync::Mutex<()>,
    /// `/prefix/v1`
    root: String,
    scheme: Scheme,
    authority: Authority,
    host: HeaderValue,
    settings: InForce,
    described: Arc<Described>,
    batches: Arc<Batches>,
    /// What it said beside its answers, to any thread.
    words: Arc<Words>,
    /// Whether it answers at all.
    outage: Arc<Outage>,
    /// Who may ask, and who has to wait.
    queue: Arc<Queue>,
    /// Of which lists no large pages can be read.
    page_sizes: Arc<PageSizes>,
}

impl Upstream {
    /// The upstream that the settings name. Reads the trusted authorities; connects to nothing yet.
    pub fn new(in_force: &InForce) -> io::Result<Self> {
        let settings = in_force.now();
        let upstream = &settings.upstream;
        Ok(Self(Arc::new(Inner {
            connector: Connector::new(in_force)?,
            pool: Arc::default(),
            http2: Mutex::default(),
            connecting: tokio::sync::Mutex::default(),
            root: format!("{}/{}", upstream.path_prefix, upstream.version),
            scheme: if upstream.https { Scheme::HTTPS } else { Scheme::HTTP },
            authority: upstream.authority.parse().map_err(io::Error::other)?,
            host: HeaderValue::try_from(&upstream.authority).map_err(io::Error::other)?,
            settings: in_force.clone(),
            described: Arc::default(),
            batches: Arc::default(),
            words: Arc::default(),
            outage: Arc::default(),
            queue: Queue::new(in_force.clone()),
            page_sizes: Arc::default(),
        })))
    }

    /// The same upstream with connections of its own, for another thread.
    #[must_use]
    pub fn sibling(&self) -> Self {
        let inner = &self.0;
        Self(Arc::new(Inner {
            connector: inner.connector.clone(),
            pool: Arc::default(),
            http2: Mutex::default(),
            connecting: tokio::sync::Mutex::default(),
            root: inner.root.clone(),
            scheme: inner.scheme.clone(),
            authority: inner.authority.clone(),
            host: inner.host.clone(),
            settings: inner.settings.clone(),
            described: Arc::clone(&inner.described),
            batches: Arc::clone(&inner.batches),
            words: Arc::clone(&inner.words),
            outage: Arc::clone(&inner.outage),
            queue: Arc::clone(&inner.queue),
            page_sizes: Arc::clone(&inner.page_sizes),
        }))
    }

    /// How small the pages of lists have to be.
    fn page_sizes(&self) -> &PageSizes {
        &self.0.page_sizes
    }

    /// The path and query of an address that the upstream gave (`Next-Page`), relative to the API root; `None` where it
    /// leads elsewhere.
    pub fn relative(&self, address: &str) -> Option<String> {
        let address: Uri = address.parse().ok()?;
        let path = address.path_and_query()?.as_str();
        // An upstream behind a path of its own may not know of it.
        let version = self.0.root.rfind('/').and_then(|start| self.0.root.get(start..))?;
        let path = path.strip_prefix(&*self.0.root).or_else(|| path.strip_prefix(version))?;
        path.starts_with('/').then(|| path.to_owned())
    }

    fn patience(&self) -> Duration {
        self.0.settings.now().limits.upstream_timeout
    }

    /// Has the upstream say anew what it is, and whom it takes the service account for.
    pub fn forget_description(&self) {
        self.0.described.forget();
    }

    /// What the upstream's latest answer asks of clients.
    pub fn advice(&self) -> Option<Arc<Advice>> {
        self.0.words.advice()
    }

    /// The answer that the upstream has for everybody, where it has come to its end.
    pub fn ended(&self) -> Option<Arc<Ended>> {
        self.0.words.ended()
    }

    /// Whether it has neither advice nor its end to tell.
    pub fn is_silent(&self) -> bool {
        self.0.words.is_silent()
    }

    /// What the upstream's clock says, as far as its latest answer tells.
    pub fn time(&self) -> Timestamp {
        self.0.words.time()
    }

    /// The greatest `_since` that the upstream takes, on the safe side, as far as its latest answer tells.
    pub fn latest_since(&self) -> Timestamp {
        self.0.words.latest_since()
    }

    /// Whether it answers at present.
    pub fn outage(&self) -> &Arc<Outage> {
        &self.0.outage
    }

    /// How many seconds this machine's clock is ahead of the upstream's, as far as its latest answer tells; negative where
    /// it is behind.
    pub fn clock_ahead(&self) -> Option<f64> {
        self.0.words.clock_ahead()
    }

    /// A place among those who ask, for what this task is about. Until it is dropped, nothing that is asked meanwhile waits for
    /// others.
    pub async fn turn(&self) -> Result<Turn, UpstreamError> {
        match self.0.queue.take() {
            Ok(turn) => Ok(turn),
            Err(asker) => self.wait(asker).await,
        }
    }

    /// The same where nobody has to be waited for.
    pub fn try_turn(&self) -> Option<Turn> {
        self.0.queue.take().ok()
    }

    async fn wait(&self, asker: Arc<Current>) -> Result<Turn, UpstreamError> {
        let _waiting = current::wait();
        let turn = self.0.queue.wait(asker).await;
        turn.inspect_err(metrics::count_upstream_failure)
    }

    /// Sends a request as it is, once there is a place for it. Its URI is the target as the upstream shall see it, and
    /// hop-by-hop headers are gone. `Host` is the upstream's own where there is none.
    ///
    /// What most requests need happens before the future is made, and what few need is boxed: the future moves with each
    /// request, so it is kept small.
    pub fn send(
        &self,
        request: Request<Body>,
    ) -> impl Future<Output = Result<Response<Body>, UpstreamError>> + Send + '_ {
        match self.0.queue.take() {
            Ok(turn) => Either::Left(self.send_at_once(request, turn)),
            Err(asker) => Either::Right(Box::pin(async move {
                let turn = self.wait(asker).await?;
                self.send_at_once(request, turn).await
            })),
        }
    }

    fn send_at_once(
        &self,
        mut request: Request<Body>,
        turn: Turn,
    ) -> impl Future<Output = Result<Response<Body>, UpstreamError>> + Send + '_ {
        request.headers_mut().entry(HOST).or_insert_with(|| self.0.host.clone());
        let can_repeat = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS)
            && request.body().is_end_stream();
        let sent = Instant::now();
        let begun = match self.idle(!can_repeat, sent) {
            Some(idle) => {
                let copy = can_repeat.then(|| Box::new(copy_of(&request)));
                Ok((copy, self.exchange(idle, request, turn)))
            }
            None => Err(Box::pin(self.send_anew(request, turn))),
        };
        async move {
            let _waiting = current::wait();
            let (copy, exchange) = match begun {
                Ok(begun) => begun,
                Err(anew) => return anew.await,
            };
            let failure = match exchange.await {
                Ok(response) => {
                    metrics::count_upstream_answer(sent.elapsed());
                    return Ok(response);
                }
                Err(failure) => failure,
            };
            metrics::count_upstream_failure(&failure.error);
            if !failure.is_lost {
                self.0.outage.note(&failure.error);
                return Err(failure.error);
            }
            self.0.pool.saw_silent_close();
            let request = failure.unsent.or(copy).ok_or(failure.error)?;
            Box::pin(self.send_anew(*request, failure.turn)).await
        }
    }

    /// Sends a request on a connection of its own, on another one as long as the upstream begins nothing of it.
    async fn send_anew(
        &self,
        mut request: Request<Body>,
        mut turn: Turn,
    ) -> Result<Response<Body>, UpstreamError> {
        let mut goes = 0;
        loop {
            goes += 1;
            let begun = Instant::now();
            let exchange = self.exchange(self.connect().await?, request, turn);
            match exchange.await {
                Ok(response) => {
                    metrics::count_upstream_answer(begun.elapsed());
                    return Ok(response);
                }
                Err(failure) => {
                    metrics::count_upstream_failure(&failure.error);
                    match failure.unsent {
                        Some(unsent) if failure.is_lost && goes < MOST_GOES => {
                            (request, turn) = (*unsent, failure.turn);
                        }
                        _ => {
                            self.0.outage.note(&failure.error);
                            return Err(failure.error);
                        }
                    }
                }
            }
        }
    }

    /// A connection that is there already.
    fn idle(&self, for_write: bool, now: Instant) -> Option<Chosen> {
        let idle =
            self.0.pool.take(for_write, now).map(|connection| Chosen::Http1 { connection, is_reused: true });
        if idle.is_none() && self.0.connector.may_be_http2() {
            return self.shared_http2(now).map(Chosen::Http2);
        }
        idle
    }

    async fn connect(&self) -> Result<Chosen, UpstreamError> {
        let inner = &self.0;
        let _turn = if inner.connector.may_be_http2() {
            let turn = inner.connecting.lock().await;
            if let Some(sender) = self.shared_http2(Instant::now()) {
                return Ok(Chosen::Http2(sender));
            }
            Some(turn)
        } else {
            None
        };
        let connected = inner.connector.connect().await;
        let failed = |error: &UpstreamError| {
            metrics::count_upstream_failure(error);
            inner.outage.note(error);
        };
        match connected.inspect_err(failed)? {
            Sender::Http1(connection) => Ok(Chosen::Http1 { connection, is_reused: false }),
            Sender::Http2(sender) => {
                *inner.http2.lock() = Some((sender.clone(), end_of_use()));
                Ok(Chosen::Http2(sender))
            }
        }
    }

    fn shared_http2(&self, now: Instant) -> Option<http2::SendRequest<Body>> {
        let shared = self.0.http2.lock();
        let (sender, until) = shared.as_ref()?;
        (now < *until && !sender.is_closed()).then(|| sender.clone())
    }
}
