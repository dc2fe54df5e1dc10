//! The places that the process has for connections, and who gives theirs up when there is none left.
//!
//! A connection without a request costs its client nothing, so any number of them says nothing about need. When all places
//! are taken, or all that one client may have, the connection that has been idle for longest goes. Only where each of them
//! has a request under way a new one waits, or, of a client with too many of its own, is closed.
//!
//! A connection of HTTP/2 has many streams, each of which holds memory like a connection. One at a time goes with the place;
//! what a connection has beyond it is counted as connections are, and no place is given up for it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::activity::{Activity, now};
use crate::settings::InForce;
use crate::wire::peer::client_of;

/// How often those who wait look whether a connection has become idle.
const LOOK: Duration = Duration::from_millis(50);

/// How many places there are.
#[derive(Debug)]
pub(super) enum Bounds {
    /// For clients, as the settings say.
    Clients(InForce),
    /// For operators.
    Operators(usize),
}

/// All places.
#[derive(Debug)]
pub(super) struct Places {
    bounds: Bounds,
    taken: Mutex<Taken>,
    freed: Notify,
    streams: Arc<AtomicUsize>,
}

/// How many there may be.
#[derive(Debug, Clone, Copy)]
struct Most {
    connections: usize,
    connections_per_client: usize,
    streams: usize,
    streams_per_client: usize,
}

#[derive(Debug, Default)]
struct Taken {
    places: HashMap<u64, Arc<Place>>,
    clients: HashMap<IpAddr, Own>,
    last: u64,
}

/// What one client has.
#[derive(Debug, Default)]
struct Own {
    connections: usize,
    streams: Arc<AtomicUsize>,
}

/// A connection's place.
#[derive(Debug)]
pub(super) struct Place {
    number: u64,
    client: Option<IpAddr>,
    activity: OnceLock<Arc<Activity>>,
    /// Streams of all, and of its client where that is counted.
    streams: [Option<Streams>; 2],
    /// Those of its own, with the one that is not counted elsewhere.
    own_streams: AtomicUsize,
    /// In microseconds of the process.
    made: u64,
    given_up: Notify,
    is_given_up: AtomicBool,
}

/// Streams of HTTP/2 that several connections have together.
#[derive(Debug)]
struct Streams {
    taken: Arc<AtomicUsize>,
    most: usize,
}

/// A stream that is counted until this is dropped.
#[derive(Debug)]
pub(super) struct Stream {
    place: Arc<Place>,
    is_extra: bool,
}

/// A place that is taken, free again when this is dropped.
#[derive(Debug)]
pub(super) struct Seated {
    places: Arc<Places>,
    pub(super) place: Arc<Place>,
}

/// Why there is no place.
enum Full {
    /// Each of the client's connections has a request under way.
    Client,
    /// Each connection has.
    All,
}

// === impl Places ===

impl Places {
    /// None is taken yet.
    pub(super) fn new(bounds: Bounds) -> Arc<Self> {
        Arc::new(Self { bounds, taken: Mutex::default(), freed: Notify::new(), streams: Arc::default() })
    }

    /// A place for one more connection of this client, or of nobody who is counted. Waits while there is none; `None` where
    /// the client has too many.
    pub(super) async fn take(self: &Arc<Self>, client: Option<IpAddr>) -> Option<Seated> {
        let client = client.map(client_of);
        loop {
            match self.try_take(client) {
                Ok(place) => return Some(Seated { places: Arc::clone(self), place }),
                Err(Full::Client) => return None,
                Err(Full::All) => _ = timeout(LOOK, self.freed.notified()).await,
            }
        }
    }

