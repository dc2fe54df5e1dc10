//! Files that nobody else may read.

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// SECURITY: what is copied from a journal is as private as the journal.
const PRIVATE: u32 = 0o600;

/// Makes a file that was not there, with this mode whatever the umask is.
pub(super) fn create(file: &Path) -> io::Result<File> {
    let created = File::options().create_new(true).write(true).mode(PRIVATE).open(file)?;
    created.set_permissions(Permissions::from_mode(PRIVATE))?;
    Ok(created)
}
