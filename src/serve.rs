//! Serving, from the first signal handler to the last answer.

use std::io::{Error, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusBuilder;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::time::Instant;

mod given;
mod handover;
mod life;
mod notify;
mod reload;
mod signals;

use crate::app::App;
use crate::condition;
use crate::endpoints::admin::Admin;
use crate::history::keeper::JournalAtStart;
use crate::journal::{Journal, JournalError, Opening, Upgrade};
use crate::metrics::tasks;
use crate::phase::Phase;
use crate::remote_settings::signatures::own_key;
use crate::server::{AdminServer, Pulse, Running, Server, Sockets};
use crate::settings::{Arguments, Environment, InForce, Settings};
use crate::telemetry;
use crate::upstream::{Upstream, leads_to_itself};

use given::Given;
use handover::{Offer, Predecessor};
use life::{Life, ServingAdmin};
use notify::ServiceManager;
use reload::Reload;
use signals::{Signals, hear_upgrades, told_to_stop};

/// How often the recorder of metrics tidies up.
const UPKEEP: Duration = Duration::from_secs(5);

/// Serves until the process is told to stop and what was under way is done, or it is told a second time. Settings are read
/// again from this command line and environment.
pub fn run(settings: Settings, arguments: Arguments, environment: Environment) -> std::io::Result<()> {
    let program = std::env::current_exe();
    let background = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("background")
        .enable_all()
        .build()?;
    tasks::count_those_of(background.handle());
    let signals = {
        let _inside = background.enter();
        Signals::hear()?
    };
    if let Some(complaint) = leads_to_itself(&settings) {
        return Err(Error::new(ErrorKind::InvalidInput, complaint.to_string()));
    }
    own_key(&settings)?;
    let format = settings.log_format;
    let (phases, phase) = watch::channel(Phase::Serving);
    let manager = Arc::new(ServiceManager::of_environment());
    let handover = settings.handover.clone();
    let given = Given::by_environment()?;
    let is_managed = !given.clients.is_empty();
    let (predecessor, mut given) = match handover.as_deref() {
        Some(path) if !is_managed => {
            let (predecessor, given) = Predecessor::ask(path)?.unzip();
            (predecessor, given.unwrap_or_default())
        }
        _ => (None, given),
    };
    let journal = if predecessor.is_some() {
        // The process before this one still has it. That one goes on serving where this one could not use it.
        examine_journal(&settings, &background)?;
        JournalAtStart::Not
    } else {
        open_journal(&settings, &background)?
    };
    let in_force = within_files(settings);
    let upstream = Upstream::new(&in_force)?;
    let (relieve, relieved) = watch::channel(predecessor.is_none().then(Instant::now));
    let background_tasks = background.handle().clone();
    let app = App::start(in_force.clone(), journal, background_tasks, upstream.sibling(), phase, relieved);
    let mut admin = None;
    if let Some(address) = &app.settings.admin_listen {
        let sockets =
            if is_managed { Sockets::given(given.admin) } else { Sockets::chosen(&mut given.admin, address) };
        let server = AdminServer::open(address, sockets)?;
        telemetry::announce(format, &format!("metrics and health on {}", server.address()));
        let sockets = server.sockets().try_clone()?;
        admin = Some((serve_admin(&background, server, &app, &upstream)?, sockets));
    }
    let sockets = if is_managed {
        Sockets::given(given.clients)
    } else {
        Sockets::chosen(&mut given.clients, &app.settings.listen)
    };
    let (writes, warm) = (Arc::clone(&app.writes), Arc::clone(&app.warm));
    let (told, asker) = (Arc::clone(&app), upstream.sibling());
    let reloaded = Arc::clone(&app);
    let server = Server::open(app, upstream, sockets)?;
    let certificates = server.certificates();
    if let Some(certificates) = certificates.clone() {
        background.spawn(certificates.keep());
    }
    let address = server.address();
    let (admin, admin_sockets) = admin.unzip();
    let offer = handover.as_deref().map(|path| {
        let given = Given::of(server.sockets(), admin_sockets.as_ref())?;
        Offer::open(path, given).map_err(|error| {
            Error::new(error.kind(), format!("cannot listen on {}: {error}", path.display()))
        })
    });
    let offer = offer.transpose()?;
    let Running { threads, pulse, expected } = server.start()?;
    let status = format!("listening on {address}");
    telemetry::announce(format, &status);
    background.spawn(condition::tell(told, asker, address));
    if let Some(predecessor) = predecessor {
        wait_for(predecessor, relieve, &background);
    }
    manager.ready(&status);

    let Signals { mut stops, hangups, upgrades } = signals;
    let reload = Reload { app: reloaded, arguments, environment, certificates };
    background.spawn(reload.at(hangups, Arc::clone(&manager), status));
    background.spawn(hear_upgrades(upgrades, handover.and(program.ok())));
    background.spawn(keep_watchdog(Arc::clone(&manager), pulse));
    let served =
        background.spawn_blocking(move || threads.into_iter().for_each(|thread| drop(thread.join())));
    let mut life = Life { phases, in_force, offer, admin, expected, writes: Arc::clone(&writes), manager };
    let is_abrupt = background.block_on(async {
        let is_taken = life.last(&mut stops).await;
        tokio::select! {
            () = life.end(is_taken, served) => is_taken,
            // A second time: at once.
            () = told_to_stop(&mut stops) => true,
        }
    });
    background.block_on(writes.flush());
    if !is_abrupt {
        background.block_on(warm.keep_last());
    }
    // What still runs is left behind: the process ends with it.
    background.shutdown_background();
    Ok(())
}

/// These settings, as far as the process may open files for them.
fn within_files(settings: Settings) -> InForce {
    let in_force = InForce::from(settings);
    in_force.allow_files(raise_descriptors());
    tell_of_files(&in_force);
    in_force
}

/// Lets the process open as many files as the system allows it; gives how many.
fn raise_descriptors() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "cannot open more files than at first");
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Says what it means where that is less than the settings want.
fn tell_of_files(in_force: &InForce) {
    let Some((files, wanted)) = in_force.scarce_files() else { return };
    let limits = &in_force.now().limits;
    tracing::warn!(
        "the process may open {files} files, and sidecar.max_connections with sidecar.max_upstream_requests wants {wanted}: \
         there are {} and {} of them instead; raise the limit (ulimit -Hn, LimitNOFILE=) or lower the settings",
        limits.connections,
        limits.upstream_requests
    );
}

