//! How the sidecar is: what it can answer now, and what is wrong, each with what mends it.
//!
//! It is asked for by those who watch it (`/health/ready`), and told to the log: at start in one line with what the sidecar
//! has found, and whenever something goes wrong that nobody asks for.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, Method};
use serde::Serialize;

mod tell;

pub use tell::tell;

use crate::app::App;
use crate::complaint::Complaint;
use crate::metrics;
use crate::phase::Phase;
use crate::settings::{ChangesMode, JournalFailure, Settings};
use crate::timeline::poll::Lacking;
use crate::upstream::{Description, Upstream, UpstreamError};
use crate::wire::via;

/// How long the upstream, or the journal, may take to show that it is there.
const PATIENCE: Duration = Duration::from_secs(2);

/// What can be done now.
#[derive(Debug, Clone, Serialize)]
pub struct Condition {
    /// Whether requests can be answered.
    pub ready: bool,
    /// Whether anything is wrong.
    pub degraded: bool,
    /// Whether reads are answered, be it with what was true before the upstream failed.
    pub reads: bool,
    /// Whether writes are.
    pub writes: bool,
    /// Whether the process is about to end.
    pub stopping: bool,
    /// Whether the upstream answers.
    pub upstream: bool,
    /// Whether the journal can be written; `None` where the history is not the sidecar's.
    pub journal: Option<bool>,
    /// What is monitored.
    pub monitored: Monitored,
    /// What is wrong, each with how to mend it.
    pub why: Vec<String>,
}

/// What is monitored, and what is lacking.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Monitored {
    /// How many collections the list has.
    pub collections: usize,
    /// Whether all of them were asked for once.
    pub loaded: bool,
    /// How many resources the service account may not read.
    pub unreadable: usize,
    /// How many resources the settings name that are not there.
    pub missing: usize,
    /// On how many collections the upstream failed when it was last asked.
    pub failing: usize,
}

impl Condition {
    /// Looks how things are.
    pub async fn of(app: &App, upstream: &Upstream) -> Self {
        let (is_there, journal) = tokio::join!(answers(upstream), app.history.condition(PATIENCE));
        let mut why = Vec::new();
        if let Err(error) = &is_there {
            why.push(Complaint::of_upstream(&app.settings.upstream, error));
        } else if asks(app)
            && let Ok(described) = tokio::time::timeout(PATIENCE, upstream.described()).await
        {
            why.extend(of_root(&app.settings, &described));
        }
        let is_there = is_there.is_ok();
        why.extend(app.poller.set_aside().filter(|_| is_there));
        let fails = journal.as_ref().is_some_and(Result::is_err);
        if let Some(Err(complaint)) = &journal {
            why.push(complaint.clone());
        }
        let Lacking { unreadable, missing } = app.poller.lacking();
        let entries = app.timeline.entries();
        let monitored = Monitored {
            collections: entries.rows.len(),
            loaded: app.timeline.is_loaded(),
            unreadable: unreadable.len(),
            missing: missing.len(),
            failing: app.poller.failing(),
        };
        why.extend(unreadable.into_iter().chain(missing));
        why.extend(app.signatures.complaints());
        why.extend(app.warm.trouble().map(|complaint| Complaint::clone(&complaint)));
        why.extend(of_machine(app, upstream));
        let is_listed = monitored.loaded || app.timeline.revived().is_some();
        let is_warm = is_listed && monitored.collections > 0 || app.mirrors.is_warm();
        let stopping = *app.phase.borrow() > Phase::Serving;
        let reads = is_there || is_warm;
        let forwards = app.settings.history.on_journal_failure == JournalFailure::Forward;
        Self {
            ready: reads && !stopping,
            degraded: !why.is_empty(),
            reads,
            writes: is_there && (!fails || forwards),
            stopping,
            upstream: is_there,
            journal: journal.map(|journal| journal.is_ok()),
            monitored,
            why: why.iter().map(Complaint::to_string).collect(),
        }
    }
}

/// What is wrong here, whatever the upstream and the journal do.
fn of_machine(app: &App, upstream: &Upstream) -> Vec<Complaint> {
    let settings = &app.settings;
    let certificate = settings.tls.as_ref().and_then(|files| {
        let end = files.end().ok()?;
        Complaint::of_certificate(&files.certificate, end, SystemTime::now())
    });
    let clock = upstream.clock_ahead().and_then(Complaint::of_clock);
    let open = metrics::connections();
    let most = settings.limits.connections as u64;
    let files = app.in_force().scarce_files().map(|(files, _)| files);
    let connections = (open >= most).then(|| Complaint::of_connections(open, most, files));
    let comes_back = via::came_back().then(|| Complaint::comes_back(&settings.upstream));
    certificate.into_iter().chain(clock).chain(connections).chain(comes_back).collect()
}

/// Whether the upstream answers; else why not.
async fn answers(upstream: &Upstream) -> Result<(), String> {
    let question = upstream.ask(Method::GET, "/__lbheartbeat__", HeaderMap::new(), Bytes::new());
    match tokio::time::timeout(PATIENCE, question).await {
        Ok(Ok(answer)) if answer.status().is_server_error() => Err(format!("it answers {}", answer.status())),
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_elapsed) => Err(format!("it says nothing within {} s", PATIENCE.as_secs())),
    }
}

/// Whether the upstream is asked what it is. One that is asked for nothing may be anything.
fn asks(app: &App) -> bool {
    let settings = &app.settings;
    settings.changes_mode == ChangesMode::Upstream
        || !app.timeline.resources().is_empty()
        || settings.history_mode.wants_journal()
}

/// Where what answers is no Kinto, or takes the service account for nobody, as far as it says.
fn of_root(settings: &Settings, described: &Result<Arc<Description>, UpstreamError>) -> Option<Complaint> {
    match described {
        Ok(root) => {
            let is_nobody = settings.auth.is_some() && root.is_kinto() && root.user_id().is_none();
            is_nobody.then(Complaint::unknown_account)
        }
        Err(error @ UpstreamError::Unexpected(_)) => Some(Complaint::no_kinto(&settings.upstream, error)),
        Err(_) => None,
    }
}
