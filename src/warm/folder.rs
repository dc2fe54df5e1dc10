//! Files that are whole or not there: written beside their place and renamed, and believed only where their length and
//! their checksum are right.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use parking_lot::Mutex;
use rustix::fs::{Access, FlockOperation, access, flock};
use sha2::{Digest, Sha256};

/// What each file begins with: what it is, and the version of its format.
const MAGIC: &str = "kinto-sidecar warm 1";

/// A header is never longer.
const LONGEST_HEADER: usize = 128;

/// SECURITY: what is kept is for the process alone.
const PRIVATE_FILE: u32 = 0o600;
const PRIVATE_FOLDER: u32 = 0o700;

/// A folder that one process at a time writes to.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    /// Held for as long as the process may write.
    lock: Mutex<Option<File>>,
}

/// Why a file is not believed.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotKept {
    #[error("there is no {0}")]
    Absent(String),
    #[error("{0}: {1}")]
    Io(String, io::Error),
    #[error("{0} is not of this version's format")]
    Foreign(String),
    #[error("{0} is not what was written")]
    Damaged(String),
    #[error("{0} is larger than may be kept")]
    TooLarge(String),
}

impl Folder {
    /// Nothing is looked at yet.
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, lock: Mutex::default() }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the folder where it is not there, and claims it. `false` where another process has it.
    pub(super) fn claim(&self) -> io::Result<bool> {
        let mut lock = self.lock.lock();
        if lock.is_some() {
            return Ok(true);
        }
        DirBuilder::new().recursive(true).mode(PRIVATE_FOLDER).create(&self.path)?;
        let file = open_private(&self.path.join("lock"))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => *lock = Some(file),
            Err(error) if io::Error::from(error).kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        Ok(true)
    }

    /// Whether files could be written here, as far as can be seen without one. Nothing is made.
    pub(super) fn can_be_written(&self) -> io::Result<()> {
        let is_there = |path: &&Path| path.symlink_metadata().is_ok();
        let place = self.path.ancestors().find(is_there).unwrap_or(Path::new("."));
        if !fs::metadata(place)?.is_dir() {
            return Err(ErrorKind::NotADirectory.into());
        }
        Ok(access(place, Access::WRITE_OK | Access::EXEC_OK)?)
    }

    /// Reads a file of at most so many bytes.
    pub(super) fn read(&self, name: &str, most: u64) -> Result<Bytes, NotKept> {
        let failed = |error: io::Error| match error.kind() {
            ErrorKind::NotFound => NotKept::Absent(name.to_owned()),
            _ => NotKept::Io(name.to_owned(), error),
        };
        let file = File::open(self.path.join(name)).map_err(failed)?;
        if file.metadata().map_err(failed)?.len() > most {
            return Err(NotKept::TooLarge(name.to_owned()));
        }
        let mut all = Vec::new();
        // It may grow while it is read.
        file.take(most).read_to_end(&mut all).map_err(failed)?;
        let foreign = || NotKept::Foreign(name.to_owned());
        let end = all.iter().take(LONGEST_HEADER).position(|byte| *byte == b'\n').ok_or_else(foreign)?;
        let all = Bytes::from(all);
        let (header, body) = (all.slice(..end), all.slice(end + 1..));
        let header = std::str::from_utf8(&header).ok().and_then(|header| header.strip_prefix(MAGIC));
        if header.ok_or_else(foreign)? != rest_of_header(body.len() as u64, &sum(&[&body])) {
            return Err(NotKept::Damaged(name.to_owned()));
        }
        Ok(body)
    }

    /// Writes a file that is made of these parts; how many bytes it takes.
    pub(super) fn write(&self, name: &str, parts: &[&[u8]]) -> io::Result<u64> {
        let beside = self.path.join(format!("{name}.new"));
        let written = write_beside(&beside, parts).and_then(|bytes| {
            fs::rename(&beside, self.path.join(name))?;
            Ok(bytes)
        });
        if written.is_err() {
            let _ = fs::remove_file(&beside);
        }
        written
    }

    /// Removes the files whose names are those of contents, but these.
    pub(super) fn keep_only(&self, is_kept: impl Fn(&str) -> bool) -> io::Result<()> {
        for entry in fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            let Some(name) = name.to_str() else { continue };
            let is_ours = is_content(name.strip_suffix(".new").unwrap_or(name));
            if is_ours && !is_kept(name) {
                let _ = fs::remove_file(self.path.join(name));
            }
        }
        Ok(())
    }
}

