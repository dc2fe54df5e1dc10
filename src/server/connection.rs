//! Serves one client's connection: HTTP/1.1, or HTTP/2 by ALPN or with prior knowledge on the same port.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use http::header::CONNECTION;
use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncReadExt;
use tokio::sync::{mpsc, watch};
use tokio::task::coop::unconstrained;
use tokio::time::{Instant, Sleep, sleep};

use super::activity::{Activity, Quiet};
use super::framing::Framing;
use super::latest_core::LatestCore;
use super::linger;
use super::places::Place;
use super::streams::{AT_A_TIME, Sending, Streams};
use super::watched::Watched;
use crate::handler::{self, Answered};
use crate::phase::Phase;
use crate::settings::{Limits, Settings};
use crate::wire::body;
use crate::wire::duplex::Stream;
use crate::wire::headers;
use crate::wire::peer::Peer;

/// The first bytes of HTTP/2 (RFC 9113 §3.4) that no request of HTTP/1.1 that Kinto answers begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0";
/// How many requests one HTTP/2 connection may have under way.
const STREAMS: u32 = 200;
/// SECURITY: how many streams may be opened and reset before the connection is closed (CVE-2023-44487, CVE-2025-8671).
const RESETS: usize = 20;
/// How long an idle connection is kept when the process stops: what has arrived by then is read within that time, and
/// answered.
const LAST_LOOK: Duration = Duration::from_millis(20);
/// SECURITY: how long what was begun to be sent is waited for when the process stops: one connection could have all others wait
/// for theirs. On HTTP/2, where requests are not told apart, that goes for all that is under way, and begins when the client is
/// told to go.
const LAST_BYTES: Duration = Duration::from_millis(500);
const LAST_STREAMS: Duration = Duration::from_secs(2);

/// Who answers the requests of a connection.
pub(super) trait Answering: Send + Sync {
    /// What connections may take, as of now.
    fn settings(&self) -> Arc<Settings>;

    /// Answers one request.
    fn answer(&self, request: Request<Incoming>) -> Answered<'_>;
}

/// What a connection needs to be served.
pub(super) struct Serving {
    pub(super) answering: Arc<dyn Answering>,
    pub(super) place: Arc<Place>,
    pub(super) phase: watch::Receiver<Phase>,
    /// Held for as long as the connection may bring a request, where somebody waits for the last one.
    pub(super) awaited: Option<mpsc::Sender<()>>,
}

/// Answers what the process is there for.
pub(super) struct Proxying {
    pub(super) core: Arc<LatestCore>,
    pub(super) peer: Peer,
}

impl Answering for Proxying {
    fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.core.get().app.settings)
    }

    fn answer(&self, request: Request<Incoming>) -> Answered<'_> {
        handler::handle(self.core.get(), request, &self.peer)
    }
}

/// Serves a connection without TLS: its first bytes tell the protocol.
pub(super) async fn serve_plain(mut stream: Stream, serving: Serving) {
    let patience = serving.answering.settings().limits.header_timeout;
    let mut first = BytesMut::with_capacity(4_096);
    let told = tokio::select! {
        // What has arrived by then is answered.
        biased;
        told = tokio::time::timeout(patience, tell_protocol(&mut stream, &mut first)) => told,
        () = last_look(serving.phase.clone()) => return,
    };
    if let Ok(Some(is_http2)) = told {
        serve(stream, first, is_http2, serving).await;
    }
}

/// Waits until the process stops, and idle connections are closed.
pub(super) async fn last_look(mut phase: watch::Receiver<Phase>) {
    // Where nobody is left to tell, the process is at its end.
    let _ = phase.wait_for(|phase| *phase == Phase::Stopping).await;
    sleep(LAST_LOOK).await;
}

