//! The way of lines to the standard error stream: gathered, and written by one thread.
//!
//! Whoever answers requests only copies a line into a buffer. Lines of a few milliseconds go out in one call.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// For how long lines are gathered.
const PAUSE: Duration = Duration::from_millis(5);
/// The most that waits to be written, in bytes: whoever reads the log slowly must not take all memory, nor stop answers.
const MOST: usize = 8 << 20;
/// The most that a buffer keeps for the next lines.
const KEPT: usize = 1 << 20;
/// How long the end of the process waits for the last lines.
const PATIENCE: Duration = Duration::from_secs(2);

static LINES: Lines =
    Lines { state: Mutex::new(Gathered::NONE), filled: Condvar::new(), written: Condvar::new() };
static RUNS: AtomicBool = AtomicBool::new(false);

struct Lines {
    state: Mutex<Gathered>,
    filled: Condvar,
    written: Condvar,
}

struct Gathered {
    waiting: Vec<u8>,
    is_writing: bool,
}

impl Gathered {
    const NONE: Self = Self { waiting: Vec::new(), is_writing: false };
}

/// Starts the thread, once.
pub(super) fn start() -> io::Result<()> {
    if !RUNS.swap(true, Relaxed) {
        std::thread::Builder::new().name("access-log".to_owned()).spawn(write_for_ever)?;
    }
    Ok(())
}

/// Has lines written soon. Where too much waits already they are lost, and counted.
pub(super) fn push(lines: &[u8]) {
    let mut state = LINES.state.lock();
    if state.waiting.len() + lines.len() > MOST {
        drop(state);
        metrics::counter!("kinto_sidecar_access_log_lost_total").increment(1);
        return;
    }
    let is_first = state.waiting.is_empty();
    state.waiting.extend_from_slice(lines);
    drop(state);
    if is_first {
        LINES.filled.notify_one();
    }
}

/// Waits until all lines are written, though not for ever.
pub(super) fn flush() {
    let until = Instant::now() + PATIENCE;
    let mut state = LINES.state.lock();
    while RUNS.load(Relaxed) && (state.is_writing || !state.waiting.is_empty()) {
        if LINES.written.wait_until(&mut state, until).timed_out() {
            return;
        }
    }
}

fn write_for_ever() {
    let mut lines = Vec::new();
    loop {
        {
            let mut state = LINES.state.lock();
            while state.waiting.is_empty() {
                LINES.filled.wait(&mut state);
            }
        }
        std::thread::sleep(PAUSE);
        {
            let mut state = LINES.state.lock();
            std::mem::swap(&mut state.waiting, &mut lines);
            state.is_writing = true;
        }
        // Nobody is left to tell where the log cannot be written.
        let _ = io::stderr().lock().write_all(&lines);
        lines.clear();
        lines.shrink_to(KEPT);
        LINES.state.lock().is_writing = false;
        LINES.written.notify_all();
    }
}
