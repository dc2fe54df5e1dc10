//! How many readers of live feeds there may be, altogether and for each client.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use parking_lot::Mutex;

use crate::error::Error;
use crate::settings::InForce;
use crate::wire::peer::{Peer, client_of};

/// After how many seconds somebody without a seat may try again.
const RETRY_AFTER_SECONDS: u64 = 10;

/// Counts the readers of live feeds.
#[derive(Debug)]
pub struct ReaderLimit {
    settings: InForce,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    total: usize,
    connections: usize,
    clients: HashMap<Option<IpAddr>, usize>,
}

/// A reader's seat, free again when it is dropped.
#[derive(Debug)]
pub struct Seat {
    seats: Arc<ReaderLimit>,
    client: Option<IpAddr>,
    connection: Arc<AtomicUsize>,
}

impl ReaderLimit {
    /// As many as the settings say.
    pub fn new(settings: InForce) -> Self {
        Self { settings, taken: Mutex::default() }
    }

    /// A seat for one more reader of this client; 503 where there is none.
    pub fn take(self: &Arc<Self>, client: Option<IpAddr>, peer: &Peer) -> Result<Seat, Error> {
        let client = client.map(client_of);
        let settings = self.settings.now();
        let feeds = &settings.feeds;
        let mut taken = self.taken.lock();
        let own = taken.clients.get(&client).copied().unwrap_or_default();
        // Only a connection's first feed takes it from others.
        let is_first = peer.feeds.load(Relaxed) == 0;
        // SECURITY: the other connections are there for everybody else.
        let has_connection = !is_first || taken.connections < (settings.limits.connections / 2).max(1);
        if taken.total >= feeds.max_readers || own >= feeds.max_readers_per_client || !has_connection {
            metrics::counter!("kinto_sidecar_feed_readers_refused_total").increment(1);
            return Err(Error::Unavailable { retry_after: Some(RETRY_AFTER_SECONDS) });
        }
        taken.total += 1;
        taken.connections += usize::from(is_first);
        peer.feeds.fetch_add(1, Relaxed);
        *taken.clients.entry(client).or_default() += 1;
        metrics::gauge!("kinto_sidecar_feed_readers").increment(1.0);
        Ok(Seat { seats: Arc::clone(self), client, connection: Arc::clone(&peer.feeds) })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.taken.lock();
        taken.total = taken.total.saturating_sub(1);
        if self.connection.fetch_sub(1, Relaxed) == 1 {
            taken.connections = taken.connections.saturating_sub(1);
        }
        if let Entry::Occupied(mut own) = taken.clients.entry(self.client) {
            *own.get_mut() -= 1;
            if *own.get() == 0 {
                own.remove();
            }
        }
        metrics::gauge!("kinto_sidecar_feed_readers").decrement(1.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    fn seats(max_readers: usize, max_readers_per_client: usize, connections: usize) -> Arc<ReaderLimit> {
        Arc::new(ReaderLimit::new(InForce::with(|settings| {
            settings.feeds.max_readers = max_readers;
            settings.feeds.max_readers_per_client = max_readers_per_client;
            settings.limits.connections = connections;
        })))
    }

    fn connection() -> Peer {
        Peer::new(None, false, &Settings::default())
    }

    #[test]
    fn seats_are_counted_for_all_and_for_each() {
        let seats = seats(3, 2, 100);
        let take = |client| seats.take(client, &connection());
        let (one, other) = (Some(IpAddr::from([1, 1, 1, 1])), Some(IpAddr::from([2, 2, 2, 2])));
        let taken = [take(one).unwrap(), take(one).unwrap()];
        assert!(take(one).is_err());
        let third = take(other).unwrap();
        assert!(take(other).is_err());
        drop(third);
        assert!(take(other).is_ok());
        drop(taken);
        assert!(seats.taken.lock().clients.is_empty());
    }

    #[test]
    fn feeds_have_half_of_the_connections() {
        let seats = seats(100, 100, 4);
        let (one, other, third) = (connection(), connection(), connection());
        let taken = [&one, &one, &other, &other].map(|peer| seats.take(None, peer).unwrap());
        assert!(seats.take(None, &third).is_err() && seats.take(None, &one).is_ok());
        let [first, second, ..] = taken;
        drop(first);
        assert!(seats.take(None, &third).is_err());
        drop(second);
        assert!(seats.take(None, &third).is_ok());
    }
}
