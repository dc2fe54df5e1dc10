//! The sidecar and its Kinto in one thread, where nothing happens by itself.
//!
//! A write that reaches Kinto waits until it is its turn to be obeyed, and then until it is its turn to be answered. Time
//! stands still until somebody moves it. The sidecar is the one that ships: its handler, its journal in SQLite, its
//! upstream, its tasks.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST};
use http::request::Parts;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use kinto_sidecar::app::{App, Core};
use kinto_sidecar::handler::handle;
use kinto_sidecar::history::keeper::JournalAtStart;
use kinto_sidecar::journal::Journal;
use kinto_sidecar::phase::Phase;
use kinto_sidecar::settings::{Arguments, Environment, HistoryMode, InForce, Settings};
use kinto_sidecar::upstream::Upstream;
use kinto_sidecar::wire::peer::Peer;
use parking_lot::Mutex;
use tokio::net::UnixListener;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use crate::kinto::{Kinto, user};

/// How often nothing has to have happened before nothing more is expected to happen by itself.
const QUIET: usize = 2;
/// How many turns of all tasks an exchange takes between two of its steps that are noted.
const YIELDS: usize = 24;
/// How far time moves where nothing else can happen.
pub const TICK: Duration = Duration::from_millis(20);

/// What waits for its turn.
pub struct Pending {
    pub label: String,
    /// A write that Kinto has and has not obeyed.
    pub write: Option<(Parts, Bytes)>,
    pub go: oneshot::Sender<bool>,
}

/// What happens, and what waits.
#[derive(Default)]
pub struct Hub {
    pending: Mutex<Vec<Pending>>,
    /// Moves with whatever happens.
    activity: Mutex<u64>,
}

impl Hub {
    /// What waits, in an order of its own.
    pub fn take(&self) -> Vec<Pending> {
        let mut pending = std::mem::take(&mut *self.pending.lock());
        pending.sort_by(|one, other| one.label.cmp(&other.label));
        pending
    }

    /// What was taken and waits on.
    pub fn put_back(&self, pending: Vec<Pending>) {
        self.pending.lock().extend(pending);
    }

    /// Something happened.
    pub fn note(&self) {
        *self.activity.lock() += 1;
    }

    /// Waits for its turn; `false` where the connection breaks instead.
    async fn turn(&self, label: String, write: Option<(Parts, Bytes)>) -> bool {
        let (go, turn) = oneshot::channel();
        self.pending.lock().push(Pending { label, write, go });
        self.note();
        let is_given = turn.await.unwrap_or(false);
        self.note();
        is_given
    }
}

/// A sidecar that runs.
pub struct Alive {
    pub core: Arc<Core>,
    pub journal: Option<Journal>,
    pub hub: Arc<Hub>,
    /// As long as a blocking task runs, time moves only where it is told to.
    _still: std::sync::mpsc::Sender<()>,
    _phase: watch::Sender<Phase>,
    _relieve: watch::Sender<Option<Instant>>,
}

fn settings(socket: &Path, folder: &Path, more: &[&str]) -> Settings {
    let socket = socket.display().to_string().replace('/', "%2F");
    let assignments: Vec<String> = [
        format!("sidecar.upstream=http+unix://{socket}/v1"),
        format!("sidecar.journal=sqlite:{}", folder.join("journal.db").display()),
        "sidecar.auth=service:secret".to_owned(),
        "sidecar.state_dir=none".to_owned(),
        "changes.resources=/buckets/b".to_owned(),
    ]
    .into_iter()
    .chain(more.iter().map(|&more| more.to_owned()))
    .collect();
    let arguments = Arguments { assignments, ..Arguments::default() };
    Settings::load(&arguments, &Environment::new()).unwrap().0
}

impl Alive {
    /// Starts a sidecar in front of `kinto`, with these settings; what it keeps on disk is in `folder`.
    pub async fn begin(folder: &Path, kinto: &Arc<Mutex<Kinto>>, life: usize, more: &[&str]) -> Self {
        let (still, moves) = std::sync::mpsc::channel::<()>();
        tokio::task::spawn_blocking(move || _ = moves.recv());
        let socket = folder.join(format!("kinto-{life}"));
        let hub = Arc::new(Hub::default());
        let listener = UnixListener::bind(&socket).unwrap();
        tokio::spawn(serve(listener, Arc::clone(&hub), Arc::clone(kinto)));
        let settings = settings(&socket, folder, more);
        let mut journal = None;
        if settings.history_mode == HistoryMode::Journal {
            let (place, rules) = (&settings.journal, &settings.history);
            journal = Some(Journal::open(place, rules, settings.kinto.explicit_permissions).await.unwrap());
        }
        let in_force = InForce::from(settings);
        let upstream = Upstream::new(&in_force).unwrap();
        let (phase, phases) = watch::channel(Phase::Serving);
        let (relieve, relieved) = watch::channel(Some(Instant::now()));
        let begun = journal.clone().map_or(JournalAtStart::Not, JournalAtStart::Open);
        let app = App::start(in_force, begun, Handle::current(), upstream.sibling(), phases, relieved);
        Self {
            core: Arc::new(Core::new(app, upstream)),
            journal,
            hub,
            _still: still,
            _phase: phase,
            _relieve: relieve,
        }
    }

