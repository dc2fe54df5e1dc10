//! What a client's connection is doing, and how long it may do nothing.
//!
//! The rule is checked by one timer for each connection, which looks from time to time whether anything has happened
//! since: a request costs a few counts and no timer of its own. A limit is therefore kept to within half of itself.
//! hyper's own timer for heads is not used: it takes an idle connection for one whose head is late.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock};
use std::task::Context;
use std::time::Duration;

use futures_util::task::AtomicWaker;
use http_body::Body as _;
use hyper::body::Incoming;
use tokio::time::Instant;

use super::framing::Following;
use crate::settings::Limits;
use crate::wire::body::{Body, Hook, Hooked};

/// What a connection is doing.
#[derive(Debug)]
pub(super) struct Activity {
    /// Counts everything that happens.
    events: AtomicU32,
    /// Requests that are not answered to the end.
    in_flight: AtomicU32,
    /// When the last of them was, in microseconds of the process.
    answered: AtomicU64,
    /// The newest request has an answer, which is being sent.
    is_answering: AtomicBool,
    /// A request's head has begun to arrive. On HTTP/2 the frames between requests are not told apart, so it stays unset.
    in_head: AtomicBool,
    /// What follows the newest head, until that is taken note of. Two numbers that no length has stand for the rest.
    following: AtomicU64,
    /// Not all of the newest request's body was read.
    awaits_body: AtomicBool,
    /// The client does not take what is written to it.
    is_blocked: AtomicBool,
    /// The client has sent its last byte.
    has_ended: AtomicBool,
    /// Who is to be told, once it has, that its requests are answered.
    reader: AtomicWaker,
}

/// The present moment in microseconds of the process.
pub(super) fn now() -> u64 {
    static BEGUN: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(BEGUN.elapsed().as_micros()).unwrap_or(u64::MAX)
}

const UNKNOWN: u64 = u64::MAX;
const CHUNKS: u64 = u64::MAX - 1;

/// What the timer of a connection last saw.
#[derive(Debug)]
pub(super) struct Quiet {
    events: u32,
    since: Instant,
}

/// A request that is not answered to the end.
pub(super) struct RequestGuard(Arc<Activity>);

impl Activity {
    /// A request has begun, with this body.
    pub(super) fn begin_request(self: &Arc<Self>, body: &Incoming) -> RequestGuard {
        let length = if body.is_end_stream() { 0 } else { body.size_hint().exact().unwrap_or(CHUNKS) };
        self.following.store(length, Relaxed);
        self.awaits_body.store(length > 0, Relaxed);
        self.in_flight.fetch_add(1, Relaxed);
        self.in_head.store(false, Relaxed);
        self.is_answering.store(false, Relaxed);
        self.events.fetch_add(1, Relaxed);
        RequestGuard(Arc::clone(self))
    }

    /// What follows the newest head, which is told once.
    pub(super) fn take_following(&self) -> Following {
        match self.following.load(Relaxed) {
            UNKNOWN => Following::Unknown,
            CHUNKS => {
                self.following.store(UNKNOWN, Relaxed);
                Following::Chunks
            }
            length => {
                self.following.store(UNKNOWN, Relaxed);
                Following::Length(length)
            }
        }
    }

    /// Notes that some of a head has arrived. How often does not count: it has its time from the first byte on.
    pub(super) fn note_head(&self) {
        if !self.in_head.load(Relaxed) {
            self.in_head.store(true, Relaxed);
            self.events.fetch_add(1, Relaxed);
        }
    }

    /// All of the newest request's body was read.
    pub(super) fn note_body(&self) {
        self.awaits_body.store(false, Relaxed);
    }

    /// Whether some of the newest request's body was not read.
    pub(super) fn awaits_body(&self) -> bool {
        self.awaits_body.load(Relaxed)
    }

    pub(super) fn note_write(&self, is_blocked: bool) {
        let has_ended = self.has_ended.load(Relaxed);
        if is_blocked || has_ended || self.is_blocked.load(Relaxed) {
            self.events.fetch_add(u32::from(!is_blocked), Relaxed);
            self.is_blocked.store(is_blocked, Relaxed);
            if has_ended && !is_blocked {
                self.reader.wake();
            }
        }
    }

