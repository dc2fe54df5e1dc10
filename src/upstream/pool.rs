//! The idle connections of one thread, the last used first.
//!
//! Some servers close after each answer without saying so (uWSGI's `http-socket`): a connection that was left in good
//! order may be dead when it is picked up. What can be repeated is then repeated. A write cannot, so it takes an idle
//! connection only where this upstream has been seen to keep them open, or after a pause in which a close would have
//! been noticed; and none that the upstream may be about to close ([`super::idle`]). None is used for long ([`super::age`]).

use std::collections::VecDeque;
use std::num::NonZero;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use super::idle::Connection;

/// A close so soon after an answer is taken for the upstream's habit.
const SILENT_CLOSE: Duration = Duration::from_secs(1);
/// After such a pause the close of a connection has been noticed.
const NOTICED: Duration = Duration::from_millis(100);
/// How long a connection is kept that nobody needs.
const IDLE: Duration = Duration::from_secs(60);
/// How many idle connections all threads keep: each may take a place at the upstream, which has few (waitress, which
/// `kinto start` runs, takes a hundred), and lets others wait for it.
const MOST_IDLE: usize = 64;

#[derive(Debug)]
pub(super) struct Pool {
    idle: Mutex<VecDeque<Idle>>,
    /// This thread's part of [`MOST_IDLE`].
    most_idle: usize,
    /// Whether the upstream was last seen to answer twice on one connection.
    keeps_alive: AtomicBool,
}

#[derive(Debug)]
struct Idle {
    connection: Connection,
    since: Instant,
}

impl Default for Pool {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
        Self {
            idle: Mutex::default(),
            most_idle: (MOST_IDLE / threads).max(2),
            keeps_alive: AtomicBool::new(false),
        }
    }
}

impl Pool {
    /// The connection that was used last and is ready. `for_write` where the request cannot be repeated.
    pub(super) fn take(&self, for_write: bool, now: Instant) -> Option<Connection> {
        let mut idle = self.lock();
        let mut index = idle.len();
        while index > 0 {
            index -= 1;
            let candidate = idle.get(index)?;
            if candidate.connection.sender.is_closed() {
                if candidate.since.elapsed() < SILENT_CLOSE {
                    self.keeps_alive.store(false, Ordering::Relaxed);
                }
                idle.remove(index);
            } else if now >= candidate.connection.until {
                candidate.connection.idle.end();
                idle.remove(index);
            } else if candidate.connection.sender.is_ready() && (!for_write || self.is_trusted(candidate)) {
                let connection = idle.remove(index)?.connection;
                connection.idle.end();
                return Some(connection);
            }
        }
        None
    }

    /// Keeps a connection for the next request. It may still be about to finish its last one.
    pub(super) fn put(&self, connection: Connection) {
        if connection.sender.is_closed() {
            return;
        }
        let now = Instant::now();
        if now >= connection.until {
            return;
        }
        let mut idle = self.lock();
        while idle.len() >= self.most_idle
            || idle
                .front()
                .is_some_and(|oldest| now - oldest.since > IDLE || oldest.connection.sender.is_closed())
        {
            if let Some(oldest) = idle.pop_front() {
                oldest.connection.idle.end();
            }
        }
        connection.idle.begin(now);
        idle.push_back(Idle { connection, since: now });
    }

    /// A second answer came on one connection.
    pub(super) fn saw_reuse(&self) {
        if !self.keeps_alive.load(Ordering::Relaxed) {
            self.keeps_alive.store(true, Ordering::Relaxed);
        }
    }

    /// A connection was dead when it was used again.
    pub(super) fn saw_silent_close(&self) {
        self.keeps_alive.store(false, Ordering::Relaxed);
    }

    fn is_trusted(&self, candidate: &Idle) -> bool {
        let keeps_alive = self.keeps_alive.load(Ordering::Relaxed) || candidate.since.elapsed() >= NOTICED;
        keeps_alive && candidate.connection.idle.is_safe()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Idle>> {
        // Nothing in here panics halfway through a change.
        self.idle.lock()
    }
}
