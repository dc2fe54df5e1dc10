//! The sockets that clients connect to: opened here, or given by whoever had them before.
//!
//! For TCP each thread gets a listener of its own on one port (`SO_REUSEPORT`), and the kernel spreads connections over
//! them. Where there are fewer sockets than threads (of `unix:` there is one, and others may give one), several threads
//! accept from one queue.

use std::collections::BTreeSet;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener;
use std::path::Path;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::settings::ListenAddr;

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 4_096;
/// With more room in the socket, a large answer takes fewer turns between the server and its client.
const SEND_BUFFER: usize = 256 << 10;

/// A socket that connections come from.
#[derive(Debug)]
pub enum Listener {
    /// Of an address and a port.
    Tcp(TcpListener),
    /// Of a path.
    Unix(UnixListener),
}

/// Sockets of one address, or of several.
#[derive(Debug)]
pub struct Sockets(Vec<Listener>);

// === impl Listener ===

impl Listener {
    /// A socket that another process has opened, which has to be one that listens for streams.
    pub fn given(socket: OwnedFd) -> io::Result<Self> {
        let socket = Socket::from(socket);
        if socket.r#type()? != Type::STREAM || !socket.is_listener()? {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it is no socket that listens for streams",
            ));
        }
        if socket.local_addr()?.is_unix() {
            let listener = UnixListener::from(OwnedFd::from(socket));
            listener.set_nonblocking(true)?;
            return Ok(Self::Unix(listener));
        }
        prepare(&SockRef::from(&socket))?;
        Ok(Self::Tcp(socket.into()))
    }

    /// Another handle on the same socket: as long as there is one, its queue is kept.
    pub fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Tcp(listener) => listener.try_clone().map(Self::Tcp),
            Self::Unix(listener) => listener.try_clone().map(Self::Unix),
        }
    }

    /// Whether only this machine reaches it.
    pub(super) fn is_loopback(&self) -> bool {
        match self {
            Self::Tcp(listener) => {
                listener.local_addr().is_ok_and(|own| own.ip().to_canonical().is_loopback())
            }
            Self::Unix(_) => true,
        }
    }

    /// What to tell the operator: where clients can connect.
    fn name(&self, is_tls: bool) -> String {
        match self {
            Self::Tcp(listener) => match listener.local_addr() {
                Ok(address) => format!("{}://{address}", if is_tls { "https" } else { "http" }),
                Err(error) => error.to_string(),
            },
            Self::Unix(listener) => {
                let address = listener.local_addr().ok();
                let path = address.as_ref().and_then(|address| address.as_pathname());
                format!("unix:{}", path.unwrap_or(Path::new("")).display())
            }
        }
    }

    /// Whether a setting names this socket. A port 0 in it is any.
    fn is_at(&self, wanted: &ListenAddr) -> bool {
        match (self, wanted) {
            (Self::Tcp(listener), ListenAddr::Tcp(wanted)) => {
                let (Ok(own), Ok(wanted)) = (listener.local_addr(), wanted.to_socket_addrs()) else {
                    return false;
                };
                let is_own = |wanted: SocketAddr| {
                    wanted.ip() == own.ip() && (wanted.port() == own.port() || wanted.port() == 0)
                };
                { wanted }.any(is_own)
            }
            (Self::Unix(listener), ListenAddr::Unix(wanted)) => {
                let own = listener.local_addr();
                own.is_ok_and(|own| own.as_pathname() == Some(wanted))
            }
            _ => false,
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) => listener.as_fd(),
            Self::Unix(listener) => listener.as_fd(),
        }
    }
}

// === impl Sockets ===

impl Sockets {
    /// Opens sockets for so many threads.
    pub fn open(address: &ListenAddr, threads: usize) -> io::Result<Self> {
        let opened = match address {
            ListenAddr::Tcp(address) => open_named(address, threads),
            ListenAddr::Unix(path) => open_unix(path).map(|listener| vec![listener]),
        };
        opened
            .map(Self)
            .map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {address}: {error}")))
    }

    /// Those that others have opened; `None` where there are none.
    pub fn given(listeners: Vec<Listener>) -> Option<Self> {
        (!listeners.is_empty()).then_some(Self(listeners))
    }

