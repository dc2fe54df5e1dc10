//! How far it is: again and again in one line at a terminal, and now and then in a line of its own elsewhere.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use tokio::time::Instant;

use crate::commands::complain;

/// How often it is told at a terminal.
const TOLD_EVERY: Duration = Duration::from_millis(200);
/// How often it is told elsewhere, such as in the log of a job.
const LOGGED_EVERY: Duration = Duration::from_secs(10);

/// See the module.
pub(super) struct Progress {
    done: &'static str,
    lines: u64,
    told_at: Instant,
    is_terminal: bool,
}

impl Progress {
    /// Nothing is done yet; `done` is a participle.
    pub(super) fn new(done: &'static str) -> Self {
        Self { done, lines: 0, told_at: Instant::now(), is_terminal: io::stderr().is_terminal() }
    }

    /// More lines are done.
    pub(super) fn add(&mut self, lines: usize) {
        self.lines += lines as u64;
        let pause = if self.is_terminal { TOLD_EVERY } else { LOGGED_EVERY };
        if self.told_at.elapsed() < pause {
            return;
        }
        self.told_at = Instant::now();
        let told = format!("{} lines {}", self.lines, self.done);
        if self.is_terminal {
            // A terminal that is gone is no reason to stop.
            let _ = write!(io::stderr(), "\r{told}");
        } else {
            complain(&told);
        }
    }

    /// All is done: how many lines it was.
    pub(super) fn end(&self) -> u64 {
        if self.is_terminal {
            let _ = write!(io::stderr(), "\r\u{1b}[K");
        }
        self.lines
    }
}