/// The journal, where one may be needed and can be opened now. One that never can be ends the process; a database that is
/// away is waited for while other things go on, and so is what takes long.
fn open_journal(settings: &Settings, background: &Runtime) -> std::io::Result<JournalAtStart> {
    if !settings.history_mode.wants_journal() {
        return Ok(JournalAtStart::Not);
    }
    let begun = background.block_on(async {
        let opening = Opening::begin(&settings.journal).await?;
        if opening.takes_long().await? {
            return Ok(JournalAtStart::Found(opening));
        }
        let explicit_permissions = settings.kinto.explicit_permissions;
        let upgrade = Upgrade::default();
        opening.finish(&settings.history, explicit_permissions, &upgrade).await.map(JournalAtStart::Open)
    });
    begun.or_else(|error| match error {
        JournalError::Unavailable(_)
        | JournalError::Refused(_)
        | JournalError::Left
        | JournalError::NoRoom(_)
        | JournalError::Invalid(_) => Ok(JournalAtStart::Not),
        JournalError::InUse(_) => Err(Error::new(ErrorKind::ResourceBusy, error)),
        JournalError::Unusable(_) => Err(Error::other(error)),
    })
}

/// Relieves the process before this one, and notes when it has let go of the journal.
fn wait_for(predecessor: Predecessor, relieve: watch::Sender<Option<Instant>>, background: &Runtime) {
    let leaving = predecessor.relieve();
    background.spawn_blocking(move || {
        leaving.wait();
        relieve.send_replace(Some(Instant::now()));
    });
}

/// Sees whether a journal that another process still has could be used. A database that is away says nothing about that.
fn examine_journal(settings: &Settings, background: &Runtime) -> std::io::Result<()> {
    if !settings.history_mode.wants_journal() {
        return Ok(());
    }
    match background.block_on(Journal::examine(&settings.journal)) {
        Err(error @ JournalError::Unusable(_)) => Err(Error::other(error)),
        _ => Ok(()),
    }
}

/// Answers operators from the background.
fn serve_admin(
    background: &Runtime,
    server: AdminServer,
    app: &Arc<App>,
    upstream: &Upstream,
) -> std::io::Result<ServingAdmin> {
    let recorder = PrometheusBuilder::new().install_recorder().map_err(Error::other)?;
    let admin = Admin::new(Arc::clone(app), upstream.sibling(), recorder.clone(), server.is_loopback());
    let (phases, phase) = watch::channel(Phase::Serving);
    let task = background.spawn(async move {
        if let Err(error) = server.run(admin, phase).await {
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
    Ok(ServingAdmin { phases, task })
}

/// Tells the service manager that all threads serve, for as long as they do.
async fn keep_watchdog(manager: Arc<ServiceManager>, pulse: Pulse) {
    let Some(interval) = notify::watchdog() else { return };
    loop {
        tokio::time::sleep(interval / 2).await;
        if pulse.is_felt() {
            manager.alive();
        }
    }
}
