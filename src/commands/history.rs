//! `kinto-sidecar history …`: the journal in an operator's hands.

use std::io::{self, ErrorKind};
use std::path::Path;
use std::process::ExitCode;

use super::complain;
use crate::cli::{Past, Transfer};
use crate::journal::{Journal, JournalError, JournalView};
use crate::settings::{JournalUrl, Settings};

mod backup;
mod export;
mod import;
mod left_out;
mod past;
mod private;
mod progress;
mod upstream;
mod verify;

/// The command does not fit the settings.
const USAGE: u8 = 2;

/// Why nothing came of it.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// The journal cannot be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// What it is, and what to do.
    #[error("{0}")]
    Problem(String),
    /// Another command, or another setting, is wanted.
    #[error("{0}")]
    Usage(&'static str),
    /// Whoever read the output wants no more of it.
    #[error("the output was closed")]
    Closed,
}

/// Does what was asked for.
pub fn run(settings: &Settings, transfer: &Transfer) -> io::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let done = runtime.block_on(async {
        if settings.journal == JournalUrl::SqliteInMemory {
            return Err(Failure::Usage(
                "a journal in memory is seen by nobody but the process that has it: name another by sidecar.journal",
            ));
        }
        match transfer {
            Transfer::Export { bucket, file } => {
                export::run(&view(settings).await?, bucket.clone(), file.as_deref()).await
            }
            Transfer::Backup { file } => backup::run(settings, file).await,
            Transfer::Verify => verify::run(settings).await,
            Transfer::Compact => backup::compact(settings).await,
            Transfer::Import { file, is_new, is_upstream } => {
                if !is_new {
                    view(settings).await?;
                }
                let explicit_permissions = settings.kinto.explicit_permissions;
                let opening = Journal::open(&settings.journal, &settings.history, explicit_permissions);
                let journal = opening.await.map_err(|error| match error {
                    JournalError::InUse(text) => Failure::Problem(format!(
                        "{text}: stop it first; a journal in PostgreSQL alone takes imports while it is in use"
                    )),
                    error => error.into(),
                })?;
                if *is_upstream {
                    return upstream::run(settings, &journal).await;
                }
                import::run(&journal, file.as_deref()).await
            }
        }
    });
    // A thread that still reads from a terminal or a pipe is not waited for.
    runtime.shutdown_background();
    Ok(ended(done))
}

/// Asks a running sidecar what was done, or to undo it.
pub fn ask(settings: &Settings, past: &Past) -> io::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(ended(runtime.block_on(past::run(settings, past))))
}

/// Says what came of it.
fn ended(done: Result<String, Failure>) -> ExitCode {
    match done {
        Ok(done) => {
            complain(&done);
            ExitCode::SUCCESS
        }
        Err(Failure::Usage(text)) => {
            complain(&text);
            ExitCode::from(USAGE)
        }
        Err(Failure::Closed) => ExitCode::FAILURE,
        Err(failure) => {
            complain(&failure);
            ExitCode::FAILURE
        }
    }
}

/// The journal as it is; that there is none is an error here.
async fn view(settings: &Settings) -> Result<JournalView, Failure> {
    let view = JournalView::open(&settings.journal).await?;
    view.ok_or_else(|| {
        Failure::Problem(format!(
            "there is no journal at {:?}: name it by sidecar.journal, or have an import make it with --new",
            settings.journal
        ))
    })
}

/// What an error of writing the output or reading the input is; `file` is none for the standard streams.
fn failed(file: Option<&Path>, error: &io::Error) -> Failure {
    match file {
        None if error.kind() == ErrorKind::BrokenPipe => Failure::Closed,
        None => Failure::Problem(error.to_string()),
        Some(file) if error.kind() == ErrorKind::AlreadyExists => {
            let file = file.display();
            Failure::Problem(format!("{file} is there already: remove it, or name another file"))
        }
        Some(file) => Failure::Problem(format!("{}: {error}", file.display())),
    }
}
