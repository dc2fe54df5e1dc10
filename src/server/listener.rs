//! Opens the sockets that clients connect to.
//!
//! For TCP each thread gets a listener of its own on one port (`SO_REUSEPORT`), and the kernel spreads connections over
//! them; a `unix:` socket has one listener, whose connections are handed round.

use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use socket2::{Domain, Protocol, Socket, Type};

use crate::settings::ListenAddr;

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 4_096;
/// With more room in the socket, a large answer takes fewer turns between the server and its client.
const SEND_BUFFER: usize = 256 << 10;

/// Open sockets.
#[derive(Debug)]
pub(crate) enum Listeners {
    /// One for each thread, all on this address.
    Tcp(SocketAddr, Vec<TcpListener>),
    /// One for all.
    Unix(PathBuf, UnixListener),
}

impl Listeners {
    /// Opens the sockets for so many threads.
    pub(crate) fn open(address: &ListenAddr, threads: usize) -> io::Result<Self> {
        match address {
            ListenAddr::Tcp(address) => {
                let mut refused = io::Error::from(io::ErrorKind::AddrNotAvailable);
                // A name that cannot be looked up may be there later, like an address.
                let addresses = address
                    .to_socket_addrs()
                    .map_err(|error| io::Error::new(io::ErrorKind::AddrNotAvailable, error))?;
                for address in addresses {
                    match open_tcp(address, threads) {
                        Ok(listeners) => return Ok(listeners),
                        Err(error) => refused = error,
                    }
                }
                Err(refused)
            }
            ListenAddr::Unix(path) => {
                remove_stale(path)?;
                let listener = UnixListener::bind(path)?;
                listener.set_nonblocking(true)?;
                Ok(Self::Unix(path.clone(), listener))
            }
        }
    }

    /// What to tell the operator.
    pub(crate) fn describe(&self, is_tls: bool) -> String {
        match self {
            Self::Tcp(address, _) => format!("{}://{address}", if is_tls { "https" } else { "http" }),
            Self::Unix(path, _) => format!("unix:{}", path.display()),
        }
    }
}

fn open_tcp(address: SocketAddr, threads: usize) -> io::Result<Listeners> {
    // The first tells whether the port is another process's, and which one port 0 stands for.
    let first = bind(address, false)?;
    let taken = first.local_addr()?;
    drop(first);
    let listeners = (0..threads.max(1)).map(|_| bind(taken, true)).collect::<io::Result<Vec<_>>>()?;
    Ok(Listeners::Tcp(taken, listeners))
}

fn bind(address: SocketAddr, is_shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(is_shared)?;
    socket.set_nonblocking(true)?;
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.set_tcp_nodelay(true)?;
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

/// A socket file that a process left behind is in the way of the next one; anything else there is not ours to remove.
fn remove_stale(path: &Path) -> io::Result<()> {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    if is_socket && std::os::unix::net::UnixStream::connect(path).is_err() {
        std::fs::remove_file(path)?;
    }
    Ok(())
}
