//! How many bytes the process holds for its clients: bodies that are read whole, and answers that are made whole.
//!
//! To bound the number of requests is not enough: each of them can be as large as is allowed. So all of them share one
//! budget of bytes, and one client gets half of what others leave at most. What does not fit is refused for now, or waits where
//! its client was answered already. What passes through is not held, and not counted.
//!
//! SECURITY: a few strangers can fill the budget, and nobody else's small request is refused for that. So what is little has room
//! of its own, the more of the budget is taken the less of the rest a newcomer gets, and while it is scarce a body that hardly
//! comes is given up.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use tokio::time::{Instant, sleep};

use super::peer::client_of;
use crate::settings::InForce;

/// Bodies of fewer bytes are not counted while they wait to be read.
pub(crate) const LITTLE: usize = 16 << 10;

/// What holds no more than this has room of its own first: a sixteenth as much as all others, of which one client has an eighth.
const SMALL: usize = 64 << 10;
const SHARE_OF_SMALL: usize = 16;
const SHARE_OF_CLIENT: usize = 8;

/// What comes more slowly, in bytes a second, is given up where room is scarce, after so long.
const SLOW: usize = 64 << 10;
const PATIENCE: Duration = Duration::from_secs(5);

/// How long somebody who waits for room waits before they look again.
const LOOK: Duration = Duration::from_millis(50);

/// All that is held.
#[derive(Debug)]
pub struct Buffers {
    settings: InForce,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    all: Taken,
    clients: HashMap<Option<IpAddr>, Taken>,
}

/// What is taken of the budget, and of the room for what is little.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Taken {
    large: usize,
    small: usize,
}

impl Taken {
    fn of(&mut self, is_large: bool) -> &mut usize {
        if is_large { &mut self.large } else { &mut self.small }
    }
}

/// There is no room for more, for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there is no room in memory")]
pub struct NoRoom;

/// What is held for one request; let go when it is dropped.
#[derive(Debug)]
pub struct Hold {
    buffers: Arc<Buffers>,
    client: Option<IpAddr>,
    bytes: usize,
    /// Whether it is of the budget, and not of the room for what is little.
    is_large: bool,
}

impl Buffers {
    /// A budget of so many bytes, of which one client may have half of what others leave.
    pub fn new(settings: InForce) -> Arc<Self> {
        Arc::new(Self { settings, held: Mutex::default() })
    }

    /// A hold on nothing yet, for a request of this client.
    pub fn hold(self: &Arc<Self>, client: Option<IpAddr>) -> Hold {
        Hold { buffers: Arc::clone(self), client: client.map(client_of), bytes: 0, is_large: false }
    }

    /// How many bytes are held.
    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        let all = self.lock().all;
        all.large + all.small
    }

    /// Whether half of the budget is taken.
    fn is_scarce(&self) -> bool {
        self.lock().all.large >= self.settings.now().limits.buffered_bytes / 2
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock()
    }
}

impl Hold {
    /// Holds more, where there is room.
    pub fn grow(&mut self, bytes: usize) -> Result<(), NoRoom> {
        let grown = self.try_grow(bytes);
        if grown.is_err() {
            metrics::counter!("kinto_sidecar_buffer_refused_total").increment(1);
        }
        grown
    }

    fn try_grow(&mut self, bytes: usize) -> Result<(), NoRoom> {
        if bytes == 0 {
            return Ok(());
        }
        let most = self.buffers.settings.now().limits.buffered_bytes;
        let mut held = self.buffers.lock();
        let own = held.clients.get(&self.client).copied().unwrap_or_default();
        let whole = self.bytes.checked_add(bytes).ok_or(NoRoom)?;
        let of_small = most / SHARE_OF_SMALL;
        let stays_small = !self.is_large
            && whole <= SMALL
            && held.all.small + bytes <= of_small
            && own.small + bytes <= of_small / SHARE_OF_CLIENT;
        let (needed, moved) = if stays_small || self.is_large { (bytes, 0) } else { (whole, self.bytes) };
        if !stays_small {
            let left = most.saturating_sub(held.all.large - own.large);
            if needed > (left / 2).saturating_sub(own.large) {
                return Err(NoRoom);
            }
        }
        let client = held.clients.entry(self.client).or_default();
        client.small -= moved;
        *client.of(!stays_small) += needed;
        held.all.small -= moved;
        *held.all.of(!stays_small) += needed;
        drop(held);
        self.is_large = !stays_small;
        self.bytes = whole;
        Ok(())
    }

    /// Waits until what has come so far came so slowly that it is given up: room is scarce.
    pub async fn until_given_up(&self, come: &AtomicUsize) {
        let begun = Instant::now();
        loop {
            sleep(PATIENCE / 5).await;
            let (come, waited) = (come.load(Ordering::Relaxed), begun.elapsed());
            let is_slow =
                waited >= PATIENCE && come / SLOW < usize::try_from(waited.as_secs()).unwrap_or_default();
            if is_slow && come > SMALL && self.buffers.is_scarce() {
                metrics::counter!("kinto_sidecar_buffer_refused_total").increment(1);
                return;
            }
        }
    }

    /// For whom it is.
    pub fn client(&self) -> Option<IpAddr> {
        self.client
    }

    /// A hold on nothing yet, for the same client.
    #[must_use]
    pub fn another(&self) -> Self {
        Self { buffers: Arc::clone(&self.buffers), client: self.client, bytes: 0, is_large: false }
    }

