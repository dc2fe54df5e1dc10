//! What the program does beside serving.

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use crate::log_stream;

pub mod check;
pub mod health;
pub mod history;
pub mod manual;

/// Tells the operator.
pub fn complain(error: &dyn Display) {
    log_stream::tell(format!("kinto-sidecar: {error}\n").as_bytes());
}

/// Writes a report to the standard output. Where nobody reads it any more, the exit code says so, and nothing else does.
fn report(text: &str) -> Result<(), ExitCode> {
    let mut output = io::stdout();
    let written = output.write_all(text.as_bytes()).and_then(|()| output.flush());
    written.map_err(|error| {
        if error.kind() != io::ErrorKind::BrokenPipe {
            complain(&error);
        }
        ExitCode::FAILURE
    })
}
