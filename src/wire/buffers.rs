//! How many bytes the process holds for its clients: bodies that are read whole, and answers that are made whole.
//!
//! To bound the number of requests is not enough: each of them can be as large as is allowed. So all of them share one
//! budget of bytes, and one client gets half of it at most. What does not fit is refused for now, or waits where its client
//! was answered already. What passes through is not held, and not counted.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use tokio::time::sleep;

use super::peer::client_of;
use crate::settings::InForce;

/// Bodies of fewer bytes are not counted while they wait to be read.
pub(crate) const LITTLE: usize = 16 << 10;

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
    total: usize,
    clients: HashMap<Option<IpAddr>, usize>,
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
}

impl Buffers {
    /// A budget of so many bytes, of which one client may have half.
    pub fn new(settings: InForce) -> Arc<Self> {
        Arc::new(Self { settings, held: Mutex::default() })
    }

    /// A hold on nothing yet, for a request of this client.
    pub fn hold(self: &Arc<Self>, client: Option<IpAddr>) -> Hold {
        Hold { buffers: Arc::clone(self), client: client.map(client_of), bytes: 0 }
    }

    /// How many bytes are held.
    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        self.lock().total
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
        let buffers = &self.buffers;
        let mut held = buffers.lock();
        let own = held.clients.get(&self.client).copied().unwrap_or_default();
        let has_room = |held: usize, most| held.checked_add(bytes).is_some_and(|held| held <= most);
        let most = buffers.settings.now().limits.buffered_bytes;
        if !has_room(held.total, most) || !has_room(own, most / 2) {
            return Err(NoRoom);
        }
        held.total += bytes;
        *held.clients.entry(self.client).or_default() += bytes;
        self.bytes += bytes;
        Ok(())
    }

    /// A hold on nothing yet, for the same client.
    #[must_use]
    pub fn another(&self) -> Self {
        Self { buffers: Arc::clone(&self.buffers), client: self.client, bytes: 0 }
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
        held.total -= bytes;
        if let Entry::Occupied(mut own) = held.clients.entry(self.client) {
            *own.get_mut() -= bytes;
            if *own.get() == 0 {
                own.remove();
            }
        }
        drop(held);
        self.bytes -= bytes;
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
    fn all_have_one_budget_and_each_a_half_of_it() {
        let buffers = Buffers::new(InForce::with(|settings| settings.limits.buffered_bytes = 100));
        let [one, other, third] = [1, 2, 3].map(|last| Some(IpAddr::from([1, 1, 1, last])));
        let mut first = buffers.hold(one);
        assert!(first.grow(40).is_ok() && buffers.hold(one).grow(11).is_err());
        let mut second = buffers.hold(other);
        assert!(second.grow(50).is_ok() && buffers.hold(third).grow(11).is_err());
        assert!(second.grow(usize::MAX).is_err());
        second.set(10).unwrap();
        assert_eq!(buffers.held(), 50);
        assert!(buffers.hold(third).grow(50).is_ok());
        drop((first, second));
        assert_eq!(buffers.held(), 0);
        assert!(buffers.lock().clients.is_empty());
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
