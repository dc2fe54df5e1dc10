//! `kinto-sidecar history export` and `import`: the journal as newline-delimited JSON, to and from a file or a pipe.
//!
//! An import can be repeated and takes up where it was broken off: an entry is never there twice.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;

use super::complain;
use crate::cli::Transfer;
use crate::journal::{Imported, Journal, Line};
use crate::settings::Settings;

/// Lines that are added at once.
const TOGETHER: usize = 1000;
/// Bytes of lines that are added at once; one line may be longer.
const TOGETHER_BYTES: usize = 4 << 20;
/// After how many lines a terminal is told how far it is.
const TOLD_EVERY: usize = 1000;

/// Moves the journal.
pub fn run(settings: &Settings, transfer: &Transfer) -> io::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match runtime.block_on(self::transfer(settings, transfer)) {
        Ok(done) => complain(&done),
        Err(error) => {
            complain(&error);
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Does it; gives what is said in the end.
async fn transfer(settings: &Settings, transfer: &Transfer) -> io::Result<String> {
    let journal =
        Journal::open(&settings.journal, &settings.history, settings.kinto.explicit_permissions).await;
    let journal = journal.map_err(io::Error::other)?;
    match transfer {
        Transfer::Export { bucket, file } => export(&journal, bucket.clone(), file.as_deref()).await,
        Transfer::Import { file } => import(&journal, file.as_deref()).await,
    }
}

async fn export(journal: &Journal, bucket: Option<String>, file: Option<&Path>) -> io::Result<String> {
    let mut output: Box<dyn Write + Send> = match file {
        // An export is not written over anything, and is as private as the journal.
        Some(file) => {
            let created = File::options().create_new(true).write(true).mode(0o600).open(file);
            Box::new(created.map_err(|error| named(file, &error))?)
        }
        None => Box::new(io::stdout()),
    };
    let mut output = BufWriter::new(&mut output);
    let mut export = journal.export(bucket);
    let mut progress = Progress::new("exported");
    while let Some(lines) = export.next().await.map_err(io::Error::other)? {
        for line in &lines {
            writeln!(output, "{line}")?;
        }
        progress.add(lines.len());
    }
    output.flush()?;
    drop(output);
    if let Some(file) = file {
        File::open(file)?.sync_all()?;
    }
    Ok(format!("{} lines were exported", progress.end()))
}

async fn import(journal: &Journal, file: Option<&Path>) -> io::Result<String> {
    let mut input: Box<dyn BufRead + Send> = match file {
        Some(file) => Box::new(BufReader::new(File::open(file).map_err(|error| named(file, &error))?)),
        None => Box::new(BufReader::new(io::stdin())),
    };
    let mut progress = Progress::new("imported");
    let mut imported = Imported::default();
    let (mut lines, mut bytes, mut number) = (Vec::new(), 0, 0);
    let mut text = String::new();
    loop {
        text.clear();
        let length = input.read_line(&mut text)?;
        if length > 0 {
            number += 1;
            if !text.trim().is_empty() {
                let refused = |reason| {
                    io::Error::other(format!(
                        "line {number} cannot be imported: {reason}; what is before it was"
                    ))
                };
                match Line::parse(&text).map_err(refused) {
                    Ok(line) => lines.push(line),
                    Err(error) => {
                        journal.import(lines).await.map_err(io::Error::other)?;
                        return Err(error);
                    }
                }
                bytes += length;
            }
        }
        if lines.len() >= TOGETHER || bytes >= TOGETHER_BYTES || length == 0 {
            progress.add(lines.len());
            let part = journal.import(std::mem::take(&mut lines)).await.map_err(io::Error::other)?;
            imported.added += part.added;
            imported.known += part.known;
            bytes = 0;
        }
        if length == 0 {
            progress.end();
            let Imported { added, known } = imported;
            return Ok(format!("{added} entries were imported, {known} were there already"));
        }
    }
}

fn named(file: &Path, error: &io::Error) -> io::Error {
    io::Error::other(format!("{}: {error}", file.display()))
}

/// How far it is, for somebody at a terminal.
struct Progress {
    done: &'static str,
    lines: usize,
    told: usize,
    is_shown: bool,
}

impl Progress {
    fn new(done: &'static str) -> Self {
        Self { done, lines: 0, told: 0, is_shown: io::stderr().is_terminal() }
    }

    fn add(&mut self, lines: usize) {
        self.lines += lines;
        if self.is_shown && self.lines - self.told >= TOLD_EVERY {
            self.told = self.lines;
            // A terminal that is gone is no reason to stop.
            let _ = write!(io::stderr(), "\r{} lines {}", self.lines, self.done);
        }
    }

    fn end(&self) -> usize {
        if self.is_shown {
            let _ = write!(io::stderr(), "\r\u{1b}[K");
        }
        self.lines
    }
}