    fn try_take(&self, client: Option<IpAddr>) -> Result<Arc<Place>, Full> {
        let most = self.bounds.now();
        let mut taken = self.lock();
        let own = client.and_then(|client| taken.clients.get(&client)).map_or(0, |own| own.connections);
        if own >= most.connections_per_client {
            taken.give_up(|place| place.client == client).ok_or(Full::Client)?;
        }
        // More than one where the bound was lowered.
        while taken.places.len() >= most.connections {
            taken.give_up(|_| true).ok_or(Full::All)?;
        }
        taken.last += 1;
        let own = client.map(|client| {
            let own = taken.clients.entry(client).or_default();
            own.connections += 1;
            Streams { taken: Arc::clone(&own.streams), most: most.streams_per_client }
        });
        let all = Streams { taken: Arc::clone(&self.streams), most: most.streams };
        let place = Arc::new(Place {
            number: taken.last,
            client,
            activity: OnceLock::new(),
            streams: [Some(all), own],
            own_streams: AtomicUsize::new(0),
            made: now(),
            given_up: Notify::new(),
            is_given_up: AtomicBool::new(false),
        });
        taken.places.insert(place.number, Arc::clone(&place));
        Ok(place)
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock()
    }
}

impl Bounds {
    fn now(&self) -> Most {
        match self {
            Self::Clients(settings) => {
                let settings = settings.now();
                let (limits, feeds) = (&settings.limits, &settings.feeds);
                Most {
                    connections: limits.connections,
                    connections_per_client: limits.connections_per_client,
                    // Readers of feeds may come on few connections.
                    streams: limits.connections.max(feeds.max_readers),
                    streams_per_client: limits.connections_per_client.max(feeds.max_readers_per_client),
                }
            }
            Self::Operators(most) => Most {
                connections: *most,
                connections_per_client: *most,
                streams: *most,
                streams_per_client: *most,
            },
        }
    }
}

impl Taken {
    /// Has the connection among these go that has been idle for longest.
    fn give_up(&mut self, is_meant: impl Fn(&Place) -> bool) -> Option<()> {
        let meant = self.places.values().filter(|place| is_meant(place));
        let idle = meant.filter_map(|place| Some((place.idle_since()?, place.number)));
        let (_, number) = idle.min()?;
        let place = self.remove(number)?;
        metrics::counter!("kinto_sidecar_connections_given_up_total").increment(1);
        place.is_given_up.store(true, Relaxed);
        place.given_up.notify_one();
        Some(())
    }

    fn remove(&mut self, number: u64) -> Option<Arc<Place>> {
        let place = self.places.remove(&number)?;
        if let Some(client) = place.client
            && let Entry::Occupied(mut own) = self.clients.entry(client)
        {
            own.get_mut().connections -= 1;
            if own.get().connections == 0 {
                own.remove();
            }
        }
        Some(place)
    }
}

impl Place {
    /// The connection is served from now on, and does this.
    pub(super) fn watch(&self, activity: &Arc<Activity>) {
        // It is served once.
        let _ = self.activity.set(Arc::clone(activity));
    }

    /// Begins a stream of HTTP/2; `None` where it is one too many.
    pub(super) fn stream(self: &Arc<Self>) -> Option<Stream> {
        let is_extra = self.own_streams.load(Relaxed) > 0;
        if is_extra {
            let mut taken = self.streams.iter().flatten();
            if let Some(full) = taken.clone().position(|streams| !streams.take()) {
                taken.by_ref().take(full).for_each(Streams::leave);
                return None;
            }
        }
        self.own_streams.fetch_add(1, Relaxed);
        Some(Stream { place: Arc::clone(self), is_extra })
    }

    /// Serves its connection until that ends, or somebody else needs the place more.
    pub(super) async fn serve(&self, mut connection: Pin<&mut impl Future<Output = ()>>) {
        let mut given_up = pin!(self.given_up.notified());
        let mut listens = false;
        poll_fn(|context| {
            if connection.as_mut().poll(context).is_ready() {
                return Poll::Ready(());
            }
            // After the first turn, whoever gives it up knows the waker of this task.
            if listens && !self.is_given_up.load(Relaxed) {
                return Poll::Pending;
            }
            listens = true;
            given_up.as_mut().poll(context)
        })
        .await;
    }

    /// Since when it is idle, in microseconds of the process; `None` while a request is under way.
    fn idle_since(&self) -> Option<u64> {
        self.activity.get().map_or(Some(self.made), |activity| activity.answered())
    }
}

impl Streams {
    fn take(&self) -> bool {
        let is_taken = self.taken.fetch_add(1, Relaxed) < self.most;
        if !is_taken {
            self.leave();
        }
        is_taken
    }

