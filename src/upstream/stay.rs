//! Places of those whose clients are waited for: a body comes from its client, or goes to it, no faster than the client likes.

use std::net::IpAddr;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::Turn;
use super::queue::slow::Guest;
use crate::wire::peer::client_of;

/// A client that was waited for longer, all in all, is slow.
pub(super) const LONG: Duration = Duration::from_secs(1);

/// A place, for as long as a body is under way with it.
#[derive(Debug)]
pub(super) struct Stay {
    client: Option<IpAddr>,
    state: Mutex<State>,
    waker: AtomicWaker,
}

#[derive(Debug)]
struct State {
    turn: Option<Turn>,
    is_given_up: bool,
    /// Since when the client is waited for now.
    since: Option<Instant>,
    /// How long it was waited for before that.
    before: Duration,
}

// === impl Stay ===

impl Stay {
    /// What is under way with this place. What the sidecar asks for itself has none, and is never given up.
    pub(super) fn new(turn: Turn) -> Arc<Self> {
        let (client, stays) = match turn.of() {
            Some((queue, asker)) => (asker.client.map(client_of), Some(Arc::clone(queue))),
            None => (None, None),
        };
        let state = State { turn: Some(turn), is_given_up: false, since: None, before: Duration::ZERO };
        let stay = Arc::new(Self { client, state: Mutex::new(state), waker: AtomicWaker::new() });
        if let Some(queue) = stays {
            let guest: Arc<dyn Guest> = stay.clone();
            queue.remember(&guest);
        }
        stay
    }

    /// The place, which is another's affair from now on.
    pub(super) fn take(&self) -> Turn {
        self.state.lock().turn.take().unwrap_or_default()
    }

    /// Its client is waited for, or is no more. Whether it was given up.
    pub(super) fn waits(&self, is_waiting: bool) -> bool {
        let mut state = self.state.lock();
        if is_waiting {
            state.since.get_or_insert_with(Instant::now);
        } else if let Some(since) = state.since.take() {
            state.before += since.elapsed();
        }
        state.is_given_up
    }

    /// Whether its client is waited for.
    pub(super) fn is_waiting(&self) -> bool {
        self.state.lock().since.is_some()
    }

    /// Wakes who waits for its client.
    pub(super) fn wake(&self) {
        self.waker.wake();
    }

    /// Has this woken then, and when it is given up.
    pub(super) fn register(&self, waker: &Waker) {
        self.waker.register(waker);
    }
}

impl Guest for Stay {
    fn client(&self) -> Option<IpAddr> {
        self.client
    }

    fn slowness(&self) -> Option<Duration> {
        let state = self.state.lock();
        let since = state.since.filter(|_| state.turn.is_some())?;
        Some(state.before + since.elapsed()).filter(|waited| *waited >= LONG)
    }

    fn give_up(&self) {
        let turn = {
            let mut state = self.state.lock();
            state.is_given_up = true;
            state.turn.take()
        };
        self.waker.wake();
        drop(turn);
    }
}
