//! What the service manager is told (`sd_notify(3)`), where there is one that listens.

use std::env;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Whoever listens at `NOTIFY_SOCKET`.
#[derive(Debug, Default)]
pub(super) struct ServiceManager {
    socket: Option<(UnixDatagram, SocketAddr)>,
}

impl ServiceManager {
    /// The one that the environment names.
    pub(super) fn of_environment() -> Self {
        let Some(path) = env::var("NOTIFY_SOCKET").ok().filter(|path| !path.is_empty()) else {
            return Self::default();
        };
        let address = match path.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name),
            None => SocketAddr::from_pathname(&path),
        };
        match address.and_then(|address| Ok((UnixDatagram::unbound()?, address))) {
            Ok(socket) => Self { socket: Some(socket) },
            Err(error) => {
                tracing::warn!(%error, "the service manager at {path} is not told anything");
                Self::default()
            }
        }
    }

    /// Requests are answered from now on, by this process.
    pub(super) fn ready(&self, status: &str) {
        self.tell(&format!("MAINPID={}\nREADY=1\nSTATUS={status}", std::process::id()));
    }

    /// Settings are read. [`Self::ready`] says that it is done.
    pub(super) fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let now = u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000
            + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000;
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={now}"));
    }

    /// The process is about to end.
    pub(super) fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=finishing what is under way");
    }

    /// The process is alive.
    pub(super) fn alive(&self) {
        self.tell("WATCHDOG=1");
    }

    fn tell(&self, state: &str) {
        if let Some((socket, address)) = &self.socket
            && let Err(error) = socket.send_to_addr(state.as_bytes(), address)
        {
            tracing::warn!(%error, "the service manager could not be told");
        }
    }
}

/// How often the service manager wants to hear of this process, at least.
pub(super) fn watchdog() -> Option<Duration> {
    let number = |name| env::var(name).ok()?.parse::<u64>().ok();
    let is_ours = number("WATCHDOG_PID").is_none_or(|process| process == u64::from(std::process::id()));
    number("WATCHDOG_USEC").filter(|interval| is_ours && *interval > 0).map(Duration::from_micros)
}