    /// How many bytes it holds.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Holds so many bytes from now on, less or more than before.
    pub fn set(&mut self, bytes: usize) -> Result<(), NoRoom> {
        if bytes > self.bytes {
            return self.grow(bytes - self.bytes);
        }
        self.shrink(self.bytes - bytes);
        Ok(())
    }

    /// Holds so many bytes once there is room. A quarter of the budget is held for what is larger, which would never fit.
    pub async fn wait_for(&mut self, bytes: usize) {
        let most = self.buffers.settings.now().limits.buffered_bytes;
        while self.try_grow(bytes.min(most / 4)).is_err() {
            sleep(LOOK).await;
        }
    }

    /// Bytes for which it holds room until nobody has them any more; no more room than they take.
    pub fn filled(mut self, bytes: Vec<u8>) -> Bytes {
        self.shrink(self.bytes.saturating_sub(bytes.len()));
        Bytes::from_owner(Filled { bytes, _hold: self })
    }

    fn shrink(&mut self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        let mut held = self.buffers.lock();
        *held.all.of(self.is_large) -= bytes;
        if let Entry::Occupied(mut own) = held.clients.entry(self.client) {
            *own.get_mut().of(self.is_large) -= bytes;
            if *own.get() == Taken::default() {
                own.remove();
            }
        }
        drop(held);
        self.bytes -= bytes;
        self.is_large &= self.bytes > 0;
    }
}

/// Bytes in the room that is held for them.
struct Filled {
    bytes: Vec<u8>,
    _hold: Hold,
}

impl AsRef<[u8]> for Filled {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.shrink(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn each_has_half_of_what_others_leave() {
        let buffers = Buffers::new(InForce::with(|settings| settings.limits.buffered_bytes = 100));
        let [one, other, third] = [1, 2, 3].map(|last| Some(IpAddr::from([1, 1, 1, last])));
        let mut first = buffers.hold(one);
        assert!(first.grow(40).is_ok() && buffers.hold(one).grow(11).is_err());
        let mut second = buffers.hold(other);
        assert!(second.grow(31).is_err() && second.grow(30).is_ok());
        assert!(buffers.hold(third).grow(16).is_err() && buffers.hold(third).grow(15).is_ok());
        assert!(second.grow(usize::MAX).is_err());
        second.set(10).unwrap();
        assert_eq!(buffers.held(), 50);
        assert!(buffers.hold(third).grow(25).is_ok());
        drop((first, second));
        assert_eq!(buffers.held(), 0);
        assert!(buffers.lock().clients.is_empty());
    }

    #[test]
    fn what_is_little_has_room_however_much_strangers_hold() {
        let buffers = Buffers::new(InForce::with(|settings| settings.limits.buffered_bytes = 128 << 20));
        let client = |last| Some(IpAddr::from([1, 1, 1, last]));
        let mut strangers: Vec<Hold> = Vec::new();
        for last in 0..100 {
            let mut hold = buffers.hold(client(last));
            while hold.grow(1 << 20).is_ok() || hold.grow(SMALL + 1).is_ok() {}
            while hold.grow(1000).is_ok() {}
            strangers.push(hold);
        }
        let mut little: Vec<Hold> = Vec::new();
        for _ in 0..10 {
            let mut hold = buffers.hold(client(250));
            hold.grow(1000).unwrap();
            hold.grow(SMALL - 1000).unwrap();
            little.push(hold);
        }
        assert!(buffers.hold(client(250)).grow(SMALL + 1).is_err());
        // What grows is of the budget.
        drop(strangers);
        little[0].grow(1).unwrap();
        assert_eq!(buffers.lock().all, Taken { large: SMALL + 1, small: 9 * SMALL });
        drop(little);
        assert_eq!(buffers.held(), 0);
        assert!(buffers.lock().clients.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_hardly_comes_is_given_up_where_room_is_scarce() {
        let buffers = Buffers::new(InForce::with(|settings| settings.limits.buffered_bytes = 1 << 20));
        let come = AtomicUsize::new(SMALL + 1);
        let mut slow = buffers.hold(None);
        slow.grow(SMALL + 1).unwrap();
        let mut given_up = Box::pin(slow.until_given_up(&come));
        assert!(tokio::time::timeout(Duration::from_secs(60), &mut given_up).await.is_err(), "there is room");
        let mut other = buffers.hold(Some(IpAddr::from([1, 1, 1, 1])));
        other.grow(470 << 10).unwrap();
        come.store(SLOW * 80, Ordering::Relaxed);
        assert!(tokio::time::timeout(Duration::from_secs(10), &mut given_up).await.is_err(), "it comes");
        come.store(SMALL + 1, Ordering::Relaxed);
        given_up.await;
    }

    #[tokio::test]
    async fn bytes_are_counted_until_the_last_of_them_is_let_go() {
        let buffers = Buffers::new(InForce::with(|settings| settings.limits.buffered_bytes = 100));
        let mut first = buffers.hold(None);
        first.wait_for(1000).await;
        assert_eq!(first.bytes(), 25, "what would never fit waits for a quarter");
        let bytes = first.filled(vec![0; 20]);
        assert_eq!(buffers.held(), 20);
        let mut second = buffers.hold(None);
        second.grow(30).unwrap();
        let mut third = buffers.hold(None);
        let mut waits = Box::pin(third.wait_for(20));
        assert!((&mut waits).now_or_never().is_none());
        let end = bytes.slice(19..);
        drop(bytes);
        assert_eq!(buffers.held(), 50);
        drop(end);
        waits.await;
        assert_eq!(buffers.held(), 50);
    }
}
