//! The way of lines to the standard error stream: gathered, and written by one thread.
//!
//! Whoever answers requests only copies a line into a buffer. Lines of a few milliseconds go out in one call; what is told to
//! people goes out at once.
//!
//! The log is told what can be told: who reads it may stop reading, or its disk may be full. Nobody waits for that, and nothing
//! ends with it.

use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, Thread};
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

static LINES: Lines = Lines { state: Mutex::new(Gathered::NONE), written: Condvar::new() };
static RUNS: AtomicBool = AtomicBool::new(false);
/// Whether what waits is to go out at once.
static IS_URGENT: AtomicBool = AtomicBool::new(false);
/// Whom to wake for the first line of several: costs less than a [`Condvar`].
static WRITER: OnceLock<Thread> = OnceLock::new();

struct Lines {
    state: Mutex<Gathered>,
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
pub(crate) fn start() -> io::Result<()> {
    if !RUNS.swap(true, Relaxed) {
        let started = thread::Builder::new().name("log".to_owned()).spawn(write_for_ever);
        started.inspect_err(|_| RUNS.store(false, Relaxed))?;
    }
    Ok(())
}

/// Has lines written at once; by the caller, where there is no thread.
pub(crate) fn tell(lines: &[u8]) {
    if !RUNS.load(Relaxed) {
        let _ = io::stderr().lock().write_all(lines);
        return;
    }
    IS_URGENT.store(true, Relaxed);
    push(lines);
    if let Some(writer) = WRITER.get() {
        writer.unpark();
    }
}

/// Has lines written soon. Where too much waits already they are lost, and counted.
pub(crate) fn push(lines: &[u8]) {
    let mut state = LINES.state.lock();
    if state.waiting.len() + lines.len() > MOST {
        drop(state);
        metrics::counter!("kinto_sidecar_access_log_lost_total").increment(1);
        return;
    }
    let is_first = state.waiting.is_empty();
    state.waiting.extend_from_slice(lines);
    drop(state);
    if is_first && let Some(writer) = WRITER.get() {
        writer.unpark();
    }
}

/// Waits until all lines are written, though not for ever.
pub(crate) fn flush() {
    let until = Instant::now() + PATIENCE;
    let mut state = LINES.state.lock();
    while RUNS.load(Relaxed) && (state.is_writing || !state.waiting.is_empty()) {
        if LINES.written.wait_until(&mut state, until).timed_out() {
            return;
        }
    }
}

fn write_for_ever() {
    // Before it looks for lines: whoever does not find it here has its line found.
    WRITER.get_or_init(thread::current);
    let mut lines = Vec::new();
    loop {
        while LINES.state.lock().waiting.is_empty() {
            thread::park();
        }
        let until = Instant::now() + PAUSE;
        while !IS_URGENT.swap(false, Relaxed) && Instant::now() < until {
            thread::park_timeout(until.saturating_duration_since(Instant::now()));
        }
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
