//! Work that takes long, where that does not keep other connections waiting.
//!
//! A thread serves many connections. What takes longer than writing some pages does is done elsewhere, by a few at a time.
//! Clients take turns, and what is little does not wait for what is much. What may take very long is interrupted for others.

use std::net::IpAddr;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::task::spawn_blocking;

use crate::current;
use crate::error::Error;
use crate::wire::turns::{ClientTurn, Turns};

/// Work on so many bytes takes less than handing it over is worth.
pub(crate) const LITTLE: usize = 64 << 10;

/// Work on more bytes than so many is much.
const MUCH: usize = 256 << 10;

/// How long a turn is, where others wait for theirs.
const FAIR_SHARE: Duration = Duration::from_millis(2);

/// SECURITY: how much is done at once for those who read, whoever asks.
static READS: LazyLock<Queues> = LazyLock::new(|| Queues { little: Turns::at(1), much: Turns::at(2) });

/// And for writes under way and for the sidecar itself, which wait for nobody who reads.
static WRITES: LazyLock<Queues> = LazyLock::new(|| Queues { little: Turns::at(1), much: Turns::at(1) });

/// SECURITY: of what may take very long, each client has one thing done at a time, and so many have one.
static LONG: LazyLock<Turns> = LazyLock::new(|| Turns::at(64));

/// Who waits for a turn.
struct Queues {
    little: Turns,
    much: Turns,
}

/// A turn at something that may take very long.
pub(crate) struct Turn {
    runtime: Handle,
    client: Option<IpAddr>,
    taken: Option<ClientTurn>,
    begun: Instant,
}

/// Does what is to be done with so many bytes: here where they are few, else aside.
pub(crate) async fn run<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    let is_own = current::with(|_| ()).is_none();
    let queues = if is_own { &WRITES } else { &READS };
    queues.run(bytes, work).await
}

/// As [`run`], for a write that is under way.
pub(crate) async fn for_write<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    WRITES.run(bytes, work).await
}

/// Does for a client what may take very long, and shares its turns with others meanwhile.
pub(crate) async fn in_turns<T: Send + 'static>(
    client: Option<IpAddr>,
    work: impl FnOnce(&mut Turn) -> T + Send + 'static,
) -> Result<T, Error> {
    let place = LONG.next_of(client, 1).await;
    let taken = Some(READS.much.next_of(client, 1).await);
    let runtime = Handle::current();
    let done = spawn_blocking(move || {
        let _place = place;
        work(&mut Turn { runtime, client, taken, begun: Instant::now() })
    });
    done.await.map_err(|error| Error::Internal(error.into()))
}

impl Queues {
    async fn run<T: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        if bytes <= LITTLE {
            return Ok(work());
        }
        let turns = if bytes <= MUCH { &self.little } else { &self.much };
        let turn = turns.next(1).await;
        // It goes on when the client has gone away, and so does its turn.
        let done = spawn_blocking(move || {
            let _turn = turn;
            work()
        });
        done.await.map_err(|error| Error::Internal(error.into()))
    }
}

impl Turn {
    /// Lets others have theirs, where this one has been long enough.
    pub(crate) fn share(&mut self) {
        if self.begun.elapsed() >= FAIR_SHARE {
            self.taken = None;
            self.taken = Some(self.runtime.block_on(READS.much.next_of(self.client, 1)));
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
    use std::sync::mpsc::channel;

    use futures_util::future::{join, join_all};
    use http::{HeaderValue, Uri};

    use super::*;
    use crate::current::Current;

    fn client(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    /// Has work be for a client.
    async fn of<F: Future>(client: IpAddr, work: F) -> F::Output {
        let id = HeaderValue::from_static("id");
        current::about(Arc::new(Current::new(Uri::default(), id, Some(client), false)), work).await
    }

    #[tokio::test]
    async fn whoever_takes_long_is_interrupted_for_others() {
        let others = Arc::new(AtomicUsize::new(0));
        let [first, second, third] = [0, 1, 2].map(|number| {
            let others = Arc::clone(&others);
            in_turns(Some(client(number)), move |turn| {
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
        let plain = of(client(3), run(MUCH + 1, move || other.fetch_add(1, SeqCst)));
        let (long, short) = join(join(first, second), join(third, plain)).await;
        assert!(long.0.is_ok() && long.1.is_ok() && short.0.is_ok() && short.1.is_ok());
    }

    #[tokio::test]
    async fn what_is_little_or_of_a_write_or_of_the_sidecar_itself_does_not_wait_for_what_others_read() {
        let mut ends = Vec::new();
        // More than there are turns, so that all of these are taken.
        let reads = join_all((0..8).map(|number| {
            let (end, ended) = channel::<()>();
            ends.push(end);
            of(client(number), run(usize::MAX, move || ended.recv()))
        }));
        let others = async {
            of(client(9), run(MUCH, || ())).await.unwrap();
            of(client(9), for_write(LITTLE + 1, || ())).await.unwrap();
            of(client(9), for_write(usize::MAX, || ())).await.unwrap();
            run(usize::MAX, || ()).await.unwrap();
            drop(ends);
        };
        join(reads, others).await;
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
