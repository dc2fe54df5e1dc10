//! The files of an SQLite journal: whether they are still where the next process will look for them, and whether there is
//! room for what has to be written.
//!
//! SQLite goes on with a file that was removed under it: what it writes is gone with the process. So before anything is
//! written, and again before anybody is told that it is, the files have to be the same that were opened.
//!
//! A write that has gone upstream must not fail for want of room. What is committed goes into the write-ahead log first,
//! so room is allocated behind its end before a write may go.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use sqlx::Executor;

use super::engine::{Engine, Writing};
use super::file::{MAGIC, beside};

/// The part of a database's head that says how long it is.
const HEAD: usize = 32;
/// Room that is kept beside that of the writes under way, in bytes.
const ROOM: u64 = 1 << 20;
/// Room is allocated in pieces of this size, in bytes.
const PIECE: u64 = 1 << 20;
/// Room for the index of the log, which grows by a fraction of what the log does.
const INDEX_ROOM: u64 = 256 << 10;

/// See the module.
pub(super) struct Place {
    journal: Seen,
    log: Seen,
    index: Seen,
    /// How far room is allocated for the log.
    allocated: u64,
    can_allocate: bool,
    /// Keeps the log open: the last connection that closes removes it.
    anchor: Writing,
    is_saved: bool,
}

/// A file as it was opened. It is kept open, as closing it would take SQLite's locks off it.
struct Seen {
    path: PathBuf,
    file: File,
    length: u64,
}

// === impl Place ===

impl Place {
    /// The files of the journal at `path`, which is open.
    pub(super) async fn of(path: &Path, engine: &Engine) -> sqlx::Result<Self> {
        let path = std::path::absolute(path)?;
        let mut anchor = engine.writing().await?;
        anchor.connection().execute("SELECT count(*) FROM sidecar_meta").await?;
        // Where SQLite has them, which follows links.
        let real = std::fs::canonicalize(&path)?;
        let (log, index) = (Seen::open(beside(&real, "-wal"))?, Seen::open(beside(&real, "-shm"))?);
        let journal = Seen::open(path)?;
        Ok(Self { journal, log, index, allocated: 0, can_allocate: true, anchor, is_saved: false })
    }

    /// Says what is wrong with the files, if anything is.
    pub(super) async fn check(&mut self) -> Result<(), String> {
        let Some(fault) = self.fault() else { return Ok(()) };
        if !std::mem::replace(&mut self.is_saved, true) {
            // What is in a log that was removed would go with the process.
            let saved = self.anchor.connection().execute("PRAGMA wal_checkpoint(TRUNCATE)").await;
            if let Err(error) = saved {
                tracing::error!(%error, "the journal's log could not be written into the journal");
            }
        }
        Err(format!(
            "{fault} under the running process, and nothing is written until the same file is back; to go on with \
             what is there now, restart the sidecar"
        ))
    }

    fn fault(&mut self) -> Option<String> {
        let shown = self.journal.path.display().to_string();
        let fault = |error: io::Error, path: &Path| match error.kind() {
            io::ErrorKind::NotFound => format!("the journal {shown}: {} was removed", path.display()),
            io::ErrorKind::AlreadyExists => format!("the journal {shown}: {} was replaced", path.display()),
            _ => format!("the journal {shown}: {} cannot be seen ({error})", path.display()),
        };
        for seen in [&self.journal, &self.log, &self.index] {
            if let Err(error) = seen.look() {
                return Some(fault(error, &seen.path));
            }
        }
        let length = self.journal.file.metadata().map_or(0, |metadata| metadata.len());
        let mut head = [0; HEAD];
        let is_read = self.journal.file.read_exact_at(&mut head, 0).is_ok();
        // Space that is given back makes it shorter, and its head says so.
        let is_cut = length < self.journal.length && length < told_length(&head);
        if is_cut || !is_read || !head.starts_with(MAGIC) {
            return Some(format!("the journal {shown} was cut short or written over"));
        }
        self.journal.length = length;
        None
    }

    /// Sees to it that there is room for this many bytes.
    pub(super) fn make_room(&mut self, bytes: u64) -> io::Result<()> {
        let end = self.log.file.metadata()?.len();
        if end < self.log.length {
            // It was cut by somebody who had all of it written into the journal.
            self.allocated = 0;
        }
        self.log.length = end;
        let needed = end.saturating_add(bytes).saturating_add(ROOM);
        if needed <= self.allocated || !self.can_allocate {
            return Ok(());
        }
        let until = needed.div_ceil(PIECE).saturating_mul(PIECE);
        let allocated = allocate(&self.log.file, end, until).and_then(|()| {
            let end = self.index.file.metadata()?.len();
            allocate(&self.index.file, end, end.saturating_add(INDEX_ROOM))
        });
        match allocated {
            Ok(()) => self.allocated = until,
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                tracing::warn!("no room can be kept for the journal on this file system");
                self.can_allocate = false;
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

// === impl Seen ===

impl Seen {
    fn open(path: PathBuf) -> io::Result<Self> {
        let file = File::options().read(true).write(true).open(&path)?;
        let length = file.metadata()?.len();
        Ok(Self { path, file, length })
    }

    /// Looks whether the file is where it was.
    fn look(&self) -> io::Result<()> {
        let id = |metadata: &Metadata| (metadata.dev(), metadata.ino());
        let is_same = id(&std::fs::metadata(&self.path)?) == id(&self.file.metadata()?);
        if is_same { Ok(()) } else { Err(io::ErrorKind::AlreadyExists.into()) }
    }
}

/// How long a database is by its head: the size of a page, and their number.
fn told_length(head: &[u8; HEAD]) -> u64 {
    let [.., size_high, size_low, _, _, _, _, _, _, _, _, _, _, a, b, c, d] = *head;
    let size = match u16::from_be_bytes([size_high, size_low]) {
        1 => 65_536,
        size => u64::from(size),
    };
    size.saturating_mul(u32::from_be_bytes([a, b, c, d]).into())
}

/// Allocates blocks of a file behind its end, which stays where it is.
#[cfg(target_os = "linux")]
fn allocate(file: &File, from: u64, until: u64) -> io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    Ok(fallocate(file, FallocateFlags::KEEP_SIZE, from, until.saturating_sub(from))?)
}

#[cfg(not(target_os = "linux"))]
fn allocate(_: &File, _: u64, _: u64) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
