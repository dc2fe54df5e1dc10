//! `history export`: the journal as newline-delimited JSON, to a file or a pipe.

use std::io::{self, BufWriter, Write};
use std::path::Path;

use super::private::create;
use super::progress::Progress;
use super::{Failure, failed};
use crate::journal::JournalView;

/// Writes it; gives what is said in the end.
pub(super) async fn run(
    journal: &JournalView,
    bucket: Option<String>,
    file: Option<&Path>,
) -> Result<String, Failure> {
    let failed = |error: io::Error| failed(file, &error);
    let created = file.map(create).transpose().map_err(failed)?;
    let output: Box<dyn Write> = match &created {
        Some(created) => Box::new(created),
        None => Box::new(io::stdout()),
    };
    let mut output = BufWriter::new(output);
    let mut export = journal.export(bucket);
    let mut progress = Progress::new("exported");
    while let Some(lines) = export.next().await? {
        for line in &lines {
            output.write_all(line.as_bytes()).and_then(|()| output.write_all(b"\n")).map_err(failed)?;
        }
        progress.add(lines.len());
    }
    output.flush().map_err(failed)?;
    drop(output);
    if let Some(created) = created {
        created.sync_all().map_err(failed)?;
    }
    Ok(format!("{} lines were exported", progress.end()))
}