    /// Those of other sockets that a setting names.
    pub fn chosen(listeners: &mut Vec<Listener>, wanted: &ListenAddr) -> Option<Self> {
        Self::given(listeners.extract_if(.., |listener| listener.is_at(wanted)).collect())
    }

    /// Other handles on the same sockets.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.iter().map(Listener::try_clone).collect::<io::Result<_>>().map(Self)
    }

    /// The sockets.
    pub fn listeners(&self) -> &[Listener] {
        &self.0
    }

    /// What to tell the operator, once for each address.
    pub(super) fn names(&self, is_tls: bool) -> String {
        let names: BTreeSet<String> = self.0.iter().map(|listener| listener.name(is_tls)).collect();
        names.into_iter().collect::<Vec<_>>().join(", ")
    }

    /// What each of so many threads accepts from. All have something, and nothing is left out.
    pub(super) fn spread(self, threads: usize) -> io::Result<Vec<Vec<Listener>>> {
        let number = self.0.len();
        let mut spread: Vec<Vec<Listener>> = (0..threads).map(|_| Vec::new()).collect();
        for turn in number..threads {
            if let (Some(socket), Some(own)) = (self.0.get(turn % number), spread.get_mut(turn)) {
                own.push(socket.try_clone()?);
            }
        }
        for (turn, socket) in self.0.into_iter().enumerate() {
            if let Some(own) = spread.get_mut(turn % threads) {
                own.push(socket);
            }
        }
        Ok(spread)
    }
}

/// The first address of this name that can be had.
fn open_named(name: &str, threads: usize) -> io::Result<Vec<Listener>> {
    let mut refused = io::Error::from(io::ErrorKind::AddrNotAvailable);
    // A name that cannot be looked up may be there later, like an address.
    let addresses =
        name.to_socket_addrs().map_err(|error| io::Error::new(io::ErrorKind::AddrNotAvailable, error))?;
    for address in addresses {
        match open_tcp(address, threads) {
            Ok(listeners) => return Ok(listeners),
            Err(error) => refused = error,
        }
    }
    Err(refused)
}

fn open_tcp(address: SocketAddr, threads: usize) -> io::Result<Vec<Listener>> {
    // The first tells whether the port is another process's, and which one port 0 stands for.
    let first = bind(address, false)?;
    let taken = first.local_addr()?;
    drop(first);
    (0..threads.max(1)).map(|_| bind(taken, true).map(Listener::Tcp)).collect()
}

fn bind(address: SocketAddr, is_shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(is_shared)?;
    prepare(&SockRef::from(&socket))?;
    if address.is_ipv6() {
        // `[::]` is every address, of both families.
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    if is_shared {
        socket.listen(BACKLOG)?;
    }
    Ok(socket.into())
}

/// Sets what connections get from the socket that they were accepted from.
fn prepare(socket: &Socket) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.set_tcp_nodelay(true)
}

fn open_unix(path: &Path) -> io::Result<Listener> {
    remove_stale(path)?;
    let listener = UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    Ok(Listener::Unix(listener))
}

/// A socket file that a process left behind is in the way of the next one; anything else there is not ours to remove.
fn remove_stale(path: &Path) -> io::Result<()> {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    if is_socket && std::os::unix::net::UnixStream::connect(path).is_err() {
        std::fs::remove_file(path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_socket_has_a_thread_and_every_thread_a_socket() {
        let any = ListenAddr::Tcp("127.0.0.1:0".to_owned());
        for (sockets, threads) in [(1, 1), (1, 3), (2, 2), (3, 2), (2, 5)] {
            let opened = Sockets::open(&any, sockets).unwrap();
            let spread = opened.spread(threads).unwrap();
            assert!(spread.len() == threads && spread.iter().all(|own| !own.is_empty()));
            assert_eq!(spread.iter().map(Vec::len).sum::<usize>(), sockets.max(threads));
        }
    }

    #[test]
    fn what_does_not_listen_is_no_listener() {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        assert!(Listener::given(socket.into()).is_err());
        let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(Listener::given(datagrams.into()).is_err());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let wanted = ListenAddr::Tcp(listener.local_addr().unwrap().to_string());
        assert!(Listener::given(listener.into()).unwrap().is_at(&wanted));
    }
}
