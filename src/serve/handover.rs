//! A new process takes over from the one that runs: it is given the listening sockets themselves, so that no connection is
//! refused and none that waits in a queue is lost.
//!
//! ```text
//! new process                              old process, at sidecar.handover
//!     connects ───────────────────────────►  still serves
//!     ◄─── version, the sockets, end of them
//!     accepts connections
//!     ready ──────────────────────────────►  accepts no more, finishes
//!     ◄─────────────────────────────── leaving
//!     holds writes                           lets go of the journal
//!     ◄────────────────────────────────── left
//!     opens the journal                      ends
//! ```
//!
//! A new process that fails before it says that it is ready changes nothing. It looks before whether it could use the
//! journal, which the old one lets go of later.
//!
//! Who has handed over hands over to nobody else: of several new processes one is first, and the next one, whose
//! connection ends unanswered, asks again and is answered by that one.

use std::fs::{DirBuilder, Permissions};
use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use tokio::sync::mpsc;

use super::given::Given;

/// What is spoken here. A process that hears another number goes on alone.
const VERSION: u8 = b'1';
const CLIENTS: u8 = b'c';
const ADMIN: u8 = b'a';
const END: u8 = b'.';
const READY: u8 = b'r';
const LEAVING: u8 = b'l';
const LEFT: u8 = b'g';

/// How long the other side may take to say what it has to.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a new process waits before it asks again.
const PAUSE: Duration = Duration::from_millis(20);
/// How long a new process may take to become ready.
const START: Duration = Duration::from_secs(60);
/// How long a process of an earlier version, which does not say when it has let go of the journal, may take for that.
const LONGEST_LEAVE: Duration = Duration::from_secs(30);
/// SECURITY: whoever connects is given the sockets.
const PRIVATE: u32 = 0o600;
/// The same for the folder in which the socket is made.
const PRIVATE_FOLDER: u32 = 0o700;

/// The process that this one takes over from.
#[derive(Debug)]
pub(super) struct Predecessor(UnixStream);

/// The same process once this one serves. `None` where it has ended by itself.
#[derive(Debug)]
pub(super) struct Leaving(Option<UnixStream>);

/// What is there for a successor.
#[derive(Debug)]
pub(super) struct Offer {
    given: Arc<Mutex<Option<Given>>>,
    taken: mpsc::Receiver<UnixStream>,
    /// Hears when this process has let go of the journal, or ends.
    successor: Option<UnixStream>,
}

// === impl Predecessor ===

impl Predecessor {
    /// Asks the process that listens at a path for its sockets. `None` where there is none that may give any.
    pub(super) fn ask(path: &Path) -> io::Result<Option<(Self, Given)>> {
        let until = Instant::now() + PATIENCE;
        loop {
            let stream = match UnixStream::connect(path) {
                Ok(stream) => stream,
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
                    return Ok(None);
                }
                Err(error) => return Err(error),
            };
            if let Err(error) = check(&stream) {
                tracing::warn!(%error, "takes over from nobody at {}", path.display());
                return Ok(None);
            }
            match Self::hear(stream) {
                Err(error) if is_gone(&error) && Instant::now() < until => std::thread::sleep(PAUSE),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let text =
                        "the process there says nothing: another one may be about to take over from it";
                    return Err(io::Error::new(ErrorKind::ResourceBusy, text));
                }
                heard => return heard.map(Some),
            }
        }
    }

    /// Hears what the process at the other end gives.
    fn hear(mut stream: UnixStream) -> io::Result<(Self, Given)> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut version = [0];
        stream.read_exact(&mut version)?;
        if version != [VERSION] {
            let text = "the process there hands over in a way that this one does not know";
            return Err(io::Error::new(ErrorKind::Unsupported, text));
        }
        let mut given = Given::default();
        loop {
            let (kind, socket) = receive(&stream)?;
            match (kind, socket) {
                (END, _) => return Ok((Self(stream), given)),
                (CLIENTS | ADMIN, Some(socket)) => given.take(socket, kind == ADMIN)?,
                _ => return Err(ErrorKind::InvalidData.into()),
            }
        }
    }

    /// This process serves now.
    pub(super) fn relieve(mut self) -> Leaving {
        if let Err(error) = self.0.write_all(&[READY]) {
            tracing::warn!(%error, "the process before this one has ended by itself");
            return Leaving(None);
        }
        Leaving(Some(self.0))
    }
}

