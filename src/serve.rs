//! Serving, from the first signal handler to the last answer.

use std::io::{Error, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusBuilder;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::app::App;
use crate::condition;
use crate::endpoints::admin::Admin;
use crate::journal::{Journal, JournalError};
use crate::phase::Phase;
use crate::server::{AdminServer, Certificates, Server};
use crate::settings::Settings;
use crate::upstream::{Upstream, leads_to_itself};

/// Sent to a process that writes past the limit on the size of files.
const SIGXFSZ: i32 = 25;
/// How many files are open beside clients' connections: those to the upstream above all.
const OTHER_FILES: u64 = 1_000;
/// How often the recorder of metrics tidies up.
const UPKEEP: Duration = Duration::from_secs(5);

/// Serves until the process is told to stop and what was under way is done, or it is told a second time.
#[expect(clippy::print_stderr, reason = "whoever started the process waits for this line")]
pub fn run(settings: Settings) -> std::io::Result<()> {
    let background = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("background")
        .enable_all()
        .build()?;
    let mut stops = {
        let _inside = background.enter();
        // What the limit on files refuses is an error like any other, and not the end.
        drop(signal(SignalKind::from_raw(SIGXFSZ))?);
        // What other servers take for a word about their logs or their settings must not end this one.
        drop(signal(SignalKind::user_defined1())?);
        drop(signal(SignalKind::user_defined2())?);
        [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?]
    };
    let hangups = {
        let _inside = background.enter();
        signal(SignalKind::hangup())?
    };
    if let Some(complaint) = leads_to_itself(&settings) {
        return Err(Error::new(ErrorKind::InvalidInput, complaint.to_string()));
    }
    let (phases, phase) = watch::channel(Phase::Serving);
    raise_descriptors(&settings);
    let upstream = Upstream::new(&settings)?;
    let journal = open_journal(&settings, &background)?;
    let app = App::start(settings, journal, background.handle().clone(), upstream.sibling(), phase);
    if let Some(address) = &app.settings.admin_listen {
        let admin = AdminServer::open(address, None)?;
        eprintln!("metrics and health on {}", admin.address());
        serve_admin(&background, admin, &app, &upstream)?;
    }
    let writes = Arc::clone(&app.writes);
    let drain_delay = app.settings.limits.drain_delay;
    let (told, asker) = (Arc::clone(&app), upstream.sibling());
    let server = Server::open(app, upstream, None)?;
    let certificates = server.certificates();
    if let Some(certificates) = certificates.clone() {
        background.spawn(certificates.keep());
    }
    background.spawn(hear_hangups(hangups, certificates));
    eprintln!("listening on {}", server.address());
    background.spawn(condition::tell(told, asker, server.address()));
    let threads = server.start()?;

    let served =
        background.spawn_blocking(move || threads.into_iter().for_each(|thread| drop(thread.join())));
    background.block_on(async {
        told_to_stop(&mut stops).await;
        tokio::select! {
            () = end(&phases, drain_delay, served) => {}
            // A second time: at once.
            () = told_to_stop(&mut stops) => {}
        }
    });
    background.block_on(writes.flush());
    // What still runs is left behind: the process ends with it.
    background.shutdown_background();
    Ok(())
}

/// Lets the process open as many files as the system allows it, and compares that with what the settings want.
fn raise_descriptors(settings: &Settings) {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "cannot open more files than at first");
    }
    let allowed = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let wanted = settings.limits.connections as u64 + OTHER_FILES;
    if allowed < wanted {
        tracing::warn!(
            "the process may open {allowed} files, and sidecar.max_connections wants {wanted}: raise the limit (ulimit -Hn, \
             LimitNOFILE=) or lower the setting"
        );
    }
}

/// The journal, where one may be needed and can be opened now. One that never can be ends the process; a database that is
/// away is waited for while other things go on.
fn open_journal(settings: &Settings, background: &Runtime) -> std::io::Result<Option<Journal>> {
    if !settings.history_mode.wants_journal() {
        return Ok(None);
    }
    let explicit_permissions = settings.kinto.explicit_permissions;
    let opening = Journal::open(&settings.journal, &settings.history, explicit_permissions);
    match background.block_on(opening) {
        Ok(journal) => Ok(Some(journal)),
        Err(JournalError::Unavailable(_)) => Ok(None),
        Err(error @ JournalError::InUse(_)) => Err(Error::new(ErrorKind::ResourceBusy, error)),
        Err(error @ JournalError::Unusable(_)) => Err(Error::other(error)),
    }
}

/// Answers operators from the background.
fn serve_admin(
    background: &Runtime,
    server: AdminServer,
    app: &Arc<App>,
    upstream: &Upstream,
) -> std::io::Result<()> {
    let recorder = PrometheusBuilder::new().install_recorder().map_err(Error::other)?;
    let admin = Admin::new(Arc::clone(app), upstream.sibling(), recorder.clone());
    background.spawn(async move {
        if let Err(error) = server.run(admin).await {
            tracing::error!(%error, "metrics and health are not answered");
        }
    });
    background.spawn(async move {
        // Without it, what histograms collect between two readings would only grow.
        let mut turns = tokio::time::interval(UPKEEP);
        loop {
            turns.tick().await;
            recorder.run_upkeep();
        }
    });
    Ok(())
}

/// Waits for `SIGTERM` or `SIGINT`.
async fn told_to_stop([terminate, interrupt]: &mut [Signal; 2]) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// Serves a while longer without being ready, and then finishes what is under way.
async fn end(phases: &watch::Sender<Phase>, drain_delay: Duration, served: JoinHandle<()>) {
    if !drain_delay.is_zero() {
        tracing::info!("told to stop: not ready any more, and stopping in {drain_delay:?}");
        phases.send_replace(Phase::Draining);
        tokio::time::sleep(drain_delay).await;
    }
    tracing::info!("stopping");
    phases.send_replace(Phase::Stopping);
    let _ = served.await;
}

/// Looks at the certificates, and says what `SIGHUP` does not do.
async fn hear_hangups(mut hangups: Signal, certificates: Option<Arc<Certificates>>) {
    while hangups.recv().await.is_some() {
        if let Some(certificates) = certificates.clone() {
            // A look that panics changes nothing.
            let _ = tokio::task::spawn_blocking(move || certificates.look()).await;
        }
        tracing::warn!(
            "SIGHUP changes nothing: settings are read at start only, so a restart is what changes them"
        );
    }
}