    /// The client has sent its last byte. Whether nothing of its requests' answers is left to write; else `context` is
    /// woken when that may be so.
    pub(super) fn note_end(&self, context: &Context<'_>) -> bool {
        if !self.has_ended.load(Relaxed) {
            self.has_ended.store(true, Relaxed);
            self.events.fetch_add(1, Relaxed);
        }
        self.reader.register(context.waker());
        self.is_idle() && !self.is_blocked.load(Relaxed)
    }

    /// When its last request was answered, or it began, in microseconds of the process; `None` while one is under way.
    pub(super) fn answered(&self) -> Option<u64> {
        self.is_idle().then(|| self.answered.load(Relaxed))
    }

    /// A request that is under way for a test.
    #[cfg(test)]
    pub(super) fn busy(self: &Arc<Self>) -> RequestGuard {
        self.in_flight.fetch_add(1, Relaxed);
        RequestGuard(Arc::clone(self))
    }

    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.load(Relaxed) == 0
    }

    /// Whether a request is under way, and the newest one's answer has begun.
    pub(super) fn is_answering(&self) -> bool {
        !self.is_idle() && self.is_answering.load(Relaxed)
    }

    /// Whether neither a request is under way nor the beginning of one has arrived.
    pub(super) fn is_between(&self) -> bool {
        self.is_idle() && !self.in_head.load(Relaxed)
    }

    /// Whether not all of the newest request has come.
    pub(super) fn is_arriving(&self) -> bool {
        self.in_head.load(Relaxed) || self.awaits_body()
    }

    /// How often a connection is looked at.
    pub(super) fn pace(limits: &Limits) -> Duration {
        limits.header_timeout.min(limits.idle_timeout).min(limits.body_timeout) / 2
    }

    /// Whether the connection has done nothing for longer than it may.
    pub(super) fn is_overdue(&self, quiet: &mut Quiet, limits: &Limits) -> bool {
        let now = Instant::now();
        let events = self.events.load(Relaxed);
        if events != quiet.events {
            *quiet = Quiet { events, since: now };
            return false;
        }
        let limit = if self.is_blocked.load(Relaxed) {
            limits.body_timeout
        } else if !self.is_idle() && self.has_ended.load(Relaxed) {
            // It waits for its answer, or it is gone: that looks the same until something is written to it.
            if self.is_answering.load(Relaxed) { limits.header_timeout } else { limits.body_timeout }
        } else if !self.is_idle() {
            // How long an answer may take is the upstream's limit, or the feed's.
            return false;
        } else if self.in_head.load(Relaxed) {
            limits.header_timeout
        } else {
            limits.idle_timeout
        };
        now - quiet.since >= limit
    }
}

impl Default for Activity {
    fn default() -> Self {
        Self {
            events: AtomicU32::default(),
            in_flight: AtomicU32::default(),
            answered: AtomicU64::new(now()),
            is_answering: AtomicBool::default(),
            in_head: AtomicBool::default(),
            following: AtomicU64::new(UNKNOWN),
            awaits_body: AtomicBool::default(),
            is_blocked: AtomicBool::default(),
            has_ended: AtomicBool::default(),
            reader: AtomicWaker::new(),
        }
    }
}

impl Quiet {
    pub(super) fn new() -> Self {
        Self { events: 0, since: Instant::now() }
    }
}

// === impl RequestGuard ===

impl RequestGuard {
    /// The answer's body, which keeps its request in flight.
    pub(super) fn answering(self, body: Body) -> Hooked<Self> {
        self.0.is_answering.store(true, Relaxed);
        Hooked::new(body, self)
    }
}

impl Hook for RequestGuard {}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.0.answered.store(now(), Relaxed);
        self.0.in_flight.fetch_sub(1, Relaxed);
        self.0.events.fetch_add(1, Relaxed);
        if self.0.has_ended.load(Relaxed) {
            self.0.reader.wake();
        }
    }
}
