//! How many readers of live feeds there may be, altogether and for each client.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};

use http::HeaderMap;

use crate::error::Error;
use crate::server::Peer;
use crate::server::places::client_of;
use crate::settings::{FeedSettings, Limits, Settings};

/// After how many seconds somebody without a seat may try again.
const RETRY_AFTER_SECONDS: u64 = 10;

/// Counts the readers of live feeds.
#[derive(Debug)]
pub struct Seats {
    most: usize,
    most_per_client: usize,
    /// SECURITY: how many connections may carry feeds: the others are there for everybody else.
    most_connections: usize,
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
    seats: Arc<Seats>,
    client: Option<IpAddr>,
    connection: Arc<AtomicUsize>,
}

impl Seats {
    /// As many as the settings say.
    pub fn new(settings: &FeedSettings, limits: &Limits) -> Self {
        Self {
            most_connections: (limits.connections / 2).max(1),
            most: settings.max_readers,
            most_per_client: settings.max_readers_per_client,
            taken: Mutex::default(),
        }
    }

    /// A seat for one more reader of this client; 503 where there is none.
    pub fn take(self: &Arc<Self>, client: Option<IpAddr>, peer: &Peer) -> Result<Seat, Error> {
        let client = client.map(client_of);
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let own = taken.clients.get(&client).copied().unwrap_or_default();
        // Only a connection's first feed takes it from others.
        let is_first = peer.feeds.load(Relaxed) == 0;
        let has_connection = !is_first || taken.connections < self.most_connections;
        if taken.total >= self.most || own >= self.most_per_client || !has_connection {
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
        let mut taken = self.seats.taken.lock().unwrap_or_else(PoisonError::into_inner);
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

/// Who a request comes from: behind proxies that are trusted, the last address of `X-Forwarded-For` that is not theirs.
pub fn client(peer: &Peer, headers: &HeaderMap, settings: &Settings) -> Option<IpAddr> {
    if !peer.is_trusted {
        return peer.address;
    }
    let values: Vec<&str> =
        headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok()).collect();
    let chain = values.iter().flat_map(|value| value.split(','));
    let mut addresses = chain.rev().map_while(|address| address.trim().parse::<IpAddr>().ok());
    addresses.find(|address| !settings.is_trusted_proxy(*address)).or(peer.address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn seats(max_readers: usize, max_readers_per_client: usize, connections: usize) -> Arc<Seats> {
        let settings = Settings::default();
        let feeds = FeedSettings { max_timeout: Duration::ZERO, max_readers, max_readers_per_client };
        Arc::new(Seats::new(&feeds, &Limits { connections, ..settings.limits }))
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
        assert!(seats.taken.lock().unwrap().clients.is_empty());
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

    #[test]
    fn a_trusted_proxy_says_for_whom_it_asks() {
        let settings =
            Settings { trusted_proxies: vec!["10.0.0.0/8".parse().unwrap()], ..Settings::default() };
        let asked = |peer: [u8; 4], chain: &'static str| {
            let peer = Peer::new(Some(IpAddr::from(peer)), false, &settings);
            let headers = HeaderMap::from_iter([(
                http::HeaderName::from_static("x-forwarded-for"),
                http::HeaderValue::from_static(chain),
            )]);
            client(&peer, &headers, &settings).unwrap().to_string()
        };
        assert_eq!(asked([10, 0, 0, 1], "6.6.6.6, 7.7.7.7, 10.0.0.2"), "7.7.7.7");
        assert_eq!(asked([8, 8, 8, 8], "6.6.6.6"), "8.8.8.8");
        assert_eq!(asked([10, 0, 0, 1], "unknown"), "10.0.0.1");
    }
}
