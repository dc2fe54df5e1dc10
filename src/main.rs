//! `kinto-sidecar`: reads the settings, opens the sockets, serves until it is told to stop.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use kinto_sidecar::app::App;
use kinto_sidecar::endpoints::admin::Admin;
use kinto_sidecar::server::{AdminServer, Server};
use kinto_sidecar::settings::Settings;
use kinto_sidecar::upstream::Upstream;
use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How often the recorder of metrics tidies up.
const UPKEEP: Duration = Duration::from_secs(5);
/// Something about the settings, which has to be mended before anything can run.
const BAD_SETTINGS: u8 = 2;

fn main() -> ExitCode {
    let mut settings = Settings::default();
    let mut arguments = std::env::args().skip(1);
    while let Some(flag) = arguments.next() {
        let value = arguments.next().unwrap_or_default();
        match flag.as_str() {
            "--listen" => {
                settings.listen = match value.strip_prefix("unix:") {
                    Some(path) => kinto_sidecar::settings::ListenAddr::Unix(path.into()),
                    None => kinto_sidecar::settings::ListenAddr::Tcp(value),
                }
            }
            "--upstream" => {
                settings.upstream.https = value.starts_with("https");
                let (host, port) = value
                    .trim_start_matches("https://")
                    .trim_start_matches("http://")
                    .trim_end_matches("/v1")
                    .split_once(':')
                    .unwrap_or(("127.0.0.1", "8888"));
                settings.upstream.host = host.to_owned();
                settings.upstream.port = port.parse().unwrap_or(8888);
                settings.upstream.authority = format!("{host}:{port}");
            }
            "--admin-listen" => settings.admin_listen = Some(kinto_sidecar::settings::ListenAddr::Tcp(value)),
            "--set" => {
                let (key, value) = value.split_once('=').unwrap_or_default();
                let time = || {
                    let digits: u64 = value.trim_end_matches(char::is_alphabetic).parse().unwrap_or(1);
                    if value.ends_with("ms") {
                        Duration::from_millis(digits)
                    } else {
                        Duration::from_secs(digits)
                    }
                };
                match key {
                    "sidecar.tls_certificate" => {
                        settings.tls = Some(kinto_sidecar::settings::TlsFiles {
                            certificate: value.into(),
                            key: value.into(),
                        });
                    }
                    "sidecar.tls_key" => {
                        if let Some(tls) = &mut settings.tls {
                            tls.key = value.into();
                        }
                    }
                    "changes.resources" => {
                        settings.changes.resources = value.split_whitespace().map(Into::into).collect()
                    }
                    "sidecar.auth" => {
                        settings.auth = kinto_sidecar::settings::ServiceAuth::from_text(value).ok()
                    }
                    "http_host" => settings.kinto.http_host = Some(value.into()),
                    "sidecar.overlap" => settings.overlap = time(),
                    "sidecar.verify_every" => settings.verify_every = time(),
                    "sidecar.timestamps_ttl" => settings.timestamps_ttl = time(),
                    "sidecar.upstream_ca" => settings.upstream_ca = Some(value.into()),
                    "sidecar.upstream_http2" => settings.upstream_http2 = true,
                    "sidecar.threads" => settings.threads = value.parse().ok(),
                    "sidecar.max_body" => settings.limits.body_bytes = 1024,
                    "sidecar.max_connections" => settings.limits.connections = value.parse().unwrap_or(1),
                    "sidecar.header_timeout" => settings.limits.header_timeout = time(),
                    "sidecar.body_timeout" => settings.limits.body_timeout = time(),
                    "sidecar.idle_timeout" => settings.limits.idle_timeout = time(),
                    "sidecar.upstream_timeout" => settings.limits.upstream_timeout = time(),
                    "sidecar.shutdown_grace" => settings.limits.shutdown_grace = time(),
                    "sidecar.trusted_proxies" => {
                        settings.trusted_proxies = value.parse().into_iter().collect()
                    }
                    _ => {}
                }
            }
            "--resources" => settings.changes.resources = value.split_whitespace().map(Into::into).collect(),
            "--overlap" => {
                settings.overlap = std::time::Duration::from_millis(value.parse().unwrap_or(10000))
            }
            "--verify" => {
                settings.verify_every = std::time::Duration::from_millis(value.parse().unwrap_or(600_000))
            }
            "--threads" => settings.threads = value.parse().ok(),
            _ => {}
        }
    }
    match run(settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::from(BAD_SETTINGS)
        }
    }
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
        [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?]
    };
    let (stop, stopping) = watch::channel(false);
    let upstream = Upstream::new(&settings)?;
    let app = App::start(settings, background.handle().clone(), upstream.sibling(), stopping);
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