// === impl Leaving ===

impl Leaving {
    /// Waits until the process before this one has let go of the journal, or has ended.
    pub(super) fn wait(self) {
        let Some(mut stream) = self.0 else { return };
        let mut said = [0];
        // Its end is heard of, however it comes, and how long it may take is its own to say.
        let heard = stream.set_read_timeout(None).and_then(|()| stream.read_exact(&mut said));
        if heard.is_ok() && said == [LEAVING] {
            let _ = stream.read(&mut said);
        } else {
            std::thread::sleep(LONGEST_LEAVE);
        }
    }
}

/// Whether whoever was asked has ended meanwhile, or has handed over to another process.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}

/// Whether the process at the other end is this user's, or root's.
///
/// SECURITY: whoever gives a socket can keep it, and read what its clients send. The folder may be one in which others make
/// sockets, too.
#[cfg(target_os = "linux")]
fn check(stream: &UnixStream) -> io::Result<()> {
    let there = rustix::net::sockopt::socket_peercred(stream)?.uid;
    if there.is_root() || there == rustix::process::geteuid() {
        return Ok(());
    }
    let text = format!("the process there is that of another user, {}", there.as_raw());
    Err(io::Error::new(ErrorKind::PermissionDenied, text))
}

/// The socket's mode has to do where the system does not say whose process it is.
#[cfg(not(target_os = "linux"))]
fn check(_: &UnixStream) -> io::Result<()> {
    Ok(())
}

fn receive(stream: &UnixStream) -> io::Result<(u8, Option<std::os::fd::OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut kind = [0];
    let received = recvmsg(stream, &mut [IoSliceMut::new(&mut kind)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    if received.bytes == 0 {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    let mut sockets = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(sockets) => Some(sockets),
        _ => None,
    });
    Ok((kind[0], sockets.next().and_then(|mut sockets| sockets.next())))
}

// === impl Offer ===

impl Offer {
    /// Listens at a path for whoever takes over these sockets.
    pub(super) fn open(path: &Path, given: Given) -> io::Result<Self> {
        let listener = listen(path)?;
        let given = Arc::new(Mutex::new(Some(given)));
        let (take, taken) = mpsc::channel(1);
        let offered = Arc::clone(&given);
        std::thread::Builder::new().name("handover".to_owned()).spawn(move || {
            for stream in listener.incoming() {
                let handed = stream.and_then(|stream| hand_over(stream, &offered));
                match handed {
                    // Whoever waits here is better off with that one.
                    Ok(successor) => return drop(take.blocking_send(successor)),
                    Err(error) => tracing::warn!(%error, "nobody took over, and this process goes on"),
                }
            }
        })?;
        Ok(Self { given, taken, successor: None })
    }

    /// Waits until somebody else accepts connections.
    pub(super) async fn taken(&mut self) {
        match self.taken.recv().await {
            Some(successor) => self.successor = Some(successor),
            None => std::future::pending().await,
        }
    }

    /// Says that the journal is let go of.
    pub(super) fn leave(&mut self) {
        if let Some(mut successor) = self.successor.take() {
            // One of an earlier version does not listen.
            let _ = successor.write_all(&[LEFT]);
        }
    }

    /// Closes the sockets here.
    pub(super) fn withdraw(&self) {
        drop(self.given.lock().take());
    }
}

/// Listens at a path in place of whoever does so far.
///
/// SECURITY: a socket is made with the mode that the umask leaves it, so it is made where nobody else comes by.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let mut beside = PathBuf::from(path).into_os_string();
    beside.push(format!(".{}", std::process::id()));
    let beside = PathBuf::from(beside);
    // A process of this number may have been killed there.
    let _ = std::fs::remove_dir_all(&beside);
    DirBuilder::new().mode(PRIVATE_FOLDER).create(&beside)?;
    let made = listen_in(&beside, path);
    let _ = std::fs::remove_dir_all(&beside);
    made
}

fn listen_in(folder: &Path, path: &Path) -> io::Result<UnixListener> {
    let made = folder.join("s");
    let listener = UnixListener::bind(&made)?;
    std::fs::set_permissions(&made, Permissions::from_mode(PRIVATE))?;
    std::fs::rename(&made, path)?;
    Ok(listener)
}

