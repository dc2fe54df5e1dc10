//! Work that takes long, where that does not keep other connections waiting.
//!
//! A thread serves many connections. What takes longer than writing some pages does is done elsewhere, by a few at a time,
//! in the order in which it is asked for.

use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use crate::error::Error;

/// Work on so many bytes takes less than handing it over is worth.
pub(crate) const LITTLE: usize = 64 << 10;

/// SECURITY: how much is done at once, whoever asks.
static TURNS: Semaphore = Semaphore::const_new(2);

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

/// Lets go what was made of so many bytes: that takes long, too.
pub(crate) fn let_go<T: Send + 'static>(bytes: usize, made: T) {
    if bytes > LITTLE
        && let Ok(runtime) = Handle::try_current()
    {
        runtime.spawn_blocking(move || drop(made));
    }
}
