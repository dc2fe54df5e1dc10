//! Listening sockets that somebody else opened: a service manager (`LISTEN_FDS`), or the process before this one.

use std::env;
use std::io;
use std::os::fd::OwnedFd;

use listenfd::ListenFd;

use crate::server::{Listener, Sockets};

/// The name of sockets that are for the admin listener (`FileDescriptorName=`); all others are for clients.
const ADMIN: &str = "admin";

/// Sockets, by what they are for.
#[derive(Debug, Default)]
pub(super) struct Given {
    /// For clients.
    pub(super) clients: Vec<Listener>,
    /// For operators.
    pub(super) admin: Vec<Listener>,
}

impl Given {
    /// Those of the service manager.
    pub(super) fn by_environment() -> io::Result<Self> {
        let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':');
        let mut sockets = ListenFd::from_env();
        let mut given = Self::default();
        for number in 0..sockets.len() {
            let socket = match sockets.take_tcp_listener(number) {
                Ok(socket) => socket.map(OwnedFd::from),
                Err(_) => sockets.take_unix_listener(number)?.map(OwnedFd::from),
            };
            let is_admin = names.next() == Some(ADMIN);
            if let Some(socket) = socket {
                given.take(socket, is_admin)?;
            }
        }
        Ok(given)
    }

    /// Other handles on the sockets of a running server.
    pub(super) fn of(clients: &Sockets, admin: Option<&Sockets>) -> io::Result<Self> {
        let clone = |sockets: &Sockets| sockets.listeners().iter().map(Listener::try_clone).collect();
        Ok(Self { clients: clone(clients)?, admin: admin.map_or_else(|| Ok(Vec::new()), clone)? })
    }

    /// Adds one.
    pub(super) fn take(&mut self, socket: OwnedFd, is_admin: bool) -> io::Result<()> {
        let listener = Listener::given(socket)?;
        if is_admin { &mut self.admin } else { &mut self.clients }.push(listener);
        Ok(())
    }
}