fn write_beside(beside: &Path, parts: &[&[u8]]) -> io::Result<u64> {
    let length = parts.iter().map(|part| part.len() as u64).sum();
    let header = format!("{MAGIC}{}\n", rest_of_header(length, &sum(parts)));
    // What a process left behind that came to its end.
    let _ = fs::remove_file(beside);
    let mut file = open_private(beside)?;
    file.write_all(header.as_bytes())?;
    for part in parts {
        file.write_all(part)?;
    }
    Ok(length + header.len() as u64)
}

/// The name of a file with this content.
pub(super) fn content_name(parts: &[&[u8]]) -> String {
    sum(parts).chars().take(NAME).collect()
}

/// How many letters the name of a content has.
const NAME: usize = 40;

/// Whether this is the name of a content.
pub(super) fn is_content(name: &str) -> bool {
    name.len() == NAME && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn rest_of_header(length: u64, sum: &str) -> String {
    format!(" {length} {sum}")
}

fn sum(parts: &[&[u8]]) -> String {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update(part);
    }
    format!("{:x}", digest.finalize())
}

fn open_private(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).truncate(false).write(true).mode(PRIVATE_FILE).open(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const MOST: u64 = 1000;

    fn folder() -> (tempfile::TempDir, Folder) {
        let directory = tempfile::tempdir().unwrap();
        let folder = Folder::new(directory.path().join("a/b"));
        assert!(folder.claim().unwrap());
        (directory, folder)
    }

    #[test]
    fn a_file_is_read_as_it_was_written_and_by_its_owner_alone() {
        let (_directory, folder) = folder();
        assert!(matches!(folder.read("x", MOST), Err(NotKept::Absent(_))));
        for parts in [&[&b"one"[..], b"\n", b"two"][..], &[b"three"], &[]] {
            folder.write("x", parts).unwrap();
            assert_eq!(folder.read("x", MOST).unwrap(), parts.concat());
        }
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&folder.path.join("x")), 0o600);
        assert_eq!(mode(&folder.path), 0o700);
    }

    #[test]
    fn what_is_not_as_it_was_written_is_not_believed() {
        let (_directory, folder) = folder();
        folder.write("x", &[b"some content"]).unwrap();
        let path = folder.path.join("x");
        let good = fs::read(&path).unwrap();
        for length in 0..good.len() {
            fs::write(&path, &good[..length]).unwrap();
            assert!(folder.read("x", MOST).is_err(), "{length}");
        }
        for place in 0..good.len() {
            let mut bad = good.clone();
            bad[place] ^= 1;
            fs::write(&path, &bad).unwrap();
            assert!(folder.read("x", MOST).is_err(), "{place}");
        }
        fs::write(&path, [&good[..], b"more"].concat()).unwrap();
        assert!(matches!(folder.read("x", MOST), Err(NotKept::Damaged(_))));
        let newer = String::from_utf8(good.clone()).unwrap().replace("warm 1 ", "warm 2 ");
        fs::write(&path, newer).unwrap();
        assert!(matches!(folder.read("x", MOST), Err(NotKept::Foreign(_))));
        fs::write(&path, &good).unwrap();
        assert!(matches!(folder.read("x", 20), Err(NotKept::TooLarge(_))));
        assert!(folder.read("x", MOST).is_ok());
    }

    #[test]
    fn one_process_at_a_time_has_a_folder() {
        let (_directory, folder) = folder();
        let other = Folder::new(folder.path.clone());
        assert!(!other.claim().unwrap());
        assert!(folder.claim().unwrap());
        drop(folder);
        assert!(other.claim().unwrap());
    }

    #[test]
    fn only_contents_are_removed() {
        let (_directory, folder) = folder();
        let (one, two) = (content_name(&[b"1"]), content_name(&[b"2"]));
        for name in [&one, &two, "index", "somebody's"] {
            folder.write(name, &[]).unwrap();
        }
        fs::write(folder.path.join(format!("{one}.new")), "").unwrap();
        folder.keep_only(|name| *name == two).unwrap();
        let mut left: Vec<_> =
            fs::read_dir(&folder.path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        let mut expected = [&*two, "index", "lock", "somebody's"];
        expected.sort_unstable();
        assert_eq!(left, expected);
    }
}
