//! `kinto-sidecar`: reads the settings, opens the sockets, serves until it is told to stop.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use kinto_sidecar::app::App;
use kinto_sidecar::check;
use kinto_sidecar::cli::{Cli, Task};
use kinto_sidecar::endpoints::admin::Admin;
use kinto_sidecar::journal::Journal;
use kinto_sidecar::server::{AdminServer, Server};
use kinto_sidecar::settings::{Environment, HistoryMode, Settings};
use kinto_sidecar::telemetry;
use kinto_sidecar::upstream::Upstream;
use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Sent to a process that writes past the limit on the size of files.
const SIGXFSZ: i32 = 25;
/// How often the recorder of metrics tidies up.
const UPKEEP: Duration = Duration::from_secs(5);
/// Something about the settings, which has to be mended before anything can run.
const BAD_SETTINGS: u8 = 2;

fn main() -> ExitCode {
    let cli = match Cli::parse(std::env::args_os().skip(1)) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    let (settings, warnings) = match Settings::load(&cli, &environment()) {
        Ok(loaded) => loaded,
        Err(error) => {
            complain(&error);
            return ExitCode::from(BAD_SETTINGS);
        }
    };
    telemetry::start(&settings);
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let done = match cli.task {
        Task::Serve => run(settings).map(|()| ExitCode::SUCCESS),
        Task::Check => examine(&settings),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            complain(&error);
            ExitCode::from(BAD_SETTINGS)
        }
    }
}

/// Says what the settings and the upstream come to.
#[expect(clippy::print_stdout, reason = "the report is what was asked for")]
fn examine(settings: &Settings) -> std::io::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let upstream = Upstream::new(settings)?;
    let report = runtime.block_on(check::check(settings, &upstream));
    print!("{}", report.text);
    for problem in &report.problems {
        println!("problem       {problem}");
    }
    Ok(if report.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The environment, but for what is no text.
fn environment() -> Environment {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

#[expect(clippy::print_stderr, reason = "the operator reads it here")]
fn complain(error: &dyn std::fmt::Display) {
    eprintln!("kinto-sidecar: {error}");
}

/// Serves until the process is told to stop and what was under way is done, or it is told a second time.
#[expect(clippy::print_stderr, reason = "whoever started the process waits for this line")]
fn run(settings: Settings) -> std::io::Result<()> {
    let background = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("background")
        .enable_all()
        .build()?;
    let mut stops = {
        let _inside = background.enter();
        // What the limit on files refuses is an error like any other, and not the end.
        drop(signal(SignalKind::from_raw(SIGXFSZ))?);
        [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?]
    };
    let (stop, stopping) = watch::channel(false);
    let upstream = Upstream::new(&settings)?;
    let journal = match settings.history_mode {
        HistoryMode::Auto | HistoryMode::Journal => Some(
            background
                .block_on(Journal::open(
                    &settings.journal,
                    &settings.history,
                    settings.kinto.explicit_permissions,
                ))
                .map_err(std::io::Error::other)?,
        ),
        HistoryMode::Upstream | HistoryMode::Off => None,
    };
    let app =
        App::start(settings, journal.clone(), background.handle().clone(), upstream.sibling(), stopping);
    if let Some(address) = &app.settings.admin_listen {
        let admin = AdminServer::open(address)?;
        eprintln!("metrics and health on {}", admin.address());
        serve_admin(&background, admin, &app, &upstream)?;
    }
    let server = Server::open(app, upstream)?;
    eprintln!("listening on {}", server.address());
    let threads = server.start()?;

    background.block_on(next(&mut stops));
    tracing::info!("stopping");
    // Nobody listening would mean that all threads have ended.
    let _ = stop.send(true);
    let done = background.spawn_blocking(move || threads.into_iter().for_each(|thread| drop(thread.join())));
    background.block_on(async {
        tokio::select! {
            _ = done => {}
            () = next(&mut stops) => {}
        }
    });
    if let Some(journal) = journal {
        background.block_on(journal.flush());
    }
    end(background);
    Ok(())
}

/// Answers operators from the background.
fn serve_admin(
    background: &Runtime,
    server: AdminServer,
    app: &Arc<App>,
    upstream: &Upstream,
) -> std::io::Result<()> {
    let recorder = PrometheusBuilder::new().install_recorder().map_err(std::io::Error::other)?;
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
async fn next([terminate, interrupt]: &mut [Signal; 2]) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// Leaves what still runs behind: the process ends with it.
fn end(background: Runtime) {
    background.shutdown_background();
}