    fn leave(&self) {
        self.taken.fetch_sub(1, Relaxed);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.place.own_streams.fetch_sub(1, Relaxed);
        if self.is_extra {
            self.place.streams.iter().flatten().for_each(Streams::leave);
        }
    }
}

impl Drop for Seated {
    fn drop(&mut self) {
        self.places.lock().remove(self.place.number);
        self.places.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(connections: usize, connections_per_client: usize) -> Arc<Places> {
        Places::new(Bounds::Clients(InForce::with(|settings| {
            settings.limits.connections = connections;
            settings.limits.connections_per_client = connections_per_client;
        })))
    }

    fn client(last: u8) -> IpAddr {
        IpAddr::from([1, 1, 1, last])
    }

    async fn has_to_go(seated: &Seated) -> bool {
        let forever = pin!(std::future::pending());
        timeout(Duration::from_millis(1), seated.place.serve(forever)).await.is_ok()
    }

    #[tokio::test]
    async fn the_one_that_has_been_idle_for_longest_goes() {
        let places = places(3, 3);
        let mut seated = Vec::new();
        for last in 1..4 {
            seated.push(places.take(Some(client(last))).await.unwrap());
        }
        let activity = Arc::new(Activity::default());
        seated[0].place.watch(&activity);
        let request = activity.busy();
        let fourth = places.take(Some(client(4))).await.unwrap();
        assert!(has_to_go(&seated[1]).await && !has_to_go(&seated[0]).await && !has_to_go(&seated[2]).await);
        drop(request);
        // It was the last that had something to do.
        let _fifth = places.take(Some(client(5))).await.unwrap();
        assert!(has_to_go(&seated[2]).await && !has_to_go(&seated[0]).await && !has_to_go(&fourth).await);
        drop(seated);
        assert_eq!(places.lock().places.len(), 2);
    }

    #[tokio::test]
    async fn a_client_has_its_share_and_no_more() {
        let places = places(10, 2);
        let busy = Arc::new(Activity::default());
        let _request = busy.busy();
        let one = places.take(Some(client(1))).await.unwrap();
        let _other = places.take(Some(client(1))).await.unwrap();
        let third = places.take(Some(client(1))).await.unwrap();
        assert!(has_to_go(&one).await);
        assert!(places.take(Some(client(2))).await.is_some() && places.take(None).await.is_some());
        for place in places.lock().places.values() {
            place.watch(&busy);
        }
        assert!(places.take(Some(client(1))).await.is_none());
        drop(third);
        assert!(places.take(Some(client(1))).await.is_some());
    }

    #[tokio::test]
    async fn streams_of_a_client_are_counted_over_its_connections() {
        let places = Places::new(Bounds::Clients(InForce::with(|settings| {
            (settings.limits.connections, settings.limits.connections_per_client) = (4, 2);
            (settings.feeds.max_readers, settings.feeds.max_readers_per_client) = (3, 1);
        })));
        let mut seated = Vec::new();
        for last in [1, 1, 2, 3] {
            seated.push(places.take(Some(client(last))).await.unwrap());
        }
        let streams = |index: usize| seated[index].place.stream();
        // One each, and two of the client's share.
        let one = [streams(0), streams(0), streams(1), streams(1)];
        assert!(one.iter().all(Option::is_some) && streams(0).is_none() && streams(1).is_none());
        let two = [streams(2), streams(2), streams(2)];
        assert!(two.iter().all(Option::is_some));
        // No more in all than there may be connections, but for the first of each.
        let three = streams(3);
        assert!(three.is_some() && streams(3).is_none());
        drop((one, two, three));
        assert_eq!(places.streams.load(Relaxed), 0);
        assert!(streams(3).is_some() && places.streams.load(Relaxed) == 0);
    }

    #[tokio::test]
    async fn who_finds_all_at_work_waits() {
        let places = places(1, 1);
        let busy = Arc::new(Activity::default());
        let request = busy.busy();
        let one = places.take(Some(client(1))).await.unwrap();
        one.place.watch(&busy);
        assert!(timeout(Duration::from_millis(100), places.take(None)).await.is_err());
        drop(request);
        let two = places.take(None).await.unwrap();
        assert!(has_to_go(&one).await);
        drop((one, two));
        assert!(places.lock().places.is_empty() && places.lock().clients.is_empty());
    }
}
