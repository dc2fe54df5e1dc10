//! `kinto-sidecar`: reads the settings, and does what it was started for.

use std::io::ErrorKind;
use std::process::ExitCode;

use kinto_sidecar::cli::{Cli, Task};
use kinto_sidecar::commands::{self, complain};
use kinto_sidecar::settings::{Environment, LogFormat, Settings};
use kinto_sidecar::{access_log, serve, telemetry};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Something about the settings, which has to be mended before anything can run.
const BAD_SETTINGS: u8 = 2;

fn main() -> ExitCode {
    let cli = match Cli::parse(std::env::args_os().skip(1)) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    if let Task::Manual(manual) = cli.task {
        return ended(commands::manual::run(manual), LogFormat::Text);
    }
    let environment = environment();
    let (settings, warnings) = match Settings::load(&cli.arguments, &environment) {
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
    // Who serves is read by machines; all others are commands of somebody's.
    let format = if cli.task == Task::Serve { settings.log_format } else { LogFormat::Text };
    let done = match cli.task {
        Task::Serve => serve::run(settings, cli.arguments, environment).map(|()| ExitCode::SUCCESS),
        Task::Check(check) => commands::check::run(&settings, check),
        Task::Health(health) => commands::health::run(&settings, &health),
        Task::Transfer(transfer) => commands::history::run(&settings, &transfer),
        Task::Past(past) => commands::history::ask(&settings, &past),
        Task::Manual(manual) => commands::manual::run(manual),
    };
    ended(done, format)
}

/// What the operator and the program's parent are told of how it ended.
fn ended(done: std::io::Result<ExitCode>, format: LogFormat) -> ExitCode {
    access_log::flush();
    match done {
        Ok(code) => code,
        Err(error) => {
            telemetry::give_up(format, &error);
            if may_mend_itself(&error) { ExitCode::FAILURE } else { ExitCode::from(BAD_SETTINGS) }
        }
    }
}

/// Whether the same start may succeed later: an address or a journal is still another process's, or not there yet.
fn may_mend_itself(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::AddrInUse | ErrorKind::AddrNotAvailable | ErrorKind::ResourceBusy)
}

/// The environment, but for what is no text.
fn environment() -> Environment {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}