/// Serves a connection whose protocol is known.
pub(super) async fn serve(stream: Stream, first: BytesMut, is_http2: bool, serving: Serving) {
    let limits = serving.answering.settings().limits.clone();
    let activity = Arc::new(Activity::default());
    serving.place.watch(&activity);
    let framing = (!is_http2).then(|| Framing::new(limits.header_bytes));
    let io = TokioIo::new(Watched::new(stream, first, framing, Arc::clone(&activity)));
    let Serving { answering, phase, awaited, place } = serving;
    let answer = {
        let (activity, phase) = (Arc::clone(&activity), phase.clone());
        service_fn(move |request: Request<Incoming>| {
            let in_flight = activity.begin_request(request.body());
            let stream = is_http2.then(|| place.stream());
            let answering = Arc::clone(&answering);
            let (activity, phase) = (Arc::clone(&activity), phase.clone());
            async move {
                // It was not looked at, and may be sent again.
                let refused = || h2::Error::from(h2::Reason::REFUSED_STREAM);
                let stream = stream.map(|stream| stream.ok_or_else(refused)).transpose()?;
                let mut answer = answering.answer(request).await;
                // What is still to come of the request is not waited for, and who comes back after the process began to end
                // shall find another.
                if !is_http2 && (activity.awaits_body() || has_moved(&phase)) {
                    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                let sending = |body| Sending::new(in_flight.answering(body), stream);
                Ok::<Response<Sending>, h2::Error>(answer.map(sending))
            }
        })
    };
    // What ends a connection with an error is the client's doing; it has been answered, or cannot be.
    if is_http2 {
        let connection = http2::Builder::new(Streams(limits.body_timeout))
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .max_send_buf_size(AT_A_TIME)
            .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
            .max_pending_accept_reset_streams(RESETS)
            .max_local_error_reset_streams(RESETS)
            .keep_alive_interval(limits.idle_timeout / 2)
            .serve_connection(io, answer);
        Supervised::new(connection, activity, limits, phase, awaited).await;
    } else {
        // `pipeline_flush` stays off: with it hyper takes from a body whatever comes, though nobody reads the answer.
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(None)
            .max_header_size(limits.header_bytes)
            .max_headers(headers::most(limits.header_bytes))
            .serve_connection(io, answer);
        let mut supervised = Supervised::new(connection, activity, limits, phase, awaited);
        if (&mut supervised).await
            && let Some(stream) =
                Pin::into_inner(supervised.connection).into_parts().io.into_inner().into_open()
        {
            Box::pin(linger::close(stream)).await;
        }
    }
}

/// Reads until it is known whether the client speaks HTTP/2. `None` where it went away.
async fn tell_protocol(stream: &mut Stream, first: &mut BytesMut) -> Option<bool> {
    loop {
        let read = stream.read_buf(first).await.ok()?;
        if read == 0 {
            return None;
        }
        let length = first.len().min(PREFACE.len());
        if first.get(..length) != PREFACE.get(..length) {
            return Some(false);
        }
        if length == PREFACE.len() {
            return Some(true);
        }
    }
}

/// Whether the process has begun to end. Costs no lock, as the receivers of connections look at nothing.
fn has_moved(phase: &watch::Receiver<Phase>) -> bool {
    phase.has_changed().unwrap_or(true)
}

/// A connection that hyper serves, as far as stopping goes.
trait Stoppable: Future {
    /// Whether its client can be told to go at any time, so that nothing gets lost.
    const IS_TOLD: bool;

    /// Answers what is under way, and no more.
    fn stop(self: Pin<&mut Self>);
}

impl<I, S> Stoppable for http1::Connection<I, S>
where
    Self: Future,
    S: hyper::service::HttpService<Incoming>,
    S::Error: Into<body::BoxError>,
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
    S::ResBody: http_body::Body + 'static,
    <S::ResBody as http_body::Body>::Error: Into<body::BoxError>,
{
    const IS_TOLD: bool = false;

    fn stop(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<I, S, E> Stoppable for http2::Connection<I, S, E>
where
    Self: Future,
    S: hyper::service::HttpService<Incoming>,
    S::Error: Into<body::BoxError>,
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
    S::ResBody: http_body::Body + 'static,
    <S::ResBody as http_body::Body>::Error: Into<body::BoxError>,
    E: hyper::rt::bounds::Http2ServerConnExec<S::Future, S::ResBody>,
{
    const IS_TOLD: bool = true;

    fn stop(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

/// Runs a connection until it ends, is quiet for too long, or the process stops and its requests are answered.
struct Supervised<C> {
    connection: Pin<Box<C>>,
    activity: Arc<Activity>,
    limits: Limits,
    quiet: Quiet,
    look: Pin<Box<Sleep>>,
    /// Ends when the process is in another phase than this one.
    next: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// The waker of this task knows of the next phase; it need not be asked at each turn.
    listens: bool,
    phase: watch::Receiver<Phase>,
    is_stopped: bool,
    /// The process stops: the connection is stopped when it has been idle for as long as this.
    last_look: Option<Pin<Box<Sleep>>>,
    /// What has not come by then is not waited for.
    last_bytes: Option<Pin<Box<Sleep>>>,
    /// See [`Serving::awaited`].
    awaited: Option<mpsc::Sender<()>>,
}

impl<C: Stoppable> Supervised<C> {
    fn new(
        connection: C,
        activity: Arc<Activity>,
        limits: Limits,
        phase: watch::Receiver<Phase>,
        awaited: Option<mpsc::Sender<()>>,
    ) -> Self {
        Self {
            connection: Box::pin(connection),
            activity,
            quiet: Quiet::new(),
            look: Box::pin(sleep(Activity::pace(&limits))),
            limits,
            next: next(&phase),
            listens: false,
            phase,
            is_stopped: false,
            last_look: None,
            last_bytes: None,
            awaited,
        }
    }

    fn stop(&mut self) {
        self.is_stopped = true;
        self.connection.as_mut().stop();
    }

    /// Stops the connection where its client can be told. One whose client cannot be is left alone: who has a request
    /// under way is told with its answer, and a request may be on its way to an idle one, until the process stops.
    fn look_at_phase(&mut self) {
        // Where nobody is left to tell, the process is at its end.
        let is_told = self.phase.has_changed().is_ok();
        let phase = if is_told { *self.phase.borrow_and_update() } else { Phase::Stopping };
        if C::IS_TOLD && phase > Phase::Serving {
            self.stop();
            self.last_bytes = Some(Box::pin(sleep(LAST_STREAMS)));
        } else if phase == Phase::Stopping {
            self.last_look = Some(Box::pin(sleep(LAST_LOOK)));
            self.last_bytes = Some(Box::pin(sleep(LAST_BYTES)));
        } else {
            self.next = next(&self.phase);
            self.listens = false;
        }
    }

    /// Whether the process stops, and nothing has arrived for a moment.
    fn is_seen_last(&mut self, context: &mut Context<'_>) -> bool {
        let Some(last_look) = &mut self.last_look else { return false };
        if !self.activity.is_between() {
            last_look.as_mut().reset(Instant::now() + LAST_LOOK);
        }
        last_look.as_mut().poll(context).is_ready()
    }
}

/// Waits for another phase.
fn next(phase: &watch::Receiver<Phase>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    let mut phase = phase.clone();
    // It is asked but once: it would not be heard of where this task had used up its turn by then.
    Box::pin(unconstrained(async move { drop(phase.changed().await) }))
}

impl<C: Stoppable> Future for Supervised<C> {
    /// Whether it ended by itself.
    type Output = bool;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<bool> {
        let this = &mut *self;
        if this.connection.as_mut().poll(context).is_ready() {
            this.awaited = None;
            return Poll::Ready(true);
        }
        if !this.is_stopped {
            if !this.listens {
                this.listens = true;
                let _ = this.next.as_mut().poll(context);
            }
            if this.last_look.is_none() && has_moved(&this.phase) {
                this.look_at_phase();
                context.waker().wake_by_ref();
            }
            if this.is_seen_last(context) {
                this.stop();
                context.waker().wake_by_ref();
            }
            if this.last_look.is_some() && this.activity.is_answering() {
                // What it brings after an answer that takes long is not waited for.
                this.awaited = None;
            }
        }
        if let Some(last_bytes) = &mut this.last_bytes
            && last_bytes.as_mut().poll(context).is_ready()
        {
            this.last_bytes = None;
            if C::IS_TOLD || this.activity.is_arriving() {
                this.awaited = None;
            }
        }
        while this.look.as_mut().poll(context).is_ready() {
            if this.activity.is_overdue(&mut this.quiet, &this.limits) {
                return Poll::Ready(false);
            }
            this.look.as_mut().reset(Instant::now() + Activity::pace(&this.limits));
        }
        Poll::Pending
    }
}
