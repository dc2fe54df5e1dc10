//! How far it is, for somebody at a terminal.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use tokio::time::Instant;

/// How often it is told.
const TOLD_EVERY: Duration = Duration::from_millis(200);

/// See the module.
pub(super) struct Progress {
    done: &'static str,
    lines: u64,
    told_at: Option<Instant>,
    is_shown: bool,
}

impl Progress {
    /// Nothing is done yet; `done` is a participle.
    pub(super) fn new(done: &'static str) -> Self {
        Self { done, lines: 0, told_at: None, is_shown: io::stderr().is_terminal() }
    }

    /// More lines are done.
    pub(super) fn add(&mut self, lines: usize) {
        self.lines += lines as u64;
        if self.is_shown && self.told_at.is_none_or(|told_at| told_at.elapsed() >= TOLD_EVERY) {
            self.told_at = Some(Instant::now());
            // A terminal that is gone is no reason to stop.
            let _ = write!(io::stderr(), "\r{} lines {}", self.lines, self.done);
        }
    }

    /// All is done: how many lines it was.
    pub(super) fn end(&self) -> u64 {
        if self.is_shown {
            let _ = write!(io::stderr(), "\r\u{1b}[K");
        }
        self.lines
    }
}
