//! The file of an SQLite journal before it is opened: whether it can be one, whose it is, and who may read it.

use std::fs::{File, Permissions, TryLockError};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::time::{Instant, sleep};

use super::JournalError;
use crate::settings::JournalUrl;

/// How long a predecessor in the same process or one that is being killed may still hold the file.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// SECURITY: what is in a journal is nobody's business but that of the user who runs the sidecar.
const PRIVATE: u32 = 0o600;

/// What a database of SQLite begins with.
pub(super) const MAGIC: &[u8] = b"SQLite format 3\0";

/// Sees whether there is a directory for a journal.
pub(super) fn has_directory(path: &Path) -> Result<(), JournalError> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if parent.is_dir() {
        return Ok(());
    }
    let (shown, parent) = (path.display(), parent.display());
    let text = format!("the journal {shown} cannot be made: there is no directory {parent}");
    Err(JournalError::Unusable(text.into()))
}

/// Locks the file beside a journal that says that a process uses it.
pub(super) async fn lock(path: &Path) -> Result<File, JournalError> {
    has_directory(path)?;
    let shown = path.display();
    let refuse = |text: String| JournalError::Unusable(text.into());
    let name = beside(path, ".lock");
    let file = File::options().create(true).truncate(false).write(true).mode(PRIVATE).open(&name);
    let file = file.map_err(|error| refuse(format!("the journal {shown} cannot be locked: {error}")))?;
    let patience = Instant::now() + LOCK_PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < patience => {
                sleep(Duration::from_millis(20)).await;
            }
            Err(TryLockError::WouldBlock) => {
                let text = format!("the journal {shown} is in use by another process");
                return Err(JournalError::InUse(text.into()));
            }
            Err(TryLockError::Error(error)) => {
                return Err(refuse(format!("the journal {shown} cannot be locked: {error}")));
            }
        }
    }
}

/// Refuses a file that is no database, which SQLite may take for an empty one, or that cannot be written.
pub(super) fn check(path: &Path) -> Result<(), JournalError> {
    let refuse =
        |text: String| JournalError::Unusable(format!("the journal {} {text}", path.display()).into());
    let mut head = Vec::new();
    match File::options().read(true).write(true).open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(refuse(format!("cannot be used: {error}"))),
        Ok(file) => file.take(16).read_to_end(&mut head),
    }
    .map_err(|error| refuse(format!("cannot be read: {error}")))?;
    if head.is_empty() || head == MAGIC {
        return Ok(());
    }
    Err(refuse("is a file that is not a database; it was left as it is".to_owned()))
}

/// Makes the file, where there is none. SQLite gives the files beside it the mode that it has.
pub(super) fn create(path: &Path) -> Result<(), JournalError> {
    let created = File::options().create(true).append(true).mode(PRIVATE).open(path);
    let refuse = |error| {
        JournalError::Unusable(format!("the journal {} cannot be made: {error}", path.display()).into())
    };
    created.map(drop).map_err(refuse)
}

/// Sees to it that nobody else reads the journal, also one that was made with another mode.
pub(super) fn keep_private(url: &JournalUrl) {
    let JournalUrl::Sqlite(path) = url else { return };
    for file in ["", "-wal", "-shm", ".lock"].map(|suffix| beside(path, suffix)) {
        let mode = std::fs::metadata(&file).map(|metadata| metadata.permissions().mode());
        if mode.is_ok_and(|mode| mode & 0o777 != PRIVATE)
            && let Err(error) = std::fs::set_permissions(&file, Permissions::from_mode(PRIVATE))
        {
            // It is another user's, who lets this one write it.
            tracing::warn!(%error, "others may be able to read {}", file.display());
        }
    }
}

/// The name of a file beside the journal.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// A path in an address; encoded in full, so that nothing in it is taken for a part of the address.
pub(super) fn encoded(path: &Path) -> Result<String, JournalError> {
    let path = path.to_str().ok_or_else(|| {
        JournalError::Unusable(format!("the journal's path {} is not UTF-8", path.display()).into())
    })?;
    Ok(utf8_percent_encode(path, NON_ALPHANUMERIC).to_string())
}
