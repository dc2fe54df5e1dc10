//! The places that the process has for connections, and who gives theirs up when there is none left.
//!
//! A connection without a request costs its client nothing, so any number of them says nothing about need. When all places
//! are taken, or all that one client may have, the connection that has been idle for longest goes. Only where each of them
//! has a request under way a new one waits, or, of a client with too many of its own, is closed.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
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
}

#[derive(Debug, Default)]
struct Taken {
    places: HashMap<u64, Arc<Place>>,
    clients: HashMap<IpAddr, usize>,
    last: u64,
}

/// A connection's place.
#[derive(Debug)]
pub(super) struct Place {
    number: u64,
    client: Option<IpAddr>,
    activity: OnceLock<Arc<Activity>>,
    /// In microseconds of the process.
    made: u64,
    given_up: Notify,
    is_given_up: AtomicBool,
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
        Arc::new(Self { bounds, taken: Mutex::default(), freed: Notify::new() })
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
        let (most, most_per_client) = self.bounds.now();
        let mut taken = self.lock();
        let own = client.and_then(|client| taken.clients.get(&client)).copied().unwrap_or_default();
        if own >= most_per_client {
            taken.give_up(|place| place.client == client).ok_or(Full::Client)?;
        }
        // More than one where the bound was lowered.
        while taken.places.len() >= most {
            taken.give_up(|_| true).ok_or(Full::All)?;
        }
        taken.last += 1;
        let place = Arc::new(Place {
            number: taken.last,
            client,
            activity: OnceLock::new(),
            made: now(),
            given_up: Notify::new(),
            is_given_up: AtomicBool::new(false),
        });
        taken.places.insert(place.number, Arc::clone(&place));
        if let Some(client) = client {
            *taken.clients.entry(client).or_default() += 1;
        }
        Ok(place)
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock()
    }
}

impl Bounds {
    /// Of all, and of one client.
    fn now(&self) -> (usize, usize) {
        match self {
            Self::Clients(settings) => {
                let limits = &settings.now().limits;
                (limits.connections, limits.connections_per_client)
            }
            Self::Operators(most) => (*most, *most),
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
            *own.get_mut() -= 1;
            if *own.get() == 0 {
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
