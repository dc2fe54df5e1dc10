//! Work that takes long, where that does not keep other connections waiting.
//!
//! A thread serves many connections. What takes longer than writing some pages does is done elsewhere, by a few at a time,
//! in the order in which it is asked for. What may take very long is interrupted for others.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::spawn_blocking;

use crate::error::Error;
use crate::wire::peer::client_of;

/// Work on so many bytes takes less than handing it over is worth.
pub(crate) const LITTLE: usize = 64 << 10;

/// SECURITY: how much is done at once, whoever asks.
static TURNS: Semaphore = Semaphore::const_new(2);

/// How long a turn is, where others wait for theirs.
const FAIR_SHARE: Duration = Duration::from_millis(2);

/// SECURITY: of what may take very long, each client has one thing done at a time. Some share a place by chance.
const PLACES: usize = 64;
static CLIENTS: [Semaphore; PLACES] = [const { Semaphore::const_new(1) }; PLACES];

/// Does what is to be done with so many bytes: here where they are few, else aside.
pub(crate) async fn run<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    if bytes <= LITTLE {
        return Ok(work());
    }
    let turn = TURNS.acquire().await;
    // It goes on when the client has gone away, and so does its turn.
    let done = spawn_blocking(move || {
        let _turn = turn;
        work()
    });
    done.await.map_err(|error| Error::Internal(error.into()))
}

/// A turn at something that may take very long.
pub(crate) struct Turn {
    runtime: Handle,
    taken: Option<SemaphorePermit<'static>>,
    begun: Instant,
}

/// Does for a client what may take very long, and shares its turns with others meanwhile.
pub(crate) async fn in_turns<T: Send + 'static>(
    client: Option<IpAddr>,
    work: impl FnOnce(&mut Turn) -> T + Send + 'static,
) -> Result<T, Error> {
    let place = match place_of(client) {
        Some(place) => place.acquire().await.ok(),
        None => None,
    };
    let taken = TURNS.acquire().await.ok();
    let runtime = Handle::current();
    let done = spawn_blocking(move || {
        let _place = place;
        work(&mut Turn { runtime, taken, begun: Instant::now() })
    });
    done.await.map_err(|error| Error::Internal(error.into()))
}

fn place_of(client: Option<IpAddr>) -> Option<&'static Semaphore> {
    static SEED: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    let hash = SEED.hash_one(client.map(client_of));
    CLIENTS.get(usize::try_from(hash % PLACES as u64).ok()?)
}

impl Turn {
    /// Lets others have theirs, where this one has been long enough.
    pub(crate) fn share(&mut self) {
        if self.begun.elapsed() >= FAIR_SHARE {
            self.taken = None;
            self.taken = self.runtime.block_on(TURNS.acquire()).ok();
            self.begun = Instant::now();
        }
    }
}

/// Lets go what was made of so many bytes: that takes long, too.
pub(crate) fn let_go<T: Send + 'static>(bytes: usize, made: T) {
    if bytes > LITTLE
        && let Ok(runtime) = Handle::try_current()
    {
        runtime.spawn_blocking(move || drop(made));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::sync::atomic::Ordering::SeqCst;

    use futures_util::future::{join, join_all};

    use super::*;

    /// Clients with places of their own.
    fn strangers() -> impl Iterator<Item = Option<IpAddr>> {
        let mut places: Vec<*const Semaphore> = Vec::new();
        let clients = (1..=255).map(|last| Some(IpAddr::from([10, 0, 0, last])));
        clients.filter(move |client| {
            let place: *const Semaphore = place_of(*client).unwrap();
            let is_new = !places.contains(&place);
            places.push(place);
            is_new
        })
    }

    #[tokio::test]
    async fn whoever_takes_long_is_interrupted_for_others() {
        let clients: Vec<_> = strangers().take(3).collect();
        let others = Arc::new(AtomicUsize::new(0));
        let [first, second, third] = [0, 1, 2].map(|number| {
            let others = Arc::clone(&others);
            in_turns(clients[number], move |turn| {
                if number == 2 {
                    return others.fetch_add(1, SeqCst);
                }
                // For ever, if the third had no turn.
                while others.load(SeqCst) < 2 {
                    turn.share();
                }
                0
            })
        });
        let other = Arc::clone(&others);
        let plain = run(LITTLE + 1, move || other.fetch_add(1, SeqCst));
        let (long, short) = join(join(first, second), join(third, plain)).await;
        assert!(long.0.is_ok() && long.1.is_ok() && short.0.is_ok() && short.1.is_ok());
    }

    #[tokio::test]
    async fn a_client_has_one_thing_done_at_a_time() {
        let running = Arc::new(AtomicUsize::new(0));
        let jobs = (0..20).map(|_| {
            let running = Arc::clone(&running);
            in_turns(None, move |turn| {
                let before = running.fetch_add(1, SeqCst);
                turn.share();
                running.fetch_sub(1, SeqCst);
                before
            })
        });
        for before in join_all(jobs).await {
            assert_eq!(before.unwrap(), 0);
        }
    }
}