/// Gives the sockets, and waits until they are in use.
fn hand_over(mut stream: UnixStream, offered: &Mutex<Option<Given>>) -> io::Result<UnixStream> {
    check(&stream)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_read_timeout(Some(START))?;
    stream.write_all(&[VERSION])?;
    {
        let given = offered.lock();
        let given = given.as_ref().ok_or(ErrorKind::NotConnected)?;
        for (kind, listeners) in [(CLIENTS, &given.clients), (ADMIN, &given.admin)] {
            for listener in listeners {
                send(&stream, kind, listener)?;
            }
        }
    }
    stream.write_all(&[END])?;
    let mut said = [0];
    stream.read_exact(&mut said).map_err(|error| match error.kind() {
        ErrorKind::UnexpectedEof => {
            io::Error::new(error.kind(), "the other process ended before it was ready")
        }
        ErrorKind::WouldBlock => io::Error::new(error.kind(), "the other process is not ready in time"),
        _ => error,
    })?;
    if said != [READY] {
        return Err(ErrorKind::InvalidData.into());
    }
    // One of an earlier version does not listen.
    let _ = stream.write_all(&[LEAVING]);
    Ok(stream)
}

fn send(stream: &UnixStream, kind: u8, socket: &impl AsFd) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let sockets = [socket.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&sockets));
    sendmsg(stream, &[IoSlice::new(&[kind])], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[tokio::test]
    async fn a_connection_that_waits_in_the_queue_is_the_successors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("handover");
        assert!(Predecessor::ask(&path).unwrap().is_none());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut given = Given::default();
        given.take(listener.into(), false).unwrap();
        let mut offer = Offer::open(&path, given).unwrap();
        let _waits = TcpStream::connect(address).unwrap();

        // Somebody who asks and goes away changes nothing.
        drop(Predecessor::ask(&path).unwrap());
        let (predecessor, given) = Predecessor::ask(&path).unwrap().unwrap();
        let leaving = predecessor.relieve();
        offer.taken().await;
        offer.withdraw();
        let waits = std::thread::spawn(|| leaving.wait());
        assert!(!waits.is_finished());
        offer.leave();
        waits.join().unwrap();
        let [crate::server::Listener::Tcp(listener)] = &given.clients[..] else { panic!("{given:?}") };
        listener.set_nonblocking(false).unwrap();
        listener.accept().unwrap();
    }

    #[tokio::test]
    async fn of_two_that_take_over_at_once_the_second_takes_over_from_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("handover");
        let mut old = Offer::open(&path, Given::default()).unwrap();
        let (predecessor, given) = Predecessor::ask(&path).unwrap().unwrap();
        // It waits for the old one, which is waiting for the first.
        let second = UnixStream::connect(&path).unwrap();
        let mut first = Offer::open(&path, given).unwrap();
        predecessor.relieve();
        old.taken().await;
        assert!(is_gone(&Predecessor::hear(second).unwrap_err()));
        let (predecessor, _) = Predecessor::ask(&path).unwrap().unwrap();
        predecessor.relieve();
        first.taken().await;
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn nothing_is_taken_from_the_process_of_another_user() {
        use rustix::fs::{Gid, Uid, chown};
        use rustix::process::geteuid;
        use rustix::thread::set_thread_res_uid;

        if !geteuid().is_root() {
            // Only root can be somebody else.
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let other = Uid::from_raw(65_534);
        chown(folder.path(), Some(other), None::<Gid>).unwrap();
        let path = folder.path().join("handover");
        let (there, is_there) = std::sync::mpsc::channel();
        let listens = path.clone();
        // On Linux a thread has a user of its own.
        std::thread::spawn(move || {
            set_thread_res_uid(other, other, other).unwrap();
            let listener = UnixListener::bind(listens).unwrap();
            there.send(()).unwrap();
            for stream in listener.incoming() {
                let _ = stream.unwrap().write_all(&[VERSION, END]);
            }
        });
        is_there.recv().unwrap();
        assert!(Predecessor::ask(&path).unwrap().is_none());
        // The real one takes its place.
        let _offer = Offer::open(&path, Given::default()).unwrap();
        assert!(Predecessor::ask(&path).unwrap().is_some());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, PRIVATE);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