    /// Waits until nothing happens any more by itself.
    pub async fn settle(&self) {
        let mut quiet = 0;
        while quiet < QUIET {
            let before = *self.hub.activity.lock();
            for _ in 0..YIELDS {
                tokio::task::yield_now().await;
            }
            // What SQLite does in its own threads is waited for once nothing else is to be.
            if *self.hub.activity.lock() == before
                && let Some(journal) = &self.journal
            {
                journal.flush().await;
            }
            quiet = if *self.hub.activity.lock() == before { quiet + 1 } else { 0 };
        }
    }

    /// Asks, while Kinto answers everything at once and time goes on.
    pub async fn ask(&self, request: Request<Full<Bytes>>) -> Response<Bytes> {
        let asked = tokio::spawn(ask(Arc::clone(&self.core), request));
        loop {
            self.settle().await;
            for pending in self.hub.take() {
                _ = pending.go.send(true);
            }
            if asked.is_finished() {
                return asked.await.unwrap().expect("an answer");
            }
            tokio::time::advance(TICK).await;
        }
    }
}

/// A request of somebody's.
pub fn request(method: Method, path: &str, user: &str, body: String) -> Request<Full<Bytes>> {
    let credentials = STANDARD.encode(format!("{user}:secret"));
    let request = Request::builder().method(method).uri(path).header(HOST, "sidecar");
    let request = request.header(AUTHORIZATION, format!("Basic {credentials}"));
    let request = request.header(CONTENT_TYPE, "application/json").header(CONTENT_LENGTH, body.len());
    request.body(Full::new(body.into())).unwrap()
}

/// A request on a connection of its own to the sidecar's handler.
pub async fn ask(core: Arc<Core>, request: Request<Full<Bytes>>) -> Option<Response<Bytes>> {
    let (near, far) = tokio::io::duplex(64 << 10);
    let answer = service_fn(move |request| {
        let core = Arc::clone(&core);
        async move {
            let peer = Peer::new(None, false, &core.app.settings);
            Ok::<_, Infallible>(handle(core, request, &peer).await)
        }
    });
    tokio::spawn(async move {
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(far), answer).await
    });
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(near)).await.ok()?;
    tokio::spawn(connection);
    let (parts, body) = sender.send_request(request).await.ok()?.into_parts();
    Some(Response::from_parts(parts, body.collect().await.ok()?.to_bytes()))
}

/// Kinto's side of its connections.
async fn serve(listener: UnixListener, hub: Arc<Hub>, kinto: Arc<Mutex<Kinto>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (hub, kinto) = (Arc::clone(&hub), Arc::clone(&kinto));
        let answer =
            service_fn(move |request: Request<Incoming>| obey(request, Arc::clone(&hub), Arc::clone(&kinto)));
        tokio::spawn(async move {
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await
        });
    }
}

async fn obey(
    request: Request<Incoming>,
    hub: Arc<Hub>,
    kinto: Arc<Mutex<Kinto>>,
) -> Result<Response<Full<Bytes>>, Broken> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| Broken)?.to_bytes();
    hub.note();
    let is_write = matches!(parts.method, Method::PUT | Method::DELETE);
    let label = |what| {
        let kind = if is_write { 'w' } else { 'r' };
        let user = user(&parts.headers).unwrap_or_default();
        format!("{kind} {} {} {} by {user} {what}", parts.method, parts.uri, String::from_utf8_lossy(&body))
    };
    if is_write && !hub.turn(label("obeyed"), Some((parts.clone(), body.clone()))).await {
        return Err(Broken);
    }
    let answer = kinto.lock().answer(&parts, &body);
    if is_write && !hub.turn(label("answered"), None).await {
        return Err(Broken);
    }
    Ok(answer.map(Full::new))
}

/// A connection that breaks.
#[derive(Debug)]
struct Broken;

impl std::fmt::Display for Broken {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("the connection breaks")
    }
}

impl std::error::Error for Broken {}
