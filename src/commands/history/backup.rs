//! `history backup` and `history compact`: the file of a journal in SQLite.

use std::fs::File;
use std::io;
use std::path::Path;

use super::private::create;
use super::{Failure, view};
use crate::journal::{Compacted, Journal, JournalError};
use crate::settings::{JournalUrl, Settings};

/// Copies the journal, whether a sidecar uses it or not; gives what is said in the end.
pub(super) async fn run(settings: &Settings, file: &Path) -> Result<String, Failure> {
    if matches!(settings.journal, JournalUrl::Postgres(_)) {
        return Err(Failure::Usage(
            "a journal in PostgreSQL is backed up with its database: by pg_dump, which takes the tables sidecar_* while \
             sidecars use them (pg_dump --table='sidecar_*'), or by the server's own archive",
        ));
    }
    let failed = |error: io::Error| super::failed(Some(file), &error);
    if file.try_exists().map_err(failed)? {
        return Err(failed(io::ErrorKind::AlreadyExists.into()));
    }
    let journal = view(settings).await?;
    // What has the name is whole.
    let mut part = file.as_os_str().to_owned();
    part.push(".part");
    let part = Path::new(&part);
    let created = create(part).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => Failure::Problem(format!(
            "{} is there: another backup is under way, or one was broken off; remove it",
            part.display()
        )),
        _ => super::failed(Some(part), &error),
    })?;
    let copied = async {
        journal.back_up(part).await?;
        created.sync_all().map_err(failed)?;
        std::fs::rename(part, file).map_err(failed)?;
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
    };
    if let Err(failure) = copied.await {
        // It is said why there is none.
        let _ = std::fs::remove_file(part);
        return Err(failure);
    }
    let bytes = created.metadata().map_err(failed)?.len();
    Ok(format!("{bytes} bytes were written to {}", file.display()))
}

/// Makes the journal as small as it can be; gives what is said in the end.
pub(super) async fn compact(settings: &Settings) -> Result<String, Failure> {
    if matches!(settings.journal, JournalUrl::Postgres(_)) {
        return Err(Failure::Usage(
            "PostgreSQL uses the space of what was removed again by itself (autovacuum); VACUUM FULL of the tables sidecar_* \
             gives it back to the file system, while sidecars are stopped",
        ));
    }
    view(settings).await?;
    let Compacted { before, after } = Journal::compact(&settings.journal).await.map_err(|error| match error {
        JournalError::InUse(text) => Failure::Problem(format!(
            "{text}: a running sidecar gives space back by itself, in small steps; stop it to give back all at once"
        )),
        error => error.into(),
    })?;
    Ok(format!("the journal had {before} bytes, and has {after}"))
}
