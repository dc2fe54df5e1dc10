//! What the process is told by signals.

use std::path::PathBuf;
use std::process::Command;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Sent to a process that writes past the limit on the size of files.
const SIGXFSZ: i32 = 25;

/// What is heard of from outside.
pub(super) struct Signals {
    pub(super) stops: [Signal; 2],
    pub(super) hangups: Signal,
    pub(super) upgrades: Signal,
}

impl Signals {
    pub(super) fn hear() -> std::io::Result<Self> {
        // What the limit on files refuses is an error like any other, and not the end.
        drop(signal(SignalKind::from_raw(SIGXFSZ))?);
        // What other servers take for a word about their logs must not end this one.
        drop(signal(SignalKind::user_defined1())?);
        Ok(Self {
            stops: [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?],
            hangups: signal(SignalKind::hangup())?,
            upgrades: signal(SignalKind::user_defined2())?,
        })
    }
}

/// Waits for `SIGTERM` or `SIGINT`.
pub(super) async fn told_to_stop([terminate, interrupt]: &mut [Signal; 2]) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// Starts the program anew on `SIGUSR2`, so that a newer one takes over.
pub(super) async fn hear_upgrades(mut upgrades: Signal, program: Option<PathBuf>) {
    while upgrades.recv().await.is_some() {
        let Some(program) = program.clone() else {
            tracing::warn!("SIGUSR2 starts no other process, as sidecar.handover names no socket for it");
            continue;
        };
        // The watchdog is for the process that serves.
        let started =
            Command::new(&program).args(std::env::args_os().skip(1)).env_remove("WATCHDOG_PID").spawn();
        match started {
            Ok(mut process) => {
                tracing::info!("started process {} to take over from this one", process.id());
                tokio::task::spawn_blocking(move || match process.wait() {
                    Ok(status) => tracing::warn!("the process that should take over has ended: {status}"),
                    Err(error) => tracing::warn!(%error, "lost sight of the process that takes over"),
                });
            }
            Err(error) => tracing::error!(%error, "cannot start {}", program.display()),
        }
    }
}
