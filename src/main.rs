//! `kinto-sidecar`: reads the settings, and does what it was started for.

use std::process::ExitCode;

use kinto_sidecar::cli::{Cli, Task};
use kinto_sidecar::commands::{self, complain};
use kinto_sidecar::serve;
use kinto_sidecar::settings::{self, LogFormat, Settings};
use kinto_sidecar::telemetry::{self, BAD_SETTINGS, ended};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = match Cli::parse(std::env::args_os().skip(1)) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    if let Task::Manual(manual) = cli.task {
        return ended(commands::manual::run(manual), LogFormat::Text);
    }
    let read = settings::environment(std::env::vars_os()).and_then(|environment| {
        let (settings, warnings) = Settings::load(&cli.arguments, &environment)?;
        Ok((environment, settings, warnings))
    });
    let (environment, settings, warnings) = match read {
        Ok(read) => read,
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
